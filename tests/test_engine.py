"""The engine with a real database and attempts that end when the test says so."""

from __future__ import annotations

import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import structlog
from structlog.testing import capture_logs

from core.delivery import HTTP_POLICY, DeliveryKind
from core.errors import StorageUnavailable
from core.services.accounts import create_account
from core.services.leases import FinishedAttempt
from core.services.notices import follow_received
from core.services.received import ClaimedDelivery, load_received
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.deliveries import LEASE_MS, Deliveries, finished
from workers import engine as engine_module
from workers.engine import Engine, EngineLimits, Line

TARGET = "https://one.example/in"
OTHER = "https://two.example/in"
PATIENCE_S = 10.0


@dataclass
class Running:
    """An attempt that is being made."""

    delivery: ClaimedDelivery
    _answer: queue.Queue[FinishedAttempt] = field(default_factory=queue.Queue)

    def answer(self, status: int, **fields: str) -> None:
        """End it."""
        self._answer.put(finished(self.delivery, status, **fields))

    def wait(self) -> FinishedAttempt:
        return self._answer.get()


class Desk:
    """Makes attempts that wait for the test."""

    def __init__(self) -> None:
        self._begun: queue.Queue[Running] = queue.Queue()
        self._all: list[Running] = []
        self._is_closed = False

    def __call__(self, delivery: ClaimedDelivery) -> FinishedAttempt:
        running = Running(delivery)
        self._all.append(running)
        self._begun.put(running)
        return finished(delivery, 200) if self._is_closed else running.wait()

    def close(self) -> None:
        """End whatever still waits, and whatever comes."""
        self._is_closed = True
        for running in self._all:
            running.answer(200)

    def next(self, count: int = 1) -> list[Running]:
        """The attempts that begin next."""
        return [self._begun.get(timeout=PATIENCE_S) for _ in range(count)]

    @property
    def is_quiet(self) -> bool:
        return self._begun.empty()


class PausedDatabase(Database):
    """The real database; a test may stop the clerk just after a commit, before it has taken notice."""

    after_commit: Callable[[], None] = staticmethod(lambda: None)

    def transaction(self) -> AbstractContextManager[None]:
        return self._watched(super().transaction())

    @contextmanager
    def _watched(self, inner: AbstractContextManager[None]) -> Iterator[None]:
        with inner:
            yield
        if threading.current_thread().name == "clerk":
            self.after_commit()


@pytest.fixture
def mail(database_url: str) -> Iterator[Deliveries]:
    opened = PausedDatabase(database_url)
    yield Deliveries(opened, create_account(opened, "test", NOW_MS))
    opened.close()


@pytest.fixture(autouse=True)
def plain_log() -> Iterator[None]:
    """structlog's own default draws tracebacks for a terminal, which takes seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@dataclass
class Clock:
    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(mail: Deliveries, desk: Desk, clock: Clock) -> Iterator[Callable[..., Engine]]:
    started: list[Engine] = []

    def begin(threads: int = 8, host_concurrency: int = 8) -> Engine:
        limits = EngineLimits(DeliveryKind.INBOUND, threads, host_concurrency, LEASE_MS - 15_000)
        engine = Engine(mail.database, Line(desk, HTTP_POLICY, load_received, follow_received), limits, clock)
        engine.start()
        started.append(engine)
        return engine

    yield begin
    desk.close()
    for engine in started:
        engine.stop(PATIENCE_S)


def eventually(condition: Callable[[], bool]) -> None:
    """Look again and again until it is so; the time limit is for failures only."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to be so"
        time.sleep(0.005)


def states(mail: Deliveries) -> list[str]:
    return [row[0] for row in mail.rows("state")]


def test_draining_nothing_returns_at_once(start: Callable[..., Engine], desk: Desk) -> None:
    assert start().drain(PATIENCE_S)
    assert desk.is_quiet


def test_nothing_is_claimed_before_somebody_asks(mail: Deliveries, start: Callable[..., Engine], desk: Desk) -> None:
    mail.accept(TARGET)
    start()
    assert mail.rows("attempts") == [(0,)]
    assert desk.is_quiet


