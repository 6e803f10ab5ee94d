"""Giving the disk back what a purge freed in a SQLite file. (PostgreSQL's autovacuum sees to that itself.)

A file made by version 0.1 has no map of its pages, and can only be rewritten as a whole: while it is small that is done
when the schema is brought up to date, else when an operator asks for it. Until then its free pages are used again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

from core.errors import StorageUnavailable

STEP_PAGES = 250
"""Moved in one transaction: a megabyte. Measured: 3 ms, at times 30; larger steps get no more done in all."""
KEPT_SHARE = 0.1
"""Of the file stays free for what comes next: to move all pages for the last megabyte is not worth it."""
KEPT_PAGES = 1_000
PAUSE_S = 0.02
SMALL_BYTES = 128 * 1024 * 1024
"""A file up to this size is rewritten within a second or two."""
_INCREMENTAL = 2


class PagedDatabase(Protocol):
    """What this needs of `core.store.db.Database`, which needs this when it migrates."""

    is_postgres: bool

    def reading(self) -> AbstractContextManager[None]:
        """Where queries that change nothing are run."""

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""

    def run_pragma(self, pragma: str) -> None:
        """Run a pragma to its end."""


def give_back(database: PagedDatabase, stop: threading.Event) -> int:
    """Shorten the file by its free pages, in short transactions, until few are left; gives how many bytes that is.

    Raises `StorageUnavailable`.
    """
    if database.is_postgres:
        return 0
    before = _pages(database)
    free = _free_pages(database)
    while free > max(KEPT_PAGES, KEPT_SHARE * _pages(database)) and not stop.is_set():
        started = time.monotonic()
        _run(database, f"PRAGMA incremental_vacuum({STEP_PAGES})")
        left = _free_pages(database)
        if left >= free:
            break  # not possible with this file, or mail was freed as fast
        free = left
        stop.wait(max(PAUSE_S, time.monotonic() - started))
    given = before - _pages(database)
    if given > 0:
        _run(database, "PRAGMA wal_checkpoint(PASSIVE)")  # this shortens the file; it waits for nobody
    return max(0, given) * _ask(database, "page_size")


def can_give_back(database: PagedDatabase) -> bool:
    """Whether `give_back` works; else the file must be rewritten first."""
    return database.is_postgres or _ask(database, "auto_vacuum") == _INCREMENTAL


def rewrite(database: PagedDatabase) -> None:
    """Write the file anew without its free pages, so that `give_back` works from then on.

    Nobody else can write meanwhile (some seconds for each gigabyte), and it needs as much space again for that time.
    Raises `StorageUnavailable`, also when somebody is writing now.
    """
    if not database.is_postgres:
        # Not a pragma of every connection: to set this is to write.
        _run(database, "PRAGMA auto_vacuum = INCREMENTAL; VACUUM")
        _run(database, "PRAGMA wal_checkpoint(TRUNCATE)")


def convert_if_small(database: PagedDatabase) -> None:
    """Rewrite a file that is new, or small and of version 0.1. Where that is not possible now, another time will do."""
    if can_give_back(database) or _pages(database) * _ask(database, "page_size") > SMALL_BYTES:
        return
    with suppress(StorageUnavailable):
        rewrite(database)


def _free_pages(database: PagedDatabase) -> int:
    return _ask(database, "freelist_count")


def _pages(database: PagedDatabase) -> int:
    return _ask(database, "page_count")


def _ask(database: PagedDatabase, pragma: str) -> int:
    with database.reading():
        return int(database.execute(f"PRAGMA {pragma}")[0][0])


def _run(database: PagedDatabase, pragma: str) -> None:
    with database.reading():
        database.run_pragma(pragma)
