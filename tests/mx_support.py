"""The sending edge in the hands of a test: a zone, short timeouts, and one mail."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from core.clock import system_clock
from core.mx_check import make_resolver
from core.netguard import LOOPBACK, TargetPolicy
from outbound.hosts import MxRoute
from outbound.mail import OutgoingMail, RecipientResult
from outbound.mx import MxTransport
from outbound.pool import NO_REUSE, ConnectionPool
from outbound.timing import Timeouts
from tests.zone_server import Zone, running_zone

DOMAIN = "example.test"
HOST = "mx1.example.test"
SECOND_HOST = "mx2.example.test"
SENDER = "sender@origin.test"
RECIPIENT = f"user@{DOMAIN}"
OUR_NAME = "mx.us.test"
CONTENT = b"Subject: Hello\r\n\r\nHi.\r\n"
MAIL = OutgoingMail(SENDER, (RECIPIENT,), CONTENT)
SHORT = Timeouts(
    connect_s=1.0, greeting_s=0.3, helo_s=0.3, tls_s=0.5, command_s=0.3, block_s=0.5, dot_s=0.3, quit_s=0.2,
    total_s=5.0, reserve_s=0.1,
)  # fmt: skip
LONG = Timeouts(total_s=20.0, reserve_s=1.0)


@dataclass
class Edge:
    """Everything needed to send to one port."""

    zone: Zone
    port: int
    pool: ConnectionPool
    timeouts: Timeouts = LONG
    guard: TargetPolicy = TargetPolicy(LOOPBACK)

    @property
    def transport(self) -> MxTransport:
        """A new transport with what is set now."""
        route = MxRoute(make_resolver(f"127.0.0.1:{self.zone.port}"), self.port, shuffle=lambda names: names.sort())
        return MxTransport(route, self.guard, OUR_NAME, system_clock, self.pool, self.timeouts)

    def add_second_host(self) -> None:
        """A host that is less preferred, at 127.0.0.2."""
        self.zone.add(SECOND_HOST, "A", "127.0.0.2")
        self.zone.mx(DOMAIN, HOST, SECOND_HOST)

    def send(self, **changes: Any) -> RecipientResult:
        """Send the usual mail, or one that differs in these fields; gives the first recipient's result."""
        return self.send_all(**changes)[0]

    def send_all(self, **changes: Any) -> tuple[RecipientResult, ...]:
        """The same with all results."""
        return self.transport.deliver(replace(MAIL, **changes))


@contextmanager
def edge_to(port: int, timeouts: Timeouts = LONG, pool: ConnectionPool | None = None) -> Iterator[Edge]:
    """An edge whose usual domain has one host, at 127.0.0.1."""
    with running_zone() as zone:
        zone.mx(DOMAIN, HOST)
        edge = Edge(zone, port, ConnectionPool(NO_REUSE) if pool is None else pool, timeouts)
        yield edge
        edge.pool.close()


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
