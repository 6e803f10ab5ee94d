"""A sending edge that enforces TLS, in the hands of a test: zone, policy host over HTTPS, clock, certificates."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from core.dns_lookup import DnsLookup
from core.mx_check import make_resolver
from core.netguard import LOOPBACK, TargetPolicy
from outbound.dane import Dane, ask_for_dnssec
from outbound.hosts import MxRoute
from outbound.mail import RecipientResult
from outbound.mta_sts_cache import StsPolicies
from outbound.mta_sts_fetch import PolicyFetcher
from outbound.mx import MxTransport
from outbound.pool import NO_REUSE, ConnectionPool
from outbound.timing import Timeouts
from outbound.tls import TlsContexts
from outbound.tls_demands import TlsDemands
from tests.certificate_authority import Issued, issue, make_root
from tests.mx_support import DOMAIN, HOST, MAIL, OUR_NAME
from tests.raw_server import read_request, running_raw_server
from tests.zone_server import Zone, running_zone

POLICY_HOST = f"mta-sts.{DOMAIN}"
START_MS = 1_790_000_000_000
PATIENT = Timeouts(connect_s=1, greeting_s=1, helo_s=1, tls_s=2, command_s=1, dot_s=1, total_s=15, reserve_s=0.1)


@dataclass
class Hands:
    """A clock that is set by hand."""

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)


def policy_file(mode: str = "enforce", *hosts: str, max_age: int = 86_400) -> bytes:
    """A policy in the form that RFC 8461 shows."""
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in hosts or (HOST,)), f"max_age: {max_age}"]
    return "".join(f"{line}\r\n" for line in lines).encode()


def http_answer(body: bytes, media_type: str = "text/plain", status: str = "200 OK", more: str = "") -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@dataclass
class PolicyHost:
    """The host that serves the policy: what it says can be changed while it runs."""

    answer: bytes = http_answer(policy_file())
    act: Callable[[socket.socket], None] | None = None
    """Does something else than answer."""
    requests: list[bytes] = field(default_factory=list)

    def handle(self, connection: socket.socket, _number: int) -> None:
        """One connection."""
        self.requests.append(read_request(connection))
        if self.act is not None:
            self.act(connection)
        else:
            connection.sendall(self.answer)


@dataclass
class SecureEdge:
    """Everything needed to send to one port with enforced TLS."""

    zone: Zone
    host: PolicyHost
    clock: Hands
    fetcher: PolicyFetcher
    policies: StsPolicies
    transport: MxTransport
    pool: ConnectionPool

    def announce(self, version: str, domain: str = DOMAIN) -> None:
        """Publish a version of the policy."""
        self.zone.add(f"_mta-sts.{domain}", "TXT", f'"v=STSv1; id={version};"')

    def serve(self, content: bytes, version: str | None = None) -> None:
        """Have the policy host give this, and announce it."""
        self.host.answer = http_answer(content)
        if version is not None:
            self.announce(version)

    def send(self, **changes: Any) -> RecipientResult:
        """Send the usual mail, or one that differs in these fields."""
        return self.transport.deliver(replace(MAIL, **changes))[0]


@dataclass(frozen=True)
class Trust:
    """One authority that the edge trusts."""

    root: Issued
    ca_file: Path
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Trust:
        """A new one."""
        root = make_root()
        ca_file = folder / "roots.pem"
        ca_file.write_bytes(root.certificate.public_bytes(Encoding.PEM))
        return cls(root, ca_file, folder)


@contextmanager
def secure_edge(
    port: int,
    trust: Trust,
    policy_host_names: tuple[str, ...] = (POLICY_HOST,),
    pool: ConnectionPool | None = None,
    guard: TargetPolicy = TargetPolicy(LOOPBACK),  # noqa: B008 (frozen)
    is_validating: bool = False,
    policy_certificate: Issued | None = None,
    timeouts: Timeouts = PATIENT,
) -> Iterator[SecureEdge]:
    """An edge whose usual domain has one host and a policy that is served but not announced."""
    host, clock = PolicyHost(), Hands()
    certificate = (policy_certificate or issue(trust.root, *policy_host_names)).save(trust.folder)
    with running_zone() as zone, running_raw_server(host.handle, certificate) as https_port:
        zone.mx(DOMAIN, HOST)
        zone.add(POLICY_HOST, "A", "127.0.0.1")
        contexts = TlsContexts(str(trust.ca_file))
        lookup = DnsLookup(make_resolver(f"127.0.0.1:{zone.port}"), clock)
        fetcher = PolicyFetcher(lookup, guard, contexts, https_port)
        policies = StsPolicies(lookup, fetcher, clock)
        resolver = make_resolver(f"127.0.0.1:{zone.port}")
        if is_validating:
            ask_for_dnssec(resolver)
        demands = TlsDemands(policies, Dane(resolver) if is_validating else None)
        kept = pool or ConnectionPool(NO_REUSE)
        route = MxRoute(resolver, port, shuffle=lambda names: names.sort())
        transport = MxTransport(
            route, TargetPolicy(LOOPBACK), OUR_NAME, clock, kept, timeouts, demands=demands, contexts=contexts
        )
        yield SecureEdge(zone, host, clock, fetcher, policies, transport, kept)
        kept.close()
