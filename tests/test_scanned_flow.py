"""Scans end to end: real spamd, rspamd and clamd behind a running gateway, from the sender's reply to the payload."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import smtplib
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import requests

from inbound.scanning.availability import REST_S
from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, running_target
from tests.scanner_servers import (
    EICAR,
    FOUND_AS,
    GTUBE,
    ScannerServer,
    running_clamd,
    running_rspamd,
    running_spamd,
)
from tests.zone_server import running_zone

SENDER = "sender@example.com"
PROCESSES = ("redis", "smtp", "worker", "web")
CLEAN = b"%PDF-1.7 nothing to see here"
SALE_RULES = "header SALE Subject =~ /SALE/\ndescribe SALE A sale\nscore SALE 40\n"
"""So that there is mail which is spam, by far, and still below a threshold that an address can have."""
DEAD = "127.0.0.1:9"
MODES = ("queued", "inline")
BOTH_SCANNERS_DOWN = {"PILLARBOX_SPAMD": DEAD, "PILLARBOX_CLAMD": DEAD}
SHORT_TIMEOUT_S = 2
RECOVERY_S = REST_S + 10
PAUSE_S = 1.0


@dataclass
class World:
    """A gateway with scanners, its target, and the virus scanner where a test stops it."""

    gateway: Gateway
    target: HttpTarget
    clamd: ScannerServer | None = None

    def address(self, path: str, **settings: Any) -> str:
        """An address made through the API; gives its mailbox."""
        body = {"target": self.target.url(path), "target_format": "json+n", **settings}
        return str(self.gateway.api("POST", "/addresses", expected=201, **body)["address"])

    def answer(self, mailbox: str | list[str], message: bytes) -> tuple[int, str]:
        """The final reply to a message."""
        with self.gateway.connect(timeout=60) as client:
            client.mail(SENDER)
            for recipient in [mailbox] if isinstance(mailbox, str) else mailbox:
                assert client.rcpt(recipient)[0] == 250
            code, text = client.data(message)
            return code, text.decode()

    def posted(self, path: str, count: int = 1) -> dict[str, Any]:
        """The newest of so many payloads that have come on a path."""
        deadline = time.monotonic() + 30
        while len(found := [request for request in self.target.received if request.path == path]) < count:
            assert time.monotonic() < deadline, f"nothing came on {path}\n{self.gateway.log()[-3000:]}"
            time.sleep(0.02)
        assert len(found) == count
        return dict(json.loads(found[-1].body))

    def is_posted(self, path: str) -> bool:
        return any(request.path == path for request in self.target.received)

    def status(self, mailbox: str, state: str) -> dict[str, Any]:
        """The one delivery of an address, once it has this state, as the API shows it."""
        address_id = mailbox.partition("@")[0]
        self.gateway.wait_until(f"SELECT 1 FROM delivery WHERE address_id = '{address_id}' AND state = '{state}'")
        (listed,) = self.gateway.api("GET", f"/incoming_statuses?address_id={address_id}")
        return dict(listed)

    def count(self, mailbox: str) -> int:
        """How many deliveries there are to an address."""
        with self.gateway.database.reading():
            query = "SELECT COUNT(*) FROM delivery WHERE address_id = ?"
            return int(self.gateway.database.execute(query, (mailbox.partition("@")[0],))[0][0])

    def release(self, mailbox: str) -> None:
        """Let out what is held for an address."""
        held = self.status(mailbox, "quarantined")
        self.gateway.api("POST", f"/incoming_statuses/{held['id']}/release", expected=202)


@contextmanager
def scanning_world(
    folder: Path, database_url: str | None = None, clamd: ScannerServer | None = None, **settings: str
) -> Iterator[World]:
    """A gateway with these settings, which asks a name server that knows nothing, and a target."""
    with running_zone() as zone, running_target() as target:
        settings["PILLARBOX_RESOLVER"] = f"127.0.0.1:{zone.port}"
        with running_gateway(folder, *PROCESSES, database_url=database_url, **settings) as gateway:
            yield World(gateway, target, clamd)


@pytest.fixture(scope="module")
def clamd() -> Iterator[ScannerServer]:
    with running_clamd() as server:
        yield server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clamd: ScannerServer) -> Iterator[World]:
    with ExitStack() as stack:
        spamd = stack.enter_context(running_spamd(SALE_RULES))
        settings = {"PILLARBOX_SPAMD": spamd.address, "PILLARBOX_CLAMD": clamd.address}
        folder = tmp_path_factory.mktemp("scanned")
        yield stack.enter_context(scanning_world(folder, clamd=clamd, **settings))


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway whose scanners are both down."""
    with scanning_world(tmp_path_factory.mktemp("blind"), **BOTH_SCANNERS_DOWN) as started:
        yield started


