"""Processes that all commit batches of many accounts at once: nobody waits in a ring, no count is lost, limits and keys
hold over all of them, and what was answered is there after a `kill -9`. On both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.clock import HOUR_MS, MINUTE_MS
from core.sending.send_settings import SendSettings, settings_json
from core.services.accounts import create_account
from core.services.webhooks import WebhookDraft, create_webhook
from core.store.db import Database
from tests.conftest import NOW_MS

PROCESSES, THREADS, ACCOUNTS = 2, 8, 6
MAILS = 160
"""Of each process, a multiple of 16; every third has a key that the other process brings too."""
ENDLESS = 1_000_000
KILLED_AFTER = 60
PLACES_OF_A_SLICE = 9
"""Of 100 an hour: a tenth of the hour's tenth is kept for priority mail."""
PATIENCE_S = 60.0
_SENDER = """
import random, sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from core.sending.send_settings import SendSettings
from core.services.idempotency import AlreadyAnswered
from core.services.send_commits import SendCommits
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.test_send_commits import send_of

url, name, mails, threads, *accounts = sys.argv[1:]
commits = SendCommits(Database(url), lambda: NOW_MS, SendSettings())

def store(number):
    wanted = number ^ int(name) * 15  # keys in another order in each process; accounts in none
    key = f"key-{wanted}" if wanted % 3 == 0 else None
    recipients = tuple(f"r{number}-{name}-{which}@example.net" for which in range(1 + number % 3))
    send = replace(send_of(random.choice(accounts), number, key=key), recipients=recipients)
    try:
        return "stored", key, commits.store(send).message_id
    except AlreadyAnswered as error:
        return "known", key, error.kept.message_id
    except Exception as error:
        return "failed", key, repr(error.__cause__ or error).replace(" ", "_")

def run(first):
    for number in range(first, int(mails), int(threads)):
        sys.stdout.write("{} {} {}\\n".format(*store(number)))
        sys.stdout.flush()

with ThreadPoolExecutor(int(threads)) as pool:
    list(pool.map(run, range(int(threads))))
"""


@dataclass
class Answers:
    """What one process was answered, as it comes."""

    process: subprocess.Popen[str]
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    """`stored`, `known` or `failed`; the key; the id of the message."""
    enough: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """To the end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith("\n"):
                return  # the last words of one that was killed
            verdict, key, told = line.split()
            self.lines.append((verdict, key, told))
            if len(self.lines) >= KILLED_AFTER:
                self.enough.set()

    def ids(self, verdict: str) -> list[str]:
        return [told for given, _, told in self.lines if given == verdict]


@pytest.fixture
def accounts(database: Database) -> list[str]:
    """Half of them with limits, one with webhooks."""
    made = sorted(create_account(database, f"n{number}", NOW_MS).account_id for number in range(ACCOUNTS))
    settings = settings_json(SendSettings(hourly_limit=100, daily_limit=100_000))
    with database.transaction():
        for account_id in made[::2]:
            database.execute("UPDATE account SET settings = ? WHERE id = ?", (settings, account_id))
    create_webhook(database, made[0], WebhookDraft("https://hooks.example/"), NOW_MS)
    return made


@contextmanager
def running(url: str, accounts: list[str], mails: int) -> Iterator[list[Answers]]:
    found = []
    for name in range(PROCESSES):
        command = [sys.executable, "-c", _SENDER, url, str(name), str(mails), str(THREADS), *accounts]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        found.append(Answers(process))
    readers = [threading.Thread(target=answers.read) for answers in found]
    for reader in readers:
        reader.start()
    try:
        yield found
        for reader in readers:
            reader.join(PATIENCE_S)
    finally:
        for answers in found:
            answers.process.kill()
            answers.process.wait()


def deadlocks(database: Database) -> int:
    """So far; each is counted when its process ends at the latest."""
    statement = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(database.execute(statement)[0][0]) if database.is_postgres else 0


def is_whole(database: Database) -> None:
    """Every message is there with all that belongs to it, and each event is counted once."""
    ((messages, raw, sent),) = database.execute(
        "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM raw_message), (SELECT count(*) FROM sent_message)"
    )
    assert messages == raw == sent
    ((recipients,),) = database.execute("SELECT count(*) FROM delivery WHERE message_id IS NOT NULL")
    events = dict(database.execute("SELECT kind, count(*) FROM event GROUP BY kind"))
    assert events["registration"] == recipients
    by_account = database.execute("SELECT account_id, kind, count(*) FROM event GROUP BY account_id, kind")
    counted = database.execute("SELECT account_id, kind, count FROM send_tally")
    assert sorted(map(tuple, by_account)) == sorted(map(tuple, counted))


def keeps_its_limits(database: Database, limited: list[str]) -> None:
    for account_id in limited:
        statement = "SELECT due_ms FROM delivery WHERE account_id = ? AND message_id IS NOT NULL"
        moments = [due_ms for (due_ms,) in database.execute(statement, (account_id,))]
        start_ms = NOW_MS - NOW_MS % HOUR_MS
        slices = Counter((moment - start_ms) // (6 * MINUTE_MS) for moment in moments)
        assert max(slices.values()) == PLACES_OF_A_SLICE
        assert sorted(slices.values())[1:] == [PLACES_OF_A_SLICE] * (len(slices) - 1)  # none is left out


def test_no_deadlock_no_lost_count_and_one_message_for_each_key(
    database: Database, database_url: str, accounts: list[str]
) -> None:
    before = deadlocks(database)
    with running(database_url, accounts, MAILS) as found:
        pass
    assert [answers.ids("failed") for answers in found] == [[], []]
    assert deadlocks(database) == before
    stored = [message_id for answers in found for message_id in answers.ids("stored")]
    assert {row[0] for row in database.execute("SELECT id FROM message")} == set(stored)
    assert len(stored) == PROCESSES * MAILS - len(range(0, MAILS, 3))
    by_key: dict[str, set[str]] = {}
    for answers in found:
        for _, key, message_id in answers.lines:
            by_key.setdefault(key, set()).add(message_id)
    del by_key["None"]
    assert len(by_key) == len(range(0, MAILS, 3))
    assert {len(ids) for ids in by_key.values()} == {1}
    is_whole(database)
    keeps_its_limits(database, accounts[::2])


def test_what_was_answered_is_there_after_a_kill_and_the_others_go_on(
    database: Database, database_url: str, accounts: list[str]
) -> None:
    with running(database_url, accounts, ENDLESS) as found:
        for answers in found:
            assert answers.enough.wait(PATIENCE_S)
        found[0].process.kill()
        found[1].enough.clear()
        assert found[1].enough.wait(PATIENCE_S)  # whatever the dead one had locked
        found[1].process.kill()
    assert [answers.ids("failed") for answers in found] == [[], []]
    kept = {row[0] for row in database.execute("SELECT id FROM message")}
    answered = {message_id for answers in found for message_id in answers.ids("stored")}
    assert answered <= kept
    assert {message_id for answers in found for message_id in answers.ids("known")} <= kept
    # Each thread may have had one on its way.
    assert len(kept - answered) <= PROCESSES * THREADS
    is_whole(database)
    keeps_its_limits(database, accounts[::2])
