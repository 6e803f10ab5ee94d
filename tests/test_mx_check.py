"""Whether MX records point here, asked of a real DNS server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import dns.rcode
import pytest

from core.config import Settings
from core.errors import ConfigurationError, InvalidField
from core.mx_check import DnsUnavailable, MxCheck, make_resolver, mx_check_for
from tests.dns_server import DnsServer, running_dns

HERE = "mx.pillarbox.test"


@pytest.fixture
def dns_server() -> Iterator[DnsServer]:
    with running_dns() as server:
        yield server


def check_with(port: int) -> MxCheck:
    return MxCheck(HERE, make_resolver(f"127.0.0.1:{port}"))


@pytest.mark.parametrize(
    "records",
    [["10 mx.pillarbox.test."], ["10 MX.Pillarbox.Test."], ["5 other.example.net.", "10 mx.pillarbox.test."]],
)
def test_domain_with_our_mx_passes(dns_server: DnsServer, records: list[str]) -> None:
    dns_server.records["example.com"] = records
    check_with(dns_server.port).require("example.com")
    assert dns_server.asked == ["example.com"]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (["20 b.example.net.", "10 a.example.net."], "a.example.net, b.example.net"),
        ([], "none"),
        (["0 ."], "found ."),
        (["10 mx.pillarbox.test.example.com."], "mx.pillarbox.test.example.com"),
    ],
)
def test_wrong_records_are_shown_beside_the_expected_one(dns_server: DnsServer, records: list[str], found: str) -> None:
    dns_server.records["example.com"] = records
    with pytest.raises(InvalidField) as refused:
        check_with(dns_server.port).require("example.com")
    assert refused.value.field == "domain"
    assert HERE in refused.value.problem
    assert "MX records of example.com" in refused.value.problem
    assert found in refused.value.problem


def test_a_domain_that_does_not_exist_has_no_records(dns_server: DnsServer) -> None:
    with pytest.raises(InvalidField, match="found none"):
        check_with(dns_server.port).require("nowhere.example")


def test_many_records_are_shown_in_part(dns_server: DnsServer) -> None:
    dns_server.records["example.com"] = [f"10 mx{number}.example.net." for number in range(30)]
    with pytest.raises(InvalidField) as refused:
        check_with(dns_server.port).require("example.com")
    assert refused.value.problem.count("example.net") == 10


def test_a_wildcard_is_asked_for_by_some_name_below(dns_server: DnsServer) -> None:
    dns_server.records["*.example.com"] = ["10 mx.pillarbox.test."]
    check_with(dns_server.port).require("*.example.com")
    check_with(dns_server.port).require("*.example.com")
    first, second = dns_server.asked
    assert first.endswith(".example.com")
    assert first != second


def test_a_wildcard_needs_a_record_below_the_domain(dns_server: DnsServer) -> None:
    dns_server.records["example.com"] = ["10 mx.pillarbox.test."]
    with pytest.raises(InvalidField, match="found none"):
        check_with(dns_server.port).require("*.example.com")


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_a_failing_server_says_nothing_of_the_domain(dns_server: DnsServer, rcode: dns.rcode.Rcode) -> None:
    dns_server.rcode = rcode
    with pytest.raises(DnsUnavailable, match=r"example\.com"):
        check_with(dns_server.port).require("example.com")


def test_a_silent_server_is_given_up_in_bounded_time(dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.mx_check.SERVER_TIMEOUT_S", 0.1)
    monkeypatch.setattr("core.mx_check.TOTAL_TIMEOUT_S", 0.3)
    dns_server.is_silent = True
    begun = time.monotonic()
    with pytest.raises(DnsUnavailable):
        check_with(dns_server.port).require("example.com")
    assert time.monotonic() - begun < 3


def test_a_server_that_is_not_there_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.mx_check.TOTAL_TIMEOUT_S", 0.5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DnsUnavailable):
        check_with(port).require("example.com")


def test_the_next_server_is_asked_when_one_fails(dns_server: DnsServer) -> None:
    dns_server.records["example.com"] = ["10 mx.pillarbox.test."]
    with running_dns() as broken:
        broken.rcode = dns.rcode.SERVFAIL
        resolver = make_resolver(f"127.0.0.1:{broken.port}, 127.0.0.1:{dns_server.port}")
        MxCheck(HERE, resolver).require("example.com")
        assert broken.asked


def test_a_name_too_long_for_the_dns_is_the_callers_mistake(dns_server: DnsServer) -> None:
    domain = "*." + ".".join(["a" * 60] * 4)
    with pytest.raises(InvalidField, match="too long"):
        check_with(dns_server.port).require(domain)


@pytest.mark.parametrize("servers", ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53", "192.0.2.1,::1"])
def test_servers_may_be_written_in_every_usual_way(servers: str) -> None:
    assert len(make_resolver(servers).nameservers) == servers.count(",") + 1


@pytest.mark.parametrize(
    "servers", ["dns.example.com", "192.0.2.1:x", "192.0.2.1:99999", ",", "[::1", "192.0.2.1:53:1"]
)
def test_a_server_that_cannot_be_read_names_the_setting(servers: str) -> None:
    with pytest.raises(ConfigurationError, match="PILLARBOX_RESOLVER"):
        make_resolver(servers)


def test_the_check_can_be_switched_off() -> None:
    assert mx_check_for(Settings(data=Path("unused"), mx_check=False)) is None
    assert mx_check_for(Settings(data=Path("unused"), resolver="192.0.2.1")) is not None
