"""What claims and records know of failing hosts: all that they need, and no more however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from core.delivery import HTTP_POLICY
from core.services.accounts import NewAccount
from core.services.recording import record
from core.store.db import Database, Row
from tests.conftest import NOW_MS
from tests.deliveries import Deliveries, finished

TARGET = "https://one.example/in"
OTHER = "https://two.example/in"


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
