"""Recording what became of attempts: many outcomes in one transaction, each guarded by its lease token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import random

from core.delivery import Decision, DeliveryState, Outcome, Policy, decide
from core.fairness import HEALTHY, HostHealth, health_after
from core.services.claims import ClaimedDelivery, read_health
from core.store.db import Database, Row

# Parameters in VALUES have no type of their own: PostgreSQL takes a column of NULLs for text, hence the casts.
_RECORD = """
WITH result (state, due_ms, status, error, finished_ms, id, token) AS (VALUES {rows})
UPDATE delivery SET state = result.state, due_ms = coalesce(CAST(result.due_ms AS BIGINT), delivery.due_ms),
                    lease_token = NULL, last_status = result.status, last_error = result.error,
                    finished_ms = CAST(result.finished_ms AS BIGINT)
FROM result WHERE delivery.id = result.id AND delivery.lease_token = result.token"""
_LOG_ATTEMPT = """
INSERT INTO attempt (delivery_id, number, started_ms, duration_ms, status, error, response)
VALUES {rows}"""
_SAVE_TEXT = """
WITH parsed (body_text, id) AS (VALUES {rows})
UPDATE message SET body_text = parsed.body_text FROM parsed
WHERE message.id = parsed.id AND message.body_text IS NULL"""
_SAVE_HEALTH = """
INSERT INTO target_health (target_host, failures, open_until_ms, is_slow) VALUES (?, ?, ?, ?)
ON CONFLICT (target_host) DO UPDATE SET failures = excluded.failures, open_until_ms = excluded.open_until_ms,
                                        is_slow = excluded.is_slow"""
_FORGET_HEALTH = "DELETE FROM target_health WHERE target_host = ?"


@dataclass(frozen=True, slots=True)
class FinishedAttempt:
    """A claimed delivery and how its attempt went."""

    delivery: ClaimedDelivery
    outcome: Outcome
    body_text: str | None
    """The beginning of the message's text, for searching; None when it was not parsed this time."""


def record(database: Database, finished: Sequence[FinishedAttempt], policy: Policy, now_ms: int) -> None:
    """Write down outcomes and what follows from them. To be called inside a transaction.

    The attempt is logged in any case, since it was made; the state changes only under the lease it was made with.
    """
    if not finished:
        return
    # Rows are locked in the order of their ids, as everybody who locks several does: no deadlock.
    finished = sorted(finished, key=lambda entry: entry.delivery.delivery_id)
    database.execute_values(_RECORD, [_state_row(entry, policy, now_ms) for entry in finished])
    database.execute_values(_LOG_ATTEMPT, [_attempt_row(entry) for entry in finished])
    texts = [(entry.body_text, entry.delivery.message_id) for entry in finished if entry.body_text]
    database.execute_values(_SAVE_TEXT, texts)
    _record_health(database, finished, now_ms)


def _state_row(entry: FinishedAttempt, policy: Policy, now_ms: int) -> Row:
    delivery, outcome = entry.delivery, entry.outcome
    decision: Decision = decide(delivery.progress, outcome, policy, now_ms, random())  # noqa: S311 (jitter)
    finished_ms = None if decision.state is DeliveryState.PENDING else now_ms
    return (
        decision.state, decision.due_ms, outcome.status, outcome.error, finished_ms,
        delivery.delivery_id, delivery.lease_token,
    )  # fmt: skip


def _attempt_row(entry: FinishedAttempt) -> Row:
    delivery, outcome = entry.delivery, entry.outcome
    return (
        delivery.delivery_id, delivery.attempt_number, outcome.started_ms, outcome.duration_ms, outcome.status,
        outcome.error, outcome.response,
    )  # fmt: skip


def _record_health(database: Database, finished: Sequence[FinishedAttempt], now_ms: int) -> None:
    before = read_health(database)
    after = _health_after_all(before, finished, now_ms)
    recovered = [(host,) for host, health in after.items() if health == HEALTHY and host in before]
    unwell = [
        (host, health.failures, health.open_until_ms, health.is_slow)
        for host, health in after.items()
        if health not in (HEALTHY, before.get(host, HEALTHY))
    ]
    database.execute_many(_FORGET_HEALTH, recovered)
    database.execute_many(_SAVE_HEALTH, unwell)


def _health_after_all(
    before: Mapping[str, HostHealth], finished: Sequence[FinishedAttempt], now_ms: int
) -> dict[str, HostHealth]:
    after: dict[str, HostHealth] = {}
    for entry in finished:
        host = entry.delivery.target_host
        after[host] = health_after(after.get(host, before.get(host, HEALTHY)), entry.outcome, now_ms)
    return after
