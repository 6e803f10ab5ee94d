"""Suppression lists as sending asks and fills them, and soft bounces on their way there; on both databases."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from core.clock import DAY_MS, HOUR_MS
from core.sending.suppression import SuppressionReason, suppression_key
from core.services.accounts import NewAccount
from core.services.suppressions import (
    SOFT_BOUNCE_SPAN_MS,
    NewSuppression,
    SendTarget,
    add_suppressions,
    count_soft_bounces,
    find_suppressed,
    forget_soft_bounces,
)
from core.store.db import Database
from tests.conftest import NOW_MS

LIMIT = 3
BRAND = "0123456789abcdef"


@pytest.fixture
def ann(account: NewAccount) -> SendTarget:
    return SendTarget(account.account_id, None, "ann@example.com")


def bounce(
    database: Database, targets: Sequence[SendTarget], after_ms: int = 0, limit: int = LIMIT, *, by_notice: bool = False
) -> list[SendTarget]:
    with database.transaction():
        return count_soft_bounces(database, targets, limit, NOW_MS + after_ms, by_notice=by_notice)


def arrive(database: Database, *targets: SendTarget) -> None:
    with database.transaction():
        forget_soft_bounces(database, targets)


def suppressed(database: Database, *targets: SendTarget) -> dict[SendTarget, SuppressionReason]:
    with database.reading():
        return find_suppressed(database, targets)


def counted(database: Database) -> dict[str, int]:
    with database.reading():
        return dict(database.execute("SELECT address, count FROM soft_bounce"))


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("Ann@Example.com.", "ann@example.com"),
        ('"Ann"@example.com', "ann@example.com"),
        ('"ann lee"@example.com', '"ann lee"@example.com'),
        (r'"a\"b\\"@example.com', r'"a\"b\\"@example.com'),
        ('""@example.com', '""@example.com'),
        ("ann+news@b\u00fccher.example", "ann+news@xn--bcher-kva.example"),
        ("rene\u0301@example.com", "ren\u00e9@example.com"),
        ("a..b@example.com", "a..b@example.com"),
        ("No Mailbox", "no mailbox"),
    ],
)
def test_one_mailbox_has_one_key(address: str, key: str) -> None:
    assert suppression_key(address) == key == suppression_key(key)


def test_a_third_soft_bounce_after_three_days_suppresses(database: Database, ann: SendTarget) -> None:
    assert bounce(database, [ann]) == []
    assert bounce(database, [ann], DAY_MS) == []
    assert suppressed(database, ann) == {}
    assert bounce(database, [ann], SOFT_BOUNCE_SPAN_MS) == [ann]
    assert suppressed(database, ann) == {ann: SuppressionReason.SOFT_BOUNCE}
    assert counted(database) == {}, "a count that has done its work is forgotten"


def test_many_soft_bounces_within_three_days_do_not(database: Database, ann: SendTarget) -> None:
    for hour in range(71):
        assert bounce(database, [ann], hour * HOUR_MS) == []
    assert counted(database) == {ann.address: 71}
    assert bounce(database, [ann], 72 * HOUR_MS) == [ann]


def test_a_delivery_begins_the_count_anew(database: Database, ann: SendTarget) -> None:
    bounce(database, [ann, ann])
    arrive(database, ann)
    assert bounce(database, [ann], SOFT_BOUNCE_SPAN_MS) == []
    assert counted(database) == {ann.address: 1}
    arrive(database, ann)
    arrive(database, ann)
    assert counted(database) == {}


def test_a_host_that_takes_mail_and_tells_later_is_counted(database: Database, ann: SendTarget) -> None:
    """Exchange Online does so for full mailboxes: each mail is a delivery first, and a bounce a moment later."""
    for day in range(2):
        arrive(database, ann)
        assert bounce(database, [ann], day * DAY_MS, by_notice=True) == []
    arrive(database, ann)
    assert bounce(database, [ann], SOFT_BOUNCE_SPAN_MS, by_notice=True) == [ann]


def test_a_mail_that_arrived_between_two_notices_begins_the_count_anew(database: Database, ann: SendTarget) -> None:
    bounce(database, [ann, ann], by_notice=True)
    arrive(database, ann)  # this one stays
    arrive(database, ann)  # of this one the notice tells
    assert bounce(database, [ann], SOFT_BOUNCE_SPAN_MS, by_notice=True) == []
    assert counted(database) == {ann.address: 1}


def test_the_count_is_of_the_address_whichever_domain_wrote(database: Database, ann: SendTarget) -> None:
    of_brand = SendTarget(ann.account_id, BRAND, ann.address)
    bounce(database, [of_brand])
    assert bounce(database, [ann, of_brand, ann], SOFT_BOUNCE_SPAN_MS) == [ann, of_brand]
    assert set(suppressed(database, ann, of_brand)) == {ann, of_brand}


def test_no_limit_is_no_suppression_and_no_row(database: Database, ann: SendTarget) -> None:
    for day in range(10):
        assert bounce(database, [ann], day * DAY_MS, limit=0) == []
    assert counted(database) == {}


def test_accounts_do_not_share_counts(database: Database, ann: SendTarget) -> None:
    from core.services.accounts import create_account

    other = SendTarget(create_account(database, "other", NOW_MS).account_id, None, ann.address)
    bounce(database, [ann, other])
    bounce(database, [ann, other], DAY_MS)
    arrive(database, other)
    assert bounce(database, [ann, other], SOFT_BOUNCE_SPAN_MS) == [ann]
    assert suppressed(database, ann, other) == {ann: SuppressionReason.SOFT_BOUNCE}


def test_a_clock_that_goes_back_does_not_shorten_the_span(database: Database, ann: SendTarget) -> None:
    bounce(database, [ann])
    bounce(database, [ann], SOFT_BOUNCE_SPAN_MS)
    assert bounce(database, [ann], DAY_MS) == [ann]


def test_those_on_the_list_stay_as_they_are(database: Database, ann: SendTarget) -> None:
    with database.transaction():
        add_suppressions(database, [NewSuppression(ann, SuppressionReason.COMPLAINT)], NOW_MS)
        add_suppressions(database, [NewSuppression(ann, SuppressionReason.MANUAL)] * 2, NOW_MS + 1)
    assert suppressed(database, ann) == {ann: SuppressionReason.COMPLAINT}


def test_workers_that_count_and_forget_at_once_never_deadlock(database: Database, ann: SendTarget) -> None:
    """Each counts some and forgets others in one transaction, as a recorded batch does."""
    targets = [SendTarget(ann.account_id, None, f"r{number}@example.com") for number in range(40)]
    failures: list[BaseException] = []

    def work(turn: int) -> None:
        shuffled = targets if turn % 2 else targets[::-1]
        try:
            for _ in range(15):
                with database.transaction():
                    count_soft_bounces(database, shuffled[:25], 1_000_000, NOW_MS)
                    forget_soft_bounces(database, shuffled[25:])
        except BaseException as error:
            failures.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL plans by statistics
def test_to_forget_nothing_is_one_look_along_the_key(database: Database, ann: SendTarget) -> None:
    with database.reading():
        plan = database.execute(
            "EXPLAIN QUERY PLAN WITH wanted (account_id, address) AS (VALUES ('a', 'b'), ('c', 'd')) "
            "SELECT s.account_id FROM wanted CROSS JOIN soft_bounce s "
            "WHERE s.account_id = wanted.account_id AND s.address = wanted.address"
        )
    assert any("SEARCH s USING" in row[3] for row in plan)
