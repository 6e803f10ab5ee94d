"""`pillarbox up`: from an empty folder to a gateway, and what it does when asked to stop."""

from __future__ import annotations

import json
import signal
import smtplib
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from core.store.db import Database, Row
from tests.gateway import running_gateway
from tests.http_target import HttpTarget, running_target
from tests.ports import free_port
from tests.programs import need_program
from tests.up_process import PILLARBOX, Up, clean_environment, end, running_up, start_up, wait_until

MESSAGE = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: Hello\r\n\r\nHi.\r\n"
STOPS_WITHIN_S = 10.0
REFUSES_WITHIN_S = 15.0
PRESENCE_S = 10.0


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with running_up(tmp_path) as started:
        yield started


# --- from nothing -----------------------------------------------------------------------------------------------------


def test_an_empty_folder_becomes_a_gateway_with_private_credentials(up: Up, target: HttpTarget) -> None:
    credentials = up.settings.data / "credentials.json"
    keys = up.credentials()
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    assert stat.S_IMODE(up.settings.data.stat().st_mode) == 0o700
    assert list(keys) == [
        "account_id", "api_key", "smtp_username", "smtp_password", "api_url", "smtp_host", "smtp_port",
        "smtp_submission_host", "smtp_submission_port", "smtp_submission_tls_port",
    ]  # fmt: skip
    assert keys["api_url"] == f"http://{up.settings.http}"
    assert (keys["smtp_host"], keys["smtp_port"]) == ("127.0.0.1", up.settings.smtp.port)
    assert keys["smtp_submission_port"] == up.settings.submission_places[0].port
    assert keys["smtp_submission_tls_port"] == up.settings.submission_tls_places[0].port
    assert f"smtps://{up.settings.submission_tls_places[0]}" in up.log()
    assert keys["api_url"] in up.log()
    assert up.health() == (200, [])

    send(up, up.add_address(target.url()))
    assert json.loads(target.wait_for(1)[0].body)["headers"]["subject"] == "Hello"
    wait_until(lambda: deliveries(up) == [("delivered", 1, 200)], 10, lambda: deliveries(up))


def test_keys_are_kept_as_digests_only_and_outlive_a_restart(tmp_path: Path) -> None:
    with running_up(tmp_path) as first:
        keys = first.credentials()
        assert first.api("GET", "addresses").status_code == 200
        assert first.stop() == 0
        log = first.log()
    for path in first.settings.data.rglob("*"):
        if path.is_file() and path.name != "credentials.json":
            content = path.read_bytes()
            assert keys["api_key"].encode() not in content, path
            assert keys["smtp_password"].encode() not in content, path
    assert keys["api_key"] not in log
    assert keys["smtp_password"] not in log

    again = {name: first.environment[name] for name in ("PILLARBOX_SMTP", "PILLARBOX_HTTP")}
    with running_up(tmp_path, **again) as second:
        assert second.credentials() == keys
        assert second.api("GET", "addresses").status_code == 200


def test_a_data_folder_with_a_very_long_path_works(tmp_path: Path, target: HttpTarget) -> None:
    deep = tmp_path / ("long-" * 25) / ("path-" * 25)
    deep.mkdir(parents=True)
    with running_up(deep) as up:
        send(up, up.add_address(target.url()))
        target.wait_for(1)
        assert up.stop() == 0


