"""The database behind its few calls: transactions, errors, migrations, durability, on both kinds."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peewee
import pytest

from core.errors import ConfigurationError, StorageUnavailable
from core.services.accounts import NewAccount, authenticates, create_account
from core.store.db import Database
from core.store.models import MODELS
from tests.conftest import NOW_MS
from tests.programs import missing

INSERT = "INSERT INTO account (id, name, created_ms) VALUES (?, ?, ?)"

ROOT, NOBODY = 0, 65_534
_READ_ONLY_FOR_A_WHILE = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from core.errors import StorageUnavailable
from core.store.db import Database

folder, user = Path(sys.argv[1]), int(sys.argv[2])
if user != os.geteuid():
    os.setuid(user)
url = f"sqlite:///{folder}/x.sqlite3"
if os.fork() == 0:  # leaves its `-wal` and `-shm` behind, as a power cut does
    first = Database(url)
    with first.transaction():
        first.execute("CREATE TABLE thing (name TEXT)")
    os._exit(0)
os.wait()
files = list(folder.iterdir())
database = Database(url)

def outcome(statement):
    try:
        with database.transaction():
            database.execute(statement)
    except StorageUnavailable as error:
        return repr(error.__cause__)
    return "done"

def set_modes(mode):
    for file in files:
        file.chmod(mode)

WRITE, READ = "INSERT INTO thing VALUES ('a')", "SELECT 1 FROM thing"
set_modes(0o400)
with ThreadPoolExecutor(1) as idle:
    idle.submit(outcome, READ).result()  # and keeps its connection, if it has got one
    print(len(files), outcome(WRITE))
    set_modes(0o600)
    print(outcome(WRITE))
"""


def names(database: Database) -> list[str]:
    with database.reading():
        return [row[0] for row in database.execute("SELECT name FROM account ORDER BY name")]


def test_a_transaction_commits_all_or_nothing(database: Database) -> None:
    def fail() -> None:
        with database.transaction():
            database.execute(INSERT, ("a", "first", NOW_MS))
            database.execute_many(INSERT, [("b", "second", NOW_MS), ("c", "third", NOW_MS)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(database) == []
    with database.transaction():
        database.execute(INSERT, ("a", "first", NOW_MS))
    assert names(database) == ["first"]


def test_a_percent_sign_and_a_question_mark_in_values_mean_nothing(database: Database) -> None:
    with database.transaction():
        database.execute_many(INSERT, [("a", "100 % sure? %s", NOW_MS)])
    with database.reading():
        assert database.execute("SELECT name FROM account WHERE name LIKE '100 % sure_ %'") == [("100 % sure? %s",)]


def test_any_number_of_rows_is_written_by_one_call(database: Database) -> None:
    with database.transaction():
        database.execute_values("INSERT INTO account (id, name, created_ms) VALUES {rows}", [])
        rows = [(str(number), f"{number:06}", NOW_MS) for number in range(20_000)]
        database.execute_values("INSERT INTO account (id, name, created_ms) VALUES {rows}", rows)
    assert names(database) == [row[1] for row in rows]


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_violated_constraint_is_the_callers_error_and_no_outage(database: Database, many: bool) -> None:
    row = ("a", "name", NOW_MS)

    def insert_twice() -> None:
        with database.transaction():
            for _ in range(2):
                database.execute_many(INSERT, [row]) if many else database.execute(INSERT, row)

    with pytest.raises(peewee.IntegrityError):
        insert_twice()
    assert names(database) == []
    assert database.is_ready()


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_wrong_statement_is_our_error_or_an_outage_but_leaves_the_database_usable(
    database: Database, many: bool
) -> None:
    statement = "INSERT INTO nowhere VALUES (?)"
    with pytest.raises((peewee.ProgrammingError, StorageUnavailable)), database.transaction():
        database.execute_many(statement, [(1,)]) if many else database.execute(statement, (1,))
    assert database.is_ready()


def test_an_inner_failure_inside_an_open_transaction_ends_the_outer_one_cleanly(database: Database) -> None:
    def fail_inside() -> None:
        with database.transaction():
            database.execute(INSERT, ("a", "outer", NOW_MS))
            with database.transaction():
                database.execute(INSERT, ("a", "inner", NOW_MS))

    with pytest.raises(peewee.IntegrityError):
        fail_inside()
    assert names(database) == []


def test_each_thread_has_a_connection_of_its_own(database: Database) -> None:
    def add(number: int) -> None:
        with database.transaction():
            database.execute(INSERT, (str(number), f"{number:03}", NOW_MS))
        database.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(100)))
    assert len(names(database)) == 100


def test_a_writer_waits_for_another_instead_of_failing(database: Database) -> None:
    """On SQLite the lock is taken at the beginning, so a transaction never fails half-way for want of it."""
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction():
            database.execute(INSERT, ("a", "a", NOW_MS))
            inside.set()
            go_on.wait(10)
        database.close()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    assert names(database) == []  # readers see the state before, and do not wait
    threading.Timer(0.1, go_on.set).start()
    with database.transaction():
        database.execute(INSERT, ("b", "b", NOW_MS))
    holder.join(10)
    assert names(database) == ["a", "b"]


