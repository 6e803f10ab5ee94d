"""Which machine the mail of a domain goes to, as far as this process has seen.

Thousands of domains may share one mail host. Claims count by machine where they know it, so that such a host does not
get every thread of a worker at once, only to have them wait for one of its few connections.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from core.netguard import MAILTO, target_host
from outbound.hosts import HostAddress

REMEMBERED = 20_000
"""Domains, and names of hosts; about 5 MB."""


class Machines:
    """Remembers. Safe for threads.

    A domain's host and that host's address are remembered apart: many domains name one host whose address changes (as
    Google's does), and many hosts have one address (as Microsoft's have).
    """

    def __init__(self, relay: str = "") -> None:
        """With a relay, everything goes there, whatever a domain is."""
        self._relay = relay
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, str] = OrderedDict()
        self._machines: OrderedDict[str, str] = OrderedDict()

    def learn(self, recipient: str, place: HostAddress) -> None:
        """The place that this recipient's mail goes to first."""
        address, port = place.machine
        with self._lock:
            _remember(self._hosts, target_host(f"{MAILTO}:{recipient}"), place.host)
            _remember(self._machines, place.host, f"{address} {port}")

    def machine_of(self, target: str) -> str | None:
        """A name for the machine behind a target host (`mailto://domain`); None where no mail has gone there yet."""
        with self._lock:
            return self._relay or self._machines.get(self._hosts.get(target, ""))


def _remember(known: OrderedDict[str, str], name: str, value: str) -> None:
    known[name] = value
    known.move_to_end(name)
    if len(known) > REMEMBERED:
        known.popitem(last=False)
