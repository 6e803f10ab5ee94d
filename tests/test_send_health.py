"""Health: what rates cost, what too little says, and when sending is stopped; on both databases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from core.config import Settings
from core.sending.events import EventKind, NewEvent
from core.sending.health import (
    COUNTED,
    LEVELS,
    MIN_RECIPIENTS,
    HealthLevel,
    PauseBounds,
    SendCounts,
    health_of,
    level_of,
    reason_to_pause,
)
from core.services.accounts import NewAccount
from core.services.pauses import PausePlace, pause, read_pause, resume
from core.services.send_health import first_hour, pause_unhealthy, read_health
from core.services.tallies import count_events
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.send_support import Sends
from workers.housekeeping import SendGuard

BOUNDS = PauseBounds(bounce_percent=10, complaint_permille=3)
DISPATCH, DELIVERY, BOUNCE = EventKind.DISPATCH, EventKind.DELIVERY, EventKind.BOUNCE
COMPLAINT, OPEN = EventKind.COMPLAINT, EventKind.OPEN
GOOD = {DISPATCH: 1_000, DELIVERY: 990, BOUNCE: 10, OPEN: 300}


# --- the score ---


def score(counts: Mapping[EventKind, int]) -> int | None:
    return health_of(SendCounts.of(counts)).score


def test_who_sends_well_has_full_marks_and_every_part_is_shown() -> None:
    health = health_of(SendCounts.of(GOOD))
    assert (health.score, health.level) == (100, HealthLevel.HEALTHY)
    rates = [part.rate for part in (health.delivery, health.bounce, health.complaint, health.engagement)]
    assert rates == [0.99, 0.01, 0.0, pytest.approx(300 / 990)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({BOUNCE: 60, DELIVERY: 940}, 74),  # 6 %: half of its 50 points, and a little for what did not arrive
        ({BOUNCE: 500, DELIVERY: 500}, 30),
        ({COMPLAINT: 3}, 40),
        ({COMPLAINT: 1}, 88),
        ({EventKind.RETRIES_EXHAUSTED: 400, DELIVERY: 590}, 80),
        ({OPEN: 1}, 90),
        ({OPEN: 0}, 100),  # nothing is tracked, so nothing is said
        ({BOUNCE: 990, DELIVERY: 10, COMPLAINT: 10, OPEN: 0}, 0),
    ],
)
def test_what_goes_wrong_costs_points(changes: dict[EventKind, int], expected: int) -> None:
    assert score({**GOOD, **changes}) == expected


def test_too_little_to_tell_has_no_score_and_no_rates() -> None:
    health = health_of(SendCounts.of({DISPATCH: MIN_RECIPIENTS - 1, DELIVERY: 1, BOUNCE: MIN_RECIPIENTS - 2}))
    assert (health.score, health.level, health.bounce.rate, health.bounce.points_lost) == (None, None, None, 0)
    assert score({DISPATCH: MIN_RECIPIENTS}) == 100


def test_one_complaint_among_few_says_little() -> None:
    health = health_of(SendCounts.of({DISPATCH: 60, DELIVERY: 60, COMPLAINT: 1}))
    assert health.complaint.rate == pytest.approx(1 / 60)
    assert health.complaint.points_lost == 12
    assert reason_to_pause(health.counts, BOUNDS) is None


@pytest.mark.parametrize(("points", "level"), [(100, 0), (90, 0), (89, 1), (75, 1), (74, 2), (50, 2), (49, 3), (0, 3)])
def test_the_levels_are_the_vendors(points: int, level: int) -> None:
    assert level_of(points) is LEVELS[level][1]


@given(st.dictionaries(st.sampled_from(COUNTED), st.integers(0, 10**7)))
def test_every_score_is_a_score(counts: dict[EventKind, int]) -> None:
    health = health_of(SendCounts.of(counts))
    assert health.score is None or 0 <= health.score <= 100
    parts = (health.delivery, health.bounce, health.complaint, health.engagement)
    assert all(part.rate is None or 0 <= part.rate <= 1 for part in parts)
    assert all(0 <= part.points_lost <= part.points for part in parts)
    worse = health_of(SendCounts.of({**counts, BOUNCE: counts.get(BOUNCE, 0) + 50}))
    assert health.score is None or worse.score is None or worse.score <= health.score + 1  # of rounding
    reason_to_pause(health.counts, BOUNDS)


# --- when to stop ---


@pytest.mark.parametrize(
    ("counts", "is_reason"),
    [
        ({DISPATCH: 100, BOUNCE: 10}, False),
        ({DISPATCH: 100, BOUNCE: 11}, True),
        ({DISPATCH: 49, BOUNCE: 49}, False),
        ({DISPATCH: 2_000, DELIVERY: 2_000, COMPLAINT: 6}, False),
        ({DISPATCH: 2_000, DELIVERY: 2_000, COMPLAINT: 7}, True),
        ({DISPATCH: 50, DELIVERY: 50, COMPLAINT: 3}, False),
        ({DISPATCH: 50, DELIVERY: 50, COMPLAINT: 4}, True),
    ],
)
def test_the_bounds(counts: dict[EventKind, int], is_reason: bool) -> None:
    assert (reason_to_pause(SendCounts.of(counts), BOUNDS) is not None) is is_reason
    assert reason_to_pause(SendCounts.of(counts), PauseBounds(0, 0)) is None


def test_the_reasons_say_what_how_much_and_what_to_do() -> None:
    bounced = reason_to_pause(SendCounts.of({DISPATCH: 200, BOUNCE: 50}), BOUNDS)
    assert str(bounced).startswith("50 of 200 recipients bounced in the last day (25.0%; the limit is 10 %)")
    complained = reason_to_pause(SendCounts.of({DISPATCH: 2_000, DELIVERY: 2_000, COMPLAINT: 20}), BOUNDS)
    assert "20 recipients complained of spam in the last day, of 2000 deliveries (1.00%; the limit is 0.3%)" in str(
        complained
    )


# --- counted in a database ---


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path)
    made.add_domain([])
    return made


def count(sends: Sends, counts: Mapping[EventKind, int], at_ms: int = NOW_MS, domain_id: str | None = "") -> None:
    """So many events; of the domain that is sent from, unless another is named."""
    chosen = sends.domain_id if domain_id == "" else domain_id
    events = [
        NewEvent(kind, sends.account.account_id, chosen, "m", None, "r@example.com", at_ms)
        for kind, number in counts.items()
        for _ in range(number)
    ]
    with sends.database.transaction():
        count_events(sends.database, events)


def test_account_and_domains_by_name_over_a_day_and_a_week(sends: Sends) -> None:
    first = sends.domain_id
    count(sends, {DISPATCH: 100, DELIVERY: 100})
    count(sends, {DISPATCH: 100, DELIVERY: 50, BOUNCE: 50}, NOW_MS - 3 * DAY_MS)
    count(sends, {DISPATCH: 100, BOUNCE: 100}, NOW_MS - 8 * DAY_MS)
    second = sends.add_domain([], "another.example")
    pause(sends.database, PausePlace(sends.account.account_id, second), "by hand", NOW_MS)
    count(sends, {DISPATCH: 60, DELIVERY: 60})
    count(sends, {DISPATCH: 40, DELIVERY: 40}, domain_id=None)
    whole, another, sender = read_health(sends.database, sends.account.account_id, NOW_MS)
    assert (whole.domain, another.sending_domain_id, sender.sending_domain_id) == (None, second, first)
    assert (whole.day.counts.recipients, whole.week.counts.recipients) == (200, 300)
    assert (sender.day.score, sender.week.counts.bounced) == (100, 50)
    assert sender.week.level is HealthLevel.CRITICAL
    assert (another.pause is not None, sender.pause, another.day.counts.delivered) == (True, None, 60)


def test_another_accounts_counts_are_its_own(sends: Sends, database: Database) -> None:
    count(sends, GOOD)
    (nobody,) = read_health(database, "0" * 16, NOW_MS)
    assert nobody.day.counts.recipients == 0


def test_a_domain_that_bounces_too_much_is_paused_alone_and_the_log_says_so(sends: Sends) -> None:
    bad = sends.domain_id
    count(sends, {DISPATCH: 100, BOUNCE: 20})
    good = sends.add_domain([], "good.example")
    count(sends, GOOD)
    with capture_logs() as logged:
        (paused,) = pause_unhealthy(sends.database, BOUNDS, NOW_MS)
    assert paused.place == PausePlace(sends.account.account_id, bad)
    found = read_pause(sends.database, paused.place)
    assert found is not None
    assert found.because == paused.because
    assert "20 of 100 recipients bounced" in found.because
    assert read_pause(sends.database, PausePlace(sends.account.account_id, good)) is None
    assert [entry["event"] for entry in logged] == ["sending is paused"]
    assert pause_unhealthy(sends.database, BOUNDS, NOW_MS + MINUTE_MS) == []


def test_mail_of_no_domain_pauses_the_account(sends: Sends) -> None:
    count(sends, {DISPATCH: 100, BOUNCE: 20}, domain_id=None)
    (paused,) = pause_unhealthy(sends.database, BOUNDS, NOW_MS)
    assert paused.place == PausePlace(sends.account.account_id)


def test_yesterdays_bounces_are_forgotten(sends: Sends) -> None:
    count(sends, {DISPATCH: 100, BOUNCE: 20}, NOW_MS - DAY_MS - HOUR_MS)
    assert pause_unhealthy(sends.database, BOUNDS, NOW_MS) == []
    count(sends, {DISPATCH: 100, BOUNCE: 20}, first_hour(NOW_MS, DAY_MS))
    assert len(pause_unhealthy(sends.database, BOUNDS, NOW_MS)) == 1


def test_after_a_resume_by_hand_the_old_bounces_do_not_pause_again_but_new_ones_do(sends: Sends) -> None:
    place = PausePlace(sends.account.account_id, sends.domain_id)
    count(sends, {DISPATCH: 100, BOUNCE: 20})
    assert len(pause_unhealthy(sends.database, BOUNDS, NOW_MS)) == 1
    resume(sends.database, place, lambda: NOW_MS)
    assert pause_unhealthy(sends.database, BOUNDS, NOW_MS + MINUTE_MS) == []
    later = NOW_MS + HOUR_MS
    count(sends, {DISPATCH: 100, BOUNCE: 5}, later)
    assert pause_unhealthy(sends.database, BOUNDS, later) == []
    count(sends, {BOUNCE: 10}, later)
    (paused,) = pause_unhealthy(sends.database, BOUNDS, later)
    assert "15 of 100" in paused.because


def test_the_guard_goes_by_the_settings(sends: Sends) -> None:
    count(sends, {DISPATCH: 100, BOUNCE: 20})
    lenient = Settings(pause_bounce_percent=50, pause_complaint_permille=0)
    assert SendGuard(lenient, sends.database, lambda: NOW_MS).look() == (0, 0)
    assert SendGuard(Settings(), sends.database, lambda: NOW_MS).look() == (1, 0)
