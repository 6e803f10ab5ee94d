"""Mail that has come back for what customers have sent: what an attempt at understanding it needs, and what follows.

Events and suppressions are written in the transaction that records the mail as understood: none is lost, and none is
told twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import structlog

from core.clock import DAY_MS
from core.delivery import SEND_KINDS, DeliveryKind, Progress
from core.sending.events import EventKind, NewEvent
from core.sending.returned import Returned, ReturnedKind
from core.sending.returned_steps import ReturnedStep, step_of
from core.sending.sending_domains import MTA_PREFIX
from core.sending.suppression import SuppressionReason, suppression_key
from core.services.events import insert_events
from core.services.leases import FinishedAttempt, LeasedDelivery, RecordedAttempt
from core.services.suppressions import SAME_DOMAIN_NOW, NewSuppression, SendTarget, count_soft_bounces
from core.store.db import Database, Row, places

SAME_EVENT_MS = DAY_MS
"""For so long a second notice of a kind about a delivery tells nothing new: several hosts on the way may send one, and
an out-of-office program several."""
MAX_DETAIL = 500
"""Characters of what a host has said that are kept with a suppression."""
_EACH_COUNTS = frozenset({EventKind.BOUNCE_REPLY})
"""A person who writes twice has said two things."""

_RETURN_TARGET = f"""
SELECT d.account_id, s.domain FROM delivery d LEFT JOIN sent_message m ON m.message_id = d.message_id
LEFT JOIN sending_domain s ON s.id = m.sending_domain_id
WHERE d.id = ? AND d.kind IN ({places(SEND_KINDS)})"""  # noqa: S608 (a constant)
_LOAD = """
SELECT d.id, d.account_id, d.due_ms, d.attempts, d.cycle_attempts, d.cycle_started_ms, d.target_host, d.recipients,
       d.detail, m.id, m.mail_from, r.body, r.blob_key
FROM delivery d JOIN message m ON m.id = d.message_id LEFT JOIN raw_message r ON r.message_id = m.id
WHERE d.id IN ({places}) ORDER BY d.id"""
# Locked: two workers with a notice each about one delivery must not both find that nothing was told of it.
_LOCK_SENT = f"""
SELECT d.id, d.account_id, d.message_id, d.recipients, {SAME_DOMAIN_NOW.format(column="m.sending_domain_id")}
FROM delivery d JOIN sent_message m ON m.message_id = d.message_id
WHERE d.id IN ({{places}}) AND d.kind IN ({places(SEND_KINDS)}) ORDER BY d.id {{locking}}"""  # noqa: S608 (a constant)
_TOLD = """
SELECT delivery_id, kind FROM event WHERE message_id IN ({places}) AND at_ms > ?"""

log = structlog.get_logger("returned")


@dataclass(frozen=True, slots=True)
class ReturnTarget:
    """What a return path leads to."""

    account_id: str
    return_domain: str | None
    """`mta.` and the domain that the mail was sent from, deleted or not; None for a mail from no domain of ours."""


@dataclass(frozen=True, slots=True)
class ReturnedMail(LeasedDelivery):
    """A mail that has come back, in the hands of a worker."""

    message_id: str
    mail_from: str
    recipients: tuple[str, ...]
    about: str | None
    """The delivery that its return path names; None for mail to the mailbox of feedback loops."""
    body: bytes | None
    blob_key: str | None
    """Where the message lies when it is not in `body`."""


@dataclass(frozen=True, slots=True)
class FinishedReturned(FinishedAttempt):
    """A mail that has come back, understood as far as possible."""

    returned: Returned | None = None


@dataclass(frozen=True, slots=True)
class _Sent:
    """The recipient of a sent mail that a returned one is about."""

    delivery_id: str
    account_id: str
    message_id: str
    recipient: str
    sending_domain_id: str | None

    @property
    def target(self) -> SendTarget:
        return SendTarget(self.account_id, self.sending_domain_id, suppression_key(self.recipient))


def find_return_target(database: Database, delivery_id: str) -> ReturnTarget | None:
    """Whose a delivery of a sent mail is; None when there is none of this id. Raises `StorageUnavailable`."""
    with database.reading():
        rows = database.execute(_RETURN_TARGET, (delivery_id, *SEND_KINDS))
    if not rows:
        return None
    account_id, domain = rows[0]
    return ReturnTarget(account_id, None if domain is None else f"{MTA_PREFIX}{domain}")


def load_returned(database: Database, leased: Sequence[str], token: str, now_ms: int) -> list[ReturnedMail]:
    """What attempts need of deliveries that are leased under this token."""
    rows = database.execute(_LOAD.format(places=places(leased)), leased)
    return [mail for row in rows if (mail := _readable(row, token)) is not None]


@dataclass(frozen=True, slots=True)
class FollowReturned:
    """Writes what follows from mail that was understood (`core.services.leases.Follow`)."""

    soft_bounce_limit: int

    def __call__(self, database: Database, recorded: Sequence[RecordedAttempt], now_ms: int) -> None:
        """Events, then counts, then suppressions: the order in which everybody locks rows."""
        steps = _new_steps(database, _understood(recorded), now_ms)
        insert_events(database, [_event(sent, step, now_ms) for sent, step in steps if step.event], now_ms)
        soft = [sent.target for sent, step in steps if step.is_soft]
        entries = [entry for sent, step in steps if (entry := _suppression(sent, step)) is not None]
        count_soft_bounces(database, soft, self.soft_bounce_limit, now_ms, by_notice=True, besides=entries)


def _understood(recorded: Sequence[RecordedAttempt]) -> list[tuple[ReturnedMail, Returned]]:
    """Only what counts: an outcome under a lost lease is somebody else's to tell."""
    found = []
    for entry in recorded:
        attempt = entry.attempt
        if entry.counts and isinstance(attempt, FinishedReturned) and attempt.returned is not None:
            assert isinstance(attempt.delivery, ReturnedMail)
            found.append((attempt.delivery, attempt.returned))
    return found