def test_given_a_redis_url_no_private_server_is_started(tmp_path: Path, target: HttpTarget) -> None:
    path = tmp_path / "own.sock"
    command = [need_program("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path) as server:
        with running_up(tmp_path, REDIS_URL=f"unix://{path}") as up:
            assert up.pids("redis") == []
            assert redis.Redis.from_url(f"unix://{path}").exists("pillarbox:worker-alive")
            send(up, up.add_address(target.url()))
            target.wait_for(1)
            assert up.stop() == 0
        server.terminate()


def test_several_receivers_and_workers_share_port_and_work(tmp_path: Path, target: HttpTarget) -> None:
    with running_up(tmp_path, PILLARBOX_RECEIVERS="2", PILLARBOX_WORKERS="2") as up:
        wait_until(lambda: (len(up.pids("smtp")), len(up.pids("worker"))) == (2, 2), 10, up.log)
        wait_until(
            lambda: up.log().count("receiving mail") == 2 and up.log().count("event=delivering") == 2, 20, up.log
        )
        mailbox = up.add_address(target.url("/sleep/0.2"))
        for _ in range(40):
            send(up, mailbox)
        target.wait_for(40)
        wait_until(lambda: deliveries(up) == [("delivered", 1, 200)] * 40, 20, lambda: deliveries(up))
        up.kill_one("smtp")
        send(up, mailbox)  # the other takes it
        assert up.stop() == 0
        assert not up.remaining_processes()


# --- health -----------------------------------------------------------------------------------------------------------


def test_healthz_names_what_was_killed_and_recovers(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "redis", "smtp", "submission", "worker", "web") as gateway:
        up = Up(gateway.settings, gateway.environment, gateway.log_path, gateway.processes["web"])
        wait_until(lambda: up.health() == (200, []), PRESENCE_S, up.health)

        parts = (
            ("smtp", ["receiver"]),
            ("submission", ["submission"]),
            ("worker", ["worker"]),
            ("redis", ["redis", "worker"]),
        )
        for name, missing in parts:
            gateway.kill(name)
            wait_until(lambda missing=missing: up.health() == (503, missing), PRESENCE_S, up.health)
            gateway.start(name)
            wait_until(lambda: up.health() == (200, []), PRESENCE_S, up.health)


def test_a_redis_that_lost_everything_leaves_an_idle_worker_healthy(up: Up) -> None:
    worker = up.pids("worker")
    up.kill_one("redis")
    wait_until(lambda: up.log().count("name=redis") == 1 and bool(up.pids("redis")), 10, up.log)
    wait_until(lambda: up.health() == (200, []), PRESENCE_S, up.health)
    assert up.pids("worker") == worker


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stopping_finishes_the_post_and_the_mail_in_flight(up: Up, target: HttpTarget, signum: signal.Signals) -> None:
    slow, late = up.add_address(target.url("/sleep/3")), up.add_address(target.url("/ok/late"))
    send(up, slow)
    target.wait_for(1)
    client = smtplib.SMTP("127.0.0.1", up.settings.smtp.port, timeout=20)
    begin_data(client, late)

    begun = time.monotonic()
    up.send_signal(signum)
    wait_until(lambda: not _listens(up.settings.smtp.port), STOPS_WITHIN_S, up.log)
    client.send(b"the end\r\n.\r\n")
    assert client.getreply()[0] == 250
    assert up.process.wait(STOPS_WITHIN_S) == 0

    assert time.monotonic() - begun < STOPS_WITHIN_S
    assert deliveries(up) == [("delivered", 1, 200), ("pending", 0, None)]
    assert not up.remaining_processes()
    assert not list((up.settings.data / "messages" / "incoming").iterdir())
    assert "Stopped." in up.log()
    assert "Traceback" not in up.log()


def test_what_hangs_does_not_hold_up_the_end_and_is_delivered_by_the_next_up(
    up: Up, target: HttpTarget, tmp_path: Path
) -> None:
    target.scripted["/later"] = []
    hanging = up.add_address(target.url("/sleep/60"))
    send(up, hanging)
    target.wait_for(1)
    client = smtplib.SMTP("127.0.0.1", up.settings.smtp.port, timeout=20)
    begin_data(client, hanging)  # and never ends it
    client.send(b"x" * 300_000)

    begun = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - begun < STOPS_WITHIN_S
    assert not up.remaining_processes()
    assert not list((up.settings.data / "messages" / "incoming").iterdir())

    again = {name: up.environment[name] for name in ("PILLARBOX_SMTP", "PILLARBOX_HTTP")}
    with running_up(tmp_path, **again):
        first, second = target.wait_for(2, timeout=10)  # long before the lease of 35 s is over
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting", ["PILLARBOX_SMTP", "PILLARBOX_HTTP", "PILLARBOX_SUBMISSION", "PILLARBOX_SUBMISSION_TLS"]
)
def test_a_port_in_use_is_told_in_one_line_that_names_the_setting(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", free_port()), reuse_port=True) as taken:
        status, output = run_up(tmp_path, **{setting: f"127.0.0.1:{taken.getsockname()[1]}"})
    assert status == 1
    assert output.count("\n") == 1
    assert output.startswith(f"pillarbox: {setting}: cannot listen on 127.0.0.1:")
    assert "Address already in use" in output


def test_one_port_for_both_is_noticed(tmp_path: Path) -> None:
    same = f"127.0.0.1:{free_port()}"
    status, output = run_up(tmp_path, PILLARBOX_SMTP=same, PILLARBOX_HTTP=same)
    assert (status, output.count("\n")) == (1, 1)
    assert "cannot listen on" in output


def test_a_second_up_on_the_folder_is_refused_and_the_first_goes_on(up: Up, tmp_path: Path) -> None:
    status, output = run_up(tmp_path, PILLARBOX_DATA=str(up.settings.data))
    assert (status, output.count("\n")) == (1, 1)
    assert "another `pillarbox up` runs on" in output
    assert up.health() == (200, [])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("PILLARBOX_HTTP", "8080"),
        ("PILLARBOX_WORKERS", "many"),
        ("PILLARBOX_DATA", "/proc/none/of/this"),
        ("PILLARBOX_SMTP", "192.0.2.1:2525"),
        ("PILLARBOX_SMTP", "no-such-host.invalid:2525"),
        ("PILLARBOX_ALLOW_PRIVATE_TARGETS", "nearby"),
        ("PILLARBOX_CA_FILE", "/none/of/this.pem"),
        ("DATABASE_URL", "mysql://localhost/x"),
        ("DATABASE_URL", "postgresql://127.0.0.1:1/x"),
        ("DATABASE_URL", "postgresql://127.0.0.1:port/x"),
        ("DATABASE_URL", "sqlite:////proc/none.sqlite3"),
        ("REDIS_URL", "http://localhost"),
        ("BLOB_URL", "ftp://localhost/x"),
        ("BLOB_URL", "file:///proc/none/of/this"),
    ],
)
def test_a_bad_setting_is_told_in_one_line(tmp_path: Path, setting: str, value: str) -> None:
    status, output = run_up(tmp_path, **{setting: value})
    assert status == 1, output
    assert output.count("\n") == 1, output
    assert output.startswith("pillarbox: ")
    assert setting in output


