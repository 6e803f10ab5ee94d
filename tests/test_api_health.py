"""`/healthz`, against a real receiver, submission, Redis and RQ worker."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import redis
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink

from core.config import Settings
from core.presence import EXPIRES_MS, WORKER_SIGN
from core.services.accounts import NewAccount
from core.setting_values import Listen
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.programs import need_program
from tests.submission_support import TestAcceptor, running_listener
from workers.presence import Presence

NO_SUBMISSION = {"submission": "off", "submission_tls": "off"}


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "redis.sock"
    command = [need_program("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path) as server:
        wait_until_reachable(path)
        yield f"unix://{path}"
        server.terminate()


@pytest.fixture
def receiver() -> Iterator[Listen]:
    controller = Controller(Sink(), hostname="127.0.0.1", port=free_port())
    controller.start()
    yield Listen("127.0.0.1", controller.port)
    controller.stop()


@pytest.fixture
def worker(redis_url: str) -> Iterator[Presence]:
    connection = redis.Redis.from_url(redis_url)
    made = Presence(connection, lambda: None)
    made.start()
    while not connection.exists(WORKER_SIGN):
        time.sleep(0.01)
    yield made
    made.stop()


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path, redis_url: str, receiver: Listen) -> Api:
    return Api(database, account, api_settings(tmp_path, redis_url=redis_url, smtp=receiver, **NO_SUBMISSION))


def test_all_is_well_when_every_part_answers(api: Api, worker: Presence) -> None:
    answer = api.client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json == {
        "status": "ok",
        "checks": {"receiver": {"ok": True}, "database": {"ok": True}, "redis": {"ok": True}, "worker": {"ok": True}},
    }


def test_a_missing_worker_is_named(api: Api) -> None:
    assert failing(api) == ["worker"]


def test_a_worker_that_fell_silent_is_missing(api: Api, worker: Presence, redis_url: str) -> None:
    assert 0 < redis.Redis.from_url(redis_url).pttl(WORKER_SIGN) <= EXPIRES_MS
    worker.stop()
    redis.Redis.from_url(redis_url).delete(WORKER_SIGN)  # as Redis does when that time is over
    assert failing(api) == ["worker"]


def test_a_worker_shows_again_after_redis_lost_everything(api: Api, worker: Presence, redis_url: str) -> None:
    redis.Redis.from_url(redis_url).flushall()
    deadline = time.monotonic() + 5
    while (status := api.client.get("/healthz").status_code) != 200 and time.monotonic() < deadline:
        api.now_ms += 1000
        time.sleep(0.05)
    assert status == 200


def test_a_missing_receiver_is_named(
    database: Database, account: NewAccount, tmp_path: Path, redis_url: str, worker: Presence
) -> None:
    settings = api_settings(tmp_path, redis_url=redis_url, smtp=Listen("127.0.0.1", free_port()), **NO_SUBMISSION)
    assert failing(Api(database, account, settings)) == ["receiver"]


@pytest.mark.parametrize("greeting", [b"421 busy\r\n", b"", None])
def test_a_receiver_that_does_not_greet_is_named(
    database: Database,
    account: NewAccount,
    tmp_path: Path,
    redis_url: str,
    worker: Presence,
    greeting: bytes | None,
) -> None:
    with greeting_server(greeting) as listen:
        begun = time.monotonic()
        settings = api_settings(tmp_path, redis_url=redis_url, smtp=listen, **NO_SUBMISSION)
        assert failing(Api(database, account, settings)) == ["receiver"]
        assert time.monotonic() - begun < 3


@dataclass
class Submitting:
    """What has one of each kind of place."""

    database: Database
    account: NewAccount
    settings: Settings

    def app(self, **changes: str) -> Api:
        """A web application; each asks anew."""
        return Api(self.database, self.account, replace(self.settings, **changes))


@pytest.fixture
def submitting(
    database: Database, database_url: str, account: NewAccount, tmp_path: Path, redis_url: str, receiver: Listen
) -> Iterator[Submitting]:
    with running_listener(tmp_path / "submission", database_url, TestAcceptor()) as listening:
        places = {"submission": listening.submission, "submission_tls": listening.submission_tls}
        settings = api_settings(tmp_path, redis_url=redis_url, smtp=receiver, **places)
        yield Submitting(database, account, settings)


def test_submission_is_looked_at_where_it_is_meant_to_run(submitting: Submitting, worker: Presence) -> None:
    answer = submitting.app().client.get("/healthz")
    assert (answer.status_code, answer.json["checks"]["submission"]) == (200, {"ok": True}), answer.text
    for off in ({"submission": "off"}, {"submission_tls": "off"}):
        assert submitting.app(**off).client.get("/healthz").json["checks"]["submission"] == {"ok": True}


def test_a_submission_that_is_missing_at_one_of_its_places_is_named(submitting: Submitting, worker: Presence) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    both = f"{submitting.settings.submission},{nobody}"
    for missing in ({"submission": nobody}, {"submission": both}, {"submission_tls": nobody}):
        api = submitting.app(**missing)
        assert failing(api) == ["submission"]
        assert nobody in api.client.get("/healthz").json["checks"]["submission"]["reason"]


@pytest.mark.parametrize("kind", ["submission", "submission_tls"])
@pytest.mark.parametrize("greeting", [b"421 busy\r\n", b"", None])
def test_a_submission_that_does_not_greet_is_named(
    submitting: Submitting, worker: Presence, kind: str, greeting: bytes | None
) -> None:
    with greeting_server(greeting) as listen:
        assert failing(submitting.app(**{kind: str(listen)})) == ["submission"]


def test_missing_redis_and_database_are_named(account: NewAccount, tmp_path: Path, receiver: Listen) -> None:
    away = Database(f"postgresql://postgres@/postgres?host={tmp_path}")
    settings = api_settings(tmp_path, redis_url=f"unix://{tmp_path}/none.sock", smtp=receiver, **NO_SUBMISSION)
    assert failing(Api(away, account, settings)) == ["database", "redis", "worker"]


def test_the_answer_is_reused_for_a_second(api: Api, worker: Presence, redis_url: str) -> None:
    assert api.client.get("/healthz").status_code == 200
    worker.stop()
    redis.Redis.from_url(redis_url).delete(WORKER_SIGN)
    assert api.client.get("/healthz").status_code == 200
    api.now_ms += 1000
    assert api.client.get("/healthz").status_code == 503


def failing(api: Api) -> list[str]:
    """The parts that are not well, each with a reason."""
    answer = api.client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json["status"] == "unavailable"
    bad = {name: check for name, check in answer.json["checks"].items() if not check["ok"]}
    assert all(check["reason"] for check in bad.values())
    return list(bad)


@contextmanager
def greeting_server(greeting: bytes | None) -> Iterator[Listen]:
    """A server with one client, which it tells that, or nothing ever (None)."""
    done = threading.Event()

    def answer() -> None:
        client, _ = listener.accept()
        with client:
            if greeting is None:
                done.wait(10)
            else:
                client.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, daemon=True).start()
        yield Listen("127.0.0.1", listener.getsockname()[1])
        done.set()


def wait_until_reachable(path: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as attempt:
            if attempt.connect_ex(str(path)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens at {path}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
