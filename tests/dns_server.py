"""A DNS server on a loopback port that answers, over UDP, from the records a test gives it."""

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


@dataclass
class DnsServer:
    """A running server."""

    port: int
    records: dict[str, list[str]] = field(default_factory=dict)
    """MX records by name; `*.example.com` stands for any name below, as in a zone (RFC 4592)."""
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    """What every answer says when it is not NOERROR."""
    is_silent: bool = False
    asked: list[str] = field(default_factory=list)

    def respond(self, wire: bytes) -> bytes | None:
        """The answer to a query; None for silence."""
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        self.asked.append(name)
        if self.is_silent:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | dns.flags.AA
        exchanges = self.records.get(name, self.records.get(f"*.{name.partition('.')[2]}"))
        if self.rcode is not dns.rcode.NOERROR or exchanges is None:
            response.set_rcode(self.rcode if self.rcode is not dns.rcode.NOERROR else dns.rcode.NXDOMAIN)
        elif exchanges and query.question[0].rdtype == dns.rdatatype.MX:
            response.answer.append(dns.rrset.from_text(query.question[0].name, TTL_S, "IN", "MX", *exchanges))
        return response.to_wire()


@contextmanager
def running_dns() -> Iterator[DnsServer]:
    """Serve until the block ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        server = DnsServer(listener.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(listener, server), daemon=True)
        thread.start()
        yield server
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", listener.getsockname())
        thread.join(5)


def _serve(listener: socket.socket, server: DnsServer) -> None:
    while True:
        wire, client = listener.recvfrom(MAX_QUERY_BYTES)
        if not wire:
            return
        answer = server.respond(wire)
        if answer is not None:
            listener.sendto(answer, client)
