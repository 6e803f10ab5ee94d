"""Recording what became of attempts: many outcomes in one transaction, each guarded by its lease token."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import random

from core.delivery import MAIL_KINDS, Decision, DeliveryState, Outcome, Policy, Verdict, decide
from core.fairness import HEALTHY, HostHealth, health_after, mail_health_after
from core.rules import Judgement
from core.services.claims import ClaimedDelivery, read_health
from core.services.notices import Failure, insert_notices
from core.store.db import Database, Row
from core.verdicts import Verdicts

# Parameters in VALUES have no type of their own: PostgreSQL takes a column of NULLs for text, hence the casts.
_RECORD = """
WITH result (state, due_ms, status, error, finished_ms, judgement, unmade, id, token) AS (VALUES {rows})
UPDATE delivery SET state = result.state, due_ms = coalesce(CAST(result.due_ms AS BIGINT), delivery.due_ms),
                    lease_token = NULL, last_error = result.error, finished_ms = CAST(result.finished_ms AS BIGINT),
                    last_status = coalesce(CAST(result.status AS INTEGER), delivery.last_status),
                    judgement = coalesce(CAST(result.judgement AS TEXT), delivery.judgement),
                    attempts = delivery.attempts - result.unmade
FROM result WHERE delivery.id = result.id AND delivery.lease_token = result.token RETURNING delivery.id"""
_LOG_ATTEMPT = """
INSERT INTO attempt (delivery_id, number, started_ms, duration_ms, status, error, response)
VALUES {rows}"""
_SAVE_FINDINGS = """
WITH found (body_text, verdicts, id) AS (VALUES {rows})
UPDATE message SET body_text = coalesce(message.body_text, CAST(found.body_text AS TEXT)),
                   verdicts = coalesce(message.verdicts, CAST(found.verdicts AS TEXT))
FROM found WHERE message.id = found.id"""
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
    body_text: str | None = None
    """The beginning of the message's text, for searching; None when it was not parsed this time."""
    verdicts: Verdicts | None = None
    """What the checks found, when they were made this time."""
    judgement: Judgement | None = None
    """What rules and checks said, when they were asked this time."""
    bounce: bytes | None = None
    """A DSN for the sender, to be sent if the delivery ends as rejected."""


def record(database: Database, finished: Sequence[FinishedAttempt], policy: Policy, now_ms: int) -> None:
    """Write down outcomes and what follows from them. To be called inside a transaction.

    The attempt is logged in any case, since it was made; the state changes only under the lease it was made with.
    """
    if not finished:
        return
    # Rows are locked in the order of their ids, as everybody who locks several does: no deadlock.
    finished = sorted(finished, key=lambda entry: entry.delivery.delivery_id)
    made = [entry for entry in finished if entry.outcome.verdict is not Verdict.HELD]
    decided = [(entry, _decide(entry, policy, now_ms)) for entry in finished]
    recorded = database.execute_values(_RECORD, [_state_row(*pair, now_ms) for pair in decided])
    database.execute_values(_LOG_ATTEMPT, [_attempt_row(entry) for entry in made])
    database.execute_values(_SAVE_FINDINGS, _finding_rows(finished))
    _record_health(database, made, now_ms)
    _tell_of_failures(database, decided, {row[0] for row in recorded}, now_ms)


def _decide(entry: FinishedAttempt, policy: Policy, now_ms: int) -> Decision:
    chance = random()  # noqa: S311 (jitter)
    return decide(entry.delivery.progress, entry.outcome, policy, now_ms, chance)


def _tell_of_failures(
    database: Database, decided: Sequence[tuple[FinishedAttempt, Decision]], recorded: Collection[str], now_ms: int
) -> None:
    """Only of those whose outcome counts: one made under a lost lease is somebody else's to tell."""
    failures = [
        Failure(entry.delivery, entry.outcome, decision.state, entry.bounce)
        for entry, decision in decided
        if entry.outcome.verdict is not Verdict.ACCEPTED and entry.delivery.delivery_id in recorded
    ]
    if failures:
        insert_notices(database, failures, now_ms)


def _finding_rows(finished: Sequence[FinishedAttempt]) -> list[Row]:
    return [
        (entry.body_text, None if entry.verdicts is None else entry.verdicts.to_json(), entry.delivery.message_id)
        for entry in finished
        if entry.body_text or entry.verdicts is not None
    ]


def _state_row(entry: FinishedAttempt, decision: Decision, now_ms: int) -> Row:
    delivery, outcome = entry.delivery, entry.outcome
    is_held = outcome.verdict is Verdict.HELD
    finished_ms = None if decision.state is DeliveryState.PENDING else now_ms
    judgement = None if entry.judgement is None else entry.judgement.to_json()
    return (
        decision.state, decision.due_ms, None if is_held else outcome.status, outcome.error, finished_ms, judgement,
        int(is_held), delivery.delivery_id, delivery.lease_token,
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
    # In the order of the hosts: two that record at once must not wait for each other.
    after = dict(sorted(after.items()))
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
        judge = mail_health_after if entry.delivery.kind in MAIL_KINDS else health_after
        after[host] = judge(after.get(host, before.get(host, HEALTHY)), entry.outcome, now_ms)
    return after
