"""The web server as a process: threads, shutdown, a database that restarts, and no way in that nobody asked for."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import requests

from core.config import Settings
from core.services.accounts import NewAccount
from core.setting_values import Listen
from tests.web_process import WebProcess, running_web
from web.server import HEAD_S, server_options

STOP_WITHIN_S = 8.0
without_postgres = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what has nothing to do with the database."""
BODY = {"target": "https://example.com/in", "target_format": "json+n"}


@pytest.fixture
def web(tmp_path: Path, database_url: str) -> Iterator[WebProcess]:
    with running_web(tmp_path, database_url) as server:
        yield server


def addresses(web: WebProcess, account: NewAccount) -> tuple[str, dict[str, str]]:
    return (
        f"{web.url}/api/v0.1/{account.account_id}/addresses",
        {"Authorization": f"Bearer {account.api_key}"},
    )


def test_threads_share_one_database(web: WebProcess, account: NewAccount) -> None:
    url, headers = addresses(web, account)
    statuses: Counter[int] = Counter()

    def work() -> None:
        with requests.Session() as session:
            for _ in range(10):
                statuses[session.post(url, json=BODY, headers=headers, timeout=20).status_code] += 1
                statuses[session.get(url, headers=headers, timeout=20).status_code] += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {200: 80, 201: 80}
    assert len(requests.get(url, headers=headers, params={"per_page": 200}, timeout=20).json()) == 80


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_restarted_database_goes_unnoticed_in_every_thread(
    web: WebProcess, account: NewAccount, postgres_url: str
) -> None:
    url, headers = addresses(web, account)
    call_from_many_threads(url, headers)
    with psycopg.connect(postgres_url) as control:
        control.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert call_from_many_threads(url, headers) == {200}