def test_certificate_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    status, output = run_up(tmp_path, PILLARBOX_TLS_CERT="/none.pem", PILLARBOX_TLS_KEY="/none.key")
    assert (status, output.count("\n")) == (1, 1)
    assert "PILLARBOX_TLS_CERT" in output


def test_a_misspelt_setting_is_warned_of(tmp_path: Path) -> None:
    _, output = run_up(tmp_path, PILLARBOX_WORKRES="2", DATABASE_URL="mysql://localhost/x")
    assert "PILLARBOX_WORKRES" in output


def test_ctrl_c_during_the_start_ends_it_too(tmp_path: Path) -> None:
    up = start_up(tmp_path)
    try:
        wait_until(lambda: (up.settings.data / "up.lock").exists(), 10, up.log)
        up.send_signal(signal.SIGINT)
        assert up.process.wait(STOPS_WITHIN_S) == 0
        assert not up.remaining_processes()
        assert "Traceback" not in up.log()
    finally:
        end(up)


# --- means ------------------------------------------------------------------------------------------------------------


def run_up(folder: Path, **environment: str) -> tuple[int, str]:
    """Start one that will refuse; its status and all it says."""
    given = {
        "PILLARBOX_DATA": str(folder / "data"),
        "PILLARBOX_SMTP": f"127.0.0.1:{free_port()}",
        "PILLARBOX_HTTP": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION_TLS": f"127.0.0.1:{free_port()}",
        **environment,
    }
    done = subprocess.run(
        [*PILLARBOX, "up"], env={**clean_environment(), **given}, cwd=folder, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=REFUSES_WITHIN_S,
    )  # fmt: skip
    return done.returncode, done.stdout


def send(up: Up, mailbox: str) -> None:
    """One mail over a connection of its own."""
    with smtplib.SMTP("127.0.0.1", up.settings.smtp.port, timeout=20) as client:
        client.sendmail("sender@example.com", [mailbox], MESSAGE)


def begin_data(client: smtplib.SMTP, mailbox: str) -> None:
    """A message whose end is still to come."""
    client.ehlo()
    assert client.mail("sender@example.com")[0] == 250
    assert client.rcpt(mailbox)[0] == 250
    assert client.docmd("DATA")[0] == 354
    client.send(MESSAGE)


def deliveries(up: Up) -> list[Row]:
    """State, attempts and last status of each delivery, oldest first."""
    database = Database(up.settings.database_location)
    try:
        with database.reading():
            return database.execute("SELECT state, attempts, last_status FROM delivery ORDER BY id")
    finally:
        database.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
