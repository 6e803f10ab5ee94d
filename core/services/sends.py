"""Taking responsibility for mail to be sent: messages, deliveries and first events become durable in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from core.clock import Clock
from core.delivery import DeliveryKind, DeliveryState
from core.ids import new_time_ordered_id
from core.netguard import MAILTO, target_host
from core.sending.events import EventDetails, EventKind, NewEvent
from core.sending.priority import KIND_OF, Priority
from core.sending.send_settings import SendOptions, SendSettings
from core.services.events import insert_events
from core.services.idempotency import AlreadyAnswered, IdempotencyClaim, keep_answers
from core.services.send_accounts import NO_SETTINGS
from core.services.send_gate import GateAnswer, GateQuestion, RecipientGate, ask_gate
from core.store.db import Database, Row

_INSERT_MESSAGES = """
INSERT INTO message (id, mail_from, helo, remote_ip, tls_version, tls_cipher, size, md5, subject, header_from,
                     header_message_id, received_ms) VALUES {rows}"""
_INSERT_RAW = "INSERT INTO raw_message (message_id, body, blob_key) VALUES {rows}"
_INSERT_SENT = """
INSERT INTO sent_message (message_id, account_id, username, sending_domain_id, header_to, header_cc, tags, metadata,
                          stream, priority, is_test, needs_smtputf8, send_at_ms, options) VALUES {rows}"""
_INSERT_DELIVERIES = """
INSERT INTO delivery (id, kind, account_id, message_id, recipients, target_host, state, attempts, cycle_attempts,
                      cycle_started_ms, due_ms, created_ms, finished_ms, last_error) VALUES {rows}"""
_STATES = {
    GateAnswer.ALLOW: DeliveryState.PENDING,
    GateAnswer.HOLD: DeliveryState.QUARANTINED,
    GateAnswer.BLOCK: DeliveryState.SUPPRESSED,
}
DEFAULT_STREAM = "outbound"
"""Postmark's word for the stream of mail that belongs to none in particular."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who sends, and by which way the mail came."""

    account_id: str
    username: str
    """Of the credential."""
    remote_ip: str
    helo: str = ""
    """Empty for the API."""
    tls_version: str | None = None
    tls_cipher: str | None = None


@dataclass(frozen=True, slots=True)
class NewSend:
    """One message, composed and checked, about to be stored."""

    message_id: str
    """From `core.ids.new_message_id`."""
    submitter: Submitter
    sending_domain_id: str | None
    mail_from: str
    """The address of the author, or the envelope sender that the client gave: for the lists, not for the wire."""
    recipients: tuple[str, ...]
    """Each once: local part as written, domain as A-labels."""
    header_from: str
    header_to: tuple[str, ...]
    header_cc: tuple[str, ...]
    subject: str | None
    header_message_id: str
    """Without angle brackets."""
    content: bytes | None
    """The message, when it goes into the row; else it lies in the blob store under `message_id` already."""
    size: int
    md5: str
    needs_smtputf8: bool
    received_ms: int
    priority: Priority = Priority.STANDARD
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    stream: str = DEFAULT_STREAM
    is_test: bool = False
    send_at_ms: int | None = None
    options: SendOptions = SendOptions()
    spam_reason: str | None = None
    """Why a check before sending wants it held."""
    idempotency: IdempotencyClaim | None = None
    """What the client marked its request with, and the answer to keep for it."""


@dataclass(frozen=True, slots=True)
class StoredRecipient:
    """What the gate has said of one recipient."""

    delivery_id: str
    recipient: str
    state: DeliveryState
    due_ms: int


@dataclass(frozen=True, slots=True)
class StoredSend:
    """A message that is durable."""

    message_id: str
    rings: tuple[DeliveryKind, ...]
    """What is due now: the mail itself, unless it waits, and events for webhooks, if any wants them."""
    recipients: tuple[StoredRecipient, ...]


@dataclass(frozen=True, slots=True)
class _Planned:
    """A message with what the gate has said: an id for the delivery to each recipient."""

    send: NewSend
    recipients: tuple[tuple[str, RecipientGate], ...]


def store_send(database: Database, send: NewSend, clock: Clock, defaults: SendSettings = NO_SETTINGS) -> StoredSend:
    """Commit a message with all that belongs to it, or nothing. `defaults` are the gateway's limits.

    Raises `NotFound` when its account is gone, `StorageUnavailable`, and
    `core.services.idempotency.AlreadyAnswered` when its idempotency key is known.
    """
    (stored,) = store_sends(database, [send], clock, defaults)
    if isinstance(stored, AlreadyAnswered):
        raise stored
    return stored


def store_sends(
    database: Database, sends: Sequence[NewSend], clock: Clock, defaults: SendSettings = NO_SETTINGS
) -> list[StoredSend | AlreadyAnswered]:
    """Commit several in one transaction, but those whose idempotency keys are known: they leave no trace.

    Raises `NotFound`, `StorageUnavailable` and errors of the database; then none is stored.
    """
    with database.transaction():
        return _insert(database, sends, clock(), defaults)


