"""Suppression lists as customers see them: shown, added to, taken from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from core.addresses import parse_mailbox
from core.errors import InvalidField, NotFound
from core.sending.suppression import SuppressionReason, read_reason, suppression_key
from core.services.paging import Page, PageRequest, bad_cursor
from core.services.suppressions import NewSuppression, SendTarget, add_suppressions
from core.store.db import Database, Row, places

MAX_ADDED = 1_000
"""Addresses of one call."""
MAX_NOTE_LENGTH = 200
EXPORT_PAGE = 1_000
"""Rows that are in memory at once while a list is exported."""
MAX_SHOWN = 80
"""Characters of what is no address that an error repeats."""
LIKE_ESCAPE = "!"
_NEWEST = "g"
"""Sorts behind every id, which is hex digits."""
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_SELECT = """
SELECT id, address, reason, sending_domain_id, detail, message_id, created_ms FROM suppression WHERE account_id = ?"""
_LIST = f"""{_SELECT} AND id < ? AND address LIKE ? ESCAPE '{LIKE_ESCAPE}'
AND reason = coalesce(?, reason) AND coalesce(sending_domain_id, '') = coalesce(?, sending_domain_id, '')
ORDER BY id DESC LIMIT ? OFFSET ?"""
_BY_ID = f"{_SELECT} AND id = ?"
_BY_ADDRESS = f"{_SELECT} AND address = ? AND coalesce(sending_domain_id, '') = ?"
_AMONG = f"{_SELECT} AND coalesce(sending_domain_id, '') = ? AND address IN ({{places}})"
_DELETE = "DELETE FROM suppression WHERE id = ? RETURNING id"
_FORGET_COUNT = "DELETE FROM soft_bounce WHERE account_id = ? AND address = ?"
_DOMAIN = "SELECT deleted_ms FROM sending_domain WHERE id = ? AND account_id = ?"


@dataclass(frozen=True, slots=True)
class SuppressionRecord:
    """An address that gets no more mail."""

    suppression_id: str
    address: str
    reason: SuppressionReason
    sending_domain_id: str | None
    """None: from none of the account's domains."""
    detail: str | None
    message_id: str | None
    """The mail that brought it about."""
    created_ms: int


@dataclass(frozen=True, slots=True)
class SuppressionFilter:
    """Which entries are wanted; None is any."""

    reason: SuppressionReason | None = None
    address_part: str = ""
    """Text that the address holds."""
    sending_domain_id: str | None = None


@dataclass(frozen=True, slots=True)
class SuppressionDraft:
    """Addresses to be added by hand."""

    addresses: Sequence[str]
    sending_domain_id: str | None = None
    note: str | None = None


def list_suppressions(
    database: Database, account_id: str, wanted: SuppressionFilter, request: PageRequest
) -> Page[SuppressionRecord]:
    """The account's entries, newest first. Raises `InvalidField` for a cursor that is none, and `NotFound` (domain)."""
    if request.cursor is not None and not _ID.fullmatch(request.cursor):
        raise bad_cursor()
    with database.reading():
        _require_domain(database, account_id, wanted.sending_domain_id)
        return _page(database, account_id, wanted, request)


def export_suppressions(
    database: Database, account_id: str, wanted: SuppressionFilter
) -> Iterator[list[SuppressionRecord]]:
    """All of them, newest first, some at a time. The first are read at once: raises as `list_suppressions` does."""
    request = PageRequest(EXPORT_PAGE)
    first = list_suppressions(database, account_id, wanted, request)
    return _pages(database, account_id, wanted, request, first)


def get_suppression(
    database: Database, account_id: str, named: str, sending_domain_id: str | None = None
) -> SuppressionRecord:
    """One entry, by its id or by its address; by address it is that of a domain's list, or else of the account's.

    Raises `NotFound`.
    """
    with database.reading():
        return _find(database, account_id, named, sending_domain_id)


