"""Searching a list newest first, a window at a time, so that no search, whatever it asks, runs without end."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.clock import SECOND_MS, Clock
from core.errors import InvalidField
from core.services.paging import Page, PageRequest, bad_cursor

SEARCH_WINDOW = 5_000
"""How many entries one statement of a search looks through."""
SEARCH_PATIENCE_MS = 5 * SECOND_MS
"""A search that takes longer gives what it has, and a cursor for the rest."""
NEWER_THAN_ALL = "g"
OLDER_THAN_ALL = ""
Entry = TypeVar("Entry")
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a list: ids below `newest` and not below `floor`."""

    newest: str = NEWER_THAN_ALL
    floor: str = OLDER_THAN_ALL


@dataclass(frozen=True, slots=True)
class WindowedList(Generic[Entry]):
    """A list that is ordered by time-ordered ids."""

    select: Callable[[Window, int, int], list[Entry]]
    """Entries of a window that match, newest first: at most so many, behind so many."""
    floor_below: Callable[[str], str | None]
    """The id of the last entry in the window of `SEARCH_WINDOW` below an id; None when the list ends before that."""
    id_of: Callable[[Entry], str]


def read_id_cursor(cursor: str | None) -> str:
    """Where a page begins. Raises `InvalidField`."""
    if cursor is None:
        return NEWER_THAN_ALL
    if not _ID.fullmatch(cursor):
        raise bad_cursor()
    return cursor


def list_page(source: WindowedList[Entry], request: PageRequest) -> Page[Entry]:
    """A page of all entries. Raises `InvalidField` for a cursor that is none."""
    found = source.select(Window(read_id_cursor(request.cursor)), request.size + 1, request.offset)
    return _page(source, found, request.size, None)


def search_page(source: WindowedList[Entry], request: PageRequest, clock: Clock) -> Page[Entry]:
    """A page of the entries that match. It may end before it is full, and then gives a cursor with which it goes on.

    Raises `InvalidField` for a cursor that is none, and a page number that cannot be reached in time.
    """
    found: list[Entry] = []
    newest = read_id_cursor(request.cursor)
    to_skip = request.offset
    deadline_ms = clock() + SEARCH_PATIENCE_MS
    while True:
        floor = source.floor_below(newest)
        window = Window(newest, floor or OLDER_THAN_ALL)
        entries = source.select(window, to_skip + request.size + 1 - len(found), 0)
        found.extend(entries[to_skip:])
        to_skip -= min(to_skip, len(entries))
        if len(found) > request.size or floor is None:
            return _page(source, found, request.size, None)
        if clock() > deadline_ms:
            break
        newest = floor
    if to_skip:
        raise InvalidField("page", "cannot be reached in time with this query; follow the Link header instead")
    return _page(source, found, request.size, floor)


def _page(source: WindowedList[Entry], found: list[Entry], size: int, unfinished_at: str | None) -> Page[Entry]:
    if len(found) > size:
        return Page(found[:size], source.id_of(found[size - 1]))
    return Page(found, unfinished_at)