def test_a_drain_returns_when_all_is_claimed_although_attempts_go_on(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    mail.accept(TARGET, 3)
    assert start().drain(PATIENCE_S)
    running = desk.next(3)
    assert states(mail) == ["pending"] * 3
    for one in running:
        one.answer(200)
    eventually(lambda: states(mail) == ["delivered"] * 3)
    assert sorted(mail.attempts()) == [(1, 200)] * 3


def test_when_places_run_out_a_drain_waits_and_the_rest_follows_as_places_fall_free(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    mail.accept(TARGET, 5)
    engine = start(threads=2)
    assert not engine.drain(0.05)
    first = desk.next(2)
    assert desk.is_quiet
    for one in first:
        one.answer(200)
    for one in desk.next(2):
        one.answer(200)
    (last,) = desk.next()
    assert engine.drain(PATIENCE_S)
    last.answer(200)
    eventually(lambda: states(mail) == ["delivered"] * 5)


def test_what_waits_for_its_host_is_claimed_when_the_host_falls_free_without_another_ring(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    mail.accept(TARGET, 3)
    assert start(host_concurrency=1).drain(PATIENCE_S)
    for _ in range(3):
        (only,) = desk.next()
        assert desk.is_quiet
        only.answer(200)
    eventually(lambda: states(mail) == ["delivered"] * 3)


def test_a_newcomer_is_given_more_once_it_has_answered_well(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    mail.accept(TARGET, 12)
    assert start().drain(PATIENCE_S)
    running = desk.next(4)
    assert desk.is_quiet
    running[0].answer(200)
    desk.next()  # claimed in the transaction that records the good answer
    running[1].answer(200)
    assert len(desk.next(5)) == 5  # beside three: the cap for hosts


def test_a_wish_that_comes_while_a_claim_commits_is_not_forgotten(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    """The claim has not seen the new mail, and its outcome must not silence the ring for it."""
    mail.accept(TARGET, 2)
    engine = start(host_concurrency=1)
    assert engine.drain(PATIENCE_S)
    (running,) = desk.next()
    has_committed, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        if mail.database.execute("SELECT 1 FROM delivery WHERE lease_token IS NOT NULL"):  # it has claimed the second
            has_committed.set()
            go_on.wait(PATIENCE_S)

    mail.database.after_commit = pause  # type: ignore[attr-defined]
    running.answer(200)
    assert has_committed.wait(PATIENCE_S)
    (new,) = mail.accept(OTHER)
    drains = threading.Thread(target=engine.drain, args=(PATIENCE_S,))
    drains.start()
    eventually(lambda: engine._wishes == 2)
    mail.database.after_commit = lambda: None  # type: ignore[attr-defined]
    go_on.set()
    assert new in {running.delivery.delivery_id for running in desk.next(2)}
    drains.join(PATIENCE_S)


def test_stopping_finishes_and_records_what_is_in_flight_and_takes_nothing_new(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    mail.accept(TARGET, 3)
    engine = start(threads=2)
    engine.drain(0.05)
    running = desk.next(2)
    engine.stop_claiming()
    assert not engine.drain(PATIENCE_S)
    for one in running:
        one.answer(200)
    assert engine.stop(PATIENCE_S) == 0
    assert sorted(states(mail)) == ["delivered", "delivered", "pending"]
    assert sorted(mail.rows("attempts")) == [(0,), (1,), (1,)]


def test_an_attempt_that_hangs_is_abandoned_and_its_lease_says_so(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    mail.accept(TARGET)
    engine = start()
    assert engine.drain(PATIENCE_S)
    (hanging,) = desk.next()
    assert engine.stop(0.05) == 1
    assert mail.claim(NOW_MS + LEASE_MS).deliveries[0].attempt_number == 2
    hanging.answer(200)


@contextmanager
def outage(url: str) -> Iterator[None]:
    """The database takes nothing: a locked file, or a server that refuses connections."""
    if url.startswith("sqlite"):
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()
        return
    with psycopg.connect(url.replace("/postgres?", "/template1?"), autocommit=True) as control:
        control.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
        control.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'")
        try:
            yield
        finally:
            control.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")


def test_an_outage_of_the_database_loses_no_outcome(
    mail: Deliveries,
    start: Callable[..., Engine],
    desk: Desk,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "STORAGE_PAUSE_S", 0.02)
    if not mail.database.is_postgres:
        mail.database._peewee.pragma("busy_timeout", 20, permanent=True)  # it would wait ten seconds each time
    mail.accept(TARGET, 3)
    assert start().drain(PATIENCE_S)
    running = desk.next(3)
    tries: list[int] = []
    record_finished = Engine._record_finished

    def counted(engine: Engine, now_ms: int) -> bool:
        tries.append(now_ms)
        return record_finished(engine, now_ms)

    monkeypatch.setattr(Engine, "_record_finished", counted)
    monkeypatch.setattr(engine_module, "log", structlog.get_logger())  # not one that another test has bound for good
    with capture_logs() as logged:
        with outage(database_url):
            for one in running:
                one.answer(200)
            eventually(lambda: len(tries) >= 3)
        eventually(lambda: can_count(mail, "delivered", 3))
    assert [entry["event"] for entry in logged].count("the database fails; trying again") == 1
    assert sorted(mail.attempts()) == [(1, 200)] * 3


def can_count(mail: Deliveries, state: str, count: int) -> bool:
    try:
        return states(mail).count(state) == count
    except Exception:  # the connection of this thread was cut as well
        return False


def test_what_was_leased_when_the_database_went_away_is_claimed_again_at_once(
    mail: Deliveries, desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit of the leases and what is read after it; they would last for minutes."""
    monkeypatch.setattr(engine_module, "STORAGE_PAUSE_S", 0.02)
    tries: list[int] = []

    def load(database: Database, ids: Sequence[str], token: str, now_ms: int) -> Sequence[ClaimedDelivery]:
        tries.append(len(ids))
        if len(tries) == 1:
            raise StorageUnavailable("away")
        return load_received(database, ids, token, now_ms)

    mail.accept(TARGET, 3)
    limits = EngineLimits(DeliveryKind.INBOUND, 8, 8, LEASE_MS - 15_000)
    engine = Engine(mail.database, Line(desk, HTTP_POLICY, load, follow_received), limits, clock)
    engine.start()
    try:
        assert engine.drain(PATIENCE_S)
        for one in desk.next(3):
            one.answer(200)
        eventually(lambda: states(mail) == ["delivered"] * 3)
    finally:
        desk.close()
        engine.stop(PATIENCE_S)
    assert tries == [3, 3]


def test_a_delivery_that_was_deleted_meanwhile_does_not_hold_up_the_records_of_others(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    mail.accept(TARGET, 3)
    engine = start()
    assert engine.drain(PATIENCE_S)
    running = sorted(desk.next(3), key=lambda one: one.delivery.delivery_id)
    mail.execute("DELETE FROM delivery WHERE id = ?", (running[1].delivery.delivery_id,))
    for one in running:
        one.answer(200)
    eventually(lambda: states(mail) == ["delivered"] * 2)
    assert engine.stop(PATIENCE_S) == 0


def test_an_answer_that_the_database_cannot_hold_does_not_hold_up_others(
    mail: Deliveries, start: Callable[..., Engine], desk: Desk
) -> None:
    """The transport takes NUL out; should one come through all the same, PostgreSQL refuses that row alone."""
    mail.accept(TARGET, 2)
    engine = start()
    assert engine.drain(PATIENCE_S)
    first, second = desk.next(2)
    first.answer(404, response="a\x00b")
    second.answer(200)
    eventually(lambda: "delivered" in states(mail))
    assert engine.stop(PATIENCE_S) == 0


FAILING_CLERK = """
import sys, time
from core.delivery import HTTP_POLICY, DeliveryKind
from core.store.db import Database
from workers.engine import Engine, EngineLimits, Line
limits = EngineLimits(DeliveryKind.INBOUND, 4, 4, 1000)
engine = Engine(Database(sys.argv[1]), Line(None, HTTP_POLICY, None, None), limits, lambda: 1 // 0)
engine.start()
engine.drain(30)
time.sleep(30)
"""


def test_a_clerk_that_fails_ends_its_process(database_url: str) -> None:
    """A worker without its clerk would take jobs and do nothing; the supervisor starts another."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING_CLERK, database_url],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGTERM
    assert "the clerk failed" in done.stdout + done.stderr
