"""The tables of docs/delivery.md are what the code does, and its sample receives what we send."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from core import fairness
from core.clock import HOUR_MS, MINUTE_MS, SECOND_MS, system_clock
from core.config import Settings
from core.delivery import HTTP_POLICY, RESPONSE_EXCERPT_BYTES, DeliveryState, Verdict, http_verdict
from core.ids import new_signing_secret
from core.netguard import LOOPBACK, TargetPolicy
from core.signing import signature_headers
from inbound.forward import FOLLOWED_REDIRECTS, MAX_REDIRECTS, Forwarder, Post
from inbound.guarded_http import DeadlineWatch, guarded_session
from tests.http_target import running_target
from tests.ports import free_port

PAGE = (Path(__file__).parents[1] / "docs" / "delivery.md").read_text("utf-8")
SAMPLE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
UNITS_MS = {"s": SECOND_MS, "min": MINUTE_MS, "h": HOUR_MS}


def table(heading: str) -> dict[str, str]:
    """The table below a heading: first cell to second."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0].strip("`"): row[1] for row in rows[2:]}


def test_the_schedule_is_the_policys() -> None:
    pauses = [int(number) * UNITS_MS[unit] for number, unit in map(str.split, table("Schedule").values())]
    assert tuple(pauses) == HTTP_POLICY.schedule_ms
    assert list(table("Schedule")) == [str(number + 1) for number in range(len(pauses))]
    assert f"Attempts in a cycle: {len(pauses) + 1}, over 65 to 71 hours" in PAGE
    assert (sum(pauses) / HOUR_MS, sum(pauses) * 1.1 / HOUR_MS) == pytest.approx((65, 71.4), abs=0.2)
    assert HTTP_POLICY.jitter == 0.1
    assert "counts up to 12 h" in PAGE
    assert HTTP_POLICY.max_retry_after_ms == 12 * HOUR_MS


def test_the_states_are_all_there_are() -> None:
    assert list(table("States")) == list(DeliveryState)


def test_the_meaning_of_each_answer_is_the_codes() -> None:
    assert list(table("What a target's answer means").values()) == [
        "taken", "refused for good", "later", f"followed with the same POST, at most {MAX_REDIRECTS} times",
        "later: somebody has to mend the target", "later",
    ]  # fmt: skip
    assert frozenset({301, 302, 307, 308}) == FOLLOWED_REDIRECTS
    assert {status for status in range(400, 500) if http_verdict(status) is Verdict.TEMPORARY} == {408, 425, 429}
    assert f"first {RESPONSE_EXCERPT_BYTES:,} bytes" in PAGE


def test_the_numbers_of_fairness_are_the_codes() -> None:
    pause_s, longest_s = (
        ms // SECOND_MS for ms in (fairness.BREAKER_FIRST_PAUSE_MS, fairness.BREAKER_LONGEST_PAUSE_MS)
    )
    assert table("Fairness") == {
        "answers well": f"`PILLARBOX_HOST_CONCURRENCY` ({Settings().host_concurrency})",
        "not seen by this worker yet": str(fairness.NEWCOMER_CONCURRENCY),
        f"takes longer than {fairness.SLOW_MS // SECOND_MS} s": str(fairness.SLOW_CONCURRENCY),
        "failed last time (0 or 5xx)": str(fairness.FAILING_CONCURRENCY),
        f"failed {fairness.BREAKER_FAILURES} times in a row": (
            f"none for {pause_s} s, then 1 to see; the pause doubles up to {longest_s} s"
        ),
    }
    assert fairness.SUSPECT_POOL_SHARE == 1 / 4


# --- the sample ---


@pytest.fixture
def send() -> Callable[[Post], int]:
    session = guarded_session(TargetPolicy(LOOPBACK), 4, None)
    forwarder = Forwarder(session, DeadlineWatch(), 5, system_clock)
    return lambda post: forwarder.send(post).status


def post(url: str, secret: str, body: bytes = b"\x00\xff any bytes", delivery_id: str = "0190") -> Post:
    return Post(delivery_id, 1, url, secret, "application/octet-stream", body)


def test_every_header_we_send_is_in_the_table(send: Callable[[Post], int]) -> None:
    with running_target() as target:
        send(post(target.url(credentials="a:b@"), new_signing_secret()))
        sent = set(target.received[0].headers)
    assert sent - {"host", "accept", "accept-encoding", "content-length"} == {
        name.lower() for name in table("What is sent")
    }


@pytest.fixture
def secret() -> str:
    return new_signing_secret()


@pytest.fixture
def receiver(tmp_path: Path, secret: str) -> Iterator[str]:
    """The sample of the page, running."""
    port = free_port()
    (tmp_path / "receiver.py").write_text(SAMPLE)
    process = subprocess.Popen(
        [sys.executable, "receiver.py", str(port)],
        cwd=tmp_path, env={**os.environ, "SIGNING_SECRET": secret}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 10
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


def test_the_sample_takes_a_mail_once(receiver: str, secret: str, tmp_path: Path, send: Callable[[Post], int]) -> None:
    assert send(post(receiver, secret)) == 201
    assert send(post(receiver, secret)) == 200
    assert send(post(receiver, secret, delivery_id="0191")) == 201
    kept = sqlite3.connect(tmp_path / "mail.sqlite3").execute("SELECT * FROM mail").fetchall()
    assert kept == [("0190", b"\x00\xff any bytes"), ("0191", b"\x00\xff any bytes")]


@pytest.mark.parametrize("change", ["secret", "body", "id", "old", "future", "no id", "no timestamp", "no signature"])
def test_the_sample_refuses_what_is_not_genuine(receiver: str, secret: str, change: str) -> None:
    now = int(time.time()) + {"old": -301, "future": 400}.get(change, 0)
    headers = signature_headers(new_signing_secret() if change == "secret" else secret, "0190", now, b"body")
    if change == "id":
        headers["webhook-id"] = "0191"
    headers.pop(
        {"no id": "webhook-id", "no timestamp": "webhook-timestamp", "no signature": "webhook-signature"}.get(
            change, ""
        ),
        None,
    )
    answer = requests.post(receiver, data=b"other" if change == "body" else b"body", headers=headers, timeout=5)
    assert answer.status_code == 401
