"""Incoming statuses: what became of every message, as customers list, search and read it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import orjson

from core.clock import Clock
from core.delivery import RECEIVED_KINDS, DeliveryState
from core.errors import NotFound
from core.rules import Judgement, read_judgement
from core.search_fields import EVERYTHING, Condition
from core.services import windowed
from core.services.paging import Page, PageRequest
from core.services.raw_content import read_content
from core.services.windowed import Window, WindowedList, list_page, search_page
from core.store.blobs import BlobStore
from core.store.db import Database, Row
from core.verdicts import Verdicts, read_verdicts

_COLUMNS = """
d.id, d.address_id, d.recipients, d.target_host, d.state, d.attempts, d.due_ms, d.lease_token, d.last_status,
d.last_error, d.judgement, d.is_released, d.created_ms, d.finished_ms, m.mail_from, m.tls_version, m.size, m.md5,
m.subject, m.header_message_id"""
_FROM = "FROM delivery d JOIN message m ON m.id = d.message_id"
_SCOPE = f"d.account_id = ? AND d.kind IN ({', '.join(repr(kind.value) for kind in RECEIVED_KINDS)})"
_GET = f"SELECT {_COLUMNS} {_FROM} WHERE {_SCOPE} AND d.id = ?"
_ATTEMPTS = """
SELECT number, started_ms, duration_ms, status, error, response FROM attempt
WHERE delivery_id = ? ORDER BY id DESC LIMIT ?"""
_RAW = f"""
SELECT r.body, r.blob_key FROM delivery d JOIN raw_message r ON r.message_id = d.message_id
WHERE {_SCOPE} AND d.id = ?"""  # noqa: S608 (constants)
_VERDICTS = """
SELECT m.verdicts FROM delivery d JOIN message m ON m.id = d.message_id WHERE d.id = ? AND m.verdicts IS NOT NULL"""
MAX_ATTEMPTS_SHOWN = 100


class StatusCategory(StrEnum):
    """What a sender would want to know of a message; the words are CloudMailin's."""

    SUCCESSFUL = "successful"
    DELAYED = "delayed"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    """Ours: held by a rule or a check."""


@dataclass(frozen=True, slots=True)
class StatusRecord:
    """One message to one target, and where it stands."""

    delivery_id: str
    """Also the cursor behind this entry, and the `webhook-id` of every POST of it."""
    address_id: str
    recipients: tuple[str, ...]
    mail_from: str
    message_id: str | None
    """The Message-ID header without angle brackets."""
    subject: str | None
    tls: str | None
    md5: str
    size: int
    """Of the raw message, in bytes."""
    target_host: str
    state: DeliveryState
    last_status: int | None
    """None before the first attempt has ended, 0 when the target could not be reached."""
    last_error: str | None
    judgement: Judgement | None
    """What rules and checks said; None when there was nothing to ask."""
    is_released: bool
    attempts: int
    due_ms: int
    is_leased: bool
    created_ms: int
    finished_ms: int | None

    @property
    def category(self) -> StatusCategory | None:
        """None while there has been no failure and no success yet."""
        if self.state is DeliveryState.DELIVERED:
            return StatusCategory.SUCCESSFUL
        if self.state is DeliveryState.QUARANTINED:
            return StatusCategory.QUARANTINED
        if self.state is DeliveryState.DEFERRED:
            return StatusCategory.DELAYED
        if self.state is not DeliveryState.PENDING:
            return StatusCategory.FAILED
        has_failed = self.last_status is not None and not 200 <= self.last_status < 300
        return StatusCategory.DELAYED if has_failed else None

    def is_being_attempted(self, now_ms: int) -> bool:
        """Whether a worker has it in hand: its lease, which ends at `due_ms`, is still running."""
        return self.state is DeliveryState.PENDING and self.is_leased and self.due_ms > now_ms


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at a delivery."""

    number: int
    started_ms: int
    duration_ms: int
    status: int
    error: str | None
    response: str | None
    """The beginning of a failing answer."""


@dataclass(frozen=True, slots=True)
class StatusFilter:
    """Which statuses are meant."""

    account_id: str
    address_id: str | None = None
    condition: Condition | None = None
    """A compiled search query; None for all."""


def list_statuses(database: Database, wanted: StatusFilter, request: PageRequest, clock: Clock) -> Page[StatusRecord]:
    """Statuses, newest first. Raises `InvalidField` for a cursor or a page number that cannot be used.

    A search may end before the page is full: it then gives a cursor with which it goes on.
    """
    source = WindowedList(
        select=lambda window, limit, offset: _select(database, wanted, window, limit, offset),
        floor_below=lambda newest: _window_floor(database, wanted, newest),
        id_of=lambda record: record.delivery_id,
    )
    return list_page(source, request) if wanted.condition is None else search_page(source, request, clock)


def matching_ids(database: Database, wanted: StatusFilter, limit: int, cursor: str | None, clock: Clock) -> Page[str]:
    """The ids of up to `limit` statuses, newest first, and the cursor behind them."""
    page = list_statuses(database, wanted, PageRequest(limit, cursor), clock)
    return Page([record.delivery_id for record in page.entries], page.next_cursor)


def get_status(database: Database, account_id: str, delivery_id: str) -> StatusRecord:
    """One status. Raises `NotFound`."""
    with database.reading():
        rows = database.execute(_GET, (account_id, delivery_id))
    if not rows:
        raise missing(delivery_id)
    return _record(rows[0])


def list_attempts(database: Database, delivery_id: str) -> list[AttemptRecord]:
    """The last `MAX_ATTEMPTS_SHOWN` attempts, in the order they were made."""
    with database.reading():
        rows = database.execute(_ATTEMPTS, (delivery_id, MAX_ATTEMPTS_SHOWN))
    return [AttemptRecord(*row) for row in reversed(rows)]


def read_verdicts_of(database: Database, delivery_id: str) -> Verdicts | None:
    """What the checks found; None when none were made, or that was purged."""
    with database.reading():
        rows = database.execute(_VERDICTS, (delivery_id,))
    return read_verdicts(rows[0][0]) if rows else None


def read_raw(database: Database, blobs: BlobStore, account_id: str, delivery_id: str) -> bytes:
    """The message as it arrived. Raises `NotFound`, also when it was purged."""

    def gone() -> NotFound:
        get_status(database, account_id, delivery_id)  # which may not be there at all
        return purged(delivery_id)

    return read_content(blobs, lambda: _read_raw_row(database, account_id, delivery_id), gone)


def _read_raw_row(database: Database, account_id: str, delivery_id: str) -> list[Row]:
    with database.reading():
        return database.execute(_RAW, (account_id, delivery_id))


def missing(delivery_id: str) -> NotFound:
    """The error for a status that does not exist or is another account's."""
    return NotFound(f"this account has no status {delivery_id}")


