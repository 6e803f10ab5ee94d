"""Many messages in one transaction: what it costs, who is refused, what is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from core.clock import DAY_MS, HOUR_MS
from core.delivery import DeliveryKind
from core.errors import StorageUnavailable
from core.sending.events import EventKind
from core.sending.priority import Priority
from core.sending.send_settings import SendSettings, settings_json
from core.sending.suppression import SuppressionReason
from core.services.accounts import NewAccount, create_account
from core.services.idempotency import KEPT_MS, AlreadyAnswered, IdempotencyClaim, find_answer, keep_answers
from core.services.send_commits import SendCommits
from core.services.sends import NewSend, StoredSend, store_sends
from core.services.suppressions import NewSuppression, SendTarget, add_suppressions
from core.services.webhooks import WebhookDraft, create_webhook
from core.store.db import Database, TransactionTakenBack
from tests.conftest import NOW_MS
from tests.test_send_commits import send_of

PATIENCE_S = 20.0
LIMITS = SendSettings(hourly_limit=1_000, daily_limit=10_000, ramp=True)


def store(database: Database, *sends: NewSend, now_ms: int = NOW_MS) -> list[StoredSend | AlreadyAnswered]:
    return store_sends(database, sends, lambda: now_ms)


def limit(database: Database, account_id: str, settings: SendSettings) -> None:
    with database.transaction():
        database.execute("UPDATE account SET settings = ? WHERE id = ?", (settings_json(settings), account_id))


@contextmanager
def counted_statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    seen: list[str] = []
    execute = Database.execute

    def noting(self: Database, statement: str, parameters: Any = ()) -> Any:
        seen.append(" ".join(statement.split()[:3]))
        return execute(self, statement, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "execute", noting)
        yield seen


# --- what it costs ---


def test_forty_messages_of_several_accounts_cost_the_statements_of_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = [create_account(database, f"n{number}", NOW_MS).account_id for number in range(4)]
    for account_id in accounts:
        limit(database, account_id, LIMITS)
        create_webhook(database, account_id, WebhookDraft("https://hooks.example/"), NOW_MS)

    def statements(count: int) -> list[str]:
        sends = [send_of(accounts[n % 4], n, key=f"{count}-{n}") for n in range(count)]
        with counted_statements(monkeypatch) as seen:
            assert all(isinstance(stored, StoredSend) for stored in store(database, *sends))
        return seen

    alone, together = statements(1), statements(40)
    assert alone == together
    assert len(alone) == (15 if database.is_postgres else 14)  # the lock of accounts
    assert database.execute("SELECT count(*) FROM send_rate") == [(8,)]
    assert database.execute("SELECT sum(count) FROM send_tally") == [(41,)]
    assert database.execute("SELECT count(*) FROM delivery WHERE webhook_id IS NOT NULL") == [(5,)]


# --- each by itself ---


def test_each_message_of_a_batch_has_its_own_answer(database: Database, account: NewAccount) -> None:
    limited, paused = (create_account(database, name, NOW_MS).account_id for name in ("limited", "paused"))
    limit(database, limited, SendSettings(hourly_limit=1))
    target = SendTarget(account.account_id, None, "r3@example.net")
    with database.transaction():
        database.execute("UPDATE account SET paused_ms = 1, paused_because = 'x' WHERE id = ?", (paused,))
        add_suppressions(database, [NewSuppression(target, SuppressionReason.COMPLAINT)], NOW_MS)
    sends = [
        send_of(account.account_id, 0),
        send_of(limited, 1),
        send_of(limited, 2),
        send_of(account.account_id, 3),
        send_of(limited, 3),  # on another account's list
        send_of(paused, 5),
        replace(send_of(account.account_id, 6), priority=Priority.PRIORITY, send_at_ms=NOW_MS + 9),
    ]
    stored = [answer for answer in store(database, *sends) if isinstance(answer, StoredSend)]
    assert [answer.message_id for answer in stored] == [send.message_id for send in sends]
    hour = NOW_MS - NOW_MS % HOUR_MS
    assert [(one.state.value, one.due_ms) for answer in stored for one in answer.recipients] == [
        ("pending", NOW_MS), ("pending", NOW_MS), ("pending", hour + HOUR_MS), ("suppressed", NOW_MS),
        ("pending", hour + 2 * HOUR_MS), ("quarantined", NOW_MS), ("pending", NOW_MS + 9),
    ]  # fmt: skip
    due, later = (DeliveryKind.SEND,), ()
    assert [answer.rings for answer in stored] == [due, due, later, later, later, later, later]
    told = database.execute("SELECT message_id, kind FROM event WHERE kind <> ? ", (EventKind.REGISTRATION,))
    numbers = {send.message_id: number for number, send in enumerate(sends)}
    assert sorted((numbers[message_id], kind) for message_id, kind in told) == [
        (2, "rate_limit"), (3, "suppressed"), (4, "rate_limit"), (5, "held"),
    ]  # fmt: skip


# --- keys ---


def test_of_two_with_one_key_the_first_is_stored_and_both_hear_of_it(database: Database, account: NewAccount) -> None:
    old, one, again, other, late = (send_of(account.account_id, n, key) for n, key in enumerate("oaabo"))
    store(database, old)
    answers = store(database, one, again, other, late)
    assert [type(answer) for answer in answers] == [StoredSend, AlreadyAnswered, StoredSend, AlreadyAnswered]
    kept = [answer.kept.message_id for answer in answers if isinstance(answer, AlreadyAnswered)]
    assert kept == [one.message_id, old.message_id]
    assert database.execute("SELECT count(*) FROM message") == [(3,)]


def test_a_key_is_free_again_after_a_day(database: Database, account: NewAccount) -> None:
    first, second, third = (send_of(account.account_id, n, "k") for n in range(3))
    store(database, first)
    (refused,) = store(database, second, now_ms=NOW_MS + KEPT_MS - 1)
    assert isinstance(refused, AlreadyAnswered)
    (stored,) = store(database, third, now_ms=NOW_MS + KEPT_MS)
    assert isinstance(stored, StoredSend)
    kept = find_answer(database, "user", "k", NOW_MS + DAY_MS + 1)
    assert kept is not None
    assert kept.message_id == third.message_id


# --- locks, on PostgreSQL: in one order, or two batches would wait for each other ---


ROWS = {
    "account": "SELECT id FROM account WHERE id = ? FOR NO KEY UPDATE",
    "send_tally": "SELECT kind FROM send_tally WHERE account_id = ? FOR UPDATE",
}


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("table", ROWS)
def test_accounts_with_limits_and_counts_are_locked_in_one_order(database: Database, table: str) -> None:
    low, high = sorted(create_account(database, name, NOW_MS).account_id for name in "ab")
    if table == "account":
        limit(database, low, LIMITS)
        limit(database, high, LIMITS)
    store(database, send_of(low, 1), send_of(high, 2))  # now there is something to be locked
    with ThreadPoolExecutor(1) as pool:
        with database.transaction():
            database.execute(ROWS[table], (low,))
            running = pool.submit(in_thread, database, lambda: store(database, send_of(high, 3), send_of(low, 4)))
            wait_for_a_waiter(database)
            database.execute(ROWS[table], (high,))  # not theirs yet
        assert all(isinstance(answer, StoredSend) for answer in running.result(PATIENCE_S))


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_keys_are_locked_in_one_order(database: Database, account: NewAccount) -> None:
    claims = [(IdempotencyClaim("user", f"k{number}", "0" * 64, "{}"), f"m{number}") for number in range(50)]
    theirs = [(claim, f"other {message_id}") for claim, message_id in reversed(claims)]

    def bring() -> list[AlreadyAnswered | None]:
        with database.transaction():
            return keep_answers(database, theirs, NOW_MS)

    with ThreadPoolExecutor(1) as pool:
        with database.transaction():
            keep_answers(database, claims[:25], NOW_MS)
            running = pool.submit(in_thread, database, bring)
            wait_for_a_waiter(database)
            assert keep_answers(database, claims[25:], NOW_MS) == [None] * 25
        answers = running.result(PATIENCE_S)
    assert [answer.kept.message_id for answer in answers if answer] == [message_id for _, message_id in claims[::-1]]


# --- what PostgreSQL takes back ---


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_deadlock_with_somebody_else_is_tried_again(database: Database, account: NewAccount) -> None:
    commits = SendCommits(database, lambda: NOW_MS, SendSettings())
    commits.store(send_of(account.account_id, 0))  # its counts are there to be locked
    with ThreadPoolExecutor(1) as pool:
        with database.transaction():
            database.execute("SET LOCAL deadlock_timeout = '60s'")  # the other one is to be the victim
            database.execute("SELECT * FROM send_tally FOR UPDATE")
            running = pool.submit(commits.store, send_of(account.account_id, 1, key="k"))
            wait_for_a_waiter(database)
            claim = IdempotencyClaim("user", "k", "0" * 64, "{}")
            keep_answers(database, [(claim, "never stored")], NOW_MS)  # waits for the other, who waits for us
            database.execute("DELETE FROM idempotency")
        stored = running.result(PATIENCE_S)
    assert isinstance(stored, StoredSend)
    assert database.execute("SELECT count FROM send_tally") == [(2,)]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_deadlock_is_known_from_an_outage(database: Database, account: NewAccount) -> None:
    def refuse(sqlstate: str) -> None:
        with database.transaction():
            database.execute(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$")

    for sqlstate in ("40P01", "40001", "54000"):
        with pytest.raises(TransactionTakenBack):
            refuse(sqlstate)
    with pytest.raises(StorageUnavailable) as outage:
        refuse("53100")  # disk full
    assert not isinstance(outage.value, TransactionTakenBack)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_one_that_is_too_much_for_an_index_spoils_none(database: Database, account: NewAccount) -> None:
    """`54000`: the server refuses this one each time, and not for want of anything."""
    noise = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(8_000))
    bad = replace(send_of(account.account_id, 99), mail_from="a@example.com", recipients=(f"r@{noise}",))
    commits = SendCommits(database, lambda: NOW_MS, SendSettings())
    with ThreadPoolExecutor(16) as pool:
        good = [pool.submit(commits.store, send_of(account.account_id, number)) for number in range(30)]
        refused = pool.submit(commits.store, bad)
        good += [pool.submit(commits.store, send_of(account.account_id, number)) for number in range(30, 60)]
    assert isinstance(refused.exception(), StorageUnavailable)
    assert all(isinstance(one.result(), StoredSend) for one in good)


def in_thread(database: Database, work: Callable[[], Any]) -> Any:
    try:
        return work()
    finally:
        database.close()


def wait_for_a_waiter(database: Database) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while database.execute("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
