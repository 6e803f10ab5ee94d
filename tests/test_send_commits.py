"""Many senders, one commit: each hears of his own message, and one that is refused spoils none of the others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from core.errors import NotFound, StorageUnavailable
from core.ids import new_time_ordered_id
from core.sending.send_settings import SendSettings
from core.services import send_commits
from core.services.accounts import NewAccount
from core.services.idempotency import AlreadyAnswered, IdempotencyClaim
from core.services.send_commits import SendCommits
from core.services.sends import NewSend, StoredSend, Submitter
from core.store.db import Database
from tests.conftest import NOW_MS

THREADS = 16
MORE_THAN_THERE_IS = 1 << 47
"""Bytes of address space, for the stack of a thread."""


def send_of(account_id: str, number: int, key: str | None = None) -> NewSend:
    message_id = new_time_ordered_id(NOW_MS)
    claim = IdempotencyClaim("user", key, "0" * 64, "{}") if key else None
    return NewSend(
        message_id=message_id,
        submitter=Submitter(account_id, "user", "127.0.0.1"),
        sending_domain_id=None,
        mail_from="a@example.com",
        recipients=(f"r{number}@example.net",),
        header_from="a@example.com",
        header_to=(f"r{number}@example.net",),
        header_cc=(),
        subject="x",
        header_message_id=f"{message_id}@mx.example.com",
        content=b"Subject: x\r\n\r\nx\r\n",
        size=17,
        md5="0" * 32,
        needs_smtputf8=False,
        received_ms=NOW_MS,
        idempotency=claim,
    )


def outcomes(commits: SendCommits, sends: Sequence[NewSend]) -> list[StoredSend | Exception]:
    def store(send: NewSend) -> StoredSend | Exception:
        try:
            return commits.store(send)
        except Exception as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(store, sends))


def stored_ids(database: Database) -> set[str]:
    return {row[0] for row in database.execute("SELECT message_id FROM delivery")}


@pytest.fixture
def commits(database: Database) -> SendCommits:
    return SendCommits(database, lambda: NOW_MS, SendSettings())


def test_each_sender_gets_his_own_answer(database: Database, account: NewAccount, commits: SendCommits) -> None:
    sends = [send_of(account.account_id, number) for number in range(200)]
    answers = outcomes(commits, sends)
    assert [answer.message_id for answer in answers if isinstance(answer, StoredSend)] == [
        send.message_id for send in sends
    ]
    assert stored_ids(database) == {send.message_id for send in sends}


def test_a_known_key_is_told_and_leaves_no_trace(database: Database, account: NewAccount, commits: SendCommits) -> None:
    sends = [send_of(account.account_id, number, key=f"key-{number % 50}") for number in range(150)]
    answers = outcomes(commits, sends)
    taken = [answer for answer in answers if isinstance(answer, StoredSend)]
    refused = [answer for answer in answers if isinstance(answer, AlreadyAnswered)]
    assert (len(taken), len(refused)) == (50, 100)
    assert stored_ids(database) == {answer.message_id for answer in taken}
    assert {error.kept.message_id for error in refused} == {answer.message_id for answer in taken}
    assert database.execute("SELECT count(*) FROM message") == [(50,)]
    assert database.execute("SELECT sum(count) FROM send_tally") == [(50,)]


def test_one_that_cannot_be_stored_spoils_none(database: Database, account: NewAccount, commits: SendCommits) -> None:
    good = [send_of(account.account_id, number) for number in range(60)]
    again = replace(good[0], recipients=("other@example.net",))  # the same id: the database refuses it
    nobody = [send_of("ff" * 8, number) for number in range(20)]
    answers = outcomes(commits, [*good, again, *nobody])
    assert stored_ids(database) == {send.message_id for send in good}
    of_nobody = answers[len(good) + 1 :]
    assert all(isinstance(answer, NotFound) for answer in of_nobody)
    twice = [answers[0], answers[len(good)]]
    assert sum(isinstance(answer, StoredSend) for answer in twice) == 1
    assert sum(isinstance(answer, Exception) for answer in twice) == 1


def test_a_thread_that_has_nothing_to_do_ends_and_another_takes_its_place(
    database: Database, account: NewAccount, commits: SendCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_commits, "IDLE_S", 0.001)
    for number in range(30):
        commits.store(send_of(account.account_id, number))
        for thread in threading.enumerate():
            if thread.name == "send-commits" and number % 2:
                thread.join(10)
                assert not thread.is_alive()
    assert len(stored_ids(database)) == 30


def test_what_no_thread_could_be_started_for_is_not_stored_later(
    database: Database, account: NewAccount, commits: SendCommits
) -> None:
    refused, taken = (send_of(account.account_id, number) for number in range(2))
    usual = threading.stack_size(MORE_THAN_THERE_IS)
    try:
        with pytest.raises(StorageUnavailable):
            commits.store(refused)
    finally:
        threading.stack_size(usual)
    commits.store(taken)
    assert stored_ids(database) == {taken.message_id}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_other_writers_get_their_turn_while_mail_is_handed_in(
    database: Database, account: NewAccount, commits: SendCommits
) -> None:
    """SQLite's writers sleep and look again: commits without a pause between them would leave nothing to the others."""
    sends = [send_of(account.account_id, number) for number in range(800)]
    is_over = threading.Event()
    turns = 0

    def write() -> None:
        nonlocal turns
        while not is_over.is_set():
            with database.transaction():
                database.execute("UPDATE account SET name = name")
            turns += 1
        database.close()

    writer = threading.Thread(target=write)
    writer.start()
    outcomes(commits, sends)
    is_over.set()
    writer.join()
    # Measured: some 20,000; without the pause 300 to 1,000.
    assert turns > 2 * len(sends)
