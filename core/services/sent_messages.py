"""Sent messages: what became of each recipient, as customers list, search and read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from core.clock import Clock
from core.delivery import SEND_KINDS, DeliveryState
from core.errors import NotFound
from core.search_fields import EVERYTHING, Condition
from core.sending.events import INTERNAL_KINDS, EventKind
from core.sending.priority import Priority
from core.sent_search import EVENT_RANKS, event_order
from core.services.paging import Page, PageRequest
from core.services.raw_content import read_content
from core.services.windowed import SEARCH_WINDOW, Window, WindowedList, list_page, search_page
from core.store.blobs import BlobStore
from core.store.db import Database, Row, places

MAX_EVENTS_SHOWN = 2_000
"""Of one message, the latest ones: a robot may open a mail for ever."""
_COLUMNS = """
s.message_id, s.username, s.sending_domain_id, s.header_to, s.header_cc, s.tags, s.metadata, s.stream, s.priority,
s.is_test, s.send_at_ms, m.mail_from, m.header_from, m.subject, m.header_message_id, m.size, m.received_ms"""
_FROM = "FROM sent_message s JOIN message m ON m.id = s.message_id"
_GET = f"SELECT {_COLUMNS} {_FROM} WHERE s.message_id = ?"
_IS_KNOWN = "SELECT 1 FROM sent_message s WHERE s.message_id = ?"
_INTERNAL = ", ".join(repr(kind.value) for kind in INTERNAL_KINDS)
_RECIPIENTS = f"""
SELECT message_id, id, recipients, state, attempts, due_ms, lease_token, finished_ms, last_status, last_error
FROM delivery WHERE message_id IN ({{places}}) AND kind IN ({", ".join(repr(kind.value) for kind in SEND_KINDS)})
ORDER BY id"""  # noqa: S608 (constants)
_LAST_EVENTS = f"""
SELECT e.message_id, e.recipient, max({event_order("e")}) FROM event e
WHERE e.message_id IN ({{places}}) AND e.kind NOT IN ({_INTERNAL}) GROUP BY e.message_id, e.recipient"""  # noqa: S608
_EVENTS = f"""
SELECT e.recipient, e.kind, e.at_ms, e.details FROM event e
WHERE e.message_id = ? AND e.kind NOT IN ({_INTERNAL}) ORDER BY {event_order("e")} DESC LIMIT ?"""  # noqa: S608
_RAW = "SELECT r.body, r.blob_key FROM raw_message r WHERE r.message_id = ?"
_KINDS = tuple(EventKind)


@dataclass(frozen=True, slots=True)
class SentScope:
    """Whose messages somebody may see."""

    account_id: str
    sending_domain_id: str | None = None
    """Only those of this domain: that of a credential that is bound to one."""
    username: str | None = None
    """Only those that came with this credential: of one that may not see what others sent."""


@dataclass(frozen=True, slots=True)
class SentFilter:
    """Which messages are meant."""

    scope: SentScope
    username: str | None = None
    """Only those that came with this credential."""
    condition: Condition | None = None
    """A compiled search query; None for all."""


@dataclass(frozen=True, slots=True)
class SentEvent:
    """One step of a recipient."""

    kind: str
    """One of `core.sending.events.EventKind`, unless a newer Pillarbox has written it."""
    at_ms: int
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RecipientRecord:
    """One recipient, and where its delivery stands."""

    delivery_id: str
    address: str
    state: DeliveryState
    attempts: int
    due_ms: int
    is_leased: bool
    finished_ms: int | None
    last_status: int | None
    """The SMTP reply code of the last attempt; 0 without any reply."""
    last_error: str | None
    last_event: str | None
    """The kind; None once events were purged."""
    events: tuple[SentEvent, ...] = ()
    """In the order they happened; only of a message that is read alone."""


@dataclass(frozen=True, slots=True)
class SentRecord:
    """A message and its recipients."""

    message_id: str
    """Ours; also the cursor behind this entry."""
    username: str
    sending_domain_id: str | None
    header_to: tuple[str, ...]
    header_cc: tuple[str, ...]
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    stream: str
    priority: Priority
    is_test: bool
    send_at_ms: int | None
    mail_from: str
    header_from: str
    subject: str | None
    header_message_id: str
    """Without angle brackets."""
    size: int
    created_ms: int
    recipients: tuple[RecipientRecord, ...] = field(default=())


def list_sent(database: Database, wanted: SentFilter, request: PageRequest, clock: Clock) -> Page[SentRecord]:
    """Messages, newest first. Raises `InvalidField` for a cursor or a page number that cannot be used.

    A search may end before the page is full: it then gives a cursor with which it goes on.
    """
    source = WindowedList(
        select=lambda window, limit, offset: _select(database, wanted, window, limit, offset),
        floor_below=lambda newest: _window_floor(database, wanted, newest),
        id_of=lambda record: record.message_id,
    )
    if wanted.condition is None and wanted.username is None and wanted.scope.username is None:
        page = list_page(source, request)
    else:
        page = search_page(source, request, clock)
    return Page(_with_recipients(database, page.entries), page.next_cursor)


def get_sent(database: Database, scope: SentScope, message_id: str) -> SentRecord:
    """One message with the events of its recipients. Raises `NotFound`."""
    where, parameters = _scope(scope)
    with database.reading():
        rows = database.execute(f"{_GET} AND {where}", (message_id, *parameters))
        events = database.execute(_EVENTS, (message_id, MAX_EVENTS_SHOWN)) if rows else []
    if not rows:
        raise missing(message_id)
    (record,) = _with_recipients(database, [_record(rows[0])])
    return _with_events(record, events)


def read_sent_raw(database: Database, blobs: BlobStore, scope: SentScope, message_id: str) -> bytes:
    """The message as it was accepted, before tracking and signatures. Raises `NotFound`, also when it was purged."""
    return read_content(blobs, lambda: _raw_row(database, scope, message_id), lambda: _purged(message_id))


def missing(message_id: str) -> NotFound:
    """The error for a message that does not exist or is another account's."""
    return NotFound(f"this account has sent no message {message_id}")


