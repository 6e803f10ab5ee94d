"""Where scanners listen: reading it from the settings, and connecting."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from urllib.parse import SplitResult, urlsplit

from core.config import UNIX_SOCKET_PATH_LIMIT
from core.errors import ConfigurationError
from core.setting_values import read_listen
from inbound.scanning.connection import Connection, Deadline
from inbound.scanning.failures import NoAnswer, NoTimeLeft, Unreachable

CONNECT_TIMEOUT_S = 3.0
"""A scanner is near; one that takes no connection for so long is down."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a scanner listens: host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    is_tls: bool = False

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")

    def open(self, deadline: Deadline) -> Connection:
        """Connect. Raises `Unreachable`, `NoAnswer` (no TLS there) or `NoTimeLeft`."""
        patience = deadline.at_most(CONNECT_TIMEOUT_S)
        try:
            sock = self._connect(patience)
        except Unreachable:
            deadline.remaining()  # when that was all the time there was, it says nothing about the scanner
            raise
        if self.is_tls:
            sock = self._secure(sock, deadline)
        return Connection(sock, deadline)

    def _connect(self, patience: Deadline) -> socket.socket:
        problem = "no answer in time"
        addresses = self._addresses(patience)
        for place, (family, address) in enumerate(addresses):
            try:
                return _connect_to(family, address, patience.remaining() / (len(addresses) - place))
            except (OSError, NoTimeLeft) as error:
                problem = str(error)
        raise Unreachable(f"cannot connect to {self}: {problem}")

    def _addresses(self, patience: Deadline) -> list[_Address]:
        return [(socket.AF_UNIX, self.path)] if self.path else _resolve(self.host, self.port, patience)

    def _secure(self, sock: socket.socket, deadline: Deadline) -> socket.socket:
        try:
            sock.settimeout(deadline.remaining())
            return _tls_context().wrap_socket(sock, server_hostname=self.host)
        except (OSError, NoTimeLeft) as error:
            sock.close()
            raise NoAnswer(f"no TLS with {self}: {error}") from error


def _connect_to(family: socket.AddressFamily, address: tuple[str, int] | str, timeout_s: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
        if family is not socket.AF_UNIX:  # several small writes make a question: each would wait for an ACK
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        sock.close()
        raise
    return sock


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def read_endpoint(variable: str, text: str) -> Endpoint:
    """Read `host:port` or the path of a socket. Raises `ConfigurationError`."""
    if text.startswith("/"):
        if len(text.encode()) > UNIX_SOCKET_PATH_LIMIT:
            raise ConfigurationError(
                f"{variable}: the path {text[:80]!r}… has more than {UNIX_SOCKET_PATH_LIMIT} bytes, which no socket "
                "can have; put it elsewhere"
            )
        return Endpoint(path=text)
    try:
        listen = read_listen(variable, text)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{variable}: {text[:80]!r} is neither `host:port` nor the path of a socket, which begins with `/`"
        ) from error
    return Endpoint(host=listen.host, port=listen.port)


def read_url(variable: str, text: str) -> tuple[Endpoint, str]:
    """Read `http://host:port` or `https://…`: the endpoint and the path, without a slash at its end.

    Raises `ConfigurationError`.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc) and text.isascii() and text.isprintable()
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or not is_plain or " " in text:
        raise ConfigurationError(f"{variable}: {text[:80]!r} is not `http://host:port` or `https://host:port`")
    is_tls = parts.scheme == "https"
    return Endpoint(parts.hostname, port or (443 if is_tls else 80), is_tls=is_tls), parts.path.rstrip("/")


_Address = tuple[socket.AddressFamily, tuple[str, int] | str]


def _resolve(host: str, port: int, patience: Deadline) -> list[_Address]:
    """The addresses of a host. The system's look-up knows no deadline, so a thread of its own waits for it."""
    with suppress(OSError, ValueError):
        return _look_up(host, port, socket.AI_NUMERICHOST)
    found: list[_Address] = []
    problem = ["no answer in time"]

    def ask() -> None:
        try:
            found.extend(_look_up(host, port, socket.AI_ADDRCONFIG))
        except (OSError, ValueError) as error:  # ValueError: what no name can be
            problem[0] = str(error)

    asker = threading.Thread(target=ask, name="scanner-address", daemon=True)
    try:
        asker.start()
    except RuntimeError as error:  # the machine has no thread left
        raise Unreachable(f"cannot look for the address of {host}: {error}") from error
    asker.join(patience.remaining())
    if not found:
        raise Unreachable(f"cannot find the address of {host}: {problem[0]}")
    return list(found)


def _look_up(host: str, port: int, flags: int) -> list[_Address]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, (str(address[0]), port)) for family, _, _, _, address in answers]
