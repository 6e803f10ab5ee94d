"""The DNS client against a real server: what it remembers and for how long, what it shares, and when it gives up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from core.config import Settings
from core.dns_lookup import (
    MAX_NEGATIVE_TTL_S,
    MAX_TTL_S,
    UNSTATED_NEGATIVE_TTL_S,
    Answer,
    DnsLookup,
    LookupBudget,
    LookupFailed,
    RecordType,
    open_lookup,
)
from core.errors import ConfigurationError
from core.mx_check import make_resolver
from tests.authentication_zones import ZoneServer, running_zones

NAME = "example.com"
PATIENCE_S = 0.5


@dataclass
class Hands:
    """A clock that a test moves."""

    now_ms: int = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def lookup(zones: ZoneServer, hands: Hands) -> DnsLookup:
    return DnsLookup(make_resolver(f"127.0.0.1:{zones.port}"), hands, query_timeout_s=PATIENCE_S)


def find(lookup: DnsLookup, name: str = NAME, kind: RecordType = RecordType.TXT, seconds: float = 5.0) -> Answer:
    return lookup.find(name, kind, LookupBudget(seconds))


def test_every_type_is_read(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "TXT", [b"a", b"\xff b"], "second")
    zones.add(NAME, "A", "192.0.2.1", "192.0.2.2")
    zones.add(NAME, "AAAA", "2001:db8::1")
    zones.add(NAME, "MX", (20, "B.example.com"), (10, "a.example.com"))
    zones.add("1.2.0.192.in-addr.arpa", "PTR", "Mail.example.com")
    zones.add("alias.example.com", "CNAME", NAME)
    assert set(find(lookup).texts) == {b"a\xff b", b"second"}
    assert set(find(lookup, kind=RecordType.A).addresses) == {"192.0.2.1", "192.0.2.2"}
    assert find(lookup, kind=RecordType.AAAA).addresses == ("2001:db8::1",)
    assert find(lookup, kind=RecordType.MX).exchanges == ((10, "a.example.com"), (20, "b.example.com"))
    assert find(lookup, "1.2.0.192.in-addr.arpa", RecordType.PTR).names == ("mail.example.com",)
    assert find(lookup, "alias.example.com", RecordType.CNAME).names == (NAME,)
    assert set(find(lookup, "alias.example.com", RecordType.A).addresses) == {"192.0.2.1", "192.0.2.2"}


def test_a_null_mx_has_the_empty_host(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "MX", (0, ""))
    assert find(lookup, kind=RecordType.MX).exchanges == ((0, ""),)


def test_no_name_and_no_records_are_told_apart(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "A", "192.0.2.1")
    assert find(lookup) == Answer(exists=True)
    assert find(lookup, "nowhere.example") == Answer(exists=False)


@pytest.mark.parametrize("name", ["", ".", "a..b", ".a", "a" * 64 + ".example", "a." * 130, "\udcff.example"])
def test_what_is_no_name_does_not_exist(zones: ZoneServer, lookup: DnsLookup, name: str) -> None:
    assert find(lookup, name) == Answer(exists=False)


def test_case_and_final_dot_make_no_other_question(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "TXT", "x")
    assert find(lookup, "EXAMPLE.com.") == find(lookup)
    assert zones.count(NAME, "TXT") == 1


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(30, 30), (10**6, MAX_TTL_S)])
def test_an_answer_is_kept_as_long_as_it_says_within_our_limit(
    zones: ZoneServer, lookup: DnsLookup, hands: Hands, ttl_s: int, kept_s: float
) -> None:
    zones.ttl_s = ttl_s
    zones.add(NAME, "TXT", "x")
    assert_kept_for(zones, lookup, hands, kept_s)


@pytest.mark.parametrize(
    ("minimum_s", "kept_s"), [(30, 30), (86400, MAX_NEGATIVE_TTL_S), (None, UNSTATED_NEGATIVE_TTL_S)]
)
@pytest.mark.parametrize("exists", [True, False])
def test_a_missing_record_is_kept_as_long_as_its_zone_says_within_our_limit(
    zones: ZoneServer, lookup: DnsLookup, hands: Hands, minimum_s: int | None, kept_s: float, exists: bool
) -> None:
    zones.negative_ttl_s = minimum_s
    if exists:
        zones.add(NAME, "A", "192.0.2.1")
    assert_kept_for(zones, lookup, hands, kept_s)


def assert_kept_for(zones: ZoneServer, lookup: DnsLookup, hands: Hands, seconds: float) -> None:
    find(lookup)
    hands.now_ms += int(seconds * 1000) - 1
    find(lookup)
    assert zones.count(NAME, "TXT") == 1
    hands.now_ms += 1
    find(lookup)
    assert zones.count(NAME, "TXT") == 2


def test_a_failure_is_kept_for_seconds_only(zones: ZoneServer, lookup: DnsLookup, hands: Hands) -> None:
    zones.make_fail(NAME)
    for _ in range(2):
        with pytest.raises(LookupFailed, match=r"TXT records of example\.com"):
            find(lookup)
    assert zones.count(NAME, "TXT") == 1
    zones.failing.clear()
    zones.add(NAME, "TXT", "x")
    hands.now_ms += 3000
    assert find(lookup).texts == (b"x",)


def test_a_silent_server_is_given_up_and_asked_again_soon(zones: ZoneServer, lookup: DnsLookup, hands: Hands) -> None:
    zones.make_silent(NAME)
    begun = time.monotonic()
    with pytest.raises(LookupFailed, match="no answer in time"):
        find(lookup)
    assert PATIENCE_S <= time.monotonic() - begun < 2
    zones.add(NAME, "TXT", "x")
    hands.now_ms += 3000
    assert find(lookup).texts == (b"x",)


def test_who_has_little_time_does_not_spoil_the_answer_of_others(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.make_silent(NAME)
    with pytest.raises(LookupFailed):
        find(lookup, seconds=0.02)
    zones.add(NAME, "TXT", "x")
    assert find(lookup).texts == (b"x",)


def test_equal_questions_at_once_are_asked_once(zones: ZoneServer) -> None:
    lookup = DnsLookup(make_resolver(f"127.0.0.1:{zones.port}"), query_timeout_s=5)
    zones.add(NAME, "TXT", "x")
    zones.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(find, lookup) for _ in range(8)]
        while not zones.asked:
            threading.Event().wait(0.01)
        zones.gate.set()
        assert {answer.result(5).texts for answer in answers} == {(b"x",)}
    assert zones.count(NAME, "TXT") == 1


def test_who_waits_for_a_hasty_asker_asks_again(zones: ZoneServer) -> None:
    lookup = DnsLookup(make_resolver(f"127.0.0.1:{zones.port}"), query_timeout_s=3)
    zones.make_silent(NAME)
    with ThreadPoolExecutor(2) as pool:
        hasty = pool.submit(find, lookup, NAME, RecordType.TXT, 0.3)
        while not zones.asked:
            threading.Event().wait(0.01)
        patient = pool.submit(find, lookup)
        zones.add(NAME, "TXT", "x")
        with pytest.raises(LookupFailed):
            hasty.result(5)
        assert patient.result(5).texts == (b"x",)


def test_waiting_for_somebody_elses_answer_ends_with_the_budget(zones: ZoneServer) -> None:
    lookup = DnsLookup(make_resolver(f"127.0.0.1:{zones.port}"), query_timeout_s=5)
    zones.add(NAME, "TXT", "x")
    zones.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(find, lookup)
        while not zones.asked:
            threading.Event().wait(0.01)
        with pytest.raises(LookupFailed, match="used up"):
            find(lookup, seconds=0.05)
        zones.gate.set()
        assert first.result(5).texts == (b"x",)


def test_the_cache_is_bounded_and_drops_what_was_not_used(zones: ZoneServer) -> None:
    lookup = DnsLookup(make_resolver(f"127.0.0.1:{zones.port}"), max_entries=2)
    for name in ("a.example", "b.example", "a.example", "c.example", "a.example", "b.example"):
        find(lookup, name)
    assert [zones.count(name, "TXT") for name in ("a.example", "b.example", "c.example")] == [1, 2, 1]


def test_a_long_answer_comes_over_tcp(zones: ZoneServer) -> None:
    lookup = open_lookup(Settings(resolver=f"127.0.0.1:{zones.port}"))
    zones.add(NAME, "TXT", b"x" * 3000)
    assert find(lookup).texts == (b"x" * 3000,)
    assert [transport for _, _, transport in zones.asked] == ["udp", "tcp"]


def test_a_budget_ends_with_its_time(zones: ZoneServer, lookup: DnsLookup) -> None:
    now_s = [0.0]
    budget = LookupBudget(5, monotonic=lambda: now_s[0])
    zones.add(NAME, "TXT", "x")
    now_s[0] = 5.0
    with pytest.raises(LookupFailed, match="used up"):
        lookup.find(NAME, RecordType.TXT, budget)
    assert zones.asked == []


def test_a_budget_ends_with_its_questions_and_what_is_known_costs_none(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "TXT", "x")
    budget = LookupBudget(5, questions=1)
    for _ in range(3):
        assert lookup.find(NAME, RecordType.TXT, budget).texts == (b"x",)
    with pytest.raises(LookupFailed, match="too many"):
        lookup.find("b.example", RecordType.TXT, budget)


def test_the_next_server_is_asked_when_one_fails(zones: ZoneServer) -> None:
    with running_zones() as broken:
        broken.make_fail(NAME)
        zones.add(NAME, "TXT", "x")
        lookup = DnsLookup(make_resolver(f"127.0.0.1:{broken.port},127.0.0.1:{zones.port}"))
        assert find(lookup).texts == (b"x",)
        assert broken.asked


def test_an_alias_that_leads_back_to_itself_is_a_failure(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add("a.example", "CNAME", "b.example")
    zones.add("b.example", "CNAME", "a.example")
    with pytest.raises(LookupFailed):
        find(lookup, "a.example")


def test_servers_that_cannot_be_read_name_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="PILLARBOX_RESOLVER"):
        open_lookup(Settings(resolver="dns.example.com"))