def mail(text: str = "Hi.", *attachments: bytes, subject: str = "Hello") -> bytes:
    """A message with these attachments."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "A <a@example.com>", "b@example.net", subject
    message["Date"], message["Message-ID"] = "Fri, 20 Nov 2026 01:02:03 +0100", "<1@example.com>"
    message.set_content(f"{text}\n")
    for number, content in enumerate(attachments):
        message.add_attachment(content, "application", "octet-stream", filename=f"{number}.bin")
    return bytes(message).replace(b"\n", b"\r\n")


def spam() -> bytes:
    """What every spam scanner calls spam."""
    return mail(GTUBE)


# --- viruses ---


@pytest.mark.parametrize("mode", MODES)
def test_clean_attachments_are_told_to_be_so(world: World, mode: str) -> None:
    path = f"/ok/clean/{mode}"
    mailbox = world.address(path, mode=mode)
    assert world.answer(mailbox, mail("Hi.", CLEAN, b"other"))[0] == 250
    payload = world.posted(path)
    scans = [entry["scan"] for entry in payload["attachments"]]
    assert [(scan["status"], scan["matches"]) for scan in scans] == [("ok", []), ("ok", [])]
    assert [scan["sha256"] for scan in scans] == [hashlib.sha256(content).hexdigest() for content in (CLEAN, b"other")]
    assert scans[0]["md5"] == hashlib.md5(CLEAN, usedforsecurity=False).hexdigest()
    assert payload["envelope"]["spamd"]["success"] is True
    assert float(payload["envelope"]["spamd"]["score"]) < 5
    assert "flags" not in payload["pillarbox"]


@pytest.mark.parametrize("mode", MODES)
def test_a_virus_is_held_unless_the_address_says_otherwise_and_goes_out_when_released(world: World, mode: str) -> None:
    path = f"/ok/virus/{mode}"
    mailbox = world.address(path, mode=mode)
    assert world.answer(mailbox, mail("Hi.", CLEAN, EICAR))[0] == 250
    held = world.status(mailbox, "quarantined")
    assert held["status_category"] == "quarantined"
    assert held["error"] == f"virus found: {FOUND_AS}"
    assert held["flags"] == ["virus"]
    assert not world.is_posted(path)
    world.release(mailbox)
    payload = world.posted(path)
    assert [entry["scan"]["status"] for entry in payload["attachments"]] == ["ok", "found"]
    assert payload["attachments"][1]["scan"]["matches"] == [FOUND_AS]
    assert payload["pillarbox"]["flags"] == ["virus"]
    world.status(mailbox, "delivered")


@pytest.mark.parametrize("mode", MODES)
def test_a_virus_is_refused_to_the_sender_where_the_address_wants_that(world: World, mode: str) -> None:
    path = f"/ok/strict/{mode}"
    mailbox = world.address(path, mode=mode, on_virus="reject")
    assert world.answer(mailbox, mail("Hi.", EICAR)) == (550, "5.7.1 The message holds a virus")
    assert world.count(mailbox) == 0
    assert world.answer(mailbox, mail("Hi.", CLEAN))[0] == 250
    assert world.posted(path)["attachments"][0]["scan"]["status"] == "ok"


def test_a_virus_is_refused_by_smtplib_too_and_delivered_flagged_where_that_is_enough(world: World) -> None:
    strict, lenient = world.address("/ok/one", on_virus="reject"), world.address("/ok/two", on_virus="flag")
    with pytest.raises(smtplib.SMTPDataError):
        world.gateway.send(strict, mail("Hi.", EICAR))
    assert world.answer([strict, lenient], mail("Hi.", EICAR))[0] == 250
    payload = world.posted("/ok/two")
    assert payload["pillarbox"]["flags"] == ["virus"]
    assert payload["attachments"][0]["scan"]["status"] == "found"
    assert "virus found" in world.status(strict, "quarantined")["error"]
    assert not world.is_posted("/ok/one")


def test_a_virus_in_a_large_message_is_found(world: World) -> None:
    mailbox = world.address("/ok/large")
    assert world.answer(mailbox, mail("Hi.", os.urandom(400_000), EICAR))[0] == 250
    assert "virus found" in world.status(mailbox, "quarantined")["error"]


@pytest.mark.parametrize("wrapped", ["zip", "message", "nested"])
def test_a_virus_inside_something_is_found(world: World, wrapped: str) -> None:
    mailbox = world.address(f"/ok/{wrapped}")
    assert world.answer(mailbox, mail("Hi.", WRAPPERS[wrapped]()))[0] == 250
    assert world.status(mailbox, "quarantined")["error"] == f"virus found: {FOUND_AS}"


def zipped(content: bytes) -> bytes:
    """A ZIP file with one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.com", content)
    return file.getvalue()


