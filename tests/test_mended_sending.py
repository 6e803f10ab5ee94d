"""Faults of sending that a review has found, each with the test that proved it; on both kinds of database."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.clock import DAY_MS, SECOND_MS, system_clock
from core.delivery import Outcome, Verdict
from core.sending.holding import SPAM_HOLD
from core.sending.raw_submission import RawSubmission
from core.sending.sending_domains import KeyAlgorithm
from core.services.accounts import NewAccount
from core.services.pauses import PausePlace, pause, resume
from core.services.retention import Retention, RetentionAges
from core.services.send_claims import FinishedSend
from core.services.sending_domain_changes import delete_domain
from core.store.blobs import INLINE_LIMIT, DiskBlobs, open_blobs
from core.store.db import Database
from outbound.accepting import SendAcceptor
from outbound.hosts import HostAddress
from outbound.pool import ConnectionPool, PoolLimits
from outbound.smtp_client import SmtpConnection
from outbound.timing import Deadline, Timeouts
from outbound.tls import TlsContexts
from tests.api_support import api_settings
from tests.conftest import NOW_MS
from tests.dkim_judges import signer
from tests.mx_support import edge_to
from tests.retention_support import FAST
from tests.scripted_smtp import Script, running_peer
from tests.send_api_support import submitter_of
from tests.send_support import Sends

BOX = "user@example.test"
WHY = "the wrong list"


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path)
    made.add_domain([signer(KeyAlgorithm.RSA)])
    return made


def place(sends: Sends) -> PausePlace:
    return PausePlace(sends.account.account_id, sends.domain_id)


def work(sends: Sends) -> None:
    """A worker's turn, over a host that takes everything."""
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        sends.go(sends.attempt_with(sends.transport(edge)))


# --- rows of another version ---


def test_a_suppression_for_a_reason_of_another_version_keeps_mail_back_and_ends_no_worker(sends: Sends) -> None:
    (known, other) = sends.store(BOX, "other@example.test")
    sends.execute(
        "INSERT INTO suppression (id, account_id, address, reason, created_ms) VALUES ('s', ?, ?, 'tomorrows', 0)",
        (sends.account.account_id, BOX),
    )
    work(sends)
    assert [sends.state(one)[0] for one in (known, other)] == ["suppressed", "delivered"]
    assert [sends.state(one)[0] for one in sends.store(BOX)] == ["suppressed"]


# --- held mail ---


def test_a_pause_whose_reason_sounds_like_the_spam_check_lets_go_all_the_same(sends: Sends) -> None:
    (delivery_id,) = sends.store(BOX)
    pause(sends.database, place(sends), f"{SPAM_HOLD}we thought", sends.now_ms)
    work(sends)
    assert sends.state(delivery_id) == ("quarantined", 0)
    assert resume(sends.database, place(sends), sends.clock).released == 1
    work(sends)
    assert sends.state(delivery_id)[0] == "delivered"


def test_mail_of_a_domain_that_was_deleted_while_paused_can_be_let_go(sends: Sends) -> None:
    (delivery_id,) = sends.store(BOX)
    pause(sends.database, place(sends), WHY, sends.now_ms)
    work(sends)
    assert sends.domain_id is not None
    delete_domain(sends.database, sends.account.account_id, sends.domain_id, sends.now_ms)
    assert resume(sends.database, place(sends), sends.clock).released == 1
    work(sends)
    assert sends.state(delivery_id)[0] == "delivered"


def test_held_mail_keeps_its_events_so_that_its_dispatch_is_told_once(sends: Sends) -> None:
    sends.now_ms = system_clock()  # as the ids of events have it
    (delivery_id,) = sends.store(BOX)
    for claimed in sends.claim().deliveries:
        sends.record(FinishedSend(claimed, Outcome(Verdict.TEMPORARY, 450, sends.now_ms, 1)))
    pause(sends.database, place(sends), WHY, sends.now_ms)
    sends.now_ms += DAY_MS
    work(sends)
    sends.now_ms += 10 * DAY_MS
    Retention(sends.database, DiskBlobs(sends.folder), RetentionAges(events_days=5), FAST).run(sends.now_ms)
    resume(sends.database, place(sends), sends.clock)
    sends.now_ms += 1
    work(sends)
    assert sends.state(delivery_id)[0] == "delivered"
    assert sends.kinds(delivery_id) == ["dispatch", "dispatch_soft_bounce", "held", "delivery"]


# --- events ---


def test_a_delivery_is_told_at_the_moment_of_the_hosts_answer(sends: Sends) -> None:
    """Not when it is written down: by then a notice may have come back, and its bounce must be the later one."""
    (delivery_id,) = sends.store(BOX)
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        (claimed,) = sends.claim().deliveries
        finished = sends.attempt_with(sends.transport(edge))(claimed)
    answered_ms = sends.now_ms
    sends.now_ms += 20 * SECOND_MS  # the database was away
    sends.record(finished)
    rows = sends.execute("SELECT at_ms FROM event WHERE delivery_id = ? AND kind = 'delivery'", (delivery_id,))
    assert rows == [(answered_ms,)]
    assert sends.execute("SELECT finished_ms FROM delivery WHERE id = ?", (delivery_id,)) == [(sends.now_ms,)]


# --- limits ---


def test_the_limits_of_the_gateway_hold_whichever_way_mail_comes(
    database: Database, account: NewAccount, tmp_path: Path
) -> None:
    settings = replace(api_settings(tmp_path / "data"), send_hourly_limit=2)
    acceptor = SendAcceptor(settings, database, open_blobs(settings.blob_location), lambda: NOW_MS)
    for size in (10, INLINE_LIMIT + 10):
        content = b"From: a@example.com\r\nTo: b@example.net\r\nSubject: x\r\n\r\n" + b"y" * 70 + b"\r\n" * (size // 2)
        given = RawSubmission(submitter_of(account), "a@example.com", ("b@example.net", "c@example.net"), content, None)
        acceptor.submit(given)
    with database.reading():
        late = database.execute("SELECT count(*) FROM delivery WHERE due_ms > ?", (NOW_MS,))
        told = database.execute("SELECT count(*) FROM event WHERE kind = 'rate_limit'")
    assert (late, told) == ([(2,)], [(2,)])


# --- connections ---


@contextmanager
def mute_host() -> Iterator[int]:
    """It greets, answers EHLO, and then says nothing more; gives its port."""
    kept: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        kept.append(client)
        client.sendall(b"220 mute ESMTP\r\n")
        client.recv(1000)
        client.sendall(b"250 mute\r\n")

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                serve(listener.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    for client in kept:
        client.close()


def test_taking_leave_of_many_dead_connections_takes_no_longer_than_of_one() -> None:
    now = [0.0]
    pool = ConnectionPool(PoolLimits(per_place=50), lambda: now[0])
    timeouts = Timeouts()
    with mute_host() as port:
        for _ in range(20):
            connection = SmtpConnection(HostAddress("mute.test", "127.0.0.1", port), timeouts)
            connection.open("us.test", None, TlsContexts(), Deadline(5))
            pool.give(connection)
        assert pool.idle == 20
        now[0] = 60.0
        started = time.monotonic()
        pool.expire()
        assert time.monotonic() - started < 4.0
        assert pool.idle == 0
