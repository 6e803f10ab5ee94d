"""What follows from attempts at sent mail: events, suppressions, counts of soft bounces.

All in the transaction that records the attempts. What is not counted, because the lease was lost meanwhile, is
somebody else's to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.clock import to_rfc3339
from core.delivery import UNMADE, DeliveryState, Outcome, Verdict
from core.sending.events import EventDetails, EventKind, NewEvent
from core.sending.returned import Severity, severity
from core.sending.suppression import SuppressionReason
from core.services.events import insert_events
from core.services.leases import RecordedAttempt
from core.services.send_claims import ClaimedSend, FinishedSend
from core.services.suppressions import (
    NewSuppression,
    SendTarget,
    count_soft_bounces,
    forget_soft_bounces,
)
from core.store.db import Database, places

_DISPATCHED = """
SELECT delivery_id FROM event WHERE message_id IN ({messages}) AND delivery_id IN ({deliveries}) AND kind = ?"""
_MILD = (Severity.SOFT, Severity.UNKNOWN)
"""What counts against an address although it is not hard; a block is about us or the mail."""


@dataclass(frozen=True, slots=True)
class _Told:
    """One attempt that counts, and what it means."""

    claimed: ClaimedSend
    attempt: FinishedSend
    state: DeliveryState
    next_ms: int | None
    severity: Severity | None
    """Of a refusal; None where there was none."""

    @property
    def outcome(self) -> Outcome:
        return self.attempt.outcome

    @property
    def kind(self) -> EventKind:
        """The event that tells of it."""
        verdict = self.outcome.verdict
        if verdict is Verdict.TEMPORARY:
            is_over = self.state is DeliveryState.EXHAUSTED
            return EventKind.RETRIES_EXHAUSTED if is_over else EventKind.DISPATCH_SOFT_BOUNCE
        if verdict is Verdict.PERMANENT:
            if self.attempt.is_unsendable:
                return EventKind.ERROR
            return EventKind.BOUNCE if self.severity is Severity.HARD else EventKind.SOFT_BOUNCE
        return _KINDS[verdict]

    @property
    def is_hard(self) -> bool:
        return self.kind is EventKind.BOUNCE

    @property
    def is_soft(self) -> bool:
        """Whether the mail has ended without arriving, for a reason that may lie with the address."""
        has_ended = self.kind in (EventKind.SOFT_BOUNCE, EventKind.RETRIES_EXHAUSTED)
        return has_ended and self.severity in _MILD and not self.outcome.is_our_fault


_KINDS = {
    Verdict.ACCEPTED: EventKind.DELIVERY,
    Verdict.HELD: EventKind.HELD,
    Verdict.SUPPRESSED: EventKind.SUPPRESSED,
}


class SendFollow:
    """`core.services.leases.Follow` for sent mail."""

    def __init__(self, soft_bounce_limit: int) -> None:
        """After so many mails in a row that ended without arriving an address is suppressed; 0 for never."""
        self._soft_bounce_limit = soft_bounce_limit

    def __call__(self, database: Database, recorded: Sequence[RecordedAttempt], now_ms: int) -> None:
        """Write what follows. Inside a transaction."""
        told = [
            _told(entry) for entry in recorded if entry.counts and entry.attempt.outcome.verdict is not Verdict.BUSY
        ]
        if not told:
            return
        dispatched = _find_dispatched(database, told)
        events = [event for entry in told for event in _events(entry, dispatched, now_ms)]
        insert_events(database, events, now_ms)
        softened = [entry.claimed.target for entry in told if entry.is_soft]
        dead = [_suppression(entry) for entry in told if entry.is_hard]
        count_soft_bounces(database, softened, self._soft_bounce_limit, now_ms, besides=dead)
        arrived = [entry.claimed.target for entry in told if _has_arrived(entry)]
        if arrived:
            forget_soft_bounces(database, arrived)


def _has_arrived(entry: _Told) -> bool:
    return entry.kind is EventKind.DELIVERY and not entry.claimed.is_test


def _told(recorded: RecordedAttempt) -> _Told:
    """A fault of the engine comes as a plain attempt, in which no host has said anything."""
    attempt, decision = recorded.attempt, recorded.decision
    if not isinstance(attempt, FinishedSend):
        attempt = FinishedSend(attempt.delivery, attempt.outcome)
    assert isinstance(attempt.delivery, ClaimedSend)
    is_refusal = attempt.outcome.verdict in (Verdict.TEMPORARY, Verdict.PERMANENT)
    return _Told(attempt.delivery, attempt, decision.state, decision.due_ms, _severity(attempt) if is_refusal else None)


def _severity(attempt: FinishedSend) -> Severity:
    if attempt.is_about_sender:
        return Severity.BLOCK  # whatever its code means of a recipient
    outcome = attempt.outcome
    return severity(attempt.enhanced, outcome.status or None, attempt.reply or outcome.error)


def _find_dispatched(database: Database, told: Sequence[_Told]) -> set[str]:
    """The deliveries of which a first attempt has been told. The attempt's number does not say: that of a worker which
    died was never recorded."""
    later = [entry.claimed for entry in told if entry.claimed.attempt_number > 1]
    if not later:
        return set()
    messages = sorted({claimed.message_id for claimed in later})
    deliveries = sorted(claimed.delivery_id for claimed in later)
    statement = _DISPATCHED.format(messages=places(messages), deliveries=places(deliveries))
    return {row[0] for row in database.execute(statement, (*messages, *deliveries, EventKind.DISPATCH))}


def _events(entry: _Told, dispatched: set[str], now_ms: int) -> list[NewEvent]:
    events = []
    if entry.outcome.verdict not in UNMADE and entry.claimed.delivery_id not in dispatched:
        begun = EventDetails(is_test=entry.claimed.is_test or None)
        events.append(_event(entry.claimed, EventKind.DISPATCH, entry.outcome.started_ms, begun))
    # When the host answered, not when that is written down: by then a notice may have come back, and goes after it.
    at_ms = now_ms if entry.attempt.ended_ms is None else entry.attempt.ended_ms
    events.append(_event(entry.claimed, entry.kind, at_ms, _details(entry)))
    return events


def _event(claimed: ClaimedSend, kind: EventKind, at_ms: int, details: EventDetails) -> NewEvent:
    domain_id = claimed.target.sending_domain_id
    return NewEvent(
        kind, claimed.account_id, domain_id, claimed.message_id, claimed.delivery_id, claimed.recipient, at_ms, details
    )


def _details(entry: _Told) -> EventDetails:
    attempt, outcome = entry.attempt, entry.outcome
    if outcome.verdict in UNMADE:
        return EventDetails(reason=outcome.error)
    next_attempt_at = None if entry.next_ms is None else to_rfc3339(entry.next_ms)
    return EventDetails(
        reply_code=outcome.status or None,
        delivery_status=attempt.enhanced,
        smtp_response=attempt.reply,
        remote_host=attempt.remote_host,
        reason=outcome.error,
        attempt=entry.claimed.attempt_number,
        next_attempt_at=next_attempt_at,
        tls=attempt.tls,
        severity=entry.severity if outcome.verdict is Verdict.PERMANENT and not attempt.is_unsendable else None,
        is_test=entry.claimed.is_test or None,
    )


def _suppression(entry: _Told) -> NewSuppression:
    """From the whole account: a mailbox that does not exist does not exist for its other domains either."""
    target = SendTarget(entry.claimed.account_id, None, entry.claimed.target.address)
    detail = entry.attempt.reply or entry.outcome.error
    return NewSuppression(target, SuppressionReason.HARD_BOUNCE, detail, entry.claimed.message_id)
