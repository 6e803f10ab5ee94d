"""Spam verdicts of a real SpamAssassin, and its answers read one by one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from core.config import Settings
from core.verdicts import SpamVerdict
from inbound.scanning import MailFacts, Scanners
from inbound.scanning.failures import Declined, NoAnswer
from inbound.scanning.introduction import introduce
from inbound.scanning.spamd import MAX_MESSAGE_BYTES, read_answer
from inbound.scanning.verdict_text import MAX_DESCRIPTION_CHARACTERS, MAX_SYMBOLS
from tests.scanner_servers import GTUBE, ScannerServer, running_spamd
from tests.zone_server import Zone, running_zone

CLIENT = "198.18.0.7"
FACTS = MailFacts(CLIENT, "helo.test", "from@sender.test", ("one@here.test", "two@here.test"))
TABLE_HEAD = " pts rule name              description\n---- ---------------------- " + "-" * 50


def message(text: str = "Are we still on for Thursday?", subject: str = "Thursday") -> bytes:
    """A mail with all the headers that SpamAssassin looks for."""
    lines = [
        "From: From <from@sender.test>",
        "To: One <one@here.test>",
        f"Subject: {subject}",
        f"Date: {formatdate(time.time())}",
        f"Message-ID: <{time.time_ns()}@sender.test>",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "",
        text,
        "",
    ]
    return "\r\n".join(lines).encode()


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    with running_zone() as running:
        running.add("7.0.18.198.in-addr.arpa", "PTR", "mail.sender.test.")
        running.add("mail.sender.test", "A", CLIENT)
        running.add("8.0.18.198.in-addr.arpa", "PTR", "mail.sender.test.")  # which is not 198.18.0.8
        yield running


@pytest.fixture(scope="module")
def spamd() -> Iterator[ScannerServer]:
    with running_spamd() as running:
        yield running


@pytest.fixture(scope="module")
def scanners(spamd: ScannerServer, zone: Zone) -> Scanners:
    return Scanners(settings(spamd.address, zone))


def settings(spamd: str, zone: Zone) -> Settings:
    return Settings(spamd=spamd, resolver=f"127.0.0.1:{zone.port}", hostname="mx.test", scan_timeout=20)


def score(scanners: Scanners, raw: bytes, facts: MailFacts = FACTS) -> SpamVerdict:
    verdict = scanners.score(raw, facts)
    assert verdict is not None
    return verdict


def test_gtube_is_spam_and_the_verdict_says_why(scanners: Scanners) -> None:
    verdict = score(scanners, message(GTUBE))
    assert verdict.success
    assert verdict.is_spam
    assert verdict.score is not None
    assert verdict.score > 900
    assert "GTUBE" in verdict.symbols
    assert verdict.description.startswith(TABLE_HEAD)
    assert "1000 GTUBE                  BODY: Generic Test for Unsolicited Bulk Email" in verdict.description


def test_an_ordinary_mail_is_not(scanners: Scanners) -> None:
    verdict = score(scanners, message())
    assert verdict.success
    assert not verdict.is_spam
    assert verdict.score is not None
    assert verdict.score < 5
    assert "GTUBE" not in verdict.symbols


def test_spamassassin_learns_what_the_smtp_conversation_said(scanners: Scanners) -> None:
    verdict = score(scanners, message())
    assert {"SEEN_CLIENT", "SEEN_SENDER", "SEEN_RECIPIENT"} <= set(verdict.symbols)
    assert not {"RDNS_NONE", "NO_RECEIVED", "NO_RELAYS", "MISSING_DATE"} & set(verdict.symbols)


@pytest.mark.parametrize("ip", ["198.18.0.8", "198.18.0.9"], ids=["not confirmed", "nameless"])
def test_a_client_without_a_confirmed_name_has_none(scanners: Scanners, ip: str) -> None:
    facts = MailFacts(ip, "helo.test", "from@sender.test", ("one@here.test",))
    assert "RDNS_NONE" in score(scanners, message(), facts).symbols


def test_a_client_cannot_forge_the_client(scanners: Scanners) -> None:
    helo = f"helo.test (mail.sender.test [{CLIENT}])\tby mx.test with ESMTP;\r\nX-Forged: yes"
    facts = MailFacts("198.18.0.66", helo, "a@b.test>\r\nX-Forged: <", ("x@here.test\r\n\r\nbody",))
    verdict = score(scanners, message(), facts)
    assert "RDNS_NONE" in verdict.symbols
    assert "SEEN_CLIENT" not in verdict.symbols
    assert "MISSING_SUBJECT" not in verdict.symbols  # as it would be, had the headers ended before
    assert b"X-Forged" not in introduce(facts, None, "mx", 0).replace(b"?X-Forged", b"").replace(b">X-Forged", b"")


def test_the_null_sender_and_an_ipv6_client(scanners: Scanners) -> None:
    head = introduce(MailFacts("2001:db8::7", "[IPv6:2001:db8::7]", "", ()), "v6.test", "mx.test", 0).decode()
    assert head == (
        "X-Envelope-From: <>\r\n"
        "Received: from [IPv6:2001:db8::7] (v6.test [IPv6:2001:db8::7])\r\n"
        "\tby mx.test with ESMTP;\r\n"
        "\tThu, 01 Jan 1970 00:00:00 -0000\r\n"
    )
    assert score(scanners, message(), MailFacts("2001:db8::7", "h", "", ())).success


def test_a_message_cannot_forge_symbols_in_the_report(scanners: Scanners) -> None:
    text = f"{TABLE_HEAD}\r\n 9.9 FORGED_RULE              Not a rule\r\n"
    verdict = score(scanners, message(text.replace("\n", "\r\n")))
    assert "FORGED_RULE" not in verdict.symbols
    assert "SEEN_CLIENT" in verdict.symbols


def test_a_large_message_is_not_given_to_it(scanners: Scanners, spamd: ScannerServer) -> None:
    before = spamd.log().count("checking message")
    verdict = score(scanners, message("x" * MAX_MESSAGE_BYTES))
    assert not verdict.success
    assert verdict.score is None
    assert f"at most {MAX_MESSAGE_BYTES}" in verdict.description
    assert spamd.log().count("checking message") == before


def test_a_message_of_the_largest_size(scanners: Scanners) -> None:
    raw = message()
    assert score(scanners, raw + b"\r\n" * ((MAX_MESSAGE_BYTES - len(raw)) // 2)).success


def test_over_a_unix_socket_and_with_a_report_of_another_form(zone: Zone) -> None:
    with tempfile.TemporaryDirectory(prefix="pillarbox-") as folder:
        path = Path(folder) / "spamd.sock"
        Path(folder).chmod(0o777)
        rules = "clear_report_template\nreport Points: _SCORE_\n"
        with running_spamd(rules, path):
            verdict = score(Scanners(settings(str(path), zone)), message(GTUBE))
    assert verdict.is_spam
    assert verdict.symbols == ()
    assert verdict.description.startswith("Points: 1")


def answer(body: str, verdict: str = "True ; 7.5 / 5.0", length: int | None = None) -> bytes:
    """What spamd answers to REPORT."""
    size = len(body.encode()) if length is None else length
    return f"SPAMD/1.1 0 EX_OK\r\nContent-length: {size}\r\nSpam: {verdict}\r\n\r\n{body}".encode()


def test_an_answer_read() -> None:
    table = f"{TABLE_HEAD}\n-0.5 A_RULE                 One\n                            that goes on\n"
    table += "                            [9.9 NOT_ONE       of them]\n1000 B_2                    BODY: Two\n"
    preview = f"Content preview:\n{TABLE_HEAD}\n 9.9 FORGED                 Quoted from the message\n\n 1.0 TOO\n"
    verdict = read_answer(answer(f"{preview}\n{table}\n", "False ; -0.5 / 5.0"))
    assert verdict == SpamVerdict(True, -0.5, ("A_RULE", "B_2"), table.strip("\n"), is_spam=False)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x00\xff\xfe",
        b"HTTP/1.1 200 OK\r\n\r\n",
        answer("half", length=500),
        answer("too much", length=3),
        answer("", "True ; nan / 5.0"),
        answer("", "True ; 1e400 / 5.0"),
        answer("", "Maybe ; 1.0 / 5.0"),
        answer("")[:-2],
        b"SPAMD/1.1 0 EX_OK\r\n",
    ],
)
def test_an_answer_that_is_none(bad: bytes) -> None:
    with pytest.raises(NoAnswer):
        read_answer(bad)


def test_a_refusal_is_an_answer() -> None:
    with pytest.raises(Declined, match="74 EX_IOERR"):
        read_answer(b"SPAMD/1.0 74 EX_IOERR\r\n")


def test_an_answer_with_too_much_of_everything() -> None:
    rows = "".join(f" 0.1 RULE_{number:04}              {'long ' * 10}\n" for number in range(5_000))
    verdict = read_answer(answer(f"{TABLE_HEAD}\n{rows}\x00\x07"))
    assert len(verdict.symbols) == MAX_SYMBOLS
    assert len(verdict.description) == MAX_DESCRIPTION_CHARACTERS
    assert verdict.description.endswith("…")
    assert "\x00" not in verdict.description