WRAPPERS: dict[str, Callable[[], bytes]] = {
    "zip": lambda: zipped(EICAR),
    "message": lambda: mail("Look.", EICAR),
    "nested": lambda: mail("Look.", zipped(EICAR)),
}


def test_what_is_held_is_stored_only_when_it_is_released(world: World) -> None:
    mailbox = world.address("/ok/stored", attachments={"kind": "built_in"})
    assert world.answer(mailbox, mail("Hi.", EICAR))[0] == 250
    world.status(mailbox, "quarantined")
    folder = world.gateway.settings.data / "messages" / "stored"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    world.release(mailbox)
    (entry,) = world.posted("/ok/stored")["attachments"]
    assert entry["scan"]["status"] == "found"
    assert requests.get(entry["url"], timeout=20).content == EICAR


# --- spam ---


@pytest.mark.parametrize("mode", MODES)
def test_spam_is_flagged_held_or_refused_as_the_address_says(world: World, mode: str) -> None:
    flagging, holding, refusing = (
        world.address(f"/ok/{action}/{mode}", mode=mode, on_spam=action) for action in ("flag", "quarantine", "reject")
    )
    assert world.answer(flagging, spam())[0] == 250
    payload = world.posted(f"/ok/flag/{mode}")
    assert payload["pillarbox"]["flags"] == ["spam"]
    assert float(payload["envelope"]["spamd"]["score"]) > 900
    assert "GTUBE" in payload["envelope"]["spamd"]["symbols"]
    assert world.status(flagging, "delivered")["flags"] == ["spam"]

    assert world.answer(holding, spam())[0] == 250
    held = world.status(holding, "quarantined")
    assert held["error"].startswith("spam score ")
    assert held["error"].endswith("the scanner calls that spam")
    assert not world.is_posted(f"/ok/quarantine/{mode}")

    assert world.answer(refusing, spam()) == (550, "5.7.1 The message looks like spam")
    assert world.count(refusing) == 0
    assert world.answer(refusing, mail())[0] == 250
    world.posted(f"/ok/reject/{mode}")


def test_the_threshold_of_an_address_stands_in_place_of_the_scanners(world: World) -> None:
    sale = mail(subject="SALE")
    strict = world.address("/ok/strict", on_spam="reject", spam_threshold=-50)
    assert world.answer(strict, mail())[0] == 550
    holding = world.address("/ok/holding", on_spam="quarantine", spam_threshold=39)
    assert world.answer(holding, sale)[0] == 250
    assert world.status(holding, "quarantined")["error"].endswith("the threshold is 39")
    lenient = world.address("/ok/lenient", on_spam="reject", spam_threshold=90)
    assert world.answer(lenient, sale)[0] == 250
    payload = world.posted("/ok/lenient")
    assert 39 <= float(payload["envelope"]["spamd"]["score"]) < 90
    assert "flags" not in payload["pillarbox"]
    assert world.answer(lenient, spam())[0] == 550


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_rspamd_is_asked_in_place_of_spamd_and_both_are_known_to_postgresql(
    tmp_path: Path, database_url: str, clamd: ScannerServer
) -> None:
    with running_rspamd() as rspamd:
        scanners = {"PILLARBOX_RSPAMD": f"http://{rspamd.address}", "PILLARBOX_CLAMD": clamd.address}
        settings = {**scanners, "PILLARBOX_SPAMD": DEAD}
        with scanning_world(tmp_path, database_url, **settings) as world:
            refusing = world.address("/ok/refusing", on_spam="reject", on_virus="reject")
            assert world.answer(refusing, spam()) == (550, "5.7.1 The message looks like spam")
            assert world.answer(refusing, mail("Hi.", EICAR))[0] == 550
            holding = world.address("/ok/holding", on_spam="quarantine", spam_threshold=5)
            assert world.answer(holding, mail(subject="SALE"))[0] == 250
            assert world.status(holding, "quarantined")["error"].endswith("the threshold is 5")
            assert world.answer(refusing, mail("Hi.", CLEAN))[0] == 250
            payload = world.posted("/ok/refusing")
        seen = rspamd.log()
    assert "SEEN_FACTS" in payload["envelope"]["spamd"]["symbols"]
    assert payload["attachments"][0]["scan"]["status"] == "ok"
    assert f"seen: 127.0.0.1 client.example {SENDER}" in seen


# --- scanners that are down or slow ---


