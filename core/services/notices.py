"""Deliveries that follow from failed ones: the error callback to the customer, and the bounce to the sender.

Made in the transaction that records the failure, so that none is lost and none is made twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from core.delivery import RECEIVED_KINDS, DeliveryKind, DeliveryState, Outcome, Verdict
from core.ids import new_time_ordered_id
from core.netguard import MAILTO, target_host
from core.services.leases import RecordedAttempt
from core.services.received import ClaimedDelivery, FinishedMail, save_findings
from core.store.db import Database, Row

_INSERT_MESSAGE = """
INSERT INTO message (id, mail_from, helo, remote_ip, size, md5, received_ms) VALUES {rows}"""
_INSERT_RAW = "INSERT INTO raw_message (message_id, body) VALUES {rows}"
_INSERT_DELIVERY = """
INSERT INTO delivery (id, kind, account_id, message_id, address_id, recipients, target_host, state, attempts,
                      cycle_attempts, cycle_started_ms, due_ms, created_ms, detail)
VALUES {rows}"""


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What an error callback tells; the first four are CloudMailin's."""

    status: int
    to: str
    from_: str
    response: str | None
    """The beginning of the target's answer, or why there was none."""
    attempt: int
    is_final: bool
    delivery_id: str


def read_report(detail: str) -> ErrorReport:
    """What a delivery of kind `ERROR_CALLBACK` carries."""
    return ErrorReport(**orjson.loads(detail))


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed and was recorded, with the state that follows."""

    delivery: ClaimedDelivery
    outcome: Outcome
    state: DeliveryState
    bounce: bytes | None
    """The DSN to send if this is the end, composed where the message was at hand."""


def follow_received(database: Database, recorded: Sequence[RecordedAttempt], now_ms: int) -> None:
    """What follows from attempts at received mail: findings are kept, failures told. Inside a transaction."""
    save_findings(database, recorded)
    failures = [failure for entry in recorded if (failure := _failure(entry)) is not None]
    if failures:
        insert_notices(database, failures, now_ms)


def _failure(recorded: RecordedAttempt) -> Failure | None:
    """Only what counts: an outcome under a lost lease is somebody else's to tell."""
    attempt = recorded.attempt
    if attempt.outcome.verdict is Verdict.ACCEPTED or not recorded.counts:
        return None
    assert isinstance(attempt.delivery, ClaimedDelivery)
    bounce = attempt.bounce if isinstance(attempt, FinishedMail) else None
    return Failure(attempt.delivery, attempt.outcome, recorded.decision.state, bounce)


def insert_notices(database: Database, failures: Sequence[Failure], now_ms: int) -> None:
    """Write the callbacks and bounces that failures call for. Inside a transaction."""
    callbacks = [_callback_row(failure, now_ms) for failure in failures if _wants_callback(failure)]
    bounces = [(failure, new_time_ordered_id(now_ms)) for failure in failures if _wants_bounce(failure)]
    database.execute_values(_INSERT_MESSAGE, [_bounce_message(*entry, now_ms) for entry in bounces])
    database.execute_values(_INSERT_RAW, [(message_id, failure.bounce) for failure, message_id in bounces])
    deliveries = [*callbacks, *(_bounce_delivery(*entry, now_ms) for entry in bounces)]
    database.execute_values(_INSERT_DELIVERY, deliveries)


def _wants_callback(failure: Failure) -> bool:
    """The first failure of a cycle and the last are told, not the many between them."""
    delivery, outcome = failure.delivery, failure.outcome
    if delivery.kind not in RECEIVED_KINDS or delivery.settings.error_callback is None:
        return False
    if outcome.verdict is Verdict.HELD:
        return False
    is_over = failure.state not in (DeliveryState.PENDING, DeliveryState.DEFERRED)
    is_first = delivery.progress.attempts_in_cycle == 1 or failure.state is DeliveryState.DEFERRED
    return is_over or (is_first and not outcome.is_our_fault)


def _wants_bounce(failure: Failure) -> bool:
    """Only in the first cycle: a replay must not tell the sender once more."""
    is_first_cycle = failure.delivery.attempt_number == failure.delivery.progress.attempts_in_cycle
    return failure.bounce is not None and failure.state is DeliveryState.REJECTED and is_first_cycle


def _callback_row(failure: Failure, now_ms: int) -> Row:
    delivery, outcome = failure.delivery, failure.outcome
    url = delivery.settings.error_callback
    assert url is not None  # by _wants_callback
    report = {
        "status": outcome.status,
        "to": delivery.envelope.recipients[0],
        "from_": delivery.envelope.mail_from,
        "response": outcome.response if outcome.error is None else outcome.error,
        "attempt": delivery.attempt_number,
        "is_final": failure.state not in (DeliveryState.PENDING, DeliveryState.DEFERRED),
        "delivery_id": delivery.delivery_id,
    }
    recipients = orjson.dumps(delivery.envelope.recipients).decode()
    return (
        new_time_ordered_id(now_ms), DeliveryKind.ERROR_CALLBACK, delivery.account_id, delivery.message_id,
        delivery.address_id, recipients, target_host(url), DeliveryState.PENDING, 0, 0, now_ms, now_ms, now_ms,
        orjson.dumps(report).decode(),
    )  # fmt: skip


def _bounce_message(failure: Failure, message_id: str, now_ms: int) -> Row:
    content = failure.bounce or b""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return (message_id, "", "", "", len(content), md5, now_ms)


def _bounce_delivery(failure: Failure, message_id: str, now_ms: int) -> Row:
    delivery = failure.delivery
    sender = delivery.envelope.mail_from
    return (
        new_time_ordered_id(now_ms), DeliveryKind.BOUNCE, delivery.account_id, message_id, delivery.address_id,
        orjson.dumps([sender]).decode(), target_host(f"{MAILTO}:{sender}"), DeliveryState.PENDING, 0, 0, now_ms,
        now_ms, now_ms, None,
    )  # fmt: skip
