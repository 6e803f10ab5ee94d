"""The bell and the door on a real Redis: no ring is lost, and Redis may go away."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.redis_server import redis_command
from core.config import Settings
from core.delivery import DeliveryKind
from core.services.accounts import NewAccount
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.deliveries import Deliveries
from tests.raw_server import running_raw_server
from workers import doorbell, jobs
from workers.doorbell import Door, Doorbell, open_queue, open_redis
from workers.scheduler import sweep

KIND = DeliveryKind.INBOUND
PATIENCE_S = 10.0
ROOT = Path(__file__).parents[1]


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """The private server as `pillarbox up` starts it; gives its URL."""
    folder.mkdir(exist_ok=True)
    settings = replace(Settings(), data=folder)
    process = subprocess.Popen(redis_command(settings))
    try:
        eventually(lambda: answers(settings.redis_location))
        yield settings.redis_location
    finally:
        process.terminate()
        process.wait(10)


def answers(url: str) -> bool:
    with suppress(redis.RedisError):
        return bool(open_redis(url).ping())
    return False


def eventually(condition: Callable[[], bool]) -> None:
    """Look again and again until it is so; the time limit is for failures only."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to be so"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis") / "data") as url:
        yield url


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    opened = open_redis(redis_url)
    opened.flushall()
    yield opened
    opened.close()


@pytest.fixture
def door(connection: redis.Redis) -> Door:
    return Door(connection, KIND)


def waiting_jobs(connection: redis.Redis) -> int:
    return open_queue(connection, KIND).count


def test_a_ring_without_anybody_at_the_door_enqueues_a_job(connection: redis.Redis, door: Door) -> None:
    door.ring()
    assert waiting_jobs(connection) == 1


def test_while_a_job_waits_further_rings_enqueue_none(connection: redis.Redis, door: Door) -> None:
    for _ in range(50):
        door.ring()
    assert waiting_jobs(connection) == 1


def test_a_worker_at_the_door_is_woken_without_a_job(connection: redis.Redis, door: Door, redis_url: str) -> None:
    woken: list[bool] = []
    other = Door(open_redis(redis_url), KIND)
    attending = threading.Thread(target=lambda: woken.append(other.attend()))
    attending.start()
    eventually(lambda: bool(connection.exists("pillarbox:attended:inbound")))
    door.ring()
    attending.join(PATIENCE_S)
    assert woken == [True]
    assert waiting_jobs(connection) == 0


def test_a_worker_that_has_left_the_door_gets_a_job_again(connection: redis.Redis, door: Door) -> None:
    assert door.attend() is False
    door.ring()
    assert waiting_jobs(connection) == 1


def test_answering_takes_notice_of_earlier_rings(door: Door) -> None:
    door.ring()
    door.answer()
    assert door.attend() is False


def test_a_ring_while_the_worker_was_busy_is_heard_when_it_comes_to_the_door(door: Door) -> None:
    door.answer()
    door.ring()
    assert door.attend() is True


def test_marks_and_signs_do_not_pile_up_and_expire(connection: redis.Redis, door: Door) -> None:
    for _ in range(20):
        door.ring()
    assert connection.llen("pillarbox:rung:inbound") == 1
    assert 0 < connection.pttl("pillarbox:rung:inbound") <= doorbell.WAKE_TTL_MS


class Interrupted(redis.Redis):
    """A client that does something else just before one of its commands."""

    before = -1
    action: Callable[[], None]

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        self.before -= 1
        if self.before == -1:
            self.action()
        return super().execute_command(*arguments, **options)


