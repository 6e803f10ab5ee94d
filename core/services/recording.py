"""Recording what became of attempts: many outcomes in one transaction, each guarded by its lease token."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from random import random

from core.delivery import MAIL_KINDS, SEND_KINDS, UNMADE, Decision, DeliveryState, Policy, Verdict, decide
from core.fairness import HEALTHY, HostHealth, health_after, mail_health_after
from core.services.claims import read_health
from core.services.leases import FinishedAttempt, Follow, RecordedAttempt
from core.services.notices import follow_received
from core.store.db import Database, Row

# Parameters in VALUES have no type of their own: PostgreSQL takes a column of NULLs for text, hence the casts.
_RECORD = """
WITH result (state, due_ms, status, error, finished_ms, judgement, unmade, keeps_error, id, token) AS (VALUES {rows})
UPDATE delivery SET state = result.state, due_ms = coalesce(CAST(result.due_ms AS BIGINT), delivery.due_ms),
                    lease_token = NULL, finished_ms = CAST(result.finished_ms AS BIGINT),
                    last_error = CASE WHEN result.keeps_error = 1 THEN delivery.last_error ELSE result.error END,
                    last_status = coalesce(CAST(result.status AS INTEGER), delivery.last_status),
                    judgement = coalesce(CAST(result.judgement AS TEXT), delivery.judgement),
                    attempts = delivery.attempts - result.unmade,
                    cycle_attempts = delivery.cycle_attempts - result.unmade
FROM result WHERE delivery.id = result.id AND delivery.lease_token = result.token RETURNING delivery.id"""
_LOG_ATTEMPT = """
INSERT INTO attempt (delivery_id, number, started_ms, duration_ms, status, error, response)
VALUES {rows}"""
_SAVE_HEALTH = """
INSERT INTO target_health (target_host, failures, open_until_ms, is_slow) VALUES (?, ?, ?, ?)
ON CONFLICT (target_host) DO UPDATE SET failures = excluded.failures, open_until_ms = excluded.open_until_ms,
                                        is_slow = excluded.is_slow"""
_LOCK_HEALTH = """
INSERT INTO target_health AS known (target_host, failures, open_until_ms, is_slow) VALUES {rows}
ON CONFLICT (target_host) DO UPDATE SET failures = known.failures
RETURNING target_host, failures, open_until_ms, is_slow"""
_FORGET_HEALTH = "DELETE FROM target_health WHERE target_host = ?"


def record(
    database: Database,
    finished: Sequence[FinishedAttempt],
    policy: Policy,
    now_ms: int,
    follow: Follow = follow_received,
) -> None:
    """Write down outcomes and what follows from them. To be called inside a transaction.

    The attempt is logged in any case, since it was made; the state changes only under the lease it was made with.
    """
    if not finished:
        return
    # Rows are locked in the order of their ids, as everybody who locks several does: no deadlock.
    finished = sorted(finished, key=lambda entry: entry.delivery.delivery_id)
    made = [entry for entry in finished if entry.outcome.verdict not in UNMADE]
    decided = [(entry, _decide(entry, policy, now_ms)) for entry in finished]
    recorded = {row[0] for row in database.execute_values(_RECORD, [_state_row(*pair, now_ms) for pair in decided])}
    database.execute_values(_LOG_ATTEMPT, [_attempt_row(entry) for entry in made])
    _record_health(database, made, now_ms)
    told = [RecordedAttempt(entry, decision, entry.delivery.delivery_id in recorded) for entry, decision in decided]
    follow(database, told, now_ms)


def _decide(entry: FinishedAttempt, policy: Policy, now_ms: int) -> Decision:
    chance = random()  # noqa: S311 (jitter)
    return decide(entry.delivery.progress, entry.outcome, policy, now_ms, chance)


def _state_row(entry: FinishedAttempt, decision: Decision, now_ms: int) -> Row:
    delivery, outcome = entry.delivery, entry.outcome
    is_unmade = outcome.verdict in UNMADE
    finished_ms = None if decision.state is DeliveryState.PENDING else now_ms
    judgement = None if entry.judgement is None else entry.judgement.to_json()
    return (
        decision.state, decision.due_ms, None if is_unmade else outcome.status, _problem(entry), finished_ms, judgement,
        int(is_unmade), int(outcome.verdict is Verdict.BUSY), delivery.delivery_id, delivery.lease_token,
    )  # fmt: skip


def _problem(entry: FinishedAttempt) -> str | None:
    """Of sent mail also what a host has refused it with: who lists it sees no attempts."""
    outcome = entry.outcome
    return outcome.response if outcome.error is None and entry.delivery.kind in SEND_KINDS else outcome.error


def _attempt_row(entry: FinishedAttempt) -> Row:
    delivery, outcome = entry.delivery, entry.outcome
    return (
        delivery.delivery_id, delivery.attempt_number, outcome.started_ms, outcome.duration_ms, outcome.status,
        outcome.error, outcome.response,
    )  # fmt: skip


def _record_health(database: Database, finished: Sequence[FinishedAttempt], now_ms: int) -> None:
    before = read_health(database, {entry.delivery.target_host for entry in finished})
    after = _health_after_all(before, finished, now_ms)
    # In the order of the hosts: two that record at once must not wait for each other.
    changed = sorted(host for host, health in after.items() if health != before.get(host, HEALTHY))
    if changed and database.is_postgres:  # on SQLite nobody else writes now
        after = _health_after_all(_lock_health(database, changed), finished, now_ms)
    for host in changed:  # few at a time
        health = after[host]
        if health == HEALTHY:
            database.execute(_FORGET_HEALTH, (host,))
        else:
            database.execute(_SAVE_HEALTH, (host, health.failures, health.open_until_ms, health.is_slow))


def _lock_health(database: Database, hosts: Collection[str]) -> dict[str, HostHealth]:
    """Their health now, which nobody else changes until the transaction ends: of failures that two workers record at
    once, each counts. A host that is healthy gets a row, so that there is something to lock."""
    rows = database.execute_values(_LOCK_HEALTH, [(host, 0, 0, False) for host in hosts])
    return {host: HostHealth(failures, open_until_ms, is_slow) for host, failures, open_until_ms, is_slow in rows}


def _health_after_all(
    before: Mapping[str, HostHealth], finished: Sequence[FinishedAttempt], now_ms: int
) -> dict[str, HostHealth]:
    after: dict[str, HostHealth] = {}
    for entry in finished:
        host = entry.delivery.target_host
        judge = mail_health_after if entry.delivery.kind in MAIL_KINDS else health_after
        after[host] = judge(after.get(host, before.get(host, HEALTHY)), entry.outcome, now_ms)
    return after
