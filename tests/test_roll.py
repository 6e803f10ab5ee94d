"""Workers on one machine: what a dead one had leased is given out again at once, what a living one has is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.delivery import DeliveryKind
from core.errors import StorageUnavailable
from core.services.accounts import NewAccount
from core.services.claims import has_due, lease_token, release
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.deliveries import Deliveries
from workers.roll import WorkerRoll

ROOT = Path(__file__).parents[1]
LATER_MS = NOW_MS + 1_000
TARGET = "https://one.example/in"
TOKEN_LENGTH = 36  # of the column, which PostgreSQL enforces
SIGN_IN = """
import sys, time
from pathlib import Path
from workers.roll import WorkerRoll
roll = WorkerRoll(Path(sys.argv[1]))
print(roll.sign_in(), flush=True)
time.sleep(60)
"""


@contextmanager
def worker_process(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A process that has signed in; its worker id."""
    command = [sys.executable, "-c", SIGN_IN, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def test_only_the_dead_are_buried_and_once(tmp_path: Path) -> None:
    with worker_process(tmp_path) as (living, _), worker_process(tmp_path) as (dead, process):
        process.kill()
        process.wait()
        buried: list[str] = []

        def note(worker_id: str) -> int:
            buried.append(worker_id)
            return 0

        roll = WorkerRoll(tmp_path)
        own = roll.sign_in()
        roll.bury_the_dead(note)
        WorkerRoll(tmp_path).bury_the_dead(note)

        assert buried == [dead]
        assert {path.stem for path in tmp_path.iterdir()} == {living, own}
        roll.sign_out(own)
        assert {path.stem for path in tmp_path.iterdir()} == {living}


def test_the_dead_wait_for_a_database_that_is_away(tmp_path: Path) -> None:
    with worker_process(tmp_path) as (dead, process):
        process.kill()
        process.wait()

    def fail(worker_id: str) -> int:
        raise StorageUnavailable("away")

    with pytest.raises(StorageUnavailable):
        WorkerRoll(tmp_path).bury_the_dead(fail)
    assert [path.stem for path in tmp_path.iterdir()] == [dead]


def test_a_folder_that_cannot_be_made_costs_nothing_but_the_shortcut(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    roll = WorkerRoll(tmp_path / "file" / "workers")
    assert roll.sign_in() != roll.sign_in()
    roll.bury_the_dead(lambda _: 1 // 0)


def test_release_makes_due_what_one_worker_holds_and_nothing_else(database: Database, account: NewAccount) -> None:
    mail = Deliveries(database, account)
    mail.accept(TARGET, count=4)
    for worker_id, number, places in (("a" * 16, 1, 1), ("a" * 16, 2, 1), ("b" * 16, 1, 2)):
        mail.claim(free_places=places, lease_token=lease_token(worker_id, number))
    assert not has_due(database, DeliveryKind.INBOUND, LATER_MS)

    with database.transaction():
        assert release(database, DeliveryKind.INBOUND, "a" * 16, LATER_MS) == 2
        assert release(database, DeliveryKind.INBOUND, "a" * 16, LATER_MS) == 0

    again = mail.claim(LATER_MS, lease_token=lease_token("c" * 16, 1)).deliveries
    assert [claimed.attempt_number for claimed in again] == [2, 2]
    tokens = sorted(row[0] for row in mail.rows("lease_token"))
    assert tokens == ["b" * 16 + "-1"] * 2 + ["c" * 16 + "-1"] * 2


def test_what_a_dead_worker_sent_after_all_is_not_recorded_over_its_successor(
    database: Database, account: NewAccount
) -> None:
    # It cannot happen while locks are kept by the kernel; where a network disk loses one, the token still decides.
    mail = Deliveries(database, account)
    mail.accept(TARGET)
    (first,) = mail.claim(lease_token=lease_token("a" * 16, 1)).deliveries
    with database.transaction():
        release(database, DeliveryKind.INBOUND, "a" * 16, LATER_MS)
    (second,) = mail.claim(LATER_MS, lease_token=lease_token("b" * 16, 1)).deliveries

    mail.record(first, 500, LATER_MS)
    mail.record(second, 200, LATER_MS)

    assert mail.rows("state, attempts, last_status") == [("delivered", 2, 200)]


def test_a_token_fits_its_column(database: Database, account: NewAccount) -> None:
    mail = Deliveries(database, account)
    mail.accept(TARGET)
    token = lease_token(WorkerRoll(Path("/none")).sign_in(), 10**18)
    assert mail.claim(lease_token=token).deliveries[0].lease_token == token
    assert len(token) <= TOKEN_LENGTH
