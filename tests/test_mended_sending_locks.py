"""Whoever counts soft bounces and fills suppression lists locks rows in one order: no deadlocks on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.clock import system_clock
from core.delivery import Outcome, Verdict
from core.sending.returned import DsnAction, Returned, ReturnedKind, ReturnedRecipient, Severity
from core.sending.suppression import SuppressionReason
from core.services.accounts import NewAccount, create_account
from core.services.send_claims import FinishedSend
from core.services.suppression_lists import SuppressionDraft, add_by_hand, remove_suppression
from core.services.suppressions import NewSuppression, SendTarget, add_suppressions, count_soft_bounces
from core.store.db import Database
from tests.conftest import NOW_MS, TABLES
from tests.returned_support import store_sent
from tests.send_support import Sends
from tests.test_returned_follow import about, finish, take

DEAD, FULL = "dead@example.test", "full@example.test"
PATIENCE_S = 20.0
HARD = ReturnedRecipient(DEAD, action=DsnAction.FAILED, severity=Severity.HARD, diagnostic="550 5.1.1 User unknown")
SOFT = ReturnedRecipient(FULL, action=DsnAction.FAILED, severity=Severity.SOFT)


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """PostgreSQL alone: SQLite has one writer at a time."""
    opened = Database(postgres_url)
    with opened.transaction():
        opened.execute(f"TRUNCATE {TABLES} CASCADE")
    yield opened
    opened.close()


@pytest.fixture
def account(database: Database) -> NewAccount:
    return create_account(database, "test", NOW_MS)


def meet(database: Database, account: NewAccount, other: Callable[[], object], address: str = DEAD) -> None:
    """Count a soft bounce of `FULL`, let the other one run until he waits for that, then suppress an address."""
    target = SendTarget(account.account_id, None, FULL)
    dead = NewSuppression(SendTarget(account.account_id, None, address), SuppressionReason.HARD_BOUNCE)
    with ThreadPoolExecutor(1) as pool:
        with database.transaction():
            count_soft_bounces(database, [target], 9, NOW_MS)
            running = pool.submit(other)
            wait_for_a_waiter(database)
            add_suppressions(database, [dead], NOW_MS)
        running.result(PATIENCE_S)
        pool.submit(database.close).result(PATIENCE_S)


def wait_for_a_waiter(database: Database) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while database.execute("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listed(database: Database) -> list[str]:
    with database.reading():
        return [row[0] for row in database.execute("SELECT address FROM suppression ORDER BY address")]


def test_refusals_while_others_count(database: Database, account: NewAccount, tmp_path: Path) -> None:
    sends = Sends(database, account, tmp_path)
    sends.store(DEAD, FULL)
    finished = [
        FinishedSend(
            claimed, Outcome(Verdict.PERMANENT, 550 if claimed.recipient == DEAD else 552, NOW_MS, 1),
            enhanced="5.1.1" if claimed.recipient == DEAD else "5.2.2",
        )
        for claimed in sends.claim().deliveries
    ]  # fmt: skip
    meet(database, account, lambda: sends.record(*finished))
    assert listed(database) == [DEAD]
    assert sends.execute("SELECT address, count FROM soft_bounce") == [(FULL, 2)]


def test_notices_while_others_count(database: Database, account: NewAccount) -> None:
    dead, full = (store_sent(database, account.account_id, recipient) for recipient in (DEAD, FULL))
    mails = [*take(database, dead, about(dead)), *take(database, full, about(full))]
    both = Returned(ReturnedKind.HARD_BOUNCE, "a test", (HARD, SOFT))
    meet(database, account, lambda: finish(database, mails, both, system_clock()))
    assert listed(database) == [DEAD]
    assert (dead.kinds(), full.kinds()) == (["bounce"], ["soft_bounce"])


def test_an_entry_taken_away_while_others_count(database: Database, account: NewAccount) -> None:
    add_by_hand(database, account.account_id, SuppressionDraft([FULL]), NOW_MS)
    with database.transaction():
        count_soft_bounces(database, [SendTarget(account.account_id, None, FULL)], 9, NOW_MS)
    meet(database, account, lambda: remove_suppression(database, account.account_id, FULL), FULL)
    assert listed(database) == []
