"""The spam check before sending, by real scanners: what they call spam is held, what they cannot judge goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.clock import system_clock
from core.config import Settings
from core.errors import ConfigurationError
from core.sending.raw_submission import RawSubmission
from core.services.accounts import NewAccount
from core.services.sends import NewSend, Submitter
from core.store.blobs import DiskBlobs
from core.store.db import Database
from inbound.scanning.sent_mail import OWN_NETWORK, SentMailCheck, open_sent_mail_check
from outbound.accepting import SendAcceptor, SpamCheck
from tests.ports import free_port
from tests.scanner_servers import GTUBE, ScannerServer, running_rspamd, running_spamd

SEND = NewSend(
    message_id="0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90", submitter=Submitter("a" * 16, "user", "198.18.0.7"),
    sending_domain_id=None, mail_from="shop@sender.test", recipients=("one@here.test", "two@here.test"),
    header_from="", header_to=(), header_cc=(), subject=None, header_message_id="", content=None, size=0, md5="",
    needs_smtputf8=False, received_ms=0,
)  # fmt: skip


def message(text: str = "Are we still on?", subject: str = "Thursday") -> bytes:
    return f"From: shop@sender.test\r\nTo: one@here.test\r\nSubject: {subject}\r\n\r\n{text}\r\n".encode()


@pytest.fixture(scope="module")
def rspamd() -> Iterator[ScannerServer]:
    with running_rspamd() as running:
        yield running


@pytest.fixture(scope="module")
def spamd() -> Iterator[ScannerServer]:
    with running_spamd() as running:
        yield running


@pytest.fixture(params=["rspamd", "spamd"])
def check(request: pytest.FixtureRequest) -> SpamCheck:
    server: ScannerServer = request.getfixturevalue(request.param)
    where = f"http://{server.address}" if request.param == "rspamd" else server.address
    return made(**{request.param: where})


def made(**scanner: str) -> SentMailCheck:
    found = open_sent_mail_check(replace(Settings(check_sent_spam=True, scan_timeout=10), **scanner), system_clock)
    assert found is not None
    return found


def test_spam_is_held_with_its_points_and_rules(check: Callable[[bytes, NewSend], str | None]) -> None:
    reason = check(message(GTUBE), SEND)
    assert reason is not None
    assert "points" in reason
    assert "GTUBE" in reason


def test_ordinary_mail_goes(check: SpamCheck) -> None:
    assert check(message(), SEND) is None


def test_the_scanner_learns_the_envelope_and_not_where_the_customer_sits(rspamd: ScannerServer) -> None:
    made(rspamd=f"http://{rspamd.address}")(message(subject="the envelope"), SEND)
    assert f"seen: {OWN_NETWORK} mx.pillarbox.test shop@sender.test one@here.test two@here.test" in rspamd.log()
    assert SEND.submitter.remote_ip not in rspamd.log()


def test_a_scanner_that_is_down_lets_mail_go_and_the_log_says_so() -> None:
    check = made(spamd=f"127.0.0.1:{free_port()}")
    with capture_logs() as logged:
        assert check(message(GTUBE), SEND) is None
    (line,) = [entry for entry in logged if entry["event"] == "sent without a spam check"]
    assert (line["message_id"], line["log_level"]) == (SEND.message_id, "warning")


def test_mail_that_is_too_large_for_the_scanner_goes(spamd: ScannerServer) -> None:
    with capture_logs() as logged:
        assert made(spamd=spamd.address)(message("x" * 600_000), SEND) is None
    assert "not scored" in logged[-1]["reason"]


def test_without_the_setting_there_is_no_check() -> None:
    assert open_sent_mail_check(Settings(spamd="127.0.0.1:783"), system_clock) is None


def test_a_check_without_a_scanner_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match=r"PILLARBOX_CHECK_SENT_SPAM.*PILLARBOX_RSPAMD"):
        open_sent_mail_check(Settings(check_sent_spam=True), system_clock)


def test_submitted_spam_is_stored_and_held(
    check: SpamCheck, database: Database, account: NewAccount, tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path, require_verified="off")
    acceptor = SendAcceptor(settings, database, DiskBlobs(tmp_path / "messages"), system_clock, check)
    submitter = Submitter(account.account_id, "user", "198.18.0.7")
    for content in (message(GTUBE), message()):
        acceptor.submit(RawSubmission(submitter, "shop@sender.test", ("one@here.test",), content, None))
    rows = database.execute("SELECT state, last_error FROM delivery ORDER BY state")
    assert rows[0] == ("pending", None)
    state, reason = rows[1]
    assert state == "quarantined"
    assert reason.startswith("the spam check objects: ")
    assert database.execute("SELECT count(*) FROM event WHERE kind = 'held'") == [(1,)]
