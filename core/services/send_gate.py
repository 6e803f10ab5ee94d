"""The one gate that every mail to be sent passes, whichever way it came: it may go, must wait, or must not go.

Asked inside the transaction that stores the mail. In this order: a suppressed recipient is blocked; what the spam check
objects to is held, and so is everything while account or domain are paused; limits let mail go later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from core.sending.events import EventDetails, EventKind
from core.sending.holding import held_by_pause, held_for_spam
from core.sending.priority import Priority
from core.sending.send_settings import SendSettings
from core.sending.suppression import SuppressionReason, suppression_key
from core.services.send_accounts import NO_SETTINGS, SendPlace, SendStanding, read_standings
from core.services.send_pacing import Pacer, open_pacers, save_together
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
    is_test: bool = False
    """Whether nothing will really be sent: it takes no places of others."""

    @property
    def place(self) -> SendPlace:
        """Where it is sent from."""
        return self.account_id, self.sending_domain_id


@dataclass(frozen=True, slots=True)
class RecipientGate:
    """The answer for one recipient."""

    recipient: str
    answer: GateAnswer
    due_ms: int
    kind: EventKind | None = None
    """The event that tells of it: `SUPPRESSED`, `HELD` or `RATE_LIMIT`; None when it simply goes."""
    details: EventDetails = EventDetails()


def ask_gate(
    database: Database, questions: Sequence[GateQuestion], now_ms: int, defaults: SendSettings = NO_SETTINGS
) -> list[list[RecipientGate]]:
    """For each of several mails an answer for each recipient, in their order. Inside a transaction.

    `defaults` are the gateway's (`core.services.send_accounts.gateway_send_settings`). Who waits for a limit has a
    place when this returns. Raises `NotFound` when one of the accounts is gone.
    """
    suppressed = find_suppressed(database, {target for question in questions for target in _targets(question)})
    standings = read_standings(database, {question.place for question in questions})
    asked = [(question, standings[question.place]) for question in questions]
    paced = [
        (standing, question.priority)
        for question, standing in asked
        if not question.is_test and _held(question, standing) is None
    ]
    pacers = open_pacers(database, paced, defaults, now_ms)
    answers = [_answers(question, standing, suppressed, pacers) for question, standing in asked]
    save_together(database, pacers.values())
    return answers


def _answers(
    question: GateQuestion,
    standing: SendStanding,
    suppressed: Mapping[SendTarget, SuppressionReason],
    pacers: Mapping[str, Pacer],
) -> list[RecipientGate]:
    held = _held(question, standing)
    answers = []
    for recipient, target in zip(question.recipients, _targets(question), strict=True):
        if target in suppressed:
            answers.append(_block(question, recipient, suppressed[target]))
        elif held is not None:
            answers.append(RecipientGate(recipient, GateAnswer.HOLD, question.earliest_ms, EventKind.HELD, held))
        elif question.is_test:
            answers.append(RecipientGate(recipient, GateAnswer.ALLOW, question.earliest_ms))
        else:
            answers.append(_pace(question, recipient, pacers[question.account_id], standing))
    return answers


def _targets(question: GateQuestion) -> list[SendTarget]:
    return [
        SendTarget(question.account_id, question.sending_domain_id, suppression_key(recipient))
        for recipient in question.recipients
    ]


def _held(question: GateQuestion, standing: SendStanding) -> EventDetails | None:
    """Why all of it is held. The spam check goes first: the end of a pause must not let go what it objects to."""
    if question.spam_reason is not None:
        return EventDetails(reason=held_for_spam(question.spam_reason))
    if standing.paused_because is not None:
        return EventDetails(reason=held_by_pause(standing.paused_because))
    return None


def _block(question: GateQuestion, recipient: str, reason: str) -> RecipientGate:
    details = EventDetails(reason=f"the recipient is on the suppression list ({reason})")
    return RecipientGate(recipient, GateAnswer.BLOCK, question.earliest_ms, EventKind.SUPPRESSED, details)


def _pace(question: GateQuestion, recipient: str, pacer: Pacer, standing: SendStanding) -> RecipientGate:
    departure = pacer.depart(standing, recipient, question.priority, question.earliest_ms)
    if not departure.is_limited:
        return RecipientGate(recipient, GateAnswer.ALLOW, departure.due_ms)
    return RecipientGate(recipient, GateAnswer.ALLOW, departure.due_ms, EventKind.RATE_LIMIT, departure.details)


def blocked(answers: Sequence[RecipientGate]) -> list[RecipientGate]:
    """Those that will never go."""
    return [answer for answer in answers if answer.answer is GateAnswer.BLOCK]
