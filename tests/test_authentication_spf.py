"""SPF beyond the suite: bounces, limits, failing DNS, and records and names that are meant to hurt."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.authentication.spf import MAX_EXPLANATION, SpfQuestion, check_spf
from core.authentication.spf_macros import SpfSyntaxError, expand
from core.authentication.spf_record import read_record
from core.dns_lookup import LookupBudget
from core.verdicts import AuthResult, SpfVerdict
from tests.authentication_support import CLIENT_IP, lookup_at
from tests.authentication_zones import ZoneServer

DOMAIN = "sender.example"


def judge(
    zones: ZoneServer,
    ip: str = CLIENT_IP,
    helo: str = "mail.sender.example",
    mail_from: str = f"alice@{DOMAIN}",
    timeout_s: float = 0.2,
) -> SpfVerdict:
    question = SpfQuestion(ip, helo, mail_from, "mx.pillarbox.test", 1_790_000_000)
    return check_spf(question, lookup_at(zones, timeout_s), LookupBudget(5))


def test_a_bounce_is_judged_by_its_helo(zones: ZoneServer) -> None:
    zones.add("mail.sender.example", "TXT", "v=spf1 a -all")
    zones.add("mail.sender.example", "A", CLIENT_IP)
    assert judge(zones, mail_from="") == SpfVerdict(AuthResult.PASS, "mail.sender.example", is_helo=True)


def test_the_domain_is_told_in_ascii(zones: ZoneServer) -> None:
    zones.add("xn--mnchen-3ya.example", "TXT", "v=spf1 -all")
    assert judge(zones, mail_from="a@MÜNCHEN.example") == SpfVerdict(AuthResult.FAIL, "xn--mnchen-3ya.example")


@pytest.mark.parametrize("ip", ["", "unix:", "not an address", "1.2.3"])
def test_without_an_address_there_is_nothing_to_judge(zones: ZoneServer, ip: str) -> None:
    zones.add(DOMAIN, "TXT", "v=spf1 +all")
    assert judge(zones, ip=ip).result is AuthResult.NONE


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.0.0.1", "::1", "fe80::1%eth0"])
def test_no_address_is_special(zones: ZoneServer, ip: str) -> None:
    zones.add(DOMAIN, "TXT", "v=spf1 -all")
    assert judge(zones, ip=ip).result is AuthResult.FAIL


@pytest.mark.parametrize("kind", ["fail", "silent"])
def test_a_failing_dns_is_a_temporary_error_that_says_what_was_asked(zones: ZoneServer, kind: str) -> None:
    (zones.make_fail if kind == "fail" else zones.make_silent)(DOMAIN)
    verdict = judge(zones)
    assert verdict.result is AuthResult.TEMPERROR
    assert DOMAIN in (verdict.explanation or "")


def test_many_silent_servers_take_no_longer_than_the_budget(zones: ZoneServer) -> None:
    zones.add(DOMAIN, "TXT", "v=spf1 ptr ptr:x.example ptr:y.example ~all")
    names = [f"{number}.silent.example" for number in range(10)]
    zones.add("10.2.0.192.in-addr.arpa", "PTR", *names)
    for name in names:
        zones.make_silent(name)
    question = SpfQuestion(CLIENT_IP, "h.example", f"a@{DOMAIN}", "r", 0)
    begun = time.monotonic()
    verdict = check_spf(question, lookup_at(zones, 2.0), LookupBudget(0.5))
    assert time.monotonic() - begun < 2
    assert verdict.result in (AuthResult.SOFTFAIL, AuthResult.TEMPERROR)


def test_what_a_client_calls_itself_in_the_dns_cannot_spoil_the_result(zones: ZoneServer) -> None:
    zones.add(DOMAIN, "TXT", "v=spf1 ptr:trusted.example ip4:192.0.2.10 -all")
    zones.add("10.2.0.192.in-addr.arpa", "PTR", "mail.trusted.example", "broken.example")
    zones.make_fail("broken.example")
    assert judge(zones).result is AuthResult.PASS
    zones.add("mail.trusted.example", "A", "192.0.2.99")
    assert judge(zones, ip="192.0.2.99").result is AuthResult.FAIL


def test_hosts_without_ipv6_are_no_void_lookups(zones: ZoneServer) -> None:
    zones.add(DOMAIN, "TXT", "v=spf1 mx ip6:2001:db8::/32 -all")
    hosts = [f"mx{number}.sender.example" for number in range(5)]
    zones.add(DOMAIN, "MX", *((10, host) for host in hosts))
    for host in hosts:
        zones.add(host, "A", "192.0.2.1")
    assert judge(zones, ip="2001:db8::25").result is AuthResult.PASS


def test_an_explanation_is_the_owners_words_within_limits(zones: ZoneServer) -> None:
    zones.add(DOMAIN, "TXT", "v=spf1 -all exp=why.sender.example")
    zones.add("why.sender.example", "TXT", "%{c} is not ours, says %{r} at %{t}")
    assert judge(zones).explanation == f"{CLIENT_IP} is not ours, says mx.pillarbox.test at 1790000000"
    zones.remove("why.sender.example", "TXT")
    zones.add("why.sender.example", "TXT", "%{s}" * 100)
    assert len(judge(zones).explanation or "") == MAX_EXPLANATION


def test_a_record_beyond_what_a_packet_holds_is_read(zones: ZoneServer) -> None:
    networks = " ".join(f"ip4:198.51.{number}.0/24" for number in range(200))
    zones.add(DOMAIN, "TXT", f"v=spf1 {networks} ip4:192.0.2.0/24 -all")
    assert judge(zones, timeout_s=2).result is AuthResult.PASS


@pytest.mark.parametrize(
    "record",
    [
        b"v=spf1 exists:" + b"a." * 8000 + b"example -all",
        b"v=spf1 " + b"exists:%{i}.x.example " * 2000,
        b"v=spf1 " + b"x=%{l} " * 5000 + b"-all",
        b"v=spf1 a:" + b"/1" * 15000 + b" -all",
        b"v=spf1 a:" + b"%{" * 15000 + b" -all",
        b"v=spf1 a:" + b"-" * 30000 + b" -all",
        b"v=spf1" + b" " * 60000,
        b"v=spf1 ip6:" + b":" * 60000,
    ],
)
def test_hostile_records_are_read_quickly(record: bytes) -> None:
    begun = time.process_time()
    with contextlib.suppress(SpfSyntaxError):
        read_record(record)
    assert time.process_time() - begun < 0.3


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_syntax_error(data: bytes) -> None:
    with contextlib.suppress(SpfSyntaxError):
        read_record(b"v=spf1 " + data)


@given(st.text("%{}slodiphcrtvSLDR0123456789r.-+,/_= ab", max_size=40), st.text(max_size=20))
def test_any_macro_expands_or_is_a_syntax_error(text: str, value: str) -> None:
    with contextlib.suppress(SpfSyntaxError):
        expand(text, lambda _: value)


@given(helo=st.text(max_size=60), mail_from=st.text(max_size=60), ip=st.text(max_size=20))
def test_any_client_gets_a_verdict(helo: str, mail_from: str, ip: str) -> None:
    with_record = SpfQuestion(ip, helo, mail_from, "r", 0)
    assert check_spf(with_record, DEAD_LOOKUP, LookupBudget(0)).result in (AuthResult.NONE, AuthResult.TEMPERROR)


DEAD_LOOKUP = lookup_at(ZoneServer(port=9))
