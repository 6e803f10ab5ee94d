"""Redis and the database go away and come back, at bad moments: mail goes on, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from core.errors import StorageUnavailable
from core.ids import new_worker_id
from core.services.claims import lease_token
from core.store.blobs import DiskBlobs
from core.store.db import Database
from tests.gateway import Gateway, make_gateway, running_gateway
from tests.http_target import HttpTarget, running_target
from tests.ports import free_port
from tests.postgres_server import stoppable_postgres
from workers import roll as roll_module
from workers.doorbell import open_redis

MESSAGE = b"From: A <a@example.com>\r\nSubject: Hello\r\nMessage-ID: <1@example.com>\r\n\r\nHi.\r\n"
PATIENCE_S = 30.0
OUTAGES = 3
TOO_FEW_BYTES = 1
ENOUGH_BYTES = 64 * 1024 * 1024
HOUR_MS = 3_600_000


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("outages")) as started:
        yield started


def eventually(condition: Callable[[], bool], explain: Callable[[], object] = str) -> None:
    """Look again and again until it is so; the time limit is for failures only."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, str(explain())[-3000:]
        time.sleep(0.02)


def idle_threads(gateway: Gateway) -> int:
    """Of the worker, once no attempt and no change is under way."""
    status = Path(f"/proc/{gateway.processes['worker'].pid}/status")
    return int(status.read_text().partition("Threads:")[2].split()[0])


def test_mail_is_delivered_while_redis_is_away(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url())
    gateway.kill("redis")
    try:
        gateway.send(mailbox, MESSAGE)
        target.wait_for(1)
    finally:
        gateway.start("redis")


def test_mail_is_delivered_while_redis_has_no_memory(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url())
    redis = open_redis(gateway.settings.redis_location)
    redis.config_set("maxmemory", TOO_FEW_BYTES)
    try:
        gateway.send(mailbox, MESSAGE)
        target.wait_for(1)
    finally:
        redis.config_set("maxmemory", ENOUGH_BYTES)


def test_mail_is_delivered_while_redis_hangs(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url())
    pid = gateway.processes["redis"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        gateway.send(mailbox, MESSAGE)
        target.wait_for(1)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_redis_that_went_away_leaves_no_thread_and_no_traceback_behind(gateway: Gateway, target: HttpTarget) -> None:
    """RQ's worker ends each time; a thread that waited for commands to it once stayed, with its connection."""
    redis = open_redis(gateway.settings.redis_location)
    logged = len(gateway.log())

    def take_away() -> None:
        """In the middle of a job, or between two."""
        ended = gateway.log().count("Redis does not answer")
        redis.config_set("maxmemory", TOO_FEW_BYTES)
        eventually(lambda: gateway.log().count("Redis does not answer") > ended, gateway.log)
        redis.config_set("maxmemory", ENOUGH_BYTES)
        redis.flushall()
        mailbox = gateway.add_address(target.url())
        gateway.send(mailbox, MESSAGE)

    take_away()
    target.wait_for(1)
    before = idle_threads(gateway)
    for number in range(OUTAGES):
        take_away()
        target.wait_for(number + 2)
    eventually(lambda: idle_threads(gateway) <= before, lambda: idle_threads(gateway))
    assert redis.client_list(_type="pubsub") == []
    assert "Traceback" not in gateway.log()[logged:]


def test_leases_of_the_dead_are_released_when_the_database_comes_later_than_the_worker(
    tmp_path: Path, target: HttpTarget
) -> None:
    """As after a power cut. What sent mail was in hand would else wait for minutes."""
    with stoppable_postgres() as server:
        gateway = make_gateway(tmp_path, server.url)
        try:
            gateway.start("redis", "smtp")
            gateway.send(gateway.add_address(target.url()), MESSAGE)
            dead = die_with_everything_in_hand(gateway)
            gateway.stop("smtp")
            gateway.database.close()
            server.stop()
            gateway.start("worker", "scheduler")
            eventually(lambda: "leases of dead workers cannot be released now" in gateway.log(), gateway.log)
            server.start()
            target.wait_for(1)
            eventually(lambda: dead not in waiting(server.url), gateway.log)
        finally:
            gateway.stop_all()
            gateway.database.close()


def test_a_database_whose_machine_has_gone_is_not_waited_for() -> None:
    """It neither answers nor hangs up. (Measured with a cable pulled: 25 s, where it was a quarter of an hour.)"""
    with stoppable_postgres(("127.0.0.1", free_port())) as server, psycopg.connect(server.url) as plain:
        database = Database(server.url)
        with database.reading():
            mended = options_of(database._peewee.connection())
        database.close()
        assert mended == {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
        assert options_of(plain)["TCP_KEEPIDLE"] > mended["TCP_KEEPIDLE"]


def options_of(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """What its socket is told about a peer that is silent."""
    with socket.socket(fileno=os.dup(connection.fileno())) as seen:
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        return {name: seen.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names}


def die_with_everything_in_hand(gateway: Gateway) -> str:
    """Leave a database and a folder as a worker does that is killed; gives its id."""
    worker_id = new_worker_id()
    folder = gateway.settings.data / "workers"
    folder.mkdir()
    (folder / f"{worker_id}{roll_module.SUFFIX}").touch()
    with gateway.database.transaction():
        leased = "UPDATE delivery SET lease_token = ?, due_ms = due_ms + ? WHERE state = 'pending' RETURNING id"
        assert gateway.database.execute(leased, (lease_token(worker_id, 1), HOUR_MS))
    return worker_id


def waiting(url: str) -> str:
    with psycopg.connect(url) as connection:
        return str(connection.execute("SELECT lease_token FROM delivery WHERE lease_token IS NOT NULL").fetchall())


def test_a_message_folder_that_cannot_be_made_is_no_mistake_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="cannot be made now"):
        DiskBlobs(tmp_path / "file" / "messages")
