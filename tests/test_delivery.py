"""The state machine: a row for each kind of outcome, the schedule, and what HTTP statuses mean."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from core.delivery import (
    BUSY_PAUSE_MS,
    HTTP_POLICY,
    INLINE_POLICY,
    Decision,
    DeliveryState,
    Outcome,
    Policy,
    Progress,
    Verdict,
    decide,
    http_verdict,
)
from tests.conftest import NOW_MS

POLICY = Policy(
    schedule_ms=(10_000, 60_000, 600_000), give_up_after_ms=3_600_000, jitter=0.1, max_retry_after_ms=900_000
)
ACCEPTED, TEMPORARY, PERMANENT = Verdict.ACCEPTED, Verdict.TEMPORARY, Verdict.PERMANENT
HELD, QUARANTINED, DEFERRED = Verdict.HELD, DeliveryState.QUARANTINED, DeliveryState.DEFERRED
PENDING, DELIVERED = DeliveryState.PENDING, DeliveryState.DELIVERED
REJECTED, EXHAUSTED = DeliveryState.REJECTED, DeliveryState.EXHAUSTED

TABLE = [
    # verdict, attempts, retry_after_ms, age_ms, chance -> state, pause_ms
    (ACCEPTED, 1, None, 0, 0.0, DELIVERED, None),
    (ACCEPTED, 4, None, 0, 0.0, DELIVERED, None),  # the last attempt counts as any other
    (ACCEPTED, 99, None, 10 * DAY_MS, 0.0, DELIVERED, None),  # a late success is a success
    (ACCEPTED, 1, 60_000, 0, 0.0, DELIVERED, None),
    (PERMANENT, 1, None, 0, 0.0, REJECTED, None),
    (PERMANENT, 1, 60_000, 0, 0.0, REJECTED, None),
    (PERMANENT, 99, None, 10 * DAY_MS, 0.0, REJECTED, None),
    (TEMPORARY, 1, None, 0, 0.0, PENDING, 10_000),
    (TEMPORARY, 1, None, 0, 0.5, PENDING, 10_500),  # half of the jitter
    (TEMPORARY, 2, None, 0, 0.0, PENDING, 60_000),
    (TEMPORARY, 3, None, 0, 0.0, PENDING, 600_000),
    (TEMPORARY, 3, None, 0, 0.999, PENDING, 659_940),
    (TEMPORARY, 4, None, 0, 0.0, EXHAUSTED, None),  # the schedule has no pause for it
    (TEMPORARY, 99, None, 0, 0.0, EXHAUSTED, None),
    (TEMPORARY, 4, 1_000, 0, 0.0, EXHAUSTED, None),  # Retry-After buys no attempt
    (TEMPORARY, 1, 0, 0, 0.0, PENDING, 10_000),  # and never shortens a pause
    (TEMPORARY, 1, 9_999, 0, 0.0, PENDING, 10_000),
    (TEMPORARY, 1, 120_000, 0, 0.0, PENDING, 120_000),
    (TEMPORARY, 1, 120_000, 0, 0.9, PENDING, 120_000),
    (TEMPORARY, 1, 900_001, 0, 0.0, PENDING, 900_000),  # cut
    (TEMPORARY, 1, 10**15, 0, 0.0, PENDING, 900_000),
    (TEMPORARY, 1, None, 3_590_000, 0.0, PENDING, 10_000),  # due at the very end of the hour
    (TEMPORARY, 1, None, 3_590_001, 0.0, EXHAUSTED, None),  # due a millisecond after it
    (TEMPORARY, 1, None, 3_590_000, 0.1, EXHAUSTED, None),  # by its jitter
    (TEMPORARY, 1, 900_000, 2_700_000, 0.0, PENDING, 900_000),
    (TEMPORARY, 1, 900_000, 2_700_001, 0.0, EXHAUSTED, None),  # by its Retry-After
    (TEMPORARY, 1, None, 10 * DAY_MS, 0.0, EXHAUSTED, None),
    (HELD, 1, None, 0, 0.0, QUARANTINED, None),
    (HELD, 99, None, 10 * DAY_MS, 0.0, QUARANTINED, None),  # it waits for a person, however long
    (Verdict.SUPPRESSED, 1, None, 0, 0.0, DeliveryState.SUPPRESSED, None),
    (Verdict.SUPPRESSED, 99, None, 10 * DAY_MS, 0.0, DeliveryState.SUPPRESSED, None),
    (Verdict.BUSY, 1, None, 0, 0.0, PENDING, 1_000),
    (Verdict.BUSY, 99, None, 10 * DAY_MS, 0.5, PENDING, 1_500),  # what was not tried is not given up
]
INLINE_TABLE = [
    # verdict, attempts, retry_after_ms -> state
    (ACCEPTED, 1, None, DELIVERED),
    (PERMANENT, 1, None, REJECTED),
    (HELD, 1, None, QUARANTINED),
    (Verdict.SUPPRESSED, 1, None, DeliveryState.SUPPRESSED),  # though only sent mail is ever suppressed
    (Verdict.BUSY, 1, None, DEFERRED),
    (TEMPORARY, 1, None, DEFERRED),
    (TEMPORARY, 1, 1_000, DEFERRED),  # when to come again is for the sender to know
    (TEMPORARY, 99, None, DEFERRED),
]


def outcome(verdict: Verdict, retry_after_ms: int | None = None) -> Outcome:
    return Outcome(verdict, 0, NOW_MS, 5, retry_after_ms=retry_after_ms)


@pytest.mark.parametrize(("verdict", "attempts", "retry_after_ms", "age_ms", "chance", "state", "pause_ms"), TABLE)
def test_each_outcome_leads_to_its_state(
    verdict: Verdict,
    attempts: int,
    retry_after_ms: int | None,
    age_ms: int,
    chance: float,
    state: DeliveryState,
    pause_ms: int | None,
) -> None:
    progress = Progress(attempts, NOW_MS - age_ms)

    decision = decide(progress, outcome(verdict, retry_after_ms), POLICY, NOW_MS, chance)

    assert decision == Decision(state, None if pause_ms is None else NOW_MS + pause_ms)


@pytest.mark.parametrize(("verdict", "attempts", "retry_after_ms", "state"), INLINE_TABLE)
def test_the_sender_of_an_inline_mail_is_the_one_to_try_again(
    verdict: Verdict, attempts: int, retry_after_ms: int | None, state: DeliveryState
) -> None:
    decision = decide(Progress(attempts, NOW_MS), outcome(verdict, retry_after_ms), INLINE_POLICY, NOW_MS, 0.5)
    assert decision == Decision(state)


def test_the_tables_have_a_row_for_every_verdict_and_state() -> None:
    assert {row[0] for row in TABLE} == set(Verdict) == {row[0] for row in INLINE_TABLE}
    reached = {row[5] for row in TABLE} | {row[3] for row in INLINE_TABLE}
    assert reached == set(DeliveryState) - {DeliveryState.CANCELLED}, "no attempt leads to CANCELLED: a person does"


@given(
    verdict=st.sampled_from(Verdict),
    attempts=st.integers(1, 30),
    retry_after_ms=st.none() | st.integers(0, 10**13),
    age_ms=st.integers(0, 5 * DAY_MS),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_pending_delivery_always_has_a_due_time_inside_the_three_days_and_others_have_none(
    verdict: Verdict, attempts: int, retry_after_ms: int | None, age_ms: int, chance: float
) -> None:
    progress = Progress(attempts, NOW_MS - age_ms)
    decision = decide(progress, outcome(verdict, retry_after_ms), HTTP_POLICY, NOW_MS, chance)
    if decision.state is PENDING:
        assert decision.due_ms is not None
        if verdict is Verdict.BUSY:
            assert NOW_MS + BUSY_PAUSE_MS <= decision.due_ms <= NOW_MS + 2 * BUSY_PAUSE_MS
            return
        assert NOW_MS + 10 * SECOND_MS <= decision.due_ms <= progress.cycle_started_ms + 3 * DAY_MS
    else:
        assert decision.due_ms is None


@pytest.mark.parametrize(("chance", "hours"), [(0.0, 64.9), (0.9999, 71.4)])
def test_the_whole_schedule_fits_into_three_days_with_and_without_jitter(chance: float, hours: float) -> None:
    attempt_ms = 20 * SECOND_MS
    now, attempts, last_started = NOW_MS, 0, NOW_MS
    while True:
        attempts, last_started = attempts + 1, now
        now += attempt_ms
        decision = decide(Progress(attempts, NOW_MS), outcome(TEMPORARY), HTTP_POLICY, now, chance)
        if decision.state is not PENDING:
            break
        assert decision.due_ms is not None
        now = decision.due_ms

    assert decision.state is EXHAUSTED
    assert attempts == 16 == len(HTTP_POLICY.schedule_ms) + 1  # none is lost to the limit of three days
    assert (last_started - NOW_MS) / HOUR_MS == pytest.approx(hours, abs=0.2)
    assert last_started - NOW_MS <= 3 * DAY_MS


def test_the_first_retries_come_within_minutes_and_the_pauses_stay_below_half_a_day() -> None:
    assert sum(HTTP_POLICY.schedule_ms[:4]) < 10 * MINUTE_MS
    assert max(HTTP_POLICY.schedule_ms) <= 12 * HOUR_MS


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        (range(200, 300), ACCEPTED),
        ([0, *range(100, 200)], TEMPORARY),
        (range(300, 400), TEMPORARY),  # a redirect that was not followed can be mended by the target's owner
        ([408, 425, 429], TEMPORARY),
        (sorted(set(range(400, 500)) - {408, 425, 429}), PERMANENT),
        (range(500, 600), TEMPORARY),
        ([600, 999], TEMPORARY),
    ],
)
def test_every_http_status_has_its_verdict(statuses: list[int], verdict: Verdict) -> None:
    assert {status: http_verdict(status) for status in statuses} == dict.fromkeys(statuses, verdict)


def test_the_records_of_the_state_machine_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Decision(PENDING, 1).state = DELIVERED  # type: ignore[misc]
