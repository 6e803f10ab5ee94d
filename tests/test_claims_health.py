"""What claims and records know of failing hosts: all that they need, and no more however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from core.delivery import HTTP_POLICY
from core.services import recording
from core.services.accounts import NewAccount
from core.services.recording import record
from core.store.db import Database, Row
from tests.conftest import NOW_MS
from tests.deliveries import Deliveries, finished

TARGET = "https://one.example/in"
OTHER = "https://two.example/in"
PATIENCE_S = 20.0


@pytest.fixture
def mail(database: Database, account: NewAccount) -> Deliveries:
    return Deliveries(database, account)


class CountingDatabase(Database):
    """Knows how many rows it has read."""

    rows_read = 0

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        rows = super().execute(statement, parameters)
        self.rows_read += len(rows)
        return rows


def test_thousands_of_failing_hosts_cost_a_claim_and_a_record_nothing(
    mail: Deliveries, account: NewAccount, database_url: str
) -> None:
    failing = [(f"https://failing{number}.example:443", 5, NOW_MS + 60_000, False) for number in range(3_000)]
    with mail.database.transaction():
        mail.database.execute_values(
            "INSERT INTO target_health (target_host, failures, open_until_ms, is_slow) VALUES {rows}", failing
        )
    mail.accept(TARGET, 5)
    counting = CountingDatabase(database_url)
    taken = Deliveries(counting, account).claim().deliveries
    with counting.transaction():
        record(counting, [finished(delivery, 200) for delivery in taken], HTTP_POLICY, NOW_MS)
    counting.close()
    assert len(taken) == 5
    assert counting.rows_read < 100


def test_the_breaker_of_a_host_behind_the_window_counts(mail: Deliveries) -> None:
    mail.accept(TARGET, 200, NOW_MS - 10)
    mail.set_health(TARGET, failures=9, open_until_ms=NOW_MS + 60_000)
    mail.accept(OTHER, 5)
    mail.set_health(OTHER, failures=9, open_until_ms=NOW_MS + 60_000)
    (third,) = mail.accept("https://three.example/in")
    assert [one.delivery_id for one in mail.claim().deliveries] == [third]


@pytest.mark.parametrize(
    ("before", "statuses", "possible"),
    [
        (0, (503, 503), [[(2,)]]),
        (4, (503, 503), [[(6,)]]),
        (4, (200, 503), [[(1,)], []]),
        (4, (200, 200), [[]]),
    ],
)
def test_what_two_workers_record_of_a_host_at_once_counts_from_both(
    mail: Deliveries,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    statuses: tuple[int, int],
    possible: list[list[Row]],
) -> None:
    """Each has read what is known of the host before either writes."""
    mail.accept(TARGET, 2)
    if before:
        mail.set_health(TARGET, failures=before)
    taken = mail.claim().deliveries
    both = Barrier(2)
    real = recording.read_health

    def read_health(*parameters: Any) -> Any:
        known = real(*parameters)
        with suppress(BrokenBarrierError):  # on SQLite the other has to wait for the commit
            both.wait(5.0 if mail.database.is_postgres else 0.05)
        return known

    monkeypatch.setattr(recording, "read_health", read_health)
    with ThreadPoolExecutor(2) as workers:
        for done in [workers.submit(mail.record, *pair) for pair in zip(taken, statuses, strict=True)]:
            done.result(PATIENCE_S)
        for _ in range(2):
            workers.submit(mail.database.close)
    assert mail.execute("SELECT failures FROM target_health") in possible
