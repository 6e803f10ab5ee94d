"""Layouts of accounts: named frames of HTML, as sending asks for them and customers keep them.

What is in them is checked by those who call (`outbound.composing.layouts.read_layout`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import peewee

from core.errors import InvalidField, NotFound
from core.ids import new_domain_id
from core.services.paging import CreationKey, Page, PageRequest, creation_page, creation_place
from core.store.db import Database, Row, places

MAX_LAYOUTS = 500
"""Of one account."""
MAX_NAME_LENGTH = 100
NAME = "[A-Za-z0-9_.-]+"
"""What can stand in a header as it is."""
RESERVED_NAMES = frozenset({"none"})
"""As a message says that it wants no layout."""
_NAME = re.compile(NAME)

_SELECT = "SELECT id, name, html, created_ms, updated_ms FROM layout WHERE account_id = ?"
_GET = f"{_SELECT} AND id = ?"
_LIST = f"""{_SELECT} AND (created_ms < ? OR (created_ms = ? AND id < ?))
ORDER BY created_ms DESC, id DESC LIMIT ? OFFSET ?"""
_COUNT = "SELECT count(*) FROM layout WHERE account_id = ?"
_LOCK_ACCOUNT = "SELECT 1 FROM account WHERE id = ? {locking}"
_SOURCES = "SELECT name, html FROM layout WHERE account_id = ? AND name IN ({places})"
_INSERT = "INSERT INTO layout (id, account_id, name, html, created_ms, updated_ms) VALUES (?, ?, ?, ?, ?, ?)"
_UPDATE = """
UPDATE layout SET name = ?, html = ?, updated_ms = ? WHERE account_id = ? AND id = ? RETURNING created_ms"""
_DELETE = "DELETE FROM layout WHERE id = ?"


@dataclass(frozen=True, slots=True)
class LayoutDraft:
    """What a customer says of a layout."""

    name: str
    html: str


@dataclass(frozen=True, slots=True)
class LayoutRecord:
    """A layout as it stands."""

    layout_id: str
    name: str
    html: str
    created_ms: int
    updated_ms: int


def layout_sources(database: Database, account_id: str, names: Sequence[str]) -> dict[str, str]:
    """The HTML of those of these layouts that the account has, by name. Raises `StorageUnavailable`."""
    with database.reading():
        rows = database.execute(_SOURCES.format(places=places(names)), (account_id, *names))
    return dict(rows)


def list_layouts(database: Database, account_id: str, request: PageRequest) -> Page[LayoutRecord]:
    """The account's layouts, newest first. Raises `InvalidField` for a cursor that is none."""
    place = creation_place(request)
    with database.reading():
        rows = database.execute(_LIST, (account_id, *place))
    records = [LayoutRecord(*row) for row in rows[: request.size]]
    has_more = len(rows) > request.size
    return creation_page(records, has_more, lambda record: CreationKey(record.created_ms, record.layout_id))


def get_layout(database: Database, account_id: str, layout_id: str) -> LayoutRecord:
    """One layout. Raises `NotFound`."""
    with database.reading():
        return _find(database, account_id, layout_id)


def create_layout(database: Database, account_id: str, draft: LayoutDraft, now_ms: int) -> LayoutRecord:
    """Keep a new layout. Raises `InvalidField`, also for a name that is taken."""
    _check_name(draft.name)
    made = LayoutRecord(new_domain_id(), draft.name, draft.html, now_ms, now_ms)
    try:
        with database.transaction():
            database.execute(_LOCK_ACCOUNT.format(locking="FOR UPDATE" if database.is_postgres else ""), (account_id,))
            if database.execute(_COUNT, (account_id,))[0][0] >= MAX_LAYOUTS:
                raise InvalidField("name", f"would be layout {MAX_LAYOUTS + 1}; an account may have {MAX_LAYOUTS}")
            database.execute(_INSERT, (made.layout_id, account_id, made.name, made.html, now_ms, now_ms))
    except peewee.IntegrityError as error:
        raise _taken(draft.name) from error
    return made


def update_layout(database: Database, account_id: str, layout_id: str, draft: LayoutDraft, now_ms: int) -> LayoutRecord:
    """Change a layout; mail that was accepted keeps the old one. Raises `InvalidField` and `NotFound`."""
    _check_name(draft.name)
    try:
        with database.transaction():
            rows = database.execute(_UPDATE, (draft.name, draft.html, now_ms, account_id, layout_id))
    except peewee.IntegrityError as error:
        raise _taken(draft.name) from error
    if not rows:
        raise _missing(layout_id)
    return LayoutRecord(layout_id, draft.name, draft.html, rows[0][0], now_ms)


def delete_layout(database: Database, account_id: str, layout_id: str) -> LayoutRecord:
    """Forget a layout. Raises `NotFound`."""
    with database.transaction():
        record = _find(database, account_id, layout_id)
        database.execute(_DELETE, (layout_id,))
        return record


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise InvalidField("name", f"must be 1 to {MAX_NAME_LENGTH} of the characters A-Z a-z 0-9 _ . -")
    if name in RESERVED_NAMES:
        raise InvalidField("name", f"{name!r} is how a message says that it wants no layout; take another name")


def _taken(name: str) -> InvalidField:
    return InvalidField("name", f"{name!r} is another layout's; change that one, or take another name")


def _find(database: Database, account_id: str, layout_id: str) -> LayoutRecord:
    rows: list[Row] = database.execute(_GET, (account_id, layout_id))
    if not rows:
        raise _missing(layout_id)
    return LayoutRecord(*rows[0])


def _missing(layout_id: str) -> NotFound:
    return NotFound(f"this account has no layout {layout_id}")
