"""A recipient of a sent mail in the hands of a worker: what an attempt at it needs, and what it gives back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import orjson
import structlog

from core.delivery import DeliveryKind, Progress
from core.sending.send_settings import SendOptions, SendSettings, read_send_options, read_send_settings
from core.sending.suppression import SuppressionReason, suppression_key
from core.services.leases import FinishedAttempt, LeasedDelivery
from core.services.sending_domains import Sender, load_senders
from core.services.suppressions import SendTarget, find_suppressed
from core.store.db import Database, Row, places

_LOAD = """
SELECT d.id, d.kind, d.account_id, d.due_ms, d.attempts, d.cycle_attempts, d.cycle_started_ms, d.target_host,
       d.recipients, d.message_id, s.sending_domain_id, s.stream, s.is_test, s.needs_smtputf8, s.options, a.settings,
       a.paused_ms, a.paused_because, r.body, r.blob_key
FROM delivery d JOIN sent_message s ON s.message_id = d.message_id JOIN account a ON a.id = d.account_id
LEFT JOIN raw_message r ON r.message_id = d.message_id
WHERE d.id IN ({places}) ORDER BY d.id"""
_DOMAIN_COLUMN = 10  # of _LOAD
_NO_REASON = "sending is paused"

log = structlog.get_logger("sending")


@dataclass(frozen=True, slots=True)
class ClaimedSend(LeasedDelivery):
    """Everything an attempt needs, so that it never asks the database."""

    message_id: str
    recipient: str
    sender: Sender | None
    """None while mail is sent without verified domains (`Settings.requires_verified`)."""
    account_settings: SendSettings
    options: SendOptions
    """What the message itself asks for."""
    stream: str
    is_test: bool
    needs_smtputf8: bool
    suppressed_because: SuppressionReason | None
    """Why the recipient gets no mail any more; None when he does."""
    paused_because: str | None
    """Why mail of the domain or the account is held; None when it is not."""
    body: bytes | None
    blob_key: str | None
    """Where the message lies when it is not in `body`."""

    @property
    def target(self) -> SendTarget:
        """The recipient, as suppression lists know him."""
        domain_id = None if self.sender is None else self.sender.sending_domain_id
        return SendTarget(self.account_id, domain_id, suppression_key(self.recipient))


@dataclass(frozen=True, slots=True)
class FinishedSend(FinishedAttempt):
    """An attempt at one recipient of a sent mail, in the words of the host that decided."""

    enhanced: str | None = None
    """RFC 3463."""
    reply: str | None = None
    """The deciding reply, also one that accepts; None when there was none."""
    remote_host: str | None = None
    tls: str | None = None
    """E.g. `TLSv1.3`."""
    ended_ms: int | None = None
    """When the host had answered; None when there was none to be asked."""
    is_unsendable: bool = False
    """Whether the message itself cannot be sent, to whomever."""
    is_about_sender: bool = False
    """Whether the host has refused our sender, and was not asked about the recipient."""


@dataclass(frozen=True, slots=True)
class _Context:
    """What was read beside the rows."""

    token: str
    senders: dict[str, Sender]
    suppressed: dict[SendTarget, SuppressionReason]


def load_sends(database: Database, leased: Sequence[str], token: str, now_ms: int) -> list[ClaimedSend]:
    """What attempts need of deliveries that are leased under this token: four queries, however many there are."""
    rows = database.execute(_LOAD.format(places=places(leased)), leased)
    senders = _load_senders(database, {row[_DOMAIN_COLUMN] for row in rows if row[_DOMAIN_COLUMN] is not None})
    readable = [(row, recipient) for row in rows if (recipient := _recipient(row)) is not None]
    suppressed = find_suppressed(database, {_target(row, recipient) for row, recipient in readable})
    context = _Context(token, senders, suppressed)
    return [found for row, recipient in readable if (found := _readable(row, recipient, context)) is not None]


def _load_senders(database: Database, domain_ids: Collection[str]) -> dict[str, Sender]:
    """By id; a domain that another version has written, and this one cannot read, has no entry."""
    try:
        return load_senders(database, domain_ids)
    except (ValueError, TypeError, KeyError) as error:
        if len(domain_ids) == 1:
            (domain_id,) = domain_ids
            log.error("a sending domain cannot be read", sending_domain_id=domain_id, reason=str(error))
            return {}
        found = [_load_senders(database, {one}) for one in sorted(domain_ids)]
        return {domain_id: sender for one in found for domain_id, sender in one.items()}


def _recipient(row: Row) -> str | None:
    try:
        (recipient,) = orjson.loads(row[8])
        return str(recipient)
    except (ValueError, TypeError) as error:
        _tell(row, error)
        return None


def _readable(row: Row, recipient: str, context: _Context) -> ClaimedSend | None:
    """None for a row that another version has written and this one cannot read: it is left to its lease, and to a
    worker that can. One such row must not end the worker."""
    try:
        return _claimed(row, recipient, context)
    except (ValueError, TypeError, KeyError) as error:
        _tell(row, error)
        return None


def _tell(row: Row, error: Exception) -> None:
    log.error("a delivery of another version cannot be read", delivery_id=row[0], reason=repr(error))


def _target(row: Row, recipient: str) -> SendTarget:
    return SendTarget(row[2], row[_DOMAIN_COLUMN], suppression_key(recipient))


def _claimed(row: Row, recipient: str, context: _Context) -> ClaimedSend:
    (
        delivery_id, kind, account_id, due_ms, attempts, cycle_attempts, cycle_started_ms, target_host, _recipients,
        message_id, domain_id, stream, is_test, needs_smtputf8, options, settings, paused_ms, paused_because, body,
        blob_key,
    ) = row  # fmt: skip
    sender = None if domain_id is None else context.senders[domain_id]
    account_pause = None if paused_ms is None else paused_because or _NO_REASON
    return ClaimedSend(
        delivery_id=delivery_id,
        kind=DeliveryKind(kind),
        account_id=account_id,
        lease_token=context.token,
        lease_end_ms=due_ms,
        attempt_number=attempts,
        progress=Progress(cycle_attempts, cycle_started_ms),
        target_host=target_host,
        message_id=message_id,
        recipient=recipient,
        sender=sender,
        account_settings=read_send_settings(settings),
        options=read_send_options(options),
        stream=stream,
        is_test=bool(is_test),
        needs_smtputf8=bool(needs_smtputf8),
        suppressed_because=context.suppressed.get(_target(row, recipient)),
        paused_because=(sender.paused_because if sender is not None else None) or account_pause,
        body=None if body is None else bytes(body),
        blob_key=blob_key,
    )