def _insert(
    database: Database, sends: Sequence[NewSend], now_ms: int, defaults: SendSettings
) -> list[StoredSend | AlreadyAnswered]:
    """Everybody locks in one order, so that no two batches wait for each other: keys, accounts with limits, counts;
    each kind in the order of its own keys, and the counts last."""
    known = _known(database, sends, now_ms)
    accepted = [send for send in sends if send.message_id not in known]
    answers = ask_gate(database, [_question(send) for send in accepted], now_ms, defaults)
    planned = [_plan(send, of_send, now_ms) for send, of_send in zip(accepted, answers, strict=True)]
    _insert_messages(database, accepted)
    deliveries = [_delivery_row(plan.send, *entry, now_ms) for plan in planned for entry in plan.recipients]
    database.execute_values(_INSERT_DELIVERIES, deliveries)
    has_told = insert_events(database, [event for plan in planned for event in _first_events(plan, now_ms)], now_ms)
    stored = {plan.send.message_id: _stored(plan, has_told, now_ms) for plan in planned}
    return [known.get(send.message_id) or stored[send.message_id] for send in sends]


def _known(database: Database, sends: Sequence[NewSend], now_ms: int) -> dict[str, AlreadyAnswered]:
    """Those that were answered before, by the id of the message."""
    claims = [(send.idempotency, send.message_id) for send in sends if send.idempotency is not None]
    answers = keep_answers(database, claims, now_ms)
    return {message_id: answer for (_, message_id), answer in zip(claims, answers, strict=True) if answer is not None}


def _plan(send: NewSend, answers: Sequence[RecipientGate], now_ms: int) -> _Planned:
    # Ids of one millisecond are in no order of their own, and lists show recipients by them.
    ids = sorted(new_time_ordered_id(now_ms) for _ in answers)
    return _Planned(send, tuple(zip(ids, answers, strict=True)))


def _stored(plan: _Planned, has_told: bool, now_ms: int) -> StoredSend:
    recipients = tuple(
        StoredRecipient(delivery_id, gate.recipient, _STATES[gate.answer], gate.due_ms)
        for delivery_id, gate in plan.recipients
    )
    is_due = any(one.state is DeliveryState.PENDING and one.due_ms <= now_ms for one in recipients)
    rings = [KIND_OF[plan.send.priority]] * is_due + [DeliveryKind.EVENTS] * has_told
    return StoredSend(plan.send.message_id, tuple(rings), recipients)


def _question(send: NewSend) -> GateQuestion:
    return GateQuestion(
        account_id=send.submitter.account_id,
        sending_domain_id=send.sending_domain_id,
        recipients=send.recipients,
        priority=send.priority,
        earliest_ms=max(send.received_ms, send.send_at_ms or 0),
        spam_reason=send.spam_reason,
        is_test=send.is_test,
    )


def _insert_messages(database: Database, sends: Sequence[NewSend]) -> None:
    database.execute_values(_INSERT_MESSAGES, [_message_row(send) for send in sends])
    raw = [(send.message_id, send.content, send.message_id if send.content is None else None) for send in sends]
    database.execute_values(_INSERT_RAW, raw)
    database.execute_values(_INSERT_SENT, [_sent_row(send) for send in sends])


def _message_row(send: NewSend) -> Row:
    by = send.submitter
    return (
        send.message_id, send.mail_from, by.helo, by.remote_ip, by.tls_version, by.tls_cipher, send.size, send.md5,
        send.subject, send.header_from, send.header_message_id, send.received_ms,
    )  # fmt: skip


def _sent_row(send: NewSend) -> Row:
    by = send.submitter
    return (
        send.message_id, by.account_id, by.username, send.sending_domain_id, _json(list(send.header_to)),
        _json(list(send.header_cc)), _json(list(send.tags)), _json(dict(send.metadata)), send.stream, send.priority,
        send.is_test, send.needs_smtputf8, send.send_at_ms, send.options.to_json(),
    )  # fmt: skip


def _delivery_row(send: NewSend, delivery_id: str, gate: RecipientGate, now_ms: int) -> Row:
    is_over = gate.answer is GateAnswer.BLOCK
    return (
        delivery_id, KIND_OF[send.priority], send.submitter.account_id, send.message_id, _json([gate.recipient]),
        target_host(f"{MAILTO}:{gate.recipient}"), _STATES[gate.answer], 0, 0, max(now_ms, gate.due_ms), gate.due_ms,
        now_ms, now_ms if is_over else None, gate.details.reason if gate.answer is not GateAnswer.ALLOW else None,
    )  # fmt: skip


def _first_events(plan: _Planned, now_ms: int) -> list[NewEvent]:
    send, events = plan.send, []
    for delivery_id, gate in plan.recipients:
        told = [(EventKind.REGISTRATION, EventDetails(is_test=send.is_test or None))]
        if gate.kind is not None:
            told.append((gate.kind, gate.details))
        events += [
            NewEvent(
                kind, send.submitter.account_id, send.sending_domain_id, send.message_id, delivery_id, gate.recipient,
                now_ms, details,
            )
            for kind, details in told
        ]  # fmt: skip
    return events


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