def call_from_many_threads(url: str, headers: dict[str, str]) -> set[int]:
    """Enough at once that every thread of the server has some; the statuses that came back."""
    statuses: set[int] = set()
    workers = [
        threading.Thread(target=lambda: statuses.add(requests.get(url, headers=headers, timeout=20).status_code))
        for _ in range(32)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return statuses


@without_postgres
def test_a_request_in_flight_is_finished_after_sigterm(web: WebProcess) -> None:
    with socket.create_connection(("127.0.0.1", web.port)) as client:
        client.sendall(b"POST /target/200 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        wait_until_busy(web)
        stopper = threading.Thread(target=web.stop, args=(STOP_WITHIN_S,))
        stopper.start()
        wait_until_stopping(web)
        client.sendall(b"67890")
        client.settimeout(10)
        answer = client.recv(4096)
    stopper.join()
    assert answer.startswith(b"HTTP/1.1 200")
    assert web.process.returncode == 0


@without_postgres
def test_an_idle_server_stops_soon(web: WebProcess) -> None:
    kept_alive = requests.Session()
    kept_alive.post(f"{web.url}/target/200", timeout=20)
    begun = time.monotonic()
    assert web.stop(STOP_WITHIN_S) == 0
    assert time.monotonic() - begun < STOP_WITHIN_S


@without_postgres
def test_a_stuck_client_does_not_keep_the_server(web: WebProcess) -> None:
    with socket.create_connection(("127.0.0.1", web.port)) as client:
        client.sendall(b"POST /target/200 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        wait_until_busy(web)
        begun = time.monotonic()
        web.stop(STOP_WITHIN_S + 4)
        assert time.monotonic() - begun < STOP_WITHIN_S + 4


@without_postgres
def test_clients_who_send_nothing_or_half_a_request_hold_no_threads(web: WebProcess) -> None:
    def seconds() -> float:
        begun = time.monotonic()
        assert requests.get(f"{web.url}/openapi.json", timeout=HEAD_S + 20).status_code == 200
        return time.monotonic() - begun

    count = 3 * Settings().web_threads
    usual = seconds() + 2
    clients = [socket.create_connection(("127.0.0.1", web.port)) for _ in range(count)]
    assert seconds() < usual, "browsers open connections ahead"
    for client in clients[: count // 3]:
        client.sendall(b"GET /o/x HTTP/1.1\r\nHost: x\r\n")
    assert seconds() < HEAD_S + usual
    for client in clients:
        with client:
            client.settimeout(HEAD_S)
            assert client.recv(1) == b"", "told no more of it"


@without_postgres
def test_more_connections_than_files_cut_nobody_off(web: WebProcess) -> None:
    (serving,) = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text().split()
    assert requests.get(f"{web.url}/openapi.json", timeout=20).status_code == 200
    highest = max(int(name) for name in os.listdir(f"/proc/{serving}/fd"))
    limit = resource.prlimit(int(serving), resource.RLIMIT_NOFILE)
    resource.prlimit(int(serving), resource.RLIMIT_NOFILE, (highest + 8, limit[1]))
    clients = [socket.create_connection(("127.0.0.1", web.port)) for _ in range(30)]
    deadline = time.monotonic() + 20
    while "no room for more connections" not in web.log.read_text():
        assert time.monotonic() < deadline, web.log.read_text()
        time.sleep(0.02)
    for client in clients:
        client.close()
    resource.prlimit(int(serving), resource.RLIMIT_NOFILE, limit)
    assert requests.get(f"{web.url}/openapi.json", timeout=20).status_code == 200
    assert Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text().split() == [serving]


@without_postgres
def test_redirects_of_our_own_stay_in_the_same_place(web: WebProcess, account: NewAccount) -> None:
    """The proxy before us may speak TLS, on another port: a place that we made up would get the key, and in clear."""
    url, headers = addresses(web, account)
    doubled = f"/api/v0.1//{account.account_id}/addresses"
    for host in ("api.example.com", "evil.example:81", "x"):
        asked = f"{web.url}{doubled}?per_page=1"
        answer = requests.get(asked, headers={**headers, "Host": host}, allow_redirects=False, timeout=20)
        assert (answer.status_code, answer.headers["Location"]) == (308, f"{url.removeprefix(web.url)}?per_page=1")
    assert requests.post(f"{web.url}{doubled}", json=BODY, headers=headers, timeout=20).status_code == 201


@without_postgres
def test_a_body_in_chunks_is_read_and_limited(web: WebProcess, account: NewAccount) -> None:
    url, headers = addresses(web, account)
    headers = {**headers, "Content-Type": "application/json"}
    body = b'{"target":"https://example.com/","target_format":"raw"}'
    assert requests.post(url, data=iter([body[:9], body[9:]]), headers=headers, timeout=20).status_code == 201
    answer = requests.post(url, data=iter([b" " * 65536] * 32), headers=headers, timeout=20)
    assert answer.status_code == 413
    assert answer.json()["status"] == 413


@without_postgres
def test_the_longest_search_fits_into_a_request_line(web: WebProcess, account: NewAccount) -> None:
    url, headers = addresses(web, account)
    query = {"query": "日" * 800}
    answer = requests.get(url.replace("addresses", "incoming_statuses"), params=query, headers=headers, timeout=20)
    assert answer.status_code == 200


def test_gunicorn_takes_nothing_from_elsewhere(tmp_path: Path) -> None:
    options = server_options(Settings(data=tmp_path, http=Listen("::1", 8081), web_threads=3))
    assert options["bind"] == "[::1]:8081"
    assert options["threads"] == 3
    assert options["control_socket_disable"] is True


@without_postgres
def test_no_socket_but_the_servers_is_opened(web: WebProcess) -> None:
    requests.post(f"{web.url}/target/200", timeout=20)
    children = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text().split()
    assert len(children) == 1
    names = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    assert not [name for name in names if "gunicorn" in name]


def wait_until_busy(web: WebProcess) -> None:
    """Until the server has read what was sent so far: its receive queue is empty again."""
    needle = f":{web.port:04X} "
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines() if needle in line]
        served = [fields for fields in lines if fields[1].endswith(f":{web.port:04X}") and fields[3] == "01"]
        if served and all(fields[4].endswith(":00000000") for fields in served):
            return
        time.sleep(0.02)
    raise AssertionError("the server did not read the request")


def wait_until_stopping(web: WebProcess) -> None:
    """Until the server has seen the signal."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if "Handling signal: term" in web.log.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"the server did not see the signal: {web.log.read_text()}")
