"""The database connection: SQLite or PostgreSQL, chosen by URL, behind the same few calls.

Connections belong to threads (peewee keeps one per thread). Statements are written once, with `?` for a parameter.
"""

from __future__ import annotations

import os
import select
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import peewee
import psycopg
from playhouse.migrations import Runner

from core.errors import ConfigurationError, StorageUnavailable
from core.store.models import database_proxy
from core.store.reclaim import convert_if_small

SQLITE_BUSY_TIMEOUT_MS = 10_000
SQLITE_PRAGMAS = {
    "journal_mode": "wal",  # readers never wait for the writer
    "synchronous": "full",  # a commit is on disk when it returns: 250 depends on it
    "foreign_keys": 1,
    "busy_timeout": SQLITE_BUSY_TIMEOUT_MS,
    "cache_size": -8_000,  # 8 MB for each connection
    "temp_store": "memory",
    "mmap_size": 0,  # an I/O error must be an exception, not a signal
    "journal_size_limit": 64 * 1024 * 1024,  # what a burst, or a long reader, made of the `-wal` file is given back
}
SQLITE_MINIMUM = (3, 35, 0)  # RETURNING
MAX_PARAMETERS = 16_000  # of one statement; SQLite takes 32,766, PostgreSQL 65,535
REMEMBERED_CHARACTERS = 8_000
"""Of a statement as PostgreSQL writes it. There is one for each number of rows: the long ones would fill the memory."""
POSTGRES_CONNECT_TIMEOUT_S = 5
POSTGRES_PROBES: dict[str, Any] = {
    "keepalives_idle": 10,  # seconds of silence; the system's own two hours are for others
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds until what was sent must have been acknowledged
}
"""A server whose machine has gone, or cannot be reached, never answers and never hangs up: after 25 seconds the
connection counts as lost. A server that lives is given all the time it needs: its system answers the probes."""
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 7_455_267  # any number of ours: pg_advisory_lock's key
_DRIVER_ERRORS = (peewee.DatabaseError, peewee.InterfaceError, sqlite3.Error, psycopg.Error)

_TAKEN_BACK = ("40", "54")
"""Classes of SQLSTATE: transaction rollback (deadlocks), program limit exceeded (by some row)."""

Row = tuple[Any, ...]


class TransactionTakenBack(StorageUnavailable):
    """The server is well, but would not carry out this one transaction: it met another one's locks, or one of its rows
    is too much for an index. Tried again, or in smaller parts, it may pass."""