@pytest.mark.parametrize("position", range(5))
def test_a_ring_between_any_two_steps_of_an_attending_worker_is_heard_or_becomes_a_job(
    connection: redis.Redis, door: Door, redis_url: str, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    monkeypatch.setattr(doorbell, "ATTENDING_S", 0.01)
    client = Interrupted.from_url(redis_url)
    client.before, client.action = position, door.ring
    is_heard = Door(client, KIND).attend()
    if position == 4:
        door.ring()  # after the last of the four
    assert is_heard or waiting_jobs(connection) == 1


class Hesitant(redis.Redis):
    """A client that dawdles before each command, to widen every gap between two of them."""

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(random.random() * 0.01)
        return super().execute_command(*arguments, **options)


def test_no_ring_is_lost_between_ringers_and_a_worker_that_comes_and_goes(
    connection: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mail is a number that ringers raise before they ring; what the worker has seen must reach it without a sweep.

    They ring while a worker leaves the door, 10 ms after it came, or (Redis 6 looks every 100 ms) up to 110.
    """
    monkeypatch.setattr(doorbell, "ATTENDING_S", 0.01)
    dice = random.Random(1)
    committed, seen, is_over = [0], [0], threading.Event()
    lock = threading.Lock()

    def work() -> None:
        client = Hesitant.from_url(redis_url)
        door = Door(client, KIND)
        while not is_over.is_set():
            if client.blpop([open_queue(client, KIND).key], timeout=0.05) is None:
                continue
            door.answer()
            seen[0] = committed[0]
            while door.attend():
                seen[0] = committed[0]

    def ring(delay: float) -> None:
        time.sleep(delay)
        with lock:
            committed[0] += 1
        Door(connection, KIND).ring()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(100):
            longest = dice.choice([0.03, 0.13])
            delays = [dice.random() * longest for _ in range(dice.choice([1, 1, 3]))]
            ringers = [threading.Thread(target=ring, args=(delay,)) for delay in delays]
            for ringer in ringers:
                ringer.start()
            for ringer in ringers:
                ringer.join(PATIENCE_S)
            eventually(lambda: seen[0] == committed[0])
    finally:
        is_over.set()
        worker.join(PATIENCE_S)


def test_jobs_are_json_and_hold_nothing_but_the_kind(connection: redis.Redis, door: Door) -> None:
    door.ring()
    (key,) = [key for key in connection.keys("rq:job:*") if connection.type(key) == b"hash"]
    job = connection.hgetall(key)
    assert json.loads(zlib.decompress(job[b"data"])) == ["workers.jobs.drain", None, ["inbound"], {}]
    for value in job.values():
        assert not value.startswith(b"\x80"), "looks like a pickle"


def test_a_job_in_a_process_that_is_no_worker_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_answer", None)
    with pytest.raises(RuntimeError, match="no Pillarbox worker"):
        jobs.drain("inbound")


def test_ringing_the_bell_returns_at_once_and_many_rings_become_one(connection: redis.Redis, redis_url: str) -> None:
    bell = Doorbell(redis_url)
    started = time.monotonic()
    for _ in range(10_000):
        bell.ring(KIND)
    assert time.monotonic() - started < 1
    eventually(lambda: waiting_jobs(connection) == 1)


def test_without_redis_ringing_neither_raises_nor_blocks_and_the_bell_works_again_afterwards(tmp_path: Path) -> None:
    data = tmp_path / "data"
    bell = Doorbell(replace(Settings(), data=data).redis_location)
    started = time.monotonic()
    for _ in range(1_000):
        bell.ring(KIND)
    assert time.monotonic() - started < 1
    with running_redis(data) as url:
        connection = open_redis(url)
        eventually(lambda: bell.ring(KIND) or waiting_jobs(connection) == 1)  # type: ignore[func-returns-value]


def test_a_redis_that_hangs_does_not_hold_up_the_ringer() -> None:
    is_over = threading.Event()
    with running_raw_server(lambda connection, number: bool(is_over.wait(PATIENCE_S)) and None) as port:
        bell = Doorbell(f"redis://127.0.0.1:{port}/0")
        started = time.monotonic()
        for _ in range(1_000):
            bell.ring(KIND)
        assert time.monotonic() - started < 1
        is_over.set()


# --- the sweep ---


@pytest.fixture
def mail(database: Database, account: NewAccount) -> Deliveries:
    return Deliveries(database, account)


def test_a_sweep_rings_for_what_is_due_once(mail: Deliveries, connection: redis.Redis) -> None:
    mail.accept("https://one.example/")
    for _ in range(3):
        sweep(mail.database, connection, lambda: NOW_MS)
    assert waiting_jobs(connection) == 1


def test_a_sweep_rings_for_a_lease_that_has_run_out_and_not_before(mail: Deliveries, connection: redis.Redis) -> None:
    mail.accept("https://one.example/")
    mail.claim(NOW_MS)
    ((lease_end,),) = mail.rows("due_ms")
    sweep(mail.database, connection, lambda: lease_end - 1)
    assert waiting_jobs(connection) == 0
    sweep(mail.database, connection, lambda: lease_end)
    assert waiting_jobs(connection) == 1


def test_a_sweep_leaves_alone_what_is_over(mail: Deliveries, connection: redis.Redis) -> None:
    mail.accept("https://one.example/")
    mail.record(mail.claim().deliveries[0], 200)
    sweep(mail.database, connection, lambda: NOW_MS + 10**12)
    assert waiting_jobs(connection) == 0


WITHOUT_DESCRIPTORS = """
import resource, sys
from core.delivery import DeliveryKind
from workers.doorbell import Doorbell, open_redis
open_redis(sys.argv[1]).ping()
bell = Doorbell(sys.argv[1])
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
bell.ring(DeliveryKind.INBOUND)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
bell.ring(DeliveryKind.INBOUND)
sys.stdin.readline()
"""


def test_the_bell_outlives_a_process_without_descriptors(redis_url: str, connection: redis.Redis) -> None:
    """Its thread once ended for good: all mail of a web process then waited for the scheduler."""
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS, redis_url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert "the bell is broken" in process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
            eventually(lambda: open_queue(connection, DeliveryKind.INBOUND).count == 1)
        finally:
            process.kill()
