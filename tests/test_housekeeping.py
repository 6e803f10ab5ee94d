"""Housekeeping as a whole: orphans, the disk given back, beside live traffic, in the scheduler and by hand."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.built_in_store import open_built_in
from core.clock import DAY_MS, HOUR_MS, MINUTE_MS, system_clock, to_datetime
from core.config import Settings
from core.delivery import DeliveryState
from core.errors import StorageUnavailable
from core.ids import new_time_ordered_id
from core.object_stores import object_name
from core.services.accounts import NewAccount, create_account
from core.services.orphans import GRACE_MS, OrphanSweep
from core.services.retention import purge
from core.store import reclaim
from core.store.blobs import BlobStore, DiskBlobs, open_blobs
from core.store.db import SQLITE_PRAGMAS, Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS
from tests.object_servers import REGION, S3Server, running_s3
from tests.retention_support import FAST, Archive, ages, days_ago
from tests.up_process import PILLARBOX, clean_environment
from workers.housekeeping import Household, Housekeeper

BODY = os.urandom(100_000)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["disk", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if request.param == "disk":
        return DiskBlobs(tmp_path / "messages")
    s3: S3Server = request.getfixturevalue("s3")
    for name, value in {
        "AWS_ENDPOINT": s3.url, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": s3.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3.secret_access_key, "AWS_REGION": REGION,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return open_blobs(f"s3://attachments/{tmp_path.name}")


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def archive(sqlite: Database, blobs: BlobStore, tmp_path: Path) -> Archive:
    return Archive(sqlite, create_account(sqlite, "test", NOW_MS), blobs, tmp_path)


@pytest.fixture
def disk_archive(sqlite: Database, tmp_path: Path) -> Archive:
    folder = tmp_path / "messages"
    return Archive(sqlite, create_account(sqlite, "test", NOW_MS), DiskBlobs(folder), tmp_path)


# --- orphans ---


def test_a_purge_killed_between_commit_and_blob_is_made_good_by_the_sweep(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = archive.receive(days_ago(10), ((DeliveryState.PENDING, None),), is_large=True)
    archive.receive(days_ago(10), is_large=True)

    def die(_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive.blobs, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            purge(archive.database, archive.blobs, ages(raw=1), NOW_MS, FAST)
    assert archive.raw_ids() == [kept]
    assert len(archive.blob_keys()) == 2
    assert sweep_all(OrphanSweep(archive.database, archive.blobs)) == 1
    assert archive.blob_keys() == [kept]


def test_a_receiver_killed_between_blob_and_commit_leaves_nothing_for_long(archive: Archive) -> None:
    old, fresh = new_time_ordered_id(NOW_MS - GRACE_MS - 1), new_time_ordered_id(NOW_MS - GRACE_MS)
    for key in (old, fresh):
        archive.put_blob(key)
    assert sweep_all(OrphanSweep(archive.database, archive.blobs)) == 1
    assert archive.blob_keys() == [fresh]


def test_the_sweep_takes_a_part_at_a_time_and_comes_round(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.store.blobs.LIST_PAGE", 7)
    for _ in range(30):
        archive.put_blob(new_time_ordered_id(days_ago(3)))
    kept = [archive.receive(days_ago(3), is_large=True) for _ in range(5)]
    sweep = OrphanSweep(archive.database, archive.blobs)
    removed = sweep.run(NOW_MS, pages=2)
    assert 0 < removed < 30
    assert not sweep.is_at_start
    assert removed + sweep_all(sweep) == 30
    assert archive.blob_keys() == sorted(kept)


def test_what_is_no_blob_of_ours_is_left_alone(archive: Archive, tmp_path: Path) -> None:
    archive.put_blob("0190-abcd")
    built_in = open_built_in(f"file://{tmp_path}/messages")
    name = object_name(b"secret", new_time_ordered_id(days_ago(9)), "0", "a.pdf")
    built_in.put(name, b"content")
    assert sweep_all(OrphanSweep(archive.database, archive.blobs)) == 0
    archive.blobs.get("0190-abcd")
    built_in.open(name)


def test_where_two_gateways_share_a_store_nothing_is_swept(archive: Archive, tmp_path: Path) -> None:
    """One's messages are the other's orphans."""
    message_id = archive.receive(days_ago(3), is_large=True)
    other = Database(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    other.migrate()
    ours, theirs = OrphanSweep(archive.database, archive.blobs), OrphanSweep(other, archive.blobs)
    assert sweep_all(ours) == 0
    assert sweep_all(theirs) == 0
    orphan = new_time_ordered_id(days_ago(3))
    archive.put_blob(orphan)
    assert sweep_all(ours) == 0
    assert archive.blob_keys() == sorted([message_id, orphan])
    other.close()


def sweep_all(sweep: OrphanSweep) -> int:
    removed = sweep.run(NOW_MS)
    while not sweep.is_at_start:
        removed += sweep.run(NOW_MS)
    return removed


# --- the disk ---


def fill(archive: Archive, count: int, at_ms: int) -> None:
    """Messages of 100 kB in their rows."""
    with archive.database.transaction():
        ids = [archive.receive(at_ms) for _ in range(count)]
        archive.database.execute_many(
            "UPDATE raw_message SET body = ? WHERE message_id = ?", [(BODY, message_id) for message_id in ids]
        )


def file_size(database_path: Path) -> int:
    return sum(path.stat().st_size for path in database_path.parent.glob(f"{database_path.name}*"))


@pytest.mark.parametrize("blobs", ["disk"], indirect=True)
def test_the_sqlite_file_shrinks(archive: Archive, tmp_path: Path) -> None:
    path = tmp_path / "test.sqlite3"
    fill(archive, 500, days_ago(10))
    with archive.database.transaction():
        kept = [archive.receive(NOW_MS) for _ in range(50)]
    assert file_size(path) > 50_000_000
    assert purge(archive.database, archive.blobs, ages(raw=1), NOW_MS, FAST).raw == 500
    given = reclaim.give_back(archive.database, threading.Event())
    assert given > 40_000_000
    assert path.stat().st_size < 8_000_000
    assert archive.raw_ids() == sorted(kept)
    assert archive.deliveries.execute("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("blobs", ["disk"], indirect=True)
def test_giving_back_stops_when_told(archive: Archive) -> None:
    fill(archive, 100, days_ago(10))
    purge(archive.database, archive.blobs, ages(raw=1), NOW_MS, FAST)
    stop = threading.Event()
    stop.set()
    assert reclaim.give_back(archive.database, stop) == 0


def old_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A file as version 0.1 made it."""
    with monkeypatch.context() as patch:
        patch.setattr(reclaim, "SMALL_BYTES", -1)
        database = Database(f"sqlite:///{path}")
        database.migrate()
        database.close()
    return Database(f"sqlite:///{path}")


