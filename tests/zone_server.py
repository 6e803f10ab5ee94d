"""A DNS server on a loopback port with records of any type, for programs that resolve mail hosts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

TTL_S = 60
MAX_QUERY_BYTES = 4096
MAX_CHAIN = 5


@dataclass
class Zone:
    """What the server knows; may be changed while it runs."""

    port: int
    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """By name and type, e.g. `("example.com", "MX")`: `["10 mx.example.com."]`."""
    failing: set[str] = field(default_factory=set)
    """Names about which it answers SERVFAIL."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    authentic: set[str] = field(default_factory=set)
    """Names whose answers bear the AD flag: what a resolver says that has validated them."""

    def add(self, name: str, kind: str, *values: str) -> None:
        """Set the records of one name and type."""
        self.records[(name, kind)] = list(values)

    def mx(self, domain: str, *hosts: str) -> None:
        """A domain whose hosts are all on loopback, in this order of preference."""
        self.add(domain, "MX", *(f"{10 * (place + 1)} {host}." for place, host in enumerate(hosts)))
        for host in hosts:
            self.records.setdefault((host, "A"), ["127.0.0.1"])

    def respond(self, wire: bytes) -> bytes:
        """The answer to a query."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked.append((name, kind))
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | dns.flags.AA | (dns.flags.AD if name in self.authentic else 0)
        for _ in range(MAX_CHAIN):
            if name in self.failing:
                response.set_rcode(dns.rcode.SERVFAIL)
                break
            found = self.records.get((name, kind))
            alias = self.records.get((name, "CNAME"))
            if found is not None:
                response.answer.append(dns.rrset.from_text(f"{name}.", TTL_S, "IN", kind, *found))
                break
            if alias is None:
                if not any(known == name for known, _ in self.records):
                    response.set_rcode(dns.rcode.NXDOMAIN)
                break
            response.answer.append(dns.rrset.from_text(f"{name}.", TTL_S, "IN", "CNAME", *alias))
            name = alias[0].rstrip(".")
        return response.to_wire()


@contextmanager
def running_zone(address: str = "127.0.0.1", port: int = 0) -> Iterator[Zone]:
    """Serve until the block ends, on any free port unless one is named."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, port))
        zone = Zone(listener.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(listener, zone), daemon=True)
        thread.start()
        try:
            yield zone
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
                waker.sendto(b"", listener.getsockname())
            thread.join(5)


def _serve(listener: socket.socket, zone: Zone) -> None:
    while True:
        wire, client = listener.recvfrom(MAX_QUERY_BYTES)
        if not wire:
            return
        listener.sendto(zone.respond(wire), client)
