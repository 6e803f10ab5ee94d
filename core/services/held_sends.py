"""Sent mail that is held: shown message by message, released by a person, cancelled by one or by age."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import orjson

from core.delivery import SEND_KINDS, DeliveryKind, DeliveryState
from core.errors import NotFound, NotPossibleNow
from core.sending.events import EventDetails, EventKind, NewEvent
from core.sending.holding import SPAM_HOLD
from core.sending.priority import KIND_OF
from core.sending.send_settings import SendSettings
from core.services.events import insert_events
from core.services.paging import Page, PageRequest, bad_cursor
from core.services.send_accounts import NO_SETTINGS, SendStanding, read_standing
from core.services.send_pacing import Pacer
from core.store.db import Database, places

MAX_SHOWN = 100
"""Recipients of one message that a list names."""
BY_HAND = "cancelled while it was held"

_IS_HELD = f"""d.kind IN ({", ".join(repr(kind.value) for kind in SEND_KINDS)})
  AND d.state = '{DeliveryState.QUARANTINED}'"""
_COLUMNS = """
d.id, d.kind, d.account_id, d.message_id, d.recipients, s.sending_domain_id, coalesce(s.send_at_ms, 0), s.is_test"""
_FROM = "FROM delivery d JOIN sent_message s ON s.message_id = d.message_id"
_MESSAGES = f"""
SELECT d.message_id FROM delivery d WHERE d.account_id = ? AND {_IS_HELD} AND d.message_id < ?
GROUP BY d.message_id ORDER BY d.message_id DESC LIMIT ? OFFSET ?"""  # noqa: S608 (constants)
_SHOW = f"""
SELECT m.id, m.subject, m.header_from, m.received_ms, s.sending_domain_id, s.priority, s.send_at_ms, d.recipients,
       d.last_error
FROM message m JOIN sent_message s ON s.message_id = m.id JOIN delivery d ON d.message_id = m.id
WHERE m.id IN ({{places}}) AND {_IS_HELD} ORDER BY m.id DESC, d.id"""  # noqa: S608 (constants)
_OF_MESSAGE = f"""
SELECT {_COLUMNS} {_FROM} WHERE d.account_id = ? AND d.message_id = ? AND {_IS_HELD} ORDER BY d.id {{locking}}"""
_OF_IDS = f"""
SELECT {_COLUMNS} {_FROM} WHERE d.id IN ({{places}}) AND {_IS_HELD} AND coalesce(d.finished_ms, d.created_ms) < ?
ORDER BY d.id {{locking}}"""
_UNPAUSED = f"""
SELECT {_COLUMNS} {_FROM} JOIN account a ON a.id = d.account_id LEFT JOIN sending_domain o ON o.id = s.sending_domain_id
WHERE d.account_id = ? AND d.id > ? AND {_IS_HELD} AND a.paused_ms IS NULL AND o.paused_ms IS NULL
  AND coalesce(d.last_error, '') NOT LIKE '{SPAM_HOLD}%'
ORDER BY d.id LIMIT ? {{locking}}"""
_LET_GO = f"""
WITH result (id, due_ms) AS (VALUES {{rows}})
UPDATE delivery SET state = '{DeliveryState.PENDING}', due_ms = CAST(result.due_ms AS BIGINT), cycle_attempts = 0,
                    cycle_started_ms = CAST(result.due_ms AS BIGINT), lease_token = NULL, finished_ms = NULL,
                    last_error = NULL
