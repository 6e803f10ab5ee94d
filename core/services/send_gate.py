"""The one gate that every mail to be sent passes, whichever way it came: it may go, must wait, or must not go.

Asked inside the transaction that stores the mail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from core.sending.events import EventDetails, EventKind
from core.sending.priority import Priority
from core.sending.suppression import suppression_key
from core.services.suppressions import SendTarget, find_suppressed
from core.store.db import Database


class GateAnswer(Enum):
    """What the gate says of one recipient."""

    ALLOW = auto()
    """Now, or at `due_ms`."""
    HOLD = auto()
    """Not before a person, or the end of a pause, says so."""
    BLOCK = auto()
    """Never."""


@dataclass(frozen=True, slots=True)
class GateQuestion:
    """A mail that wants out."""

    account_id: str
    sending_domain_id: str | None
    recipients: tuple[str, ...]
    priority: Priority
    earliest_ms: int
    """When it may go as far as its sender is concerned: now, or `send_at`."""
    spam_reason: str | None = None
    """Why a check before sending holds it."""


@dataclass(frozen=True, slots=True)
class RecipientGate:
    """The answer for one recipient."""

    recipient: str
    answer: GateAnswer
    due_ms: int
    kind: EventKind | None = None
    """The event that tells of it: `SUPPRESSED`, `HELD` or `RATE_LIMIT`; None when it simply goes."""
    details: EventDetails = EventDetails()


def ask_gate(database: Database, question: GateQuestion, now_ms: int) -> list[RecipientGate]:
    """An answer for each recipient, in their order. Inside a transaction."""
    targets = {
        recipient: SendTarget(question.account_id, question.sending_domain_id, suppression_key(recipient))
        for recipient in question.recipients
    }
    suppressed = find_suppressed(database, set(targets.values()))
    return [_gate(question, recipient, suppressed.get(target)) for recipient, target in targets.items()]


def _gate(question: GateQuestion, recipient: str, reason: str | None) -> RecipientGate:
    if reason is None:
        return RecipientGate(recipient, GateAnswer.ALLOW, question.earliest_ms)
    details = EventDetails(reason=f"the recipient is on the suppression list ({reason})")
    return RecipientGate(recipient, GateAnswer.BLOCK, question.earliest_ms, EventKind.SUPPRESSED, details)


def blocked(answers: Sequence[RecipientGate]) -> list[RecipientGate]:
    """Those that will never go."""
    return [answer for answer in answers if answer.answer is GateAnswer.BLOCK]
