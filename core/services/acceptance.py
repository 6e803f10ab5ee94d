"""Taking responsibility for mail: many accepted messages become durable in one commit.

Where an address recognises duplicates, a mail that was taken before within its window is not stored again: its sender
did not hear our answer, and sends it once more with the same envelope and bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import orjson

from core.delivery import DeliveryState
from core.errors import StorageUnavailable
from core.ids import first_id_at, new_time_ordered_id
from core.netguard import target_host
from core.routing import Route
from core.rules import Judgement
from core.services.claims import INLINE_LEASE_PREFIX
from core.store.blobs import BlobStore
from core.store.db import Database, Row
from core.verdicts import Verdicts

_INSERT_MESSAGE = """
INSERT INTO message (id, mail_from, helo, remote_ip, tls_version, tls_cipher, size, md5, subject, header_from,
                     header_message_id, received_ms, verdicts)
VALUES {rows}"""
_INSERT_RAW = "INSERT INTO raw_message (message_id, body, blob_key) VALUES {rows}"
_INSERT_DELIVERY = """
INSERT INTO delivery (id, kind, account_id, message_id, address_id, custom_domain_id, recipients, target_host, state,
                      attempts, cycle_attempts, cycle_started_ms, due_ms, created_ms, finished_ms, last_error,
                      judgement, fingerprint, lease_token, detail)
VALUES {rows}"""
_SAME_BEFORE = """
SELECT id, state, lease_token, due_ms FROM delivery WHERE fingerprint = ? AND id >= ? ORDER BY id DESC LIMIT 1"""
_LOCK_FINGERPRINT = "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))"

_IS_STORED = "SELECT 1 FROM message WHERE id = ?"


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """How the delivery of one route begins, where it is not simply due."""

    judgement: Judgement | None = None
    """What rules and checks said, when they were asked already."""
    held_because: str | None = None
    """Why it begins in quarantine."""
    duplicate_window_ms: int = 0
    """For how long the same envelope and bytes are the same mail; 0 for never."""
    lease_token: str | None = None
    """With a lease it begins as its first attempt, which whoever stores it makes."""
    lease_end_ms: int = 0


DUE = DeliveryPlan()
DeliveryKey = tuple[str, str | None]
"""`Route.delivery_key`."""


@dataclass(frozen=True, slots=True)
class AcceptedMail:
    """One SMTP transaction that is about to be answered with 250."""

    message_id: str
    mail_from: str
    recipients: tuple[tuple[str, Route], ...]
    """Each accepted recipient, as given, with its route."""
    helo: str
    remote_ip: str
    tls_version: str | None
    tls_cipher: str | None
    size: int
    md5: str
    subject: str | None
    header_from: str | None
    header_message_id: str | None
    received_ms: int
    raw: bytes | None
    """The bytes, when they go into the row; else they are in the blob store already."""
    blob_key: str | None
    verdicts: Verdicts | None = None
    """What the checks found, when they were made already."""
    plans: Mapping[DeliveryKey, DeliveryPlan] = field(default_factory=dict)
    """For the routes whose deliveries are not simply due."""


@dataclass(frozen=True, slots=True)
class EarlierDelivery:
    """The delivery of a mail that came before with the same envelope and bytes."""

    delivery_id: str
    state: DeliveryState
    is_leased: bool
    is_inline: bool
    """Leased by a receiver, whose sender waits for the target's answer."""
    due_ms: int


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """One delivery about to be stored."""

    delivery_id: str
    mail: AcceptedMail
    route: Route
    recipients: list[str]
    plan: DeliveryPlan
    fingerprint: str | None


def store_accepted(database: Database, mails: Sequence[AcceptedMail]) -> list[AcceptedMail]:
    """Commit messages and their deliveries, all or none; gives those of which all was known before, and that were not
    stored. Raises `StorageUnavailable`."""
    deliveries = [made for mail in mails for made in plan_deliveries(mail)]
    with database.transaction():
        if any(made.fingerprint for made in deliveries):
            deliveries = _without_duplicates(database, deliveries)
        insert(database, deliveries)
    stored = {made.mail.message_id for made in deliveries}
    return [mail for mail in mails if mail.message_id not in stored] if len(stored) < len(mails) else []


def insert(database: Database, deliveries: Sequence[NewDelivery]) -> None:
    """Write deliveries and their messages. Inside a transaction."""
    mails = {made.mail.message_id: made.mail for made in deliveries}.values()
    database.execute_values(_INSERT_MESSAGE, [_message_row(mail) for mail in mails])
    database.execute_values(_INSERT_RAW, [(mail.message_id, mail.raw, mail.blob_key) for mail in mails])
    database.execute_values(_INSERT_DELIVERY, [_delivery_row(made) for made in deliveries])


