"""Spam verdicts of a real rspamd."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.config import Settings
from core.verdicts import SpamVerdict
from inbound.scanning import MailFacts, Scanners
from tests.http_target import HttpTarget, reply, running_target
from tests.raw_server import make_certificate, read_request, running_raw_server
from tests.scanner_servers import GTUBE, ScannerServer, running_rspamd

FACTS = MailFacts("198.18.0.7", "helo.test", "from@sender.test", ("one@here.test", "two@here.test"))
DESCRIPTION = "  7.25 SAYS_SALE                  A sale\n  1.50 SEEN_FACTS                 What the client said"


def message(subject: str = "Thursday", text: str = "Are we still on?") -> bytes:
    return f"From: from@sender.test\r\nSubject: {subject}\r\n\r\n{text}\r\n".encode()


@pytest.fixture(scope="module")
def rspamd() -> Iterator[ScannerServer]:
    with running_rspamd() as running:
        yield running


@pytest.fixture(scope="module")
def scanners(rspamd: ScannerServer) -> Scanners:
    return Scanners(Settings(rspamd=f"http://{rspamd.address}/", spamd="127.0.0.1:1"))


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as running:
        yield running


def test_gtube_is_spam(scanners: Scanners) -> None:
    verdict = scanners.score(message(text=GTUBE), FACTS)
    assert verdict == SpamVerdict(True, 15.0, ("GTUBE",), "  0.00 GTUBE", is_spam=True)


def test_an_ordinary_mail_is_not(scanners: Scanners) -> None:
    verdict = scanners.score(message(), FACTS)
    assert verdict == SpamVerdict(True, 1.5, ("SEEN_FACTS",), DESCRIPTION.splitlines()[1], is_spam=False)


def test_spam_that_would_get_a_header_is_spam_and_the_heaviest_rule_comes_first(scanners: Scanners) -> None:
    verdict = scanners.score(message("SALE"), FACTS)
    assert verdict == SpamVerdict(True, 8.75, ("SAYS_SALE", "SEEN_FACTS"), DESCRIPTION, is_spam=True)


def test_rspamd_learns_what_the_smtp_conversation_said(scanners: Scanners, rspamd: ScannerServer) -> None:
    scanners.score(message(), FACTS)
    assert "seen: 198.18.0.7 helo.test from@sender.test one@here.test two@here.test" in rspamd.log()
    hostile = MailFacts("2001:db8::7", "a\r\nIP: 203.0.113.9\r\n\r\nb", "", ("three@here.test",))
    scanners.score(message(), hostile)
    assert "seen: 2001:db8::7 aIP: 203.0.113.9b  three@here.test" in rspamd.log()


def test_many_recipients(scanners: Scanners, rspamd: ScannerServer) -> None:
    facts = MailFacts("198.18.0.7", "h", "s@sender.test", tuple(f"{'r' * 60}{n}@here.test" for n in range(1000)))
    verdict = scanners.score(message(), facts)
    assert verdict is not None
    assert verdict.success


def test_a_message_beyond_its_own_limit_is_not_scored(scanners: Scanners) -> None:
    verdict = scanners.score(message(text="x" * 5_000_000), FACTS)
    assert verdict == SpamVerdict(False, description="not scored: the scanner did not answer")
    following = scanners.score(message(), FACTS)
    assert following is not None
    assert following.success


def test_from_many_threads(scanners: Scanners) -> None:
    with ThreadPoolExecutor(16) as pool:
        verdicts = list(pool.map(lambda n: scanners.score(message("SALE" if n % 2 else "no"), FACTS), range(200)))
    assert [verdict.is_spam for verdict in verdicts if verdict] == [bool(n % 2) for n in range(200)]


def test_it_takes_precedence_and_spamd_is_not_asked(scanners: Scanners) -> None:
    verdict = scanners.score(message(), FACTS)
    assert verdict is not None
    assert verdict.success  # nothing listens where the settings say that spamd is


@pytest.mark.parametrize("action", ["no action", "greylist", "soft reject", "something of a site"])
def test_actions_that_are_not_for_spam(target: HttpTarget, action: str) -> None:
    verdict = ask(target, f'{{"score": 99, "action": "{action}", "symbols": {{}}}}'.encode())
    assert verdict == SpamVerdict(True, 99.0, is_spam=False)
    assert [(it.method, it.path) for it in target.received] == [("POST", "/checkv2")]


@pytest.mark.parametrize("action", ["add header", "rewrite subject", "reject", "quarantine", "discard"])
def test_actions_for_spam(target: HttpTarget, action: str) -> None:
    assert ask(target, f'{{"score": 1.5, "action": "{action}"}}'.encode()).is_spam


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"not json",
        b'{"score": NaN, "action": "reject"}',
        b'{"score": 1e999, "action": "reject"}',
        b'{"action": "reject"}',
        b'{"score": 1, "action": "reject", "symbols": {"A": 7}}',
        b"[" * 100_000,
        b'{"score": 1, "action": "reject", "symbols": ' + b'{"a":' * 50_000,
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_none(target: HttpTarget, body: bytes) -> None:
    assert not ask(target, body).success


def test_a_password_page_is_no_verdict(target: HttpTarget) -> None:
    verdict = ask(target, b'{"score": 1, "action": "reject"}', status=403)
    assert verdict == SpamVerdict(False, description="not scored: the scanner refused the message")


def ask(target: HttpTarget, body: bytes, status: int = 200) -> SpamVerdict:
    """The verdict on one answer to `/checkv2`."""
    target.scripted["/checkv2"] = [reply(status, body)]
    verdict = Scanners(Settings(rspamd=target.url("").rstrip("/"), scan_timeout=1)).score(message(), FACTS)
    assert verdict is not None
    return verdict


def test_over_tls_the_certificate_is_checked(tmp_path: Path) -> None:
    def answer(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(reply(200, b'{"score": 1, "action": "reject"}'))

    with running_raw_server(answer, make_certificate(tmp_path)) as port, capture_logs() as logged:
        verdict = Scanners(Settings(rspamd=f"https://127.0.0.1:{port}", scan_timeout=2)).score(message(), FACTS)
    assert verdict == SpamVerdict(False, description="not scored: the scanner did not answer")
    assert "CERTIFICATE_VERIFY_FAILED" in logged[0]["reason"] or "certificate" in logged[0]["reason"]