@pytest.mark.parametrize("mode", MODES)
def test_with_its_scanners_down_mail_is_delivered_and_that_is_said(blind: World, mode: str) -> None:
    path = f"/ok/blind/{mode}"
    mailbox = blind.address(path, mode=mode)
    assert blind.answer(mailbox, mail("Hi.", CLEAN))[0] == 250
    payload = blind.posted(path)
    assert payload["pillarbox"]["flags"] == ["scanner_failure"]
    assert payload["envelope"]["spamd"]["success"] is False
    assert payload["attachments"][0]["scan"]["status"] == "failed"
    assert blind.status(mailbox, "delivered")["flags"] == ["scanner_failure"]


@pytest.mark.parametrize("mode", MODES)
def test_with_its_scanners_down_an_address_may_hold_its_mail(blind: World, mode: str) -> None:
    path = f"/ok/hold/{mode}"
    mailbox = blind.address(path, mode=mode, on_scanner_failure="hold")
    assert blind.answer(mailbox, mail("Hi.", CLEAN))[0] == 250
    assert blind.status(mailbox, "quarantined")["error"] == "the spam and virus scanner gave no answer"
    assert not blind.is_posted(path)
    blind.release(mailbox)
    assert blind.posted(path)["attachments"][0]["scan"]["status"] == "failed"
    assert blind.status(mailbox, "delivered")["released"] is True


@pytest.mark.parametrize(("reaction", "state"), [("deliver", "delivered"), ("hold", "quarantined")])
def test_a_scanner_that_is_down_never_refuses_mail(blind: World, reaction: str, state: str) -> None:
    strict = {"on_virus": "reject", "on_spam": "reject", "on_scanner_failure": reaction}
    mailbox = blind.address(f"/ok/{reaction}", **strict)
    assert blind.answer(mailbox, mail("Hi.", EICAR))[0] == 250
    assert blind.status(mailbox, state)["flags"] == ["scanner_failure"]


@pytest.mark.parametrize("settings", [{}, {"mode": "inline"}, {"on_virus": "reject"}], ids=["queued", "inline", "gate"])
def test_a_scanner_that_is_slow_is_waited_for(world: World, settings: dict[str, str]) -> None:
    path = f"/ok/slow/{len(settings)}/{'mode' in settings}"
    mailbox = world.address(path, **settings)
    started = time.monotonic()
    with stopped(world.clamd, for_s=PAUSE_S):
        assert world.answer(mailbox, mail("Hi.", CLEAN))[0] == 250
        assert world.posted(path)["attachments"][0]["scan"]["status"] == "ok"
    assert time.monotonic() - started >= PAUSE_S


def test_a_scanner_that_is_too_slow_costs_its_time_and_no_mail_and_is_asked_again_when_it_is_back(
    tmp_path: Path, clamd: ScannerServer
) -> None:
    settings = {"PILLARBOX_CLAMD": clamd.address, "PILLARBOX_SCAN_TIMEOUT": str(SHORT_TIMEOUT_S)}
    with scanning_world(tmp_path, clamd=clamd, **settings) as world:
        queued, inline = world.address("/ok/queued"), world.address("/ok/inline", mode="inline")
        strict = world.address("/ok/strict", on_virus="reject", on_scanner_failure="hold")
        with stopped(clamd):
            for mailbox, path in ((queued, "/ok/queued"), (inline, "/ok/inline")):
                assert world.answer(mailbox, mail("Hi.", CLEAN))[0] == 250
                payload = world.posted(path)
                assert payload["attachments"][0]["scan"]["status"] == "failed"
                assert payload["pillarbox"]["flags"] == ["scanner_failure"]
            started = time.monotonic()
            assert world.answer(strict, mail("Hi.", CLEAN))[0] == 250
            assert time.monotonic() - started < SHORT_TIMEOUT_S + 5
            assert world.status(strict, "quarantined")["error"] == "the virus scanner gave no answer"
        deadline = time.monotonic() + RECOVERY_S
        while world.answer(strict, mail("Hi.", EICAR))[0] != 550:  # until then it is held
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert world.answer(queued, mail("Hi.", CLEAN))[0] == 250
        assert world.posted("/ok/queued", 2)["attachments"][0]["scan"]["status"] == "ok"


@contextmanager
def stopped(server: ScannerServer | None, for_s: float | None = None) -> Iterator[None]:
    """A scanner that takes connections and does not answer; goes on at the end, or by itself after `for_s` seconds."""
    assert server is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    waker = threading.Timer(for_s or 3600, os.kill, (server.process.pid, signal.SIGCONT))
    waker.daemon = True
    waker.start()
    try:
        yield
    finally:
        waker.cancel()
        os.kill(server.process.pid, signal.SIGCONT)