def _new_steps(
    database: Database, understood: Sequence[tuple[ReturnedMail, Returned]], now_ms: int
) -> list[tuple[_Sent, ReturnedStep]]:
    """What was not told before, with the recipient it is about."""
    about = {_about(mail, returned) for mail, returned in understood} - {None}
    sent = _lock_sent(database, sorted(filter(None, about)))
    told = _told(database, list(sent.values()), now_ms)
    steps = []
    for mail, returned in understood:
        found = sent.get(_about(mail, returned) or "")
        step = None if found is None else step_of(returned, found.recipient)
        _log(mail, returned, found, step)
        if found is None or step is None or step.event is None:
            continue
        key = (found.delivery_id, step.event.value)
        if key not in told:
            steps.append((found, step))
        if step.event not in _EACH_COUNTS:
            told.add(key)
    return steps


def _about(mail: ReturnedMail, returned: Returned) -> str | None:
    """A return path says it, or else the header inside a complaint; other mail to the feedback mailbox is nothing."""
    if mail.about is not None:
        return mail.about
    return returned.delivery_id if returned.kind is ReturnedKind.COMPLAINT else None


def _lock_sent(database: Database, delivery_ids: Sequence[str]) -> dict[str, _Sent]:
    if not delivery_ids:
        return {}
    locking = "FOR NO KEY UPDATE OF d" if database.is_postgres else ""
    statement = _LOCK_SENT.format(places=places(delivery_ids), locking=locking)
    rows = database.execute(statement, (*delivery_ids, *SEND_KINDS))
    return {
        delivery_id: _Sent(delivery_id, account_id, message_id, orjson.loads(recipients)[0], domain_id)
        for delivery_id, account_id, message_id, recipients, domain_id in rows
    }


def _told(database: Database, sent: Sequence[_Sent], now_ms: int) -> set[tuple[str, str]]:
    """Which kinds of events the last day has had for each delivery."""
    if not sent:
        return set()
    message_ids = sorted({one.message_id for one in sent})
    rows = database.execute(_TOLD.format(places=places(message_ids)), (*message_ids, now_ms - SAME_EVENT_MS))
    return {(delivery_id, kind) for delivery_id, kind in rows if kind not in _EACH_COUNTS}


def _log(mail: ReturnedMail, returned: Returned, sent: _Sent | None, step: ReturnedStep | None) -> None:
    log.info(
        "returned",
        message_id=mail.message_id,
        kind=returned.kind.value,
        recognised_by=returned.recognised_by,
        about=_about(mail, returned),
        is_known=sent is not None,
        told=None if step is None else step.event,
    )


def _event(sent: _Sent, step: ReturnedStep, now_ms: int) -> NewEvent:
    assert step.event is not None  # by _new_steps
    return NewEvent(
        step.event, sent.account_id, sent.sending_domain_id, sent.message_id, sent.delivery_id, sent.recipient, now_ms,
        step.details,
    )  # fmt: skip


def _suppression(sent: _Sent, step: ReturnedStep) -> NewSuppression | None:
    """A dead address is dead for all domains; who complains of one sender may want another's mail."""
    if step.suppress is None:
        return None
    target = sent.target
    if step.suppress is SuppressionReason.HARD_BOUNCE:
        target = SendTarget(target.account_id, None, target.address)
    detail = step.details.smtp_response or step.details.reason
    return NewSuppression(target, step.suppress, detail and detail[:MAX_DETAIL], sent.message_id)


def _readable(row: Row, token: str) -> ReturnedMail | None:
    """None for a row of another version: it is left to its lease, and to a worker that can read it."""
    try:
        return _leased(row, token)
    except (ValueError, TypeError, KeyError) as error:
        log.error("a delivery of another version cannot be read", delivery_id=row[0], reason=str(error))
        return None


def _leased(row: Row, token: str) -> ReturnedMail:
    (
        delivery_id, account_id, due_ms, attempts, cycle_attempts, cycle_started_ms, target_host, recipients, detail,
        message_id, mail_from, body, blob_key,
    ) = row  # fmt: skip
    return ReturnedMail(
        delivery_id=delivery_id,
        kind=DeliveryKind.RETURNED,
        account_id=account_id,
        lease_token=token,
        lease_end_ms=due_ms,
        attempt_number=attempts,
        progress=Progress(cycle_attempts, cycle_started_ms),
        target_host=target_host,
        message_id=message_id,
        mail_from=mail_from,
        recipients=tuple(orjson.loads(recipients)),
        about=None if detail is None else orjson.loads(detail)["delivery_id"],
        body=None if body is None else bytes(body),
        blob_key=blob_key,
    )