def find_earlier(database: Database, made: NewDelivery) -> EarlierDelivery | None:
    """The delivery of the same mail within the window. Inside a transaction: until its end nobody else stores one."""
    if made.fingerprint is None:
        return None
    if database.is_postgres:
        database.execute(_LOCK_FINGERPRINT, (made.fingerprint,))
    oldest = first_id_at(made.mail.received_ms - made.plan.duplicate_window_ms)
    rows = database.execute(_SAME_BEFORE, (made.fingerprint, oldest))
    if not rows:
        return None
    delivery_id, state, token, due_ms = rows[0]
    is_inline = token is not None and token.startswith(INLINE_LEASE_PREFIX)
    return EarlierDelivery(delivery_id, DeliveryState(state), token is not None, is_inline, due_ms)


def drop_unless_stored(database: Database, blobs: BlobStore, message_id: str) -> None:
    """Remove a message's blob when no row knows of it: a sender that comes again and again must not fill the disk.

    When the database is away, a commit may yet have happened: then the blob stays, for housekeeping to find.
    """
    with suppress(StorageUnavailable):
        if not is_stored(database, message_id):
            blobs.delete(message_id)


def is_stored(database: Database, message_id: str) -> bool:
    """Whether a message was committed. Raises `StorageUnavailable` when that cannot be known now."""
    with database.reading():
        return bool(database.execute(_IS_STORED, (message_id,)))


def _message_row(mail: AcceptedMail) -> Row:
    return (
        mail.message_id, mail.mail_from, mail.helo, mail.remote_ip, mail.tls_version, mail.tls_cipher, mail.size,
        mail.md5, mail.subject, mail.header_from, mail.header_message_id, mail.received_ms,
        None if mail.verdicts is None else mail.verdicts.to_json(),
    )  # fmt: skip


def plan_deliveries(mail: AcceptedMail) -> list[NewDelivery]:
    """One delivery for each address (and each custom domain with its own target), with all its recipients."""
    grouped: dict[DeliveryKey, tuple[Route, list[str]]] = {}
    for recipient, route in mail.recipients:
        grouped.setdefault(route.delivery_key, (route, []))[1].append(route.returns_to or recipient)
    return [_plan_delivery(mail, route, recipients) for route, recipients in grouped.values()]


def _plan_delivery(mail: AcceptedMail, route: Route, recipients: list[str]) -> NewDelivery:
    plan = mail.plans.get(route.delivery_key, DUE)
    fingerprint = _fingerprint(mail, route, recipients) if plan.duplicate_window_ms else None
    return NewDelivery(new_time_ordered_id(mail.received_ms), mail, route, recipients, plan, fingerprint)


def _fingerprint(mail: AcceptedMail, route: Route, recipients: Sequence[str]) -> str:
    """Equal for mails with the same envelope and bytes to the same target (hex SHA-256)."""
    told = (route.delivery_key, mail.mail_from, sorted(recipients), mail.size, mail.md5)
    return hashlib.sha256(orjson.dumps(told)).hexdigest()


def _without_duplicates(database: Database, deliveries: Sequence[NewDelivery]) -> list[NewDelivery]:
    """Those that were not taken before, and each only once. Locks are taken in one order: no deadlock."""
    kept: list[NewDelivery] = []
    seen: set[str] = set()
    for made in sorted(deliveries, key=lambda entry: entry.fingerprint or ""):
        is_known = made.fingerprint in seen or _is_taken(find_earlier(database, made))
        if made.fingerprint is not None:
            seen.add(made.fingerprint)
        if not is_known:
            kept.append(made)
    return kept


def _is_taken(earlier: EarlierDelivery | None) -> bool:
    """Whether an earlier one makes this one needless: not when its sender was told to come again, or never, or may
    yet be told so."""
    if earlier is None:
        return False
    if earlier.state is DeliveryState.PENDING:
        return not earlier.is_inline
    return earlier.state in (DeliveryState.DELIVERED, DeliveryState.QUARANTINED)


def _delivery_row(made: NewDelivery) -> Row:
    mail, route, plan = made.mail, made.route, made.plan
    moment = mail.received_ms
    is_held = plan.held_because is not None
    attempts = 0 if plan.lease_token is None else 1
    return (
        made.delivery_id, route.kind, route.account_id, mail.message_id, route.address_id,
        route.custom_domain_id, orjson.dumps(made.recipients).decode(), target_host(route.target),
        DeliveryState.QUARANTINED if is_held else DeliveryState.PENDING, attempts, attempts, moment,
        moment if plan.lease_token is None else plan.lease_end_ms, moment, moment if is_held else None,
        plan.held_because, None if plan.judgement is None else plan.judgement.to_json(), made.fingerprint,
        plan.lease_token, None if route.about is None else orjson.dumps(route.about).decode(),
    )  # fmt: skip
