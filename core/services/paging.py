"""Lists, newest first: a page of one, and the cursor that continues behind it.

A cursor names the last entry seen, so a list that grows at the top while somebody reads it neither repeats entries
nor skips any, as numbered pages do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import InvalidField

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
MAX_PAGE_NUMBER = 10_000
Entry = TypeVar("Entry")
_KEY = re.compile(r"([0-9]{1,15})-([0-9a-f]{1,32})")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list is wanted."""

    size: int = DEFAULT_PAGE_SIZE
    cursor: str | None = None
    """What an earlier page gave as its `next_cursor`."""
    offset: int = 0
    """How many entries to pass over, for numbered pages."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    """A part of a list."""

    entries: list[Entry]
    next_cursor: str | None
    """None when there is nothing behind this page."""


@dataclass(frozen=True, slots=True)
class CreationKey:
    """A place in a list ordered by time of creation, then id."""

    created_ms: int
    entry_id: str

    def __str__(self) -> str:
        return f"{self.created_ms}-{self.entry_id}"


_START = CreationKey(1 << 62, "")


def creation_place(request: PageRequest) -> tuple[int, int, str, int, int]:
    """The parameters with which the query of such a list ends: where the page begins (the time twice, then the id), one
    entry more than it shows, and how many are passed over. Raises `InvalidField` for a cursor that is none."""
    start = read_creation_key(request.cursor) if request.cursor else _START
    return start.created_ms, start.created_ms, start.entry_id, request.size + 1, request.offset


def creation_page(entries: list[Entry], has_more: bool, key: Callable[[Entry], CreationKey]) -> Page[Entry]:
    """A page of such a list, with the cursor behind its last entry where there are more."""
    return Page(entries, str(key(entries[-1])) if has_more else None)


def read_creation_key(cursor: str) -> CreationKey:
    """The place a cursor names. Raises `InvalidField`."""
    match = _KEY.fullmatch(cursor)
    if match is None:
        raise bad_cursor()
    return CreationKey(int(match[1]), match[2])


def bad_cursor() -> InvalidField:
    """The error for a cursor that is none of ours."""
    return InvalidField("cursor", "is not one that this list gave; take it from the Link header of the page before")
