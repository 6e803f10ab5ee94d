"""Recording on both databases: what an outcome changes, and what a late one must not."""

from __future__ import annotations

import pytest

from core.clock import SECOND_MS
from core.delivery import BUSY_PAUSE_MS, HTTP_POLICY, Outcome, Policy, Verdict
from core.errors import NotPossibleNow, StorageUnavailable
from core.services.accounts import NewAccount
from core.services.leases import FinishedAttempt
from core.services.recording import record
from core.services.replay import replay_one
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.deliveries import LEASE_MS, Deliveries, finished

TARGET = "https://one.example/in"
NO_RETRY = Policy(schedule_ms=(), give_up_after_ms=10**9, jitter=0.0, max_retry_after_ms=0)
STEADY = Policy(schedule_ms=(1_000, 1_000), give_up_after_ms=10**9, jitter=0.0, max_retry_after_ms=10**9)


@pytest.fixture
def mail(database: Database, account: NewAccount) -> Deliveries:
    return Deliveries(database, account)


@pytest.mark.parametrize(
    ("status", "error", "policy", "state", "due_ms", "finished_ms"),
    [
        (200, None, STEADY, "delivered", NOW_MS + LEASE_MS, NOW_MS + 5),
        (404, None, STEADY, "rejected", NOW_MS + LEASE_MS, NOW_MS + 5),
        (503, None, STEADY, "pending", NOW_MS + 5 + SECOND_MS, None),
        (0, "the target could not be reached", STEADY, "pending", NOW_MS + 5 + SECOND_MS, None),
        (503, None, NO_RETRY, "exhausted", NOW_MS + LEASE_MS, NOW_MS + 5),
    ],
)
def test_an_outcome_is_written_down_with_what_follows_from_it(
    mail: Deliveries, status: int, error: str | None, policy: Policy, state: str, due_ms: int, finished_ms: int | None
) -> None:
    mail.accept(TARGET)
    (taken,) = mail.claim().deliveries

    mail.record(taken, status, NOW_MS + 5, policy, error=error, response="an answer", duration_ms=123)

    columns = "state, attempts, last_status, last_error, due_ms, lease_token, finished_ms"
    assert mail.rows(columns) == [(state, 1, status, error, due_ms, None, finished_ms)]
    columns = "delivery_id, number, started_ms, duration_ms, status, error, response"
    assert mail.attempts(columns) == [(taken.delivery_id, 1, NOW_MS + 5, 123, status, error, "an answer")]


def test_a_retry_after_of_the_target_moves_the_next_attempt(mail: Deliveries) -> None:
    mail.accept(TARGET)
    mail.record(mail.claim().deliveries[0], 429, policy=STEADY, retry_after_ms=60_000)
    assert mail.rows("state, due_ms") == [("pending", NOW_MS + 60_000)]


def test_many_outcomes_are_recorded_at_once_each_on_its_own_delivery(mail: Deliveries) -> None:
    mail.accept(TARGET, 20)
    taken = mail.claim().deliveries
    statuses = {delivery.delivery_id: 200 if number % 2 else 404 for number, delivery in enumerate(taken)}
    with mail.database.transaction():
        entries = [finished(delivery, statuses[delivery.delivery_id]) for delivery in reversed(taken)]
        record(mail.database, entries, HTTP_POLICY, NOW_MS)
    assert dict(mail.rows("id, last_status")) == statuses


def test_a_late_outcome_changes_nothing_but_its_attempt_is_logged(mail: Deliveries) -> None:
    mail.accept(TARGET)
    (late,) = mail.claim().deliveries
    (current,) = mail.claim(NOW_MS + LEASE_MS).deliveries
    before = mail.rows("state, attempts, due_ms, lease_token, last_status, finished_ms")

    mail.record(late, 404, NOW_MS + LEASE_MS + 1)

    assert mail.rows("state, attempts, due_ms, lease_token, last_status, finished_ms") == before
    assert mail.attempts() == [(1, 404)]
    mail.record(current, 200, NOW_MS + LEASE_MS + 2)
    assert mail.rows() == [("delivered", 2, 200, None)]
    assert mail.attempts() == [(1, 404), (2, 200)]


def test_an_outcome_that_comes_after_the_end_does_not_reopen_a_delivery(mail: Deliveries) -> None:
    mail.accept(TARGET)
    (late,) = mail.claim().deliveries
    (current,) = mail.claim(NOW_MS + LEASE_MS).deliveries
    mail.record(current, 200, NOW_MS + LEASE_MS + 1)
    mail.record(late, 503, NOW_MS + LEASE_MS + 2)
    assert mail.rows() == [("delivered", 2, 200, None)]