def purged(delivery_id: str) -> NotFound:
    """The error for a status whose message is gone."""
    return NotFound(f"{delivery_id} has no message any more; it was purged after PILLARBOX_KEEP_RAW_DAYS")


def _window_floor(database: Database, wanted: StatusFilter, newest: str) -> str | None:
    """The id of the last status in the window below `newest`; None when the list ends before that."""
    where, parameters = _scope(wanted)
    statement = f"SELECT d.id FROM delivery d WHERE {where} AND d.id < ? ORDER BY d.id DESC LIMIT 1 OFFSET ?"  # noqa: S608
    with database.reading():
        rows = database.execute(statement, (*parameters, newest, windowed.SEARCH_WINDOW - 1))
    return str(rows[0][0]) if rows else None


def _select(database: Database, wanted: StatusFilter, window: Window, limit: int, offset: int) -> list[StatusRecord]:
    where, parameters = _scope(wanted)
    condition = wanted.condition or EVERYTHING
    statement = (
        f"SELECT {_COLUMNS} {_FROM} WHERE {where} AND d.id < ? AND d.id >= ? AND {condition.sql} "
        "ORDER BY d.id DESC LIMIT ? OFFSET ?"
    )
    values = (*parameters, window.newest, window.floor, *condition.parameters, limit, offset)
    with database.reading():
        return [_record(row) for row in database.execute(statement, values)]


def _scope(wanted: StatusFilter) -> tuple[str, tuple[str, ...]]:
    if wanted.address_id is None:
        return _SCOPE, (wanted.account_id,)
    return f"{_SCOPE} AND d.address_id = ?", (wanted.account_id, wanted.address_id)


def _record(row: Row) -> StatusRecord:
    (
        delivery_id, address_id, recipients, target_host, state, attempts, due_ms, lease_token, last_status,
        last_error, judgement, is_released, created_ms, finished_ms, mail_from, tls, size, md5, subject, message_id,
    ) = row  # fmt: skip
    return StatusRecord(
        delivery_id=delivery_id,
        address_id=address_id,
        recipients=tuple(orjson.loads(recipients)),
        mail_from=mail_from,
        message_id=message_id.strip().removeprefix("<").removesuffix(">") if message_id else None,
        subject=subject,
        tls=tls,
        md5=md5,
        size=size,
        target_host=target_host,
        state=DeliveryState(state),
        last_status=last_status,
        last_error=last_error,
        judgement=None if judgement is None else read_judgement(judgement),
        is_released=bool(is_released),
        attempts=attempts,
        due_ms=due_ms,
        is_leased=lease_token is not None,
        created_ms=created_ms,
        finished_ms=finished_ms,
    )
