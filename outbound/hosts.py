"""Which hosts take the mail of a domain, and at which addresses (RFC 5321 section 5.1, RFC 7505)."""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Protocol

import dns.exception
import dns.flags
import dns.name
import dns.rdatatype
import dns.resolver

from core.config import Settings
from core.delivery import Verdict
from core.mx_check import TOTAL_TIMEOUT_S, make_resolver
from core.setting_values import DEFAULT_DOMAIN, Listen
from core.smart_host import NAME, Login, Relay, read_relay
from outbound.mail import NO_ANSWER, Judgement
from outbound.timing import Deadline
from outbound.tls import WHATEVER_THERE_IS, TlsDemand, TlsLevel

SMTP_PORT = 25
MAX_HOSTS = 10
"""MX records that are looked at, the most preferred ones; the largest providers have five."""
MAX_ADDRESSES = 20
"""Of one host and kind that are looked at; the largest providers have four."""
CACHED_ANSWERS = 10_000
LOOPBACK_NAMES = {"localhost": "127.0.0.1"}
_ADDRESS_TYPES = (dns.rdatatype.A, dns.rdatatype.AAAA)
"""IPv4 first: large providers refuse mail over IPv6 from hosts without a reverse name, which IPv4 hosts mostly have."""

Shuffle = Callable[[list[str]], None]


