"""Submission when something is not as it should be: accidents, a database that is away, clients and logins that go."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from core.delivery import DeliveryKind
from core.errors import InvalidField, StorageUnavailable
from core.sending.raw_submission import RawSubmission
from core.services.accounts import NewAccount
from core.services.credential_records import (
    CredentialChange,
    change_credential,
    delete_credential,
)
from core.services.credentials import Scope
from core.store.db import Database
from inbound.submission import handler
from inbound.submission.handler import THREADS
from inbound.submission.logins import RECHECK_MS
from inbound.submission.replies import refused
from tests.conftest import NOW_MS
from tests.gateway import running_gateway
from tests.postgres_server import stoppable_postgres
from tests.smtp_client import stuffed
from tests.submission_support import MAIL, QUEUED, TO, TestAcceptor, logged_in, plain, running_listener, secured, submit

FROM = "sender@example.com"
PUT_OFF = "451 4.3.0 The mail cannot be taken at the moment; try again later"


@pytest.fixture
def acceptor() -> TestAcceptor:
    return TestAcceptor()


def test_the_acceptor_gets_the_message_and_the_bell_rings_after_it(
    database: Database, database_url: str, account: NewAccount, acceptor: TestAcceptor, tmp_path: Path
) -> None:
    rung_before: list[int] = []
    acceptor.before = lambda _: rung_before.append(len(acceptor.rung))
    with (
        running_listener(tmp_path / "data", database_url, acceptor) as settings,
        closing(logged_in(settings.submission_places[0].port, account)) as client,
    ):
        assert submit(client, b".dot\r\n" + MAIL, "one@example.org", "Two@Example.ORG", "one@example.org")
    (taken,) = acceptor.taken
    assert taken.content == b".dot\r\n" + MAIL
    assert taken.recipients == ("one@example.org", "Two@Example.ORG", "one@example.org")
    assert (taken.mail_from, taken.sending_domain_id) == (FROM, None)
    by = taken.submitter
    assert (by.account_id, by.username, by.remote_ip) == (account.account_id, account.smtp_username, "127.0.0.1")
    assert (by.helo, by.tls_version) == ("client.example", "TLSv1.3")
    assert (rung_before, acceptor.rung) == ([0], [DeliveryKind.SEND])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_accidents_are_451_and_show_nothing(
    database_url: str, account: NewAccount, acceptor: TestAcceptor, tmp_path: Path
) -> None:
    errors = [StorageUnavailable("full"), RuntimeError("secret text"), OSError(28, "x"), MemoryError(), KeyError("k")]
    with (
        running_listener(tmp_path / "data", database_url, acceptor) as settings,
        closing(logged_in(settings.submission_places[0].port, account)) as client,
    ):
        for error in errors:
            acceptor.before = lambda _, error=error: _raise(error)  # type: ignore[misc]
            assert submit(client, MAIL) == ("451 4.3.0 The mail cannot be taken at the moment; try again later"), error
        acceptor.before = lambda _: None
        assert submit(client, MAIL).startswith(QUEUED)
    assert len(acceptor.taken) == 1
    assert acceptor.rung == [DeliveryKind.SEND]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_more_sessions_than_threads_wait_their_turn(
    database_url: str, account: NewAccount, acceptor: TestAcceptor, tmp_path: Path
) -> None:
    open_gate, inside, most = threading.Event(), threading.Semaphore(0), []
    running: list[int] = []

    def wait(_: RawSubmission) -> None:
        running.append(1)
        most.append(len(running))
        inside.release()
        assert open_gate.wait(20)
        running.pop()

    acceptor.before = wait
    with running_listener(tmp_path / "data", database_url, acceptor) as settings:
        port = settings.submission_places[0].port
        clients = [logged_in(port, account) for _ in range(3 * THREADS)]
        with ThreadPoolExecutor(len(clients)) as pool:
            replies = [pool.submit(submit, client, MAIL) for client in clients]
            for _ in range(THREADS):
                assert inside.acquire(timeout=20)
            with closing(logged_in(port, account)) as another:  # logins and commands do not wait behind them
                assert another.ask("NOOP") == "250 2.0.0 Ok"
            open_gate.set()
            assert {reply.result(20)[: len(QUEUED)] for reply in replies} == {QUEUED}
    assert max(most) == THREADS
    assert len(acceptor.taken) == 3 * THREADS


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_who_hangs_up_before_the_answer_has_sent_all_the_same(
    database_url: str, account: NewAccount, acceptor: TestAcceptor, tmp_path: Path
) -> None:
    inside, open_gate = threading.Event(), threading.Event()

    def hold(_: RawSubmission) -> None:
        inside.set()
        _wait(open_gate)

    acceptor.before = hold
    message = MAIL + b"x" * 200_000 + b"\r\n"  # in a file, which must outlive the session
    with running_listener(tmp_path / "data", database_url, acceptor) as settings:
        with closing(logged_in(settings.submission_places[0].port, account)) as client:
            client.begin_data(TO)
            client.send(stuffed(message))
            assert inside.wait(20)
        time.sleep(0.1)
        open_gate.set()
        deadline = time.monotonic() + 10
        while not acceptor.rung and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [taken.content for taken in acceptor.taken] == [message]
    assert acceptor.rung


@pytest.mark.parametrize("how", ["off", "deleted", "scope"])
def test_a_session_outlives_its_login_by_a_minute_at_most(
    database: Database, database_url: str, account: NewAccount, acceptor: TestAcceptor, tmp_path: Path, how: str
) -> None:
    now = [NOW_MS]
    with (
        running_listener(tmp_path / "data", database_url, acceptor, lambda: now[0]) as settings,
        closing(logged_in(settings.submission_places[0].port, account)) as client,
    ):
        name = account.smtp_username
        if how == "deleted":
            delete_credential(database, account.account_id, name)
        elif how == "off":
            change_credential(database, account.account_id, name, CredentialChange(is_active=False))
        else:
            read_only = CredentialChange(scopes=frozenset({Scope.READ}))
            change_credential(database, account.account_id, name, read_only)
        assert submit(client, MAIL).startswith(QUEUED)
        now[0] += RECHECK_MS
        assert client.ask(f"MAIL FROM:<{FROM}>") == "530 5.7.0 This login was revoked; authenticate with another"
        assert client.ask(f"RCPT TO:<{TO}>") == "530 5.7.0 Authentication required"
    assert len(acceptor.taken) == 1


def test_without_a_database_logins_are_454_and_mail_451_and_both_work_when_it_is_back(tmp_path: Path) -> None:
    with (
        stoppable_postgres() as postgres,
        running_gateway(tmp_path, "submission", database_url=postgres.url) as gateway,
        closing(logged_in(gateway.submission_port, gateway.account)) as early,
        closing(secured(gateway.submission_port)) as late,
    ):
        login = f"AUTH PLAIN {plain(gateway.account.smtp_username, gateway.account.smtp_password)}"
        postgres.stop()
        assert late.ask(login) == "454 4.7.0 Temporary authentication failure; try again later"
        assert submit(early, MAIL) == PUT_OFF
        postgres.start()
        assert late.ask(login).startswith("235 ")
        assert submit(early, MAIL).startswith(QUEUED)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_does_not_answer_is_not_waited_for_for_ever(
    database_url: str, account: NewAccount, acceptor: TestAcceptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "TAKING_S", 0.2)
    open_gate = threading.Event()
    acceptor.before = lambda _: _wait(open_gate)
    with running_listener(tmp_path / "data", database_url, acceptor) as settings:
        with closing(logged_in(settings.submission_places[0].port, account)) as client:
            assert submit(client, MAIL) == PUT_OFF
            assert client.ask("NOOP") == "250 2.0.0 Ok"
        open_gate.set()
    assert acceptor.rung == []


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (InvalidField("message", "takes 9 bytes"), "552 5.3.4 message: takes 9 bytes"),
        (InvalidField("recipients[3]", "is no address"), "550 5.1.3 recipients[3]: is no address"),
        (InvalidField("from", "a\r\nQUIT \x1b[2J"), "550 5.7.1 from: a QUIT [2J"),
        (InvalidField("fromage", "x" * 2_000), "554 5.6.0 fromage: " + "x" * 388 + "..."),
        (InvalidField("raw", "names no author"), "554 5.6.0 message: names no author"),
        (InvalidField("", ""), "554 5.6.0 :"),
    ],
)
def test_a_refusal_is_one_printable_line(error: InvalidField, reply: str) -> None:
    assert refused(error) == reply


def _raise(error: BaseException) -> None:
    raise error


def _wait(gate: threading.Event) -> None:
    assert gate.wait(20)
