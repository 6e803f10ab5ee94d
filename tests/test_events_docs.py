"""docs/events.md says what the code does: its tables, its numbers, its samples, and its calls."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import pytest
import requests

from core.clock import system_clock
from core.delivery import HTTP_POLICY, RESPONSE_EXCERPT_BYTES
from core.ids import new_signing_secret
from core.netguard import LOOPBACK, TargetPolicy
from core.sending.event_bodies import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MessageFacts, event_body
from core.sending.event_samples import SAMPLE_DETAILS, sample_event
from core.sending.events import INTERNAL_KINDS, MAX_TEXT, EventDetails, EventKind
from core.sending.returned import Severity
from core.services.accounts import NewAccount
from core.services.replay import MAX_REPLAYS
from core.services.webhook_deliveries import LISTED_STATES
from core.services.webhooks import MAX_FILTER_ENTRIES, MAX_NOTE_LENGTH, MAX_WEBHOOKS, DisabledBecause
from core.signing import signature_headers
from core.store.db import Database
from inbound.forward import MAX_REDIRECTS, Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from tests.conftest import NOW_MS
from tests.ports import free_port
from tests.programs import need_program
from tests.test_api_docs import CURL, read_answers, shape
from tests.web_process import running_web
from tests.webhook_support import RECIPIENT, EventWorker, EventWorld
from web.api.addresses import MAX_OVERLAP_HOURS
from web.api.webhook_models import WebhookWithSecret
from workers.event_posts import EVENT_THREADS

PAGE = (Path(__file__).parents[1] / "docs" / "events.md").read_text("utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SAMPLES = {kind: text for kind, text in BLOCKS if kind in ("python", "javascript")}
ENDING = {
    EventKind.SUPPRESSED, EventKind.CANCELLED, EventKind.DELIVERY, EventKind.BOUNCE, EventKind.SOFT_BOUNCE,
    EventKind.RETRIES_EXHAUSTED, EventKind.ERROR,
}  # fmt: skip
VENDORS = {
    "registration", "dispatch", "rate_limit", "delivery", "bounce", "soft_bounce", "dispatch_soft_bounce", "error",
    "retries_exhausted", "open", "read", "click", "auto_reply", "bounce_reply", "suppressed",
}  # fmt: skip


def tables(heading: str) -> list[list[list[str]]]:
    """The tables below a heading, as rows of cells without their head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]] for text in found]


def names(rows: list[list[str]]) -> list[str]:
    return [row[0].strip("`") for row in rows]


def test_every_kind_is_in_the_table_and_marked_if_it_is_not_the_vendors() -> None:
    (rows,) = tables("Kinds")
    assert names(rows) == list(EventKind)
    assert {name for name, row in zip(names(rows), rows, strict=True) if "*Ours*" not in row[1]} == VENDORS
    assert {name for name, row in zip(names(rows), rows, strict=True) if row[2] == "yes"} == ENDING
    assert {name for name, row in zip(names(rows), rows, strict=True) if "name this kind" in row[1]} == INTERNAL_KINDS


def test_fields_and_details_are_those_that_are_sent() -> None:
    shown, details = tables("What is POSTed")
    sample = json.loads(event_body(sample_event(EventKind.BOUNCE, "", NOW_MS), MessageFacts(None, None), True))
    assert names(shown) == list(sample)
    assert names(details) == [entry.name for entry in fields(EventDetails)]
    documented = json.loads(BLOCKS[0][1])
    del sample["test"]
    assert [list(event) for event in documented["events"]] == [list(sample)]
    assert documented["events"][0]["details"] == SAMPLE_DETAILS[EventKind.BOUNCE].as_dict()
    assert "".join(details[names(details).index("severity")]).count("`") == 2 * (len(Severity) + 1)


def test_the_numbers_are_the_codes() -> None:
    for text in (
        f"an account may have {MAX_WEBHOOKS}.",
        f"at most {MAX_BATCH_EVENTS} and about {MAX_BATCH_BYTES // 1024} KB",
        f"text is cut at {MAX_TEXT:,} characters",
        f"up to {MAX_NOTE_LENGTH} characters",
        f"up to {MAX_FILTER_ENTRIES} tags and {MAX_FILTER_ENTRIES} domains",
        f"at most {MAX_OVERLAP_HOURS}",
        f"at most {MAX_REDIRECTS} times",
        f"{len(HTTP_POLICY.schedule_ms) + 1} attempts over 65 to 71 hours",
        f"in each worker ({EVENT_THREADS})",
        f"the first {RESPONSE_EXCERPT_BYTES:,} bytes",
        f"up to {MAX_REPLAYS:,} in one call",
    ):
        assert text in PAGE.replace("\n", " "), text


def test_settings_states_and_reasons_are_all_there_are() -> None:
    (settings,) = tables("Making one")
    told = set(names(settings)) | {"id", "created_at", "updated_at"}
    assert told == set(WebhookWithSecret.model_fields)
    (states,) = tables("The log")
    assert names(states) == list(LISTED_STATES)
    (reasons,) = tables("Switching off")
    assert set(names(reasons)) - {"is_active: false"} == set(DisabledBecause)