def test_a_small_file_of_version_0_1_is_rewritten_by_migrating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = old_database(tmp_path / "old.sqlite3", monkeypatch)
    account = create_account(database, "kept", NOW_MS)
    assert not reclaim.can_give_back(database)
    database.migrate()
    assert reclaim.can_give_back(database)
    assert database.execute("SELECT id FROM account") == [(account.account_id,)]
    database.close()


def test_a_file_in_use_is_rewritten_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SQLITE_PRAGMAS, "busy_timeout", 20)
    path = tmp_path / "old.sqlite3"
    database = old_database(path, monkeypatch)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable):
        reclaim.rewrite(database)
    other.execute("ROLLBACK")
    other.close()
    assert not reclaim.can_give_back(database)
    reclaim.rewrite(database)
    assert reclaim.can_give_back(database)
    database.close()


def test_a_large_file_of_version_0_1_is_left_to_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = old_database(tmp_path / "old.sqlite3", monkeypatch)
    monkeypatch.setattr(reclaim, "SMALL_BYTES", 0)
    database.migrate()
    assert not reclaim.can_give_back(database)
    assert reclaim.give_back(database, threading.Event()) == 0
    database.close()


# --- beside live traffic ---


def test_a_purge_beside_live_traffic_loses_nothing_and_holds_up_no_commit(
    database: Database, account: NewAccount, tmp_path: Path
) -> None:
    archive = Archive(database, account, DiskBlobs(tmp_path / "messages"), tmp_path)
    fill(archive, 300, days_ago(10))
    with database.transaction():
        for _ in range(700):
            archive.receive(days_ago(10), attempts=(days_ago(10),))
    target = "https://live.example.com/"
    archive.deliveries.address(target)
    ended = threading.Event()
    slowest: list[float] = []
    accepted: list[int] = []

    def accept_and_deliver() -> None:
        count, worst = 0, 0.0
        while not ended.is_set():
            started = time.monotonic()
            archive.deliveries.accept(target)
            worst = max(worst, time.monotonic() - started)
            count += 1
            for claimed in archive.deliveries.claim().deliveries:
                archive.deliveries.record(claimed, 200)
        slowest.append(worst)
        accepted.append(count)
        database.close()

    threads = [threading.Thread(target=accept_and_deliver) for _ in range(2)]
    for thread in threads:
        thread.start()
    purged = purge(database, archive.blobs, ages(raw=1, parsed=1, attempts=1, statuses=5), NOW_MS)
    ended.set()
    for thread in threads:
        thread.join(30)
    assert purged.statuses == purged.messages == 1_000
    for claimed in archive.deliveries.claim().deliveries:
        archive.deliveries.record(claimed, 200)
    assert archive.deliveries.rows("state") == [("delivered",)] * sum(accepted)
    assert archive.counts()["raw_message"] == sum(accepted) > 0
    assert max(slowest) < 5.0  # measured: docs/operations.md; the bound is for a machine that is busy with tests


