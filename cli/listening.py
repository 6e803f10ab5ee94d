"""Whether we may listen where the settings say, found out before anything is started."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack

from core.errors import ConfigurationError
from core.listening import cannot_listen
from core.setting_values import Listen

PATIENCE_S = 3.0
"""A predecessor that was killed may hold its port for a moment."""
POLL_S = 0.1


def check_ports(listens: Iterable[tuple[str, Listen]], patience_s: float = PATIENCE_S) -> None:
    """Raises `ConfigurationError` naming the setting, unless all can be listened on at once.

    `listens` are places, each with the setting that names it.

    Receivers share their port (SO_REUSEPORT), so that two installations on one port would take each other's mail
    without any error: this is where it shows.
    """
    wanted = list(listens)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with ExitStack() as probes:
                for setting, listen in wanted:
                    probes.enter_context(_probe(setting, listen))
            return
        except ConfigurationError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def _probe(setting: str, listen: Listen) -> socket.socket:
    """A socket bound alone, as only the first one can be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        probe = socket.socket(family, kind, protocol)
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections linger, and do no harm
            probe.bind(address)
            probe.listen(1)
        except OSError:
            probe.close()
            raise
    except OSError as error:
        raise cannot_listen(setting, listen, error) from error
    return probe