def add_by_hand(database: Database, account_id: str, draft: SuppressionDraft, now_ms: int) -> list[SuppressionRecord]:
    """Put addresses on a list; gives the entries in the order of the addresses, also those that were there before.

    Raises `InvalidField` naming the address that is none, and `NotFound` (the domain); then nothing is added.
    """
    keys = list(dict.fromkeys(_checked(index, address) for index, address in enumerate(draft.addresses)))
    entries = [
        NewSuppression(
            SendTarget(account_id, draft.sending_domain_id, key), SuppressionReason.MANUAL, draft.note or None
        )
        for key in keys
    ]
    with database.transaction():
        _require_domain(database, account_id, draft.sending_domain_id, is_live=True)
        add_suppressions(database, entries, now_ms)
        statement = _AMONG.format(places=places(keys))
        rows = database.execute(statement, (account_id, draft.sending_domain_id or "", *keys))
    found = {record.address: record for record in map(_record, rows)}
    return [found[key] for key in keys if key in found]  # somebody may be taking one away just now


def remove_suppression(
    database: Database, account_id: str, named: str, sending_domain_id: str | None = None
) -> SuppressionRecord:
    """Take an entry away, and begin to count its soft bounces anew. Raises `NotFound`."""
    with database.transaction():
        record = _find(database, account_id, named, sending_domain_id)
        database.execute(_FORGET_COUNT, (account_id, record.address))  # first: counts are locked before lists
        if not database.execute(_DELETE, (record.suppression_id,)):
            raise NotFound(f"{named} has just been taken off the list")
    return record


def _page(
    database: Database, account_id: str, wanted: SuppressionFilter, request: PageRequest
) -> Page[SuppressionRecord]:
    pattern = "%" + re.sub(r"([%_!])", rf"{LIKE_ESCAPE}\1", wanted.address_part.lower()) + "%"
    reason = None if wanted.reason is None else wanted.reason.value
    rows = database.execute(
        _LIST,
        (
            account_id, request.cursor or _NEWEST, pattern, reason, wanted.sending_domain_id, request.size + 1,
            request.offset,
        ),
    )  # fmt: skip
    records = [_record(row) for row in rows[: request.size]]
    return Page(records, records[-1].suppression_id if len(rows) > request.size else None)


def _pages(
    database: Database,
    account_id: str,
    wanted: SuppressionFilter,
    request: PageRequest,
    page: Page[SuppressionRecord],
) -> Iterator[list[SuppressionRecord]]:
    yield page.entries
    while page.next_cursor is not None:
        with database.reading():
            page = _page(database, account_id, wanted, replace(request, cursor=page.next_cursor))
        yield page.entries


def _find(database: Database, account_id: str, named: str, sending_domain_id: str | None) -> SuppressionRecord:
    if _ID.fullmatch(named.lower()):
        rows = database.execute(_BY_ID, (account_id, named.lower()))
    else:
        key = suppression_key(named)
        rows = database.execute(_BY_ADDRESS, (account_id, key, sending_domain_id or ""))
    if not rows:
        whose = "this account" if sending_domain_id is None else f"the sending domain {sending_domain_id}"
        raise NotFound(
            f"{named[:MAX_SHOWN]} is not on the list of {whose}; entries of a domain's list are found by their id, or "
            "by address and sending_domain_id"
        )
    return _record(rows[0])


def _checked(index: int, address: str) -> str:
    if parse_mailbox(address) is None:
        raise InvalidField(
            f"addresses.{index}", f"{address[:MAX_SHOWN]!r} is not a mailbox; write it as local@example.com, alone"
        )
    return suppression_key(address)


def _require_domain(
    database: Database, account_id: str, sending_domain_id: str | None, *, is_live: bool = False
) -> None:
    if sending_domain_id is None:
        return
    rows = database.execute(_DOMAIN, (sending_domain_id, account_id))
    if not rows or (is_live and rows[0][0] is not None):
        raise NotFound(f"this account has no sending domain {sending_domain_id}")


def _record(row: Row) -> SuppressionRecord:
    suppression_id, address, reason, *others = row
    return SuppressionRecord(suppression_id, address, read_reason(reason), *others)