def test_an_outcome_from_before_a_replay_does_not_end_the_new_cycle(mail: Deliveries) -> None:
    (delivery_id,) = mail.accept(TARGET)
    (late,) = mail.claim().deliveries
    replay_one(mail.database, mail.account.account_id, delivery_id, NOW_MS + LEASE_MS)
    mail.record(late, 404, NOW_MS + LEASE_MS + 1)
    assert mail.rows("state, attempts, cycle_attempts") == [("pending", 1, 0)]


def test_a_delivery_that_is_being_attempted_is_not_replayed(mail: Deliveries) -> None:
    (delivery_id,) = mail.accept(TARGET)
    mail.claim()
    with pytest.raises(NotPossibleNow):
        replay_one(mail.database, mail.account.account_id, delivery_id, NOW_MS + 1)


def test_the_text_to_search_in_is_saved_once(mail: Deliveries) -> None:
    mail.accept(TARGET)
    mail.record(mail.claim().deliveries[0], 503, policy=STEADY, body_text="Hi.")
    mail.record(mail.claim(NOW_MS + 60_000).deliveries[0], 200, body_text="other")
    assert mail.execute("SELECT body_text FROM message") == [("Hi.",)]


def test_failures_of_a_host_add_up_within_and_over_transactions(mail: Deliveries) -> None:
    mail.accept(TARGET, 5)
    taken = mail.claim().deliveries
    with mail.database.transaction():
        record(mail.database, [finished(entry, 503) for entry in taken[:3]], STEADY, NOW_MS)
    mail.record(taken[3], 0, error="no answer")
    columns = "SELECT failures, open_until_ms FROM target_health"
    assert mail.execute(columns) == [(4, 0)]
    mail.record(taken[4], 500)
    assert mail.execute(columns) == [(5, NOW_MS + 5_000)]


def test_a_host_that_recovers_is_forgotten(mail: Deliveries) -> None:
    mail.accept(TARGET, 2)
    first, second = mail.claim().deliveries
    mail.record(first, 503)
    assert mail.execute("SELECT failures, is_slow FROM target_health") in ([(1, False)], [(1, 0)])
    mail.record(second, 204)
    assert mail.execute("SELECT failures FROM target_health") == []


def test_hosts_that_are_well_leave_no_rows(mail: Deliveries) -> None:
    mail.accept(TARGET)
    mail.record(mail.claim().deliveries[0], 200)
    assert mail.execute("SELECT count(*) FROM target_health") == [(0,)]


@pytest.mark.parametrize("column", ["error", "response"])
def test_text_that_the_database_cannot_hold_is_not_taken_for_an_outage(mail: Deliveries, column: str) -> None:
    mail.accept(TARGET)
    (taken,) = mail.claim().deliveries
    if not mail.database.is_postgres:
        mail.record(taken, 503, **{column: "a\x00b"})
        assert mail.attempts(column) == [("a\x00b",)]
        return
    with pytest.raises(Exception, match="NUL") as caught:
        mail.record(taken, 503, **{column: "a\x00b"})
    assert not isinstance(caught.value, StorageUnavailable)


def test_an_attempt_of_a_deleted_delivery_is_an_error_and_no_outage(mail: Deliveries) -> None:
    mail.accept(TARGET)
    (taken,) = mail.claim().deliveries
    mail.execute("DELETE FROM delivery")
    with pytest.raises(Exception, match=r"(?i)foreign key") as caught:
        mail.record(taken, 200)
    assert not isinstance(caught.value, StorageUnavailable)


def test_where_a_host_was_busy_nothing_has_happened(mail: Deliveries) -> None:
    mail.accept(TARGET)
    mail.record(mail.claim().deliveries[0], 503, error="of before", policy=STEADY)
    (taken,) = mail.claim(NOW_MS + SECOND_MS).deliveries
    busy = Outcome(Verdict.BUSY, 0, NOW_MS, 5, "all connections are in use", is_our_fault=True)

    with mail.database.transaction():
        record(mail.database, [FinishedAttempt(taken, busy)], STEADY, NOW_MS + SECOND_MS)

    ((*left, due_ms),) = mail.rows("state, attempts, cycle_attempts, last_status, last_error, lease_token, due_ms")
    assert left == ["pending", 1, 1, 503, "of before", None]
    assert BUSY_PAUSE_MS <= due_ms - NOW_MS - SECOND_MS <= 2 * BUSY_PAUSE_MS
    assert mail.attempts() == [(1, 503)]
