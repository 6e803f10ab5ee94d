"""Received mail in the hands of a worker: what an attempt at delivering it needs, and what follows from its outcome.

Error callbacks and bounces belong to a received mail too, and are read in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson
import structlog

from core.address_settings import AddressSettings, read_address_settings
from core.clock import to_datetime
from core.delivery import DeliveryKind, Progress
from core.envelope import NO_VERDICTS, Envelope
from core.formats import TargetFormat
from core.rules import Judgement, Rule, read_judgement
from core.services.leases import FinishedAttempt, LeasedDelivery, RecordedAttempt
from core.services.rules import RulesByAccount, load_rules, rules_for
from core.store.db import Database, Row, places
from core.verdicts import Verdicts, read_verdicts

_ACCOUNT_COLUMN = 2  # of _LOAD
_LOAD = """
SELECT d.id, d.kind, d.account_id, d.address_id, d.due_ms, d.attempts, d.cycle_attempts, d.cycle_started_ms,
       d.target_host, d.recipients, d.is_released, d.judgement, d.detail, coalesce(c.domain_target, a.target),
       a.target_format, a.secret, CASE WHEN a.previous_secret_until_ms > ? THEN a.previous_secret END, a.settings,
       m.id, m.mail_from, m.helo, m.remote_ip, m.tls_version, m.tls_cipher, m.md5,
       m.received_ms, m.size, m.verdicts, r.body, r.blob_key
FROM delivery d JOIN address a ON a.id = d.address_id JOIN message m ON m.id = d.message_id
LEFT JOIN raw_message r ON r.message_id = m.id LEFT JOIN custom_domain c ON c.id = d.custom_domain_id
WHERE d.id IN ({places}) ORDER BY d.id"""

_SAVE_FINDINGS = """
WITH found (body_text, verdicts, id) AS (VALUES {rows})
UPDATE message SET body_text = coalesce(message.body_text, CAST(found.body_text AS TEXT)),
                   verdicts = coalesce(message.verdicts, CAST(found.verdicts AS TEXT))
FROM found WHERE message.id = found.id"""

log = structlog.get_logger("received")


@dataclass(frozen=True, slots=True)
class ClaimedDelivery(LeasedDelivery):
    """Everything an attempt at received mail needs, or at what follows from it, so that it never asks the database."""

    address_id: str
    target: str
    target_format: TargetFormat
    secret: str
    previous_secret: str | None
    """Signs as well, while a rotation lasts."""
    settings: AddressSettings
    rules: tuple[Rule, ...]
    """What it is to be judged by, when it has not been."""
    is_released: bool
    """Whether a person let it out of quarantine: no rule holds it again."""
    judgement: Judgement | None
    """What rules and checks said, when they were asked already."""
    detail: str | None
    """What a delivery that is no mail carries, as JSON."""
    message_id: str
    envelope: Envelope
    is_checked: bool
    """Whether the envelope's verdicts are there, because the checks were made already."""
    size: int
    """Of the raw message, in bytes."""
    body: bytes | None
    blob_key: str | None
    """Where the raw message lies when it is not in `body`."""


@dataclass(frozen=True, slots=True)
class FinishedMail(FinishedAttempt):
    """An attempt at a received mail."""

    body_text: str | None = None
    """The beginning of the message's text, for searching; None when it was not parsed this time."""
    verdicts: Verdicts | None = None
    """What the checks found, when they were made this time."""
    bounce: bytes | None = None
    """A DSN for the sender, to be sent if the delivery ends as rejected."""


def load_received(database: Database, leased: Sequence[str], token: str, now_ms: int) -> list[ClaimedDelivery]:
    """What attempts need of deliveries that are leased under this token."""
    rows = database.execute(_LOAD.format(places=places(leased)), (now_ms, *leased))
    rules = _load_rules(database, {row[_ACCOUNT_COLUMN] for row in rows})
    return [claimed for row in rows if (claimed := _readable(row, token, rules)) is not None]


def _load_rules(database: Database, account_ids: Iterable[str]) -> RulesByAccount:
    """The rules of accounts; one whose rules cannot be read has no entry at all."""
    wanted = sorted(account_ids)
    try:
        loaded = load_rules(database, wanted)
    except ValueError as error:
        if len(wanted) == 1:
            log.error("rules of another version cannot be read", account_id=wanted[0], reason=str(error))
            return {}
        return {name: rules for one in wanted for name, rules in _load_rules(database, [one]).items()}
    return {account_id: loaded.get(account_id, ()) for account_id in wanted}


def _readable(row: Row, token: str, rules: RulesByAccount) -> ClaimedDelivery | None:
    """None for a row that another version has written and this one cannot read: it is left to its lease, and to a
    worker that can. One such row must not end the worker."""
    try:
        return _claimed(row, token, rules)
    except (ValueError, TypeError, KeyError) as error:
        log.error("a delivery of another version cannot be read", delivery_id=row[0], reason=str(error))
        return None


def _claimed(row: Row, token: str, rules: RulesByAccount) -> ClaimedDelivery:
    (
        delivery_id, kind, account_id, address_id, due_ms, attempts, cycle_attempts, cycle_started_ms, target_host,
        recipients, is_released, judgement, detail, target, target_format, secret, previous_secret,
        settings, message_id, mail_from, helo, remote_ip,
        tls_version, tls_cipher, md5, received_ms, size, verdicts, body, blob_key,
    ) = row  # fmt: skip
    envelope = Envelope(
        mail_from=mail_from,
        recipients=tuple(orjson.loads(recipients)),
        helo=helo,
        remote_ip=remote_ip,
        tls_version=tls_version,
        tls_cipher=tls_cipher,
        md5=md5,
        received_at=to_datetime(received_ms),
        verdicts=NO_VERDICTS if verdicts is None else read_verdicts(verdicts),
    )
    return ClaimedDelivery(
        delivery_id=delivery_id,
        kind=DeliveryKind(kind),
        account_id=account_id,
        address_id=address_id,
        lease_token=token,
        lease_end_ms=due_ms,
        attempt_number=attempts,
        progress=Progress(cycle_attempts, cycle_started_ms),
        target_host=target_host,
        target=target,
        target_format=TargetFormat(target_format),
        secret=secret,
        previous_secret=previous_secret,
        settings=read_address_settings(settings),
        rules=rules_for({account_id: rules[account_id]}, account_id, address_id),
        is_released=bool(is_released),
        judgement=None if judgement is None else read_judgement(judgement),
        detail=detail,
        message_id=message_id,
        envelope=envelope,
        is_checked=verdicts is not None,
        size=size,
        body=None if body is None else bytes(body),
        blob_key=blob_key,
    )


def save_findings(database: Database, recorded: Sequence[RecordedAttempt]) -> None:
    """Keep what was read from messages, also by an attempt whose lease was lost. Inside a transaction."""
    rows = [_finding_row(entry.attempt) for entry in recorded if isinstance(entry.attempt, FinishedMail)]
    database.execute_values(_SAVE_FINDINGS, [row for row in rows if row is not None])


def _finding_row(attempt: FinishedMail) -> Row | None:
    if not attempt.body_text and attempt.verdicts is None:
        return None
    assert isinstance(attempt.delivery, ClaimedDelivery)
    verdicts = None if attempt.verdicts is None else attempt.verdicts.to_json()
    return (attempt.body_text, verdicts, attempt.delivery.message_id)
