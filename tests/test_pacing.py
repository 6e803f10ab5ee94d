"""Pacing keeps every limit in every stretch of time, wastes no room, and lets nobody wait for another's reasons."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from core.sending.pacing import (
    DIGESTS_A_MINUTE,
    RAMP,
    Ledger,
    Limit,
    NewDomainRamp,
    Quota,
    daily,
    digest_spacing,
    find_moment,
    hourly,
    is_limit,
    reserve,
)
from tests.conftest import NOW_MS

START_MS = NOW_MS - NOW_MS % DAY_MS


@dataclass
class Book:
    """A ledger that lasts, as the table does; each reservation reads it anew."""

    rows: dict[str, int] = field(default_factory=dict)
    reads: int = 0

    def reserve(self, limits: list[Limit], earliest_ms: int, is_priority: bool = False) -> int:
        ledger = Ledger(self._read)
        moment = reserve(ledger, limits, earliest_ms, is_priority)
        self.rows |= ledger.changed
        return moment

    def _read(self, scope: str) -> int:
        self.reads += 1
        return self.rows.get(scope, 0)


def most_within(moments: list[int], period_ms: int) -> int:
    """The most that any stretch of that length holds."""
    ordered = sorted(moments)
    return max((bisect_left(ordered, moment + period_ms) - place for place, moment in enumerate(ordered)), default=0)


wishes = st.lists(
    st.tuples(st.integers(0, 20 * MINUTE_MS), st.one_of(st.just(0), st.integers(0, 3 * HOUR_MS)), st.booleans()),
    min_size=1,
    max_size=150,
)
"""The pause before each mail, for how much later it is scheduled, and whether it is urgent."""


@settings(max_examples=150, deadline=None)
@given(wishes, st.integers(1, 60), st.integers(0, DAY_MS))
def test_no_stretch_of_time_holds_more_than_limit_and_burst(
    asked: list[tuple[int, int, bool]], count: int, offset_ms: int
) -> None:
    limit = Quota("a", count, HOUR_MS)
    assert limit.burst <= count
    assert limit.burst <= max(25, -(-count // 10))
    book, now_ms, moments = Book(), START_MS + offset_ms, []
    for pause_ms, later_ms, is_priority in asked:
        now_ms += pause_ms // 10
        moment = book.reserve([limit], now_ms + later_ms, is_priority)
        assert moment >= now_ms + later_ms
        moments.append(moment)
    assert most_within(moments, HOUR_MS) <= count + limit.burst


@settings(max_examples=60, deadline=None)
@given(wishes, st.integers(1, 40), st.integers(5, 200), st.integers(1, 40))
def test_every_one_of_several_limits_is_kept(
    asked: list[tuple[int, int, bool]], per_hour: int, per_day: int, of_domain: int
) -> None:
    """An account with two domains, one of which has a limit of its own."""
    account: list[Limit] = [hourly("a:h", per_hour), daily("a:d", per_day)]
    own = hourly("d:h", of_domain)
    book, now_ms = Book(), START_MS
    moments: dict[bool, list[int]] = defaultdict(list)
    for number, (pause_ms, later_ms, is_priority) in enumerate(asked):
        now_ms += pause_ms // 20
        limits = [*account, own] if number % 2 else account
        moments[bool(number % 2)].append(book.reserve(limits, now_ms + later_ms, is_priority))
    together = moments[True] + moments[False]
    assert most_within(together, HOUR_MS) <= per_hour + hourly("", per_hour).burst
    assert most_within(together, DAY_MS) <= per_day + daily("", per_day).burst
    assert most_within(moments[True], HOUR_MS) <= of_domain + own.burst


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 5 * MINUTE_MS)), min_size=1, max_size=300))
def test_digests_are_spaced_evenly_however_they_come(asked: list[tuple[int, int]]) -> None:
    limit = digest_spacing("g")
    book, now_ms, moments = Book(), START_MS, []
    for pause_ms, later_ms in asked:
        now_ms += pause_ms
        moments.append(book.reserve([limit], now_ms + later_ms))
    ordered = sorted(moments)
    spacing = MINUTE_MS // DIGESTS_A_MINUTE
    assert all(after - before >= spacing for before, after in pairwise(ordered))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 3_000))
def test_nothing_waits_longer_than_the_limit_makes_it(count: int, mails: int) -> None:
    """A crowd at one moment is through as soon as its number of periods (and the share of priority mail) says."""
    book, limit = Book(), hourly("a", count)
    last = max(book.reserve([limit], START_MS) for _ in range(min(mails, 12 * count)))
    common = count * 0.9  # one place of ten is kept for priority mail
    assert last - START_MS <= (min(mails, 12 * count) / common + 1) * HOUR_MS


def test_within_the_limit_mail_goes_at_once_and_a_crowd_is_spread_over_later_slices() -> None:
    book, limit = Book(), hourly("a", 100)
    moments = [book.reserve([limit], START_MS + 7) for _ in range(20)]
    assert moments[:9] == [START_MS + 7] * 9  # a tenth of the hour's, less what is kept for priority mail
    assert moments[9:12] == [START_MS + place * 40 * SECOND_MS for place in (9, 10, 11)]
    assert moments[17] < START_MS + 12 * MINUTE_MS <= moments[18]


def test_priority_mail_has_places_of_its_own_when_all_others_wait() -> None:
    book, limit = Book(), hourly("a", 100)
    for _ in range(1_000):
        book.reserve([limit], START_MS)
    assert book.reserve([limit], START_MS, is_priority=True) == START_MS
    assert book.reserve([limit], START_MS, is_priority=True) == START_MS + 6 * MINUTE_MS
    assert book.reserve([limit], START_MS) > START_MS + 10 * HOUR_MS


@pytest.mark.parametrize("is_priority", [False, True])
def test_the_smallest_limit_there_is(is_priority: bool) -> None:
    book = Book()
    moments = [book.reserve([hourly("a", 1)], START_MS, is_priority) for _ in range(3)]
    assert moments == [START_MS, START_MS + HOUR_MS, START_MS + 2 * HOUR_MS]


def test_mail_for_tomorrow_takes_tomorrows_places_and_keeps_nobody_waiting_today() -> None:
    book, limit = Book(), hourly("a", 100)
    for _ in range(500):
        assert book.reserve([limit], START_MS + DAY_MS) >= START_MS + DAY_MS
    assert book.reserve([limit], START_MS) == START_MS
    assert book.reserve([limit], START_MS + DAY_MS) > START_MS + DAY_MS + 5 * HOUR_MS


def test_who_waits_for_his_domains_limit_keeps_no_other_domain_waiting() -> None:
    book, account = Book(), hourly("a", 1_000)
    slow = [book.reserve([account, hourly("d", 2)], START_MS) for _ in range(30)]
    assert max(slow) >= START_MS + 14 * HOUR_MS
    assert book.reserve([account], START_MS) == START_MS


def test_a_long_queue_is_not_walked_through_by_each_that_joins_it() -> None:
    book, limit = Book(), hourly("a", 10)
    for _ in range(2_000):
        book.reserve([limit], START_MS)
    reads = book.reads
    for _ in range(100):
        book.reserve([limit], START_MS)
    assert book.reads - reads <= 5 * 100


def test_a_new_domain_doubles_each_day_until_it_is_known() -> None:
    ramp = NewDomainRamp("r", START_MS)
    book = Book()
    moments = [book.reserve([ramp], START_MS, is_priority=number % 10 == 0) for number in range(2_000)]
    days = [
        sum(START_MS + day * DAY_MS <= moment < START_MS + (day + 1) * DAY_MS for moment in moments)
        for day in (0, 1, 2)
    ]
    assert days == [200, 400, 800]
    known = START_MS + len(RAMP) * DAY_MS
    assert [find_moment(Ledger(lambda _: 0), [ramp], known)] == [known]
    assert ramp.slice_at(known) is None


@pytest.mark.parametrize(
    ("count", "is_one"), [(None, False), (0, False), (1, True), (HOUR_MS, True), (HOUR_MS + 1, False)]
)
def test_which_numbers_limit_anything(count: int | None, is_one: bool) -> None:
    assert is_limit(count, HOUR_MS) is is_one


def test_the_fastest_limit_there_is() -> None:
    book, limit = Book(), Quota("a", HOUR_MS, HOUR_MS)
    assert [book.reserve([limit], START_MS) for _ in range(3)] == [START_MS] * 3
