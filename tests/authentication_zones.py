"""A DNS server on a loopback port, UDP and TCP, that serves any zone a test gives it and misbehaves by name."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

MAX_UDP_BYTES = 4096
MAX_ALIASES = 10
TXT_STRING_BYTES = 255
IN = dns.rdataclass.IN
Key = tuple[bytes, ...]
MxValue = tuple[int, str]
Value = str | bytes | list[bytes] | MxValue


@dataclass
class ZoneServer:
    """A running server. All names are kept as labels in lower case; there are no wildcards."""

    port: int = 0
    ttl_s: int = 60
    negative_ttl_s: int | None = 60
    """The minimum in the SOA record of negative answers; None leaves the SOA record out."""
    records: dict[tuple[Key, str], list[dns.rdata.Rdata]] = field(default_factory=dict)
    silent: set[Key] = field(default_factory=set)
    """Names that are not answered for, unless there are records of the type asked for."""
    failing: set[Key] = field(default_factory=set)
    """Names that get SERVFAIL."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Answers wait until this is set."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Name, type and transport of every question."""

    def clear(self) -> None:
        """Serve nothing, answer everything."""
        self.records.clear()
        self.silent.clear()
        self.failing.clear()
        self.asked.clear()
        self.ttl_s = self.negative_ttl_s = 60
        self.gate.set()

    def add(self, name: str, kind: str, *values: Value) -> None:
        """Add records: text for TXT, addresses, hosts, `(preference, host)` for MX."""
        self.records.setdefault((_labels(name), kind), []).extend(_rdata(kind, value) for value in values)

    def remove(self, name: str, kind: str) -> None:
        """Take records away."""
        self.records.pop((_labels(name), kind), None)

    def make_silent(self, name: str) -> None:
        """Never answer for a name."""
        self.silent.add(_labels(name))

    def make_fail(self, name: str) -> None:
        """Answer SERVFAIL for a name."""
        self.failing.add(_labels(name))

    def count(self, name: str, kind: str) -> int:
        """How often a question came, over UDP."""
        return self.asked.count((name, kind, "udp"))

    def respond(self, wire: bytes, transport: str) -> bytes | None:
        """The answer to a query; None for silence."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((question.name.to_text(omit_final_dot=True).lower(), kind, transport))
        self.gate.wait(20)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | dns.flags.AA
        if not self._fill(response, question.name, kind):
            return None
        return _limited(response, query) if transport == "udp" else response.to_wire(max_size=65535)

    def _fill(self, response: dns.message.Message, name: dns.name.Name, kind: str) -> bool:
        for _ in range(MAX_ALIASES):
            key = tuple(label.lower() for label in name.labels if label)
            found = self.records.get((key, kind), [])
            if found:
                response.answer.append(_rrset(name, found, self.ttl_s))
                return True
            if key in self.silent:
                return False
            alias = self.records.get((key, "CNAME"), [])
            if not alias:
                break
            response.answer.append(_rrset(name, alias, self.ttl_s))
            name = alias[0].target
        if key in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
            return True
        if not any(known == key for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if self.negative_ttl_s is not None:
            response.authority.append(_soa(self.negative_ttl_s))
        return True


@contextmanager
def running_zones() -> Iterator[ZoneServer]:
    """Serve until the block ends."""
    zones = ZoneServer()
    zones.gate.set()

    class Udp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            answer = zones.respond(self.request[0], "udp")
            if answer is not None:
                self.request[1].sendto(answer, self.client_address)

    class Tcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            (size,) = struct.unpack("!H", self.rfile.read(2))
            answer = zones.respond(self.rfile.read(size), "tcp")
            if answer is not None:
                self.wfile.write(struct.pack("!H", len(answer)) + answer)

    with _bound(Tcp, Udp) as (tcp, udp):
        zones.port = udp.server_address[1]
        threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in (tcp, udp)]
        for thread in threads:
            thread.start()
        yield zones
        zones.gate.set()
        for server in (tcp, udp):
            server.shutdown()
        for thread in threads:
            thread.join(5)


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


class _UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True
    max_packet_size = MAX_UDP_BYTES


@contextmanager
def _bound(
    tcp_handler: type[socketserver.BaseRequestHandler], udp_handler: type[socketserver.BaseRequestHandler]
) -> Iterator[tuple[_TcpServer, _UdpServer]]:
    """Both servers on one port: the one the system gave for TCP may be taken for UDP."""
    for _ in range(20):
        with contextlib.ExitStack() as stack:
            tcp = stack.enter_context(_TcpServer(("127.0.0.1", 0), tcp_handler))
            try:
                udp = stack.enter_context(_UdpServer(tcp.server_address, udp_handler))
            except OSError:
                continue
            yield tcp, udp
            return
    raise OSError("no port is free for both UDP and TCP")


def _limited(response: dns.message.Message, query: dns.message.Message) -> bytes:
    wire = response.to_wire(max_size=65535)
    if len(wire) <= (query.payload or 512):
        return wire
    response.answer.clear()
    response.authority.clear()
    response.flags |= dns.flags.TC
    return response.to_wire()


def _labels(name: str) -> Key:
    return tuple(label for label in name.lower().removesuffix(".").encode().split(b".") if label)


def _name(text: str) -> dns.name.Name:
    return dns.name.Name([*(label for label in text.removesuffix(".").encode().split(b".") if label), b""])


def _rrset(name: dns.name.Name, records: list[dns.rdata.Rdata], ttl_s: int) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, ttl_s, records)


def _soa(minimum_s: int) -> dns.rrset.RRset:
    root = dns.name.root
    record = SOA(IN, dns.rdatatype.SOA, root, root, 1, 3600, 600, 86400, minimum_s)
    return dns.rrset.from_rdata_list(root, minimum_s, [record])


def _rdata(kind: str, value: Value) -> dns.rdata.Rdata:
    if kind == "TXT":
        return TXT(IN, dns.rdatatype.TXT, _strings(value))
    if kind == "MX":
        assert isinstance(value, tuple)
        return MX(IN, dns.rdatatype.MX, value[0], _name(value[1]))
    assert isinstance(value, str)
    if kind in ("PTR", "CNAME"):
        return {"PTR": PTR, "CNAME": CNAME}[kind](IN, dns.rdatatype.from_text(kind), _name(value))
    return {"A": A, "AAAA": AAAA}[kind](IN, dns.rdatatype.from_text(kind), value)


def _strings(value: Value) -> list[bytes]:
    if isinstance(value, list):
        return value or [b""]
    assert isinstance(value, str | bytes)
    data = value.encode() if isinstance(value, str) else value
    return [data[start : start + TXT_STRING_BYTES] for start in range(0, len(data), TXT_STRING_BYTES)] or [b""]
