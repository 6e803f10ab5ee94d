"""More faults of sending that a review has found: keys that went too early, commits that came too late, lock order."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from core.clock import DAY_MS, HOUR_MS
from core.delivery import Outcome, Verdict
from core.errors import StorageUnavailable
from core.sending.raw_submission import RawSubmission
from core.sending.sending_domains import KeyAlgorithm
from core.services import send_commits
from core.services.accounts import NewAccount, create_account
from core.services.send_claims import FinishedSend
from core.services.sending_domain_changes import delete_domain
from core.services.sending_domain_keys import forget_keys
from core.store.blobs import INLINE_LIMIT, open_blobs
from core.store.db import Database
from outbound.accepting import SendAcceptor
from tests.api_support import api_settings
from tests.conftest import NOW_MS, TABLES
from tests.dkim_judges import signer
from tests.mx_support import edge_to
from tests.scripted_smtp import Script, running_peer
from tests.send_api_support import submitter_of
from tests.send_support import Sends

PATIENCE_S = 20.0


def test_scheduled_mail_of_a_deleted_domain_is_signed_whenever_its_time_comes(
    database: Database, account: NewAccount, tmp_path: Path
) -> None:
    sends = Sends(database, account, tmp_path)
    domain_id = sends.add_domain([signer(KeyAlgorithm.RSA)])
    (delivery_id,) = sends.store("user@example.test", send_at_ms=sends.now_ms + 30 * DAY_MS)
    delete_domain(database, account.account_id, domain_id, sends.now_ms)
    sends.now_ms += 30 * DAY_MS
    with running_peer(Script()) as peer, edge_to(peer.port) as edge:
        peer.script.answers["RCPT"] = ["450 4.7.1 greylisted", "250 ok"]
        attempt = sends.attempt_with(sends.transport(edge))
        for _ in range(2):
            sends.go(attempt)
            sends.now_ms += HOUR_MS
            forget_keys(database, sends.now_ms, 100)
    assert sends.state(delivery_id)[0] == "delivered"
    assert sends.execute("SELECT count(*) FROM domain_key WHERE state = 'active'") == [(0,)]


def test_who_gives_up_waiting_for_his_commit_is_not_stored_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite alone commits in groups. Content that was taken out of the blob store must have no row."""
    monkeypatch.setattr(send_commits, "COMMIT_S", 0.5)
    url, settings = f"sqlite:///{tmp_path}/x.db", api_settings(tmp_path / "data")
    other = Database(url)
    database = Database(url)  # the last: models go by it
    database.migrate()
    blobs = open_blobs(settings.blob_location)
    account = create_account(database, "test", NOW_MS)
    acceptor = SendAcceptor(settings, database, blobs, lambda: NOW_MS)
    content = b"From: a@example.com\r\nTo: b@example.net\r\nSubject: x\r\n\r\n" + b"y\r\n" * INLINE_LIMIT
    mail = RawSubmission(submitter_of(account), "a@example.com", ("b@example.net",), content, None)
    is_locked, ends = threading.Event(), threading.Event()

    def lock() -> None:
        with other.transaction():
            is_locked.set()
            ends.wait(5.0)

    def submit() -> None:
        with suppress(StorageUnavailable):
            acceptor.submit(mail)
        database.close()

    with ThreadPoolExecutor(8) as pool:
        pool.submit(lock)
        assert is_locked.wait(PATIENCE_S)
        waiting = [pool.submit(submit) for _ in range(5)]  # the first is begun with, the others wait behind it
        with suppress(TimeoutError):
            waiting[-1].result(2.0)
        ends.set()
        for one in waiting:
            one.result(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while not (rows := database.execute("SELECT blob_key FROM raw_message")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert all(blobs.get(key) for (key,) in rows)


def test_health_of_two_hosts_is_written_in_one_order(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers record at once, of each of which one host recovers and the other fails: no deadlock."""
    database = Database(postgres_url)
    with database.transaction():
        database.execute(f"TRUNCATE {TABLES} CASCADE")
    sends = Sends(database, create_account(database, "test", NOW_MS), tmp_path)
    sends.add_domain([])
    sends.store("ann@a.test", "bob@b.test")
    sends.store("ann@a.test", "bob@b.test")
    claimed = sorted(sends.claim().deliveries, key=lambda one: one.target_host)
    insert = "INSERT INTO target_health (target_host, failures, open_until_ms, is_slow) VALUES (?, 1, 0, FALSE)"
    for host in ("mailto://a.test", "mailto://b.test"):
        sends.execute(insert, (host,))
    both, done = threading.Barrier(2), threading.local()

    def meeting(name: str) -> None:
        """After the first write to a host's row each waits for the other, for a moment."""
        real = getattr(Database, name)

        def run(self: Database, statement: str, *parameters: Any) -> Any:
            given = real(self, statement, *parameters)
            is_write = "FROM target_health WHERE" in statement or "INTO target_health" in statement
            if is_write and parameters[0] and not getattr(done, "is_over", False):
                done.is_over = True
                with suppress(threading.BrokenBarrierError):
                    both.wait(1.0)
            return given

        monkeypatch.setattr(Database, name, run)

    meeting("execute")
    meeting("execute_many")
    well, ill = Outcome(Verdict.ACCEPTED, 250, NOW_MS, 1), Outcome(Verdict.TEMPORARY, 421, NOW_MS, 1)
    of_a, of_b = claimed[:2], claimed[2:]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sends.record, FinishedSend(of_b[0], well), FinishedSend(of_a[0], ill))
        second = pool.submit(sends.record, FinishedSend(of_a[1], well), FinishedSend(of_b[1], ill))
        first.result(PATIENCE_S)
        second.result(PATIENCE_S)
        for _ in range(2):
            pool.submit(database.close).result(PATIENCE_S)
    database.close()