def _raw_row(database: Database, scope: SentScope, message_id: str) -> list[Row]:
    where, parameters = _scope(scope)
    with database.reading():
        if not database.execute(f"{_IS_KNOWN} AND {where}", (message_id, *parameters)):
            raise missing(message_id)
        return database.execute(_RAW, (message_id,))


def _purged(message_id: str) -> NotFound:
    return NotFound(f"{message_id} has no content any more; it was purged after PILLARBOX_KEEP_RAW_DAYS")


def _scope(scope: SentScope) -> tuple[str, tuple[str, ...]]:
    limits = {
        "s.account_id": scope.account_id,
        "s.sending_domain_id": scope.sending_domain_id,
        "s.username": scope.username,
    }
    given = {column: value for column, value in limits.items() if value is not None}
    return " AND ".join(f"{column} = ?" for column in given), tuple(given.values())


def _select(database: Database, wanted: SentFilter, window: Window, limit: int, offset: int) -> list[SentRecord]:
    where, parameters = _scope(wanted.scope)
    condition = wanted.condition or EVERYTHING
    of_login, login = ("", ()) if wanted.username is None else ("AND s.username = ? ", (wanted.username,))
    statement = (
        f"SELECT {_COLUMNS} {_FROM} WHERE {where} AND s.message_id < ? AND s.message_id >= ? {of_login}"
        f"AND {condition.sql} ORDER BY s.message_id DESC LIMIT ? OFFSET ?"
    )
    values = (*parameters, window.newest, window.floor, *login, *condition.parameters, limit, offset)
    with database.reading():
        return [_record(row) for row in database.execute(statement, values)]


def _window_floor(database: Database, wanted: SentFilter, newest: str) -> str | None:
    where, parameters = _scope(wanted.scope)
    statement = (
        f"SELECT s.message_id FROM sent_message s WHERE {where} AND s.message_id < ? "  # noqa: S608 (constants)
        "ORDER BY s.message_id DESC LIMIT 1 OFFSET ?"
    )
    with database.reading():
        rows = database.execute(statement, (*parameters, newest, SEARCH_WINDOW - 1))
    return str(rows[0][0]) if rows else None


def _with_recipients(database: Database, records: Sequence[SentRecord]) -> list[SentRecord]:
    """With each recipient's last event, by two queries for all of them."""
    ids = [record.message_id for record in records]
    if not ids:
        return []
    with database.reading():
        rows = database.execute(_RECIPIENTS.format(places=places(ids)), ids)
        last = database.execute(_LAST_EVENTS.format(places=places(ids)), ids)
    kinds = {(message_id, recipient): _kind(order) for message_id, recipient, order in last}
    found: dict[str, list[RecipientRecord]] = {message_id: [] for message_id in ids}
    for message_id, *rest in rows:
        found[message_id].append(_recipient(rest, kinds, message_id))
    return [replace(record, recipients=tuple(found[record.message_id])) for record in records]


def _kind(order: int) -> str | None:
    rank = order % EVENT_RANKS
    return _KINDS[rank].value if rank < len(_KINDS) else None


def _recipient(row: Sequence[Any], kinds: Mapping[tuple[str, str], str | None], message_id: str) -> RecipientRecord:
    delivery_id, recipients, state, attempts, due_ms, lease_token, finished_ms, last_status, last_error = row
    (address,) = orjson.loads(recipients)
    return RecipientRecord(
        delivery_id=delivery_id,
        address=address,
        state=DeliveryState(state),
        attempts=attempts,
        due_ms=due_ms,
        is_leased=lease_token is not None,
        finished_ms=finished_ms,
        last_status=last_status,
        last_error=last_error,
        last_event=kinds.get((message_id, address)),
    )


def _with_events(record: SentRecord, rows: Sequence[Row]) -> SentRecord:
    found: dict[str, list[SentEvent]] = {}
    for recipient, kind, at_ms, details in reversed(rows):
        found.setdefault(recipient, []).append(SentEvent(kind, at_ms, orjson.loads(details)))
    shown = tuple(replace(one, events=tuple(found.get(one.address, ()))) for one in record.recipients)
    return replace(record, recipients=shown)


def _record(row: Row) -> SentRecord:
    (
        message_id, username, sending_domain_id, header_to, header_cc, tags, metadata, stream, priority, is_test,
        send_at_ms, mail_from, header_from, subject, header_message_id, size, received_ms,
    ) = row  # fmt: skip
    return SentRecord(
        message_id=message_id,
        username=username,
        sending_domain_id=sending_domain_id,
        header_to=tuple(orjson.loads(header_to)),
        header_cc=tuple(orjson.loads(header_cc)),
        tags=tuple(orjson.loads(tags)),
        metadata=orjson.loads(metadata),
        stream=stream,
        priority=Priority(priority),
        is_test=bool(is_test),
        send_at_ms=send_at_ms,
        mail_from=mail_from,
        header_from=header_from,
        subject=subject,
        header_message_id=header_message_id,
        size=size,
        created_ms=received_ms,
    )
