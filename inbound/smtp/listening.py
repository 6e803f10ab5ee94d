"""Listening for SMTP sessions, and stopping without losing what is in flight: for every process that serves them."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.config import Settings
from core.listening import cannot_listen
from core.setting_values import Listen
from core.store.spool_place import spool_folder
from inbound.smtp.connections import Connections
from inbound.smtp.spool import remove_abandoned

BACKLOG = 1024
SHUTDOWN_S = 7.0
"""How long sessions may finish their message; `pillarbox up` promises to be gone within 10 seconds."""
FAREWELL_S = 0.5
"""How long a client that does not close its side is waited for."""
SHUTDOWN_POLL_S = 0.02
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""A client that is gone without a word is noticed within two minutes, well before RFC 5321's five of silence."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """A place to listen at, and what serves those who come in there."""

    setting: str
    """The variable that names the place."""
    listen: Listen
    new_session: Callable[[], asyncio.BaseProtocol]


async def serve_until_signalled(
    entrances: Sequence[Entrance], connections: Connections, announce: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is called once all are listened at. Raises `ConfigurationError`."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    sockets = [(entrance, _listen(entrance)) for entrance in entrances]
    servers = [await loop.create_server(entrance.new_session, sock=bound) for entrance, bound in sockets]
    announce()
    await stop.wait()
    for server in servers:
        server.close()
    await _finish(connections)


def _listen(entrance: Entrance) -> socket.socket:
    try:
        return listening_socket(entrance.listen.host, entrance.listen.port)
    except OSError as error:
        raise cannot_listen(entrance.setting, entrance.listen, error) from error


async def _finish(connections: Connections) -> None:
    """Let sessions finish the message they are in; then close, with a moment for the last reply to leave."""
    for session in list(connections.sessions):
        session.begin_shutdown()
    await _wait_until(lambda: not any(session.is_busy for session in connections.sessions), SHUTDOWN_S)
    await _wait_until(lambda: not connections.sessions, FAREWELL_S)
    for session in list(connections.sessions):
        session.abort()


async def _wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while not condition() and loop.time() < deadline:  # noqa: ASYNC110 (sessions end in many ways)
        await asyncio.sleep(SHUTDOWN_POLL_S)


def listening_socket(host: str, port: int) -> socket.socket:
    """A listening socket that several receiver processes may share (SO_REUSEPORT); connections inherit its options."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):  # not on every system
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    listener.bind(address)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def make_spool_folder(settings: Settings) -> Path:
    """Make the folder in which messages grow, and clear up what a killed predecessor left there."""
    folder = spool_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder, older_than_s=2 * settings.data_timeout, now_s=time.time())
    return folder