def test_a_sqlite_database_is_synced_at_each_commit_and_readers_do_not_block(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    with database.reading():
        pragmas = {name: database.execute(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")}
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        assert database.execute("PRAGMA foreign_keys") == [(1,)]
    database.close()


def test_a_postgres_database_waits_for_its_disk_at_each_commit(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.reading():
        assert database.execute("SHOW synchronous_commit") == [("on",)]
        assert database.execute("SHOW fsync") == [("on",)]
    database.close()


def test_a_locked_sqlite_file_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("core.store.db").store.db.SQLITE_PRAGMAS, "busy_timeout", 20)
    path = tmp_path / "x.sqlite3"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageUnavailable), database.transaction():
        database.execute(INSERT, ("a", "a", NOW_MS))
    other.execute("ROLLBACK")
    with database.transaction():
        database.execute(INSERT, ("a", "a", NOW_MS))
    other.close()
    database.close()


def test_a_full_disk_is_an_outage_that_says_so(tmp_path: Path) -> None:
    """SQLite takes the transaction back by itself then; that it cannot be taken back again is no news."""
    database = Database(f"sqlite:///{tmp_path / 'full.sqlite3'}")
    with database.transaction():
        database.execute("CREATE TABLE thing (body BLOB)")
    with database.reading():
        database.run_pragma("PRAGMA max_page_count = 10")  # as full as a disk can be
    with pytest.raises(StorageUnavailable) as caught, database.transaction():
        database.execute("INSERT INTO thing (body) VALUES (?)", (bytes(1_000_000),))
    assert "full" in repr(caught.value.__cause__)
    with database.transaction():
        database.execute("INSERT INTO thing (body) VALUES (?)", (b"little",))
    database.close()


def test_files_that_were_read_only_for_a_while_are_written_to_again() -> None:
    """By a process that began then: SQLite would give it connections for reading, and no others while one is open."""
    is_root = os.geteuid() == ROOT  # whom modes do not stop
    folder = Path(tempfile.mkdtemp(prefix="pillarbox-read-only-"))
    try:
        if is_root:
            shutil.chown(folder, NOBODY)
        user = str(NOBODY if is_root else os.geteuid())
        command = [sys.executable, "-c", _READ_ONLY_FOR_A_WHILE, str(folder), user]
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    finally:
        shutil.rmtree(folder)
    during, after = told.stdout.splitlines() or [told.stderr, ""]
    assert after == "done", during
    assert during.startswith("3 ")
    assert "may not be written to now" in during


def test_a_server_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    database = Database(f"postgresql://postgres@/postgres?host={tmp_path}")
    assert not database.is_ready()
    with pytest.raises(StorageUnavailable), database.transaction():
        database.execute("SELECT 1")


def test_a_connection_that_the_server_dropped_is_replaced(postgres_url: str) -> None:
    database, killer = Database(postgres_url), Database(postgres_url)
    with database.reading():
        ((pid,),) = database.execute("SELECT pg_backend_pid()")
    with killer.reading():
        killer.execute("SELECT pg_terminate_backend(?, 5000)", (pid,))  # waits until it is gone
    with database.transaction():
        assert database.execute("SELECT pg_backend_pid()") != [(pid,)]
    for opened in (database, killer):
        opened.close()


def test_a_file_that_is_no_database_is_an_outage_and_its_error_shows_no_internals(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StorageUnavailable, match="cannot be used now"), Database(f"sqlite:///{path}").reading():
        pass


@pytest.mark.parametrize("url", ["mysql://x", "banana", ""])
def test_an_unknown_kind_of_database_names_the_setting_and_the_cure(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL: .* use postgresql:// or sqlite:///"):
        Database(url)


# --- schema ---


def test_migrating_again_changes_nothing(database: Database, account: NewAccount) -> None:
    database.migrate()
    assert authenticates(database, account.account_id, account.api_key)


def test_several_processes_may_migrate_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.sqlite3'}"

    def migrate(_: int) -> None:
        database = Database(url)
        database.migrate()
        database.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, range(4)))
    database = Database(url)
    assert create_account(database, "x", NOW_MS).account_id
    database.close()


def test_the_models_and_the_migrated_schema_have_the_same_columns(database: Database) -> None:
    for model in MODELS:
        table = model._meta.table_name
        with database.reading():
            columns = {column.name for column in model._meta.database.get_columns(table)}
        assert columns == {field.column_name for field in model._meta.sorted_fields}, table


def test_lower_folds_beyond_ascii_on_both_kinds(database: Database) -> None:
    with database.transaction():
        database.execute(INSERT, ("a", "ÄÖÜ Straße", NOW_MS))
    with database.reading():
        folded = database.execute("SELECT lower(name) FROM account")
    if database.is_postgres and folded == [("ÄÖÜ straße",)]:
        missing("this cluster has the C locale, which folds ASCII only")
    assert folded == [("äöü straße",)]