class NoRoute(Exception):
    """There is no host to take the mail to; carries what that means for the recipients."""

    def __init__(self, verdict: Verdict, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.judgement = Judgement(verdict, NO_ANSWER, enhanced, text)


@dataclass(frozen=True, slots=True)
class HostAddress:
    """One place to connect to."""

    host: str
    """The name it was found by, for messages and for SNI."""
    address: str
    port: int
    is_guarded: bool = True
    """Whether it must be public: everything that was found in the DNS of others."""
    is_authentic: bool = False
    """Whether the resolver says (AD, RFC 4035) that DNSSEC vouches for the way here: MX and address records."""
    canonical: str = ""
    """The name that has the address, if `host` is an alias of it."""
    tls: TlsDemand = WHATEVER_THERE_IS
    """What a session must fulfil: a connection that is kept only serves mail that demands the same."""
    source: str | None = None
    """The address of ours to connect from; None for the system's choice."""
    is_tls: bool = False
    """Whether TLS begins with the connection, not with STARTTLS."""
    login: Login | None = None
    """Whom we are to it; of our own relay only."""
    rank: int = field(default=0, compare=False)
    """Its preference among the hosts of the domain that led here, less is better; nothing of the place itself."""

    @property
    def machine(self) -> tuple[str, int]:
        """What is connected to, under whatever name: its address and port."""
        return self.address, self.port


class Route(Protocol):
    """Where mail for a domain goes."""

    def places(self, domain: str, deadline: Deadline) -> Iterator[HostAddress]:
        """The places to try, the best first, looked up as they are needed. Raises `NoRoute` when there are none."""


class SmartHost:
    """Everything goes to one relay of the operator's choice, which may be in his own network."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def places(self, domain: str, deadline: Deadline) -> Iterator[HostAddress]:
        """All addresses of the relay, by the system's resolver: its name may be a local one."""
        relay, place = self._relay, self._relay.place
        demand = TlsDemand(TlsLevel.VERIFIED, True, NAME) if relay.is_checked else WHATEVER_THERE_IS
        try:
            found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            text = f"the relay {place.host} of {NAME} is not found ({error})"
            raise NoRoute(Verdict.TEMPORARY, "4.4.3", text) from error
        for entry in found:
            yield HostAddress(
                place.host, str(entry[4][0]), place.port, is_guarded=False, tls=demand, is_tls=relay.is_tls,
                login=relay.login,
            )  # fmt: skip


class MxRoute:
    """By the MX records of the domain, or its own address where it has none. Safe for threads."""

    def __init__(
        self, resolver: dns.resolver.Resolver, port: int = SMTP_PORT, shuffle: Shuffle = random.shuffle
    ) -> None:
        self._resolver = resolver
        self._port = port
        self._shuffle = shuffle

    def places(self, domain: str, deadline: Deadline) -> Iterator[HostAddress]:
        """Each host's IPv4 addresses, then its IPv6 addresses, host by host."""
        trouble: NoRoute | None = None
        is_any = False
        hosts, is_authentic = self._hosts(domain, deadline)
        for rank, host in hosts:
            for kind in _ADDRESS_TYPES:
                try:
                    places = self._places_of(host, rank, kind, is_authentic, deadline)
                except NoRoute as error:
                    trouble = error if trouble is None or error.judgement.verdict is Verdict.TEMPORARY else trouble
                    continue
                is_any = is_any or bool(places)
                yield from places
        if not is_any:
            raise trouble or NoRoute(Verdict.PERMANENT, "5.4.4", f"no mail host of {domain} has an address")

    def _hosts(self, domain: str, deadline: Deadline) -> tuple[list[tuple[int, str]], bool]:
        """Preferences and names of mail hosts, the most preferred first, equal ones shuffled, and whether DNSSEC
        vouches for them. Raises `NoRoute`."""
        if domain.startswith("["):
            raise NoRoute(Verdict.PERMANENT, "5.1.2", "mail to address literals is not sent; name a domain")
        answer = self._ask(domain, dns.rdatatype.MX, deadline)
        if not answer.rrset:
            return [(0, domain)], _is_authentic(answer)  # the implicit MX
        ranked = sorted((record.preference, _host_name(record.exchange)) for record in answer.rrset)
        hosts: list[tuple[int, str]] = []
        for rank, equals in groupby(ranked, key=lambda pair: pair[0]):
            names = [name for _, name in equals if name]
            self._shuffle(names)
            hosts += [(rank, name) for name in names]
        if not hosts:
            raise NoRoute(Verdict.PERMANENT, "5.1.10", f"{domain} declares that it takes no mail (RFC 7505)")
        return hosts[:MAX_HOSTS], _is_authentic(answer)

    def _places_of(
        self, host: str, rank: int, kind: dns.rdatatype.RdataType, is_mx_authentic: bool, deadline: Deadline
    ) -> list[HostAddress]:
        answer = self._ask(host, kind, deadline)
        is_authentic = is_mx_authentic and _is_authentic(answer)
        canonical = _host_name(answer.canonical_name) if is_authentic else ""
        return [
            HostAddress(
                host,
                str(ipaddress.ip_address(record.address)),
                self._port,
                is_authentic=is_authentic,
                canonical="" if canonical == host else canonical,
                rank=rank,
            )
            for record in islice(answer.rrset or (), MAX_ADDRESSES)
        ]

    def _ask(self, name: str, kind: dns.rdatatype.RdataType, deadline: Deadline) -> Any:
        """dnspython's answer, without records where the name has none of that kind; CNAMEs are followed.
        Raises `NoRoute`."""
        lifetime = min(TOTAL_TIMEOUT_S, deadline.remaining)
        try:
            return self._resolver.resolve(
                dns.name.from_text(name), kind, search=False, raise_on_no_answer=False, lifetime=lifetime
            )
        except dns.resolver.NXDOMAIN as error:
            raise NoRoute(
                Verdict.PERMANENT, "5.1.2" if kind is dns.rdatatype.MX else "5.4.4", f"the DNS knows no {name}"
            ) from error
        except (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.BadEscape) as error:
            raise NoRoute(Verdict.PERMANENT, "5.1.2", f"{name} is no name that the DNS can hold") from error
        except (dns.exception.DNSException, OSError) as error:
            text = f"the DNS gave no answer about {name}; it is asked again later"
            raise NoRoute(Verdict.TEMPORARY, "4.4.3", text) from error


class OwnReceiver:
    """Mail to the domain that no DNS knows, which the gateway has until it is given a real one, goes to its receiver on
    this machine: so that somebody who tries it out can send to an address of his own."""

    def __init__(self, domain: str, receiver: Listen, others: Route) -> None:
        self._domain = domain
        self._receiver = receiver
        self._others = others

    def places(self, domain: str, deadline: Deadline) -> Iterator[HostAddress]:
        """The receiver, or what there is for another domain. Raises `NoRoute`."""
        if domain != self._domain:
            yield from self._others.places(domain, deadline)
            return
        host = self._receiver.reachable_host
        address = LOOPBACK_NAMES.get(host, host)
        yield HostAddress(host, address, self._receiver.port, is_guarded=False)


def _is_authentic(answer: Any) -> bool:
    """Whether the resolver says so; whether it can be believed is `outbound.dane`'s question."""
    return bool(answer.response.flags & dns.flags.AD)


def _host_name(exchange: dns.name.Name) -> str:
    """Lower-case, without the final dot; empty for the root, which stands for no host at all."""
    return exchange.to_text(omit_final_dot=True).lower().removeprefix(".") if exchange != dns.name.root else ""


def route_for(settings: Settings, port: int = SMTP_PORT, resolver: dns.resolver.Resolver | None = None) -> Route:
    """The route as configured. Raises `ConfigurationError`."""
    relay = read_relay(settings.smart_host)
    if relay is not None:
        return SmartHost(relay)
    by_dns = MxRoute(resolver or caching_resolver(settings), port)
    return OwnReceiver(settings.domain, settings.smtp, by_dns) if settings.domain == DEFAULT_DOMAIN else by_dns


def caching_resolver(settings: Settings) -> dns.resolver.Resolver:
    """Asks the servers in the settings, and remembers. Raises `ConfigurationError`.

    Not `core.dns_lookup`, whose answers do not say whether DNSSEC vouches for them.
    """
    resolver = make_resolver(settings.resolver)
    resolver.cache = dns.resolver.LRUCache(CACHED_ANSWERS)
    return resolver