# --- the samples ---


@contextmanager
def running(command: list[str], secret: str, folder: Path) -> Iterator[str]:
    """A sample of the page, listening; gives its URL."""
    port = free_port()
    environment = {**os.environ, "SIGNING_SECRET": secret}
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen([*command, str(port)], cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 10
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline, (folder / "out.txt").read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


@pytest.fixture(params=["python", "javascript"])
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command that runs a sample."""
    (tmp_path / f"receiver.{request.param}").write_text(SAMPLES[request.param])
    program = sys.executable if request.param == "python" else need_program("node")
    return [program, f"receiver.{request.param}"]


def kept(folder: Path) -> list[tuple[str, str, str]]:
    """The events that a sample has taken, each time it did."""
    if (folder / "events.sqlite3").exists():
        rows: list[tuple[str, str, str]] = (
            sqlite3.connect(folder / "events.sqlite3").execute("SELECT * FROM event").fetchall()
        )
        return rows
    return [tuple(line.split(" ")) for line in (folder / "out.txt").read_text().splitlines()]  # type: ignore[misc]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_samples_take_what_we_post_once(
    database: Database, account: NewAccount, tmp_path: Path, sample: list[str]
) -> None:
    world = EventWorld(database, account, system_clock())
    forwarder = Forwarder(guarded_session(TargetPolicy(LOOPBACK), 4, None), DeadlineWatch(), 5, system_clock)
    worker = EventWorker(world, forwarder)
    webhook = world.webhook("http://127.0.0.1:9/")
    with running(sample, webhook.secret, tmp_path) as url:
        world.execute("UPDATE webhook SET url = ?", (url,))
        happened = world.happen(world.send(tags=["ü"]), EventKind.DELIVERY, EventKind.OPEN)
        assert worker.step() == 1
        assert world.deliveries("state, last_status") == [("delivered", 204)]
        world.execute("UPDATE delivery SET state = 'pending', lease_token = NULL, due_ms = 0")
        assert worker.step() == 1
        assert world.deliveries("state, attempts") == [("delivered", 2)]
    assert sorted(kept(tmp_path)) == sorted((one.event_id, one.kind.value, RECIPIENT) for one in happened)


def test_the_samples_refuse_what_is_not_genuine(tmp_path: Path, sample: list[str]) -> None:
    secret, body = new_signing_secret(), b'{"events":[]}'
    now = int(time.time())

    def status(url: str, *, key: str = secret, at: int = now, sent: bytes = body, drop: str = "", **change: str) -> int:
        headers = {**signature_headers(key, "0190", at, body), **change}
        headers.pop(drop, None)
        return requests.post(url, data=sent, headers=headers, timeout=5).status_code

    with running(sample, secret, tmp_path) as url:
        assert status(url) == 204
        rotated = signature_headers(new_signing_secret(), "0190", now, body, secret)
        assert status(url, **rotated) == 204
        assert status(url, key=new_signing_secret()) == 401
        assert status(url, sent=b'{"events":[{}]}') == 401
        assert status(url, at=now - 301) == 401
        assert status(url, at=now + 400) == 401
        assert status(url, **{"webhook-id": "0191"}) == 401
        assert status(url, **{"webhook-timestamp": "soon"}) == 401
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
            assert status(url, drop=name) == 401


# --- the calls ---


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_call_gives_what_the_page_shows(database_url: str, account: NewAccount, tmp_path: Path) -> None:
    for program in ("curl", "jq"):
        need_program(program)
    calls = [(text, BLOCKS[number + 1]) for number, (kind, text) in enumerate(BLOCKS[:-1]) if kind == "bash"]
    calls += [(text, ("", "")) for kind, text in BLOCKS[-1:] if kind == "bash"]
    marked = "".join(f"{text}\necho; echo @@@; echo @@@ >&2\n" for text, _ in calls)
    with running_web(tmp_path / "data", database_url) as web:
        environment = {
            **os.environ,
            "API": f"{web.url}/api/v0.1/{account.account_id}",
            "AUTH": f"Authorization: Bearer {account.api_key}",
        }
        done = subprocess.run(
            ["bash", "-c", f"set -eo pipefail\n{CURL}{marked}"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = done.stdout.split("@@@\n")[:-1]
    statuses = [re.findall(r"STATUS (\d+)", text) for text in done.stderr.split("@@@\n")[:-1]]
    assert len(outputs) == len(statuses) == len(calls) == 7
    for (text, (kind, documented)), output, codes in zip(calls, outputs, statuses, strict=True):
        assert codes, f"nothing was asked by {text}"
        assert all(code.startswith("2") for code in codes), f"{text}{output}{codes}"
        if kind == "json":
            assert shape(read_answers(output)[0]) == shape(json.loads(documented)), f"{text}{output}"