FROM result WHERE delivery.id = result.id AND delivery.state = '{DeliveryState.QUARANTINED}'"""  # noqa: S608 (constants)
_CANCEL = f"""
UPDATE delivery SET state = '{DeliveryState.CANCELLED}', finished_ms = ?, last_error = ?, lease_token = NULL
WHERE id IN ({{places}}) AND state = '{DeliveryState.QUARANTINED}'"""  # noqa: S608 (constants)
_PRIORITIES = {kind: priority for priority, kind in KIND_OF.items()}
_NEWER_THAN_ALL = "g"
_ID_LENGTH = 36


@dataclass(frozen=True, slots=True)
class HeldSend:
    """One recipient's mail that is held."""

    delivery_id: str
    kind: DeliveryKind
    account_id: str
    message_id: str
    recipient: str
    sending_domain_id: str | None
    send_at_ms: int
    """0 for at once."""
    is_test: bool

    def event(self, kind: EventKind, now_ms: int, details: EventDetails) -> NewEvent:
        """What happens to it."""
        return NewEvent(
            kind, self.account_id, self.sending_domain_id, self.message_id, self.delivery_id, self.recipient, now_ms,
            details,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """A message with recipients whose mail is held."""

    message_id: str
    subject: str | None
    header_from: str | None
    received_ms: int
    sending_domain_id: str | None
    priority: str
    send_at_ms: int | None
    recipients: tuple[str, ...]
    """Those that are held, the first `MAX_SHOWN`."""
    reason: str
    is_spam: bool
    """Whether the spam check holds it; else a pause does."""


def list_held(database: Database, account_id: str, request: PageRequest) -> Page[HeldMessage]:
    """Held messages, newest first. Raises `InvalidField` for a cursor that is none."""
    newest = request.cursor or _NEWER_THAN_ALL
    if request.cursor is not None and len(request.cursor) != _ID_LENGTH:
        raise bad_cursor()
    with database.reading():
        found = database.execute(_MESSAGES, (account_id, newest, request.size + 1, request.offset))
        ids = [row[0] for row in found[: request.size]]
        shown = _show(database, ids) if ids else {}
    entries = [shown[message_id] for message_id in ids if message_id in shown]
    return Page(entries, ids[-1] if len(found) > request.size else None)


def release_held(
    database: Database, account_id: str, message_id: str, now_ms: int, defaults: SendSettings = NO_SETTINGS
) -> list[HeldSend]:
    """Send a held message after all, under the limits. Raises `NotFound`, and `NotPossibleNow` during a pause."""
    with database.transaction():
        pacer = Pacer(database, account_id, defaults, now_ms)
        pacer.lock()
        held = _of_message(database, account_id, message_id)
        standing = read_standing(database, account_id, held[0].sending_domain_id)
        if standing.paused_because is not None:
            raise NotPossibleNow(f"sending is paused ({standing.paused_because}); resume it first")
        let_go(database, held, pacer, now_ms)
        pacer.save()
    return held


def cancel_held(database: Database, account_id: str, message_id: str, now_ms: int) -> list[HeldSend]:
    """Take a held message back for good. Raises `NotFound`."""
    with database.transaction():
        held = _of_message(database, account_id, message_id)
        _cancel(database, held, BY_HAND, now_ms)
    return held


def cancel_forgotten(
    database: Database, delivery_ids: Sequence[str | int], before_ms: int, because: str, now_ms: int
) -> int:
    """Take back those of these that are held since before that moment; how many recipients. Inside a transaction."""
    locking = "FOR UPDATE OF d SKIP LOCKED" if database.is_postgres else ""
    statement = _OF_IDS.format(places=places(delivery_ids), locking=locking)
    held = _read(database, statement, (*delivery_ids, before_ms))
    _cancel(database, held, because, now_ms)
    return len(held)


def lock_unpaused(database: Database, account_id: str, after: str, limit: int) -> list[HeldSend]:
    """What no pause (and no spam check) holds any more, behind this delivery id. Inside a transaction."""
    locking = "FOR UPDATE OF d SKIP LOCKED" if database.is_postgres else ""
    return _read(database, _UNPAUSED.format(locking=locking), (account_id, after, limit))


def let_go(database: Database, held: Collection[HeldSend], pacer: Pacer, now_ms: int) -> None:
    """Give held mail of one account a new turn. Inside a transaction that has locked account and rows."""
    standings: dict[str | None, SendStanding] = {}
    rows, events = [], []
    for entry in held:
        domain_id = entry.sending_domain_id
        if domain_id not in standings:
            standings[domain_id] = read_standing(database, entry.account_id, domain_id)
        earliest_ms = max(now_ms, entry.send_at_ms)
        if entry.is_test:  # it takes no places of others
            rows.append((entry.delivery_id, earliest_ms))
            continue
        departure = pacer.depart(standings[domain_id], entry.recipient, _PRIORITIES[entry.kind], earliest_ms)
        rows.append((entry.delivery_id, departure.due_ms))
        if departure.is_limited:
            events.append(entry.event(EventKind.RATE_LIMIT, now_ms, departure.details))
    database.execute_values(_LET_GO, rows)
    insert_events(database, events, now_ms)


def _cancel(database: Database, held: Sequence[HeldSend], because: str, now_ms: int) -> None:
    if not held:
        return
    ids = [entry.delivery_id for entry in held]
    database.execute(_CANCEL.format(places=places(ids)), (now_ms, because, *ids))
    details = EventDetails(reason=because)
    insert_events(database, [entry.event(EventKind.CANCELLED, now_ms, details) for entry in held], now_ms)


def _of_message(database: Database, account_id: str, message_id: str) -> list[HeldSend]:
    locking = "FOR UPDATE OF d" if database.is_postgres else ""
    held = _read(database, _OF_MESSAGE.format(locking=locking), (account_id, message_id))
    if not held:
        raise NotFound(f"this account holds no message {message_id}")
    return held


def _read(database: Database, statement: str, parameters: Sequence[str | int]) -> list[HeldSend]:
    return [
        HeldSend(
            delivery_id, DeliveryKind(kind), account_id, message_id, orjson.loads(recipients)[0], domain_id, at_ms,
            bool(is_test),
        )
        for delivery_id, kind, account_id, message_id, recipients, domain_id, at_ms, is_test in database.execute(
            statement, parameters
        )
    ]  # fmt: skip


def _show(database: Database, ids: Sequence[str]) -> dict[str, HeldMessage]:
    found: dict[str, HeldMessage] = {}
    recipients: dict[str, list[str]] = {}
    for row in database.execute(_SHOW.format(places=places(ids)), ids):
        message_id, subject, header_from, received_ms, domain_id, priority, send_at_ms, recipient, reason = row
        told = recipients.setdefault(message_id, [])
        if len(told) < MAX_SHOWN:
            told.extend(orjson.loads(recipient))
        text = reason or ""
        found[message_id] = HeldMessage(
            message_id, subject, header_from, received_ms, domain_id, priority, send_at_ms, tuple(told), text,
            text.startswith(SPAM_HOLD),
        )  # fmt: skip
    return found