# --- the whole household ---


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(
        data=tmp_path / "data", database_url=database_url, keep_raw_days=30, keep_parsed_days=30,
        keep_attempts_days=60, keep_statuses_days=90, redis_url=f"unix://{tmp_path}/no-redis",
    )  # fmt: skip


def test_everything_is_tidied_in_one_go(
    settings: Settings, database: Database, account: NewAccount, tmp_path: Path
) -> None:
    archive = Archive(database, account, open_blobs(settings.blob_location), tmp_path)
    archive.receive(days_ago(100), attempts=(days_ago(100),))
    archive.receive(days_ago(70), attempts=(days_ago(70),))
    archive.receive(days_ago(40), is_large=True)
    kept = archive.receive(days_ago(20), is_large=True)
    archive.put_blob(new_time_ordered_id(days_ago(2)))
    stored = open_built_in(settings.blob_location)
    for days in (20, 32):
        day = to_datetime(days_ago(days)).strftime("%Y%m%d")
        stored.put(f"{day}/{'0' * 32}.pdf", b"content")
    incoming = settings.data / "messages" / "incoming"
    incoming.mkdir()
    for name, age_ms in (("incoming-old", HOUR_MS), ("incoming-new", MINUTE_MS)):
        (incoming / name).write_bytes(b"half a mail")
        os.utime(incoming / name, times=((NOW_MS - age_ms) / 1000,) * 2)

    household = Household(settings, database, lambda: NOW_MS, limits=FAST)
    assert household.tidy_all() == {
        "statuses": 1, "messages": 1, "raw": 2, "findings": 2, "attempts": 1, "blobs": 1, "stored_files": 1,
        "orphans": 1,
    }  # fmt: skip
    assert archive.blob_keys() == [kept]
    assert [path.name for path in incoming.iterdir()] == ["incoming-new"]
    assert household.tidy_all() == {}


