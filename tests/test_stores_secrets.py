"""A secret that all processes share is made once, whoever comes first."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.services.secrets import SECRET_BYTES, shared_secret
from core.store.db import Database

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
from core.services.secrets import shared_secret
from core.store.db import Database
database = Database(sys.argv[1])
database.execute("SELECT 1")
print("ready", flush=True)
sys.stdin.readline()
print(shared_secret(database, "one").hex())
"""


def test_it_stays_the_same_and_each_name_has_its_own(database: Database, database_url: str) -> None:
    secret = shared_secret(database, "one")
    assert len(secret) == SECRET_BYTES
    assert shared_secret(database, "one") == secret
    assert shared_secret(database, "two") != secret
    again = Database(database_url)  # as a restarted process would
    assert shared_secret(again, "one") == secret
    again.close()


def test_the_second_time_the_database_is_not_asked(database: Database) -> None:
    secret = shared_secret(database, "one")
    with database.transaction():
        database.execute("DELETE FROM secret")
    assert shared_secret(database, "one") == secret


def test_processes_that_need_it_at_once_get_the_same(database: Database, database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, database_url], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    seen = {process.communicate(timeout=30)[0] for process in processes}
    assert seen == {shared_secret(database, "one").hex() + "\n"}


def test_threads_that_need_it_at_once_get_the_same(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: shared_secret(database, "one"), range(64)))) == 1