class Database:
    """One database, for all threads of a process."""

    def __init__(self, url: str) -> None:
        self._peewee = _open(url)
        self.is_postgres = isinstance(self._peewee, peewee.PostgresqlDatabase)
        database_proxy.initialize(self._peewee)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside or nothing.

        On SQLite the write lock is taken at once, so that no statement inside can fail for want of it.
        Raises `StorageUnavailable` when the database cannot be reached, is full, or stays locked.
        """
        with self._translated_errors():
            lock = () if self.is_postgres else ("IMMEDIATE",)
            with self._peewee.atomic(*lock):
                yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Run queries that change nothing. Raises `StorageUnavailable`."""
        with self._translated_errors():
            yield

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement and give all the rows it returns, if any."""
        if not self.is_postgres:
            cursor = self._peewee.execute_sql(statement, parameters)
            return list(cursor.fetchall()) if cursor.description else []
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]  # or a wrong row would look like an outage
            asked = psycopg.RawCursor(self._peewee.connection())
            asked.execute(_native(statement), parameters)
            return asked.fetchall() if asked.description else []

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row of parameters, as one round trip where the driver can."""
        if rows:
            with peewee.__exception_wrapper__:  # type: ignore[attr-defined]  # or a wrong row would look like an outage
                connection = self._peewee.connection()
                if self.is_postgres:
                    psycopg.RawCursor(connection).executemany(_native(statement), rows)
                else:
                    connection.cursor().executemany(statement, rows)

    def execute_values(self, statement: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """Run one statement with all rows in the place of its `{rows}`, as `VALUES` takes them; gives what it returns.

        The driver lets other threads run at every step, and `execute_many` is a step for each row: with the write lock
        held, a busy process would keep all others waiting.
        """
        returned: list[Row] = []
        if not rows:
            return returned
        at_once = max(1, MAX_PARAMETERS // len(rows[0]))
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            values = [value for row in some for value in row]
            returned += self.execute(_with_rows(statement, len(some), len(some[0])), values)
        return returned

    def run_pragma(self, pragma: str) -> None:
        """Run a SQLite pragma, or `VACUUM`, to its end; outside any transaction, inside `reading`.

        The driver takes only the first step of those that give no rows, such as `incremental_vacuum`.
        """
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            self._peewee.connection().executescript(pragma)

    def is_ready(self) -> bool:
        """Whether a query runs now."""
        try:
            with self.reading():
                self.execute("SELECT 1")
        except StorageUnavailable:
            return False
        return True

    def close(self) -> None:
        """Close this thread's connection."""
        if not self._peewee.is_closed():
            self._peewee.close()

    def migrate(self) -> None:
        """Bring the schema up to date; several processes may do so at once."""
        with self._translated_errors():
            if not self.is_postgres:
                self._migrate_sqlite()
                return
            self.execute("SELECT pg_advisory_lock(?)", (MIGRATION_LOCK,))
            try:
                Runner(self._peewee, str(MIGRATIONS)).up()
            finally:
                self.execute("SELECT pg_advisory_unlock(?)", (MIGRATION_LOCK,))

    def _migrate_sqlite(self) -> None:
        convert_if_small(self)
        with self._peewee.atomic("EXCLUSIVE"):
            Runner(self._peewee, str(MIGRATIONS)).up()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            if self.is_postgres and self._was_hung_up():
                self._drop_connection()
            if not self.is_postgres and self._peewee.is_closed():
                _require_writable(self._peewee.database)
            self._peewee.connect(reuse_if_open=True)
            yield
        except (peewee.IntegrityError, peewee.ProgrammingError, peewee.DataError):
            raise  # our fault or the caller's, never the database's health
        except _DRIVER_ERRORS as error:
            self._drop_connection()
            kind = TransactionTakenBack if _is_taken_back(error) else StorageUnavailable
            raise kind("the database cannot be used now") from _first_error(error)

    def _was_hung_up(self) -> bool:
        """Whether the server closed this thread's idle connection, as one that was restarted has.

        An idle connection has nothing to read but its end. (A notice too; then it is opened anew without need.)
        """
        if self._peewee.is_closed() or self._peewee.in_transaction():
            return False
        idle = select.poll()
        idle.register(self._peewee.connection().fileno(), select.POLLIN)
        return bool(idle.poll(0))

    def _drop_connection(self) -> None:
        """A connection that failed is not trusted again; the next use opens a fresh one."""
        if self._peewee.in_transaction():
            return  # an outer block owns it and will come here itself
        try:
            self._peewee.close()
        except _DRIVER_ERRORS:
            return  # already gone, which is what we want


def _first_error(error: BaseException) -> BaseException:
    """SQLite takes the transaction back by itself when the disk is full; that it cannot be taken back again says
    nothing."""
    found, at = error, error.__context__
    while isinstance(at, _DRIVER_ERRORS):
        found, at = (at if isinstance(at, peewee.PeeweeException) else found), at.__context__
    return found


def _is_taken_back(error: Exception) -> bool:
    told = getattr(error, "orig", None)  # peewee's name for the driver's error
    return isinstance(told, psycopg.Error) and (told.sqlstate or "").startswith(_TAKEN_BACK)


def places(values: Sequence[object]) -> str:
    """As many placeholders, with commas between them."""
    return ", ".join("?" * len(values))


def _with_rows(statement: str, count: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return statement.replace("{rows}", ", ".join([row] * count))


def _native(statement: str) -> bytes:
    """With parameters as PostgreSQL writes them. With the driver's own (`%s`) every long statement is taken apart anew
    each time: half the cost of one with a hundred parameters."""
    return _remembered(statement) if len(statement) <= REMEMBERED_CHARACTERS else _with_numbers(statement)


@lru_cache(maxsize=512)
def _remembered(statement: str) -> bytes:
    return _with_numbers(statement)


def _with_numbers(statement: str) -> bytes:
    first, *others = statement.split("?")
    numbered = (f"${number}{part}" for number, part in enumerate(others, start=1))
    return "".join([first, *numbered]).encode()


def _open(url: str) -> peewee.Database:
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        return _open_sqlite(url.removeprefix("sqlite:///"))
    if scheme in {"postgres", "postgresql"}:
        return peewee.PostgresqlDatabase(
            url,
            prefer_psycopg3=True,
            connect_timeout=POSTGRES_CONNECT_TIMEOUT_S,
            autoconnect=True,
            **POSTGRES_PROBES,
        )
    raise ConfigurationError(f"DATABASE_URL: scheme {scheme!r} is not known; use postgresql:// or sqlite:///")


def _require_writable(path: str) -> None:
    """That SQLite will not have to open a file for reading only, as while a disk is mounted so. Raises `sqlite3.Error`.

    All connections of a process share one view of the `-shm` file: until the last of those had been closed, nothing in
    the process could write, though the disk had long been well again.
    """
    for name in (path, f"{path}-shm"):
        # Not opened to see: closing it would drop the locks that SQLite has on it (fcntl(2)).
        if os.access(name, os.F_OK) and not os.access(name, os.W_OK):
            raise sqlite3.OperationalError(f"{name} may not be written to now")


def _open_sqlite(path: str) -> peewee.Database:
    if sqlite3.sqlite_version_info < SQLITE_MINIMUM:
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    opened = peewee.SqliteDatabase(path, pragmas=SQLITE_PRAGMAS, lock_type="IMMEDIATE")
    opened.register_function(_lower, "lower", 1)  # SQLite's own folds ASCII only; a search must fold as PostgreSQL's
    return opened


def _lower(text: str | None) -> str | None:
    return text.lower() if isinstance(text, str) else text