def test_two_households_at_once_do_no_harm(
    settings: Settings, database: Database, account: NewAccount, tmp_path: Path
) -> None:
    archive = Archive(database, account, open_blobs(settings.blob_location), tmp_path)
    for number in range(40):
        archive.receive(days_ago(100 if number % 2 else 70), is_large=number % 5 == 0, attempts=(days_ago(70),))
    results: list[dict[str, int]] = []

    def tidy() -> None:
        results.append(Household(settings, database, lambda: NOW_MS, limits=replace(FAST, rows=3)).tidy_all())
        database.close()

    threads = [threading.Thread(target=tidy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(result.get("statuses", 0) for result in results) == 20
    assert archive.counts() == {"message": 20, "raw_message": 0, "delivery": 20, "attempt": 0}
    assert archive.blob_keys() == []


def test_the_housekeeper_ends_quickly_in_the_middle_of_its_work(
    settings: Settings, database: Database, account: NewAccount, tmp_path: Path
) -> None:
    archive = Archive(database, account, open_blobs(settings.blob_location), tmp_path)
    for _ in range(20):
        archive.receive(days_ago(100))
    housekeeper = Housekeeper(settings, database, lambda: NOW_MS, 0.0, replace(FAST, rows=1, pause_s=3600.0))
    housekeeper.start()
    wait_until(lambda: archive.counts()["delivery"] == 19)
    started = time.monotonic()
    housekeeper.stop()
    assert time.monotonic() - started < 1.0
    assert archive.counts()["delivery"] == 19


def test_an_outage_does_not_end_housekeeping(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.housekeeping.EVERY_S", 0.01)
    tries: list[int] = []

    def fail(_: Household) -> object:
        tries.append(1)
        raise StorageUnavailable("away") if len(tries) < 3 else ValueError("a mistake")

    monkeypatch.setattr(Household, "tidy", fail)
    housekeeper = Housekeeper(settings, database, lambda: NOW_MS, 0.0)
    housekeeper.start()
    wait_until(lambda: len(tries) > 4)
    housekeeper.stop()


def test_a_folder_that_cannot_be_listed_now_is_one_line_in_the_log(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.housekeeping.EVERY_S", 0.01)

    def fail(_: Household) -> object:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Household, "tidy", fail)
    with capture_logs() as logged:
        housekeeper = Housekeeper(settings, database, lambda: NOW_MS, 0.0)
        housekeeper.start()
        wait_until(lambda: len(logged) > 2)
        housekeeper.stop()
    assert {(entry["log_level"], entry["reason"]) for entry in logged} == {
        ("warning", "[Errno 24] Too many open files")
    }


def wait_until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- by hand, and in the scheduler ---


def test_the_command_purges_once_and_says_what(
    settings: Settings, database: Database, account: NewAccount, tmp_path: Path
) -> None:
    archive = Archive(database, account, open_blobs(settings.blob_location), tmp_path)
    archive.receive(system_clock() - 100 * DAY_MS, is_large=True)
    printed = purge_by_hand(settings, tmp_path)
    assert printed.split() == ["statuses", "1", "messages", "1", "blobs", "1"]
    assert archive.counts()["message"] == 0
    assert purge_by_hand(settings, tmp_path, "--rewrite") == "There was nothing to remove.\n"


def purge_by_hand(settings: Settings, folder: Path, *options: str) -> str:
    environment = {
        **clean_environment(), "DATABASE_URL": settings.database_location, "PILLARBOX_DATA": str(settings.data),
    }  # fmt: skip
    ran = subprocess.run(
        [*PILLARBOX, "purge", *options], env=environment, cwd=folder, timeout=60, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_scheduler_keeps_house_and_stops_at_once(
    settings: Settings, database: Database, account: NewAccount, tmp_path: Path
) -> None:
    archive = Archive(database, account, open_blobs(settings.blob_location), tmp_path)
    archive.receive(system_clock() - 100 * DAY_MS)
    code = (
        "from functools import partial; from cli.main import main; from workers import scheduler\n"
        "scheduler.Housekeeper = partial(scheduler.Housekeeper, first_after_s=0.0)\n"
        "main()"
    )
    environment = {
        **clean_environment(), "DATABASE_URL": settings.database_location, "PILLARBOX_DATA": str(settings.data),
        "REDIS_URL": settings.redis_url,
    }  # fmt: skip
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [PILLARBOX[0], "-c", code, "scheduler"], env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[1]
    )
    try:
        wait_until(lambda: archive.counts()["message"] == 0 and b"tidied up" in (tmp_path / "log").read_bytes())
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()
        log.close()


# --- reading afterwards ---


def test_the_raw_mail_of_a_purged_message_is_404_and_says_why(
    database: Database, account: NewAccount, tmp_path: Path
) -> None:
    api = Api(database, account, api_settings(tmp_path))
    status_id = api.receive_and_attempt(api.new_address(), 404)
    assert api.get(f"/incoming_statuses/{status_id}/raw").status_code == 200
    purge(database, open_blobs(api.settings.blob_location), ages(raw=1, parsed=1), NOW_MS + 2 * DAY_MS, FAST)
    answer = api.get(f"/incoming_statuses/{status_id}/raw")
    assert answer.status_code == 404
    assert "PILLARBOX_KEEP_RAW_DAYS" in answer.json["error"]
    assert "PILLARBOX" not in api.get("/incoming_statuses/0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90/raw").json["error"]
    assert api.get(f"/incoming_statuses/{status_id}").json["status_category"] == "failed"
    assert api.post(f"/incoming_statuses/{status_id}/retry").status_code == 409
