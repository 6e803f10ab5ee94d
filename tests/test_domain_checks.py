"""Domains are looked at again by themselves: how often, how many at once, and with name servers that fail or hang."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from core.errors import StorageUnavailable
from core.sending.domain_judgement import LOST_AFTER_MISSES, LOST_AFTER_MS, DomainState
from core.sending.domain_report import DomainReport, KeyReport
from core.sending.domain_schedule import (
    ABANDONED_AFTER_MS,
    ABANDONED_MS,
    DAILY_MS,
    DOUBT_MS,
    FIRST_CHECK_MS,
    SPREAD,
    next_check_ms,
)
from core.sending.domain_status import CheckResult, CheckState
from core.sending.key_rotation import OVERLAP_MS, DomainKey, KeyState
from core.sending.sending_domains import KeyAlgorithm, key_name
from core.services.accounts import NewAccount
from core.services.sending_domain_changes import delete_domain
from core.services.sending_domain_checks import CLAIM_MS, take_due
from core.services.sending_domain_keys import FORGOTTEN_AFTER_MS, add_key
from core.services.sending_domains import find_sender
from core.store.db import Database
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS
from tests.sending_domain_support import Customer, gateway_settings, publish_operator
from workers.domain_checks import AT_ONCE, BATCH, DomainChecks

EVERY_MS = 5 * MINUTE_MS
"""How often housekeeping comes round."""


@pytest.fixture
def customer(database: Database, account: NewAccount, zones: ZoneServer, tmp_path: Path) -> Customer:
    settings = gateway_settings(tmp_path, zones)
    publish_operator(zones, settings)
    return Customer(database, account, settings, zones)


def checks(customer: Customer, stop: threading.Event | None = None, run_s: float = 60.0) -> DomainChecks:
    return DomainChecks(customer.settings, customer.database, customer.clock, stop or threading.Event(), run_s)


def run_for(customer: Customer, span_ms: int) -> list[int]:
    """Keep house for so long; the moments at which a domain was looked at."""
    worker, moments = checks(customer), []
    end_ms = customer.now_ms + span_ms
    while customer.now_ms < end_ms:
        customer.now_ms += EVERY_MS
        if worker.run(customer.now_ms):
            moments.append(customer.now_ms)
    return moments


def add_rows(customer: Customer, count: int) -> None:
    """Many domains that are due, without the time it takes to make keys."""
    made = customer.create("first.example")
    public = made.public_records[made.principal.selector]
    ids = [f"{number:016x}" for number in range(count - 1)]
    insert = """INSERT INTO sending_domain (id, account_id, domain, next_check_ms, created_ms) VALUES (?, ?, ?, ?, ?)"""
    insert_key = """INSERT INTO domain_key (sending_domain_id, selector, algorithm, state, since_ms, private_pem,
                    public_record) VALUES (?, 's1', 'rsa', 'pending', ?, 'PEM', ?)"""
    with customer.database.transaction():
        for domain_id in ids:
            values = (domain_id, customer.account.account_id, f"d{domain_id}.example", NOW_MS, NOW_MS)
            customer.database.execute(insert, values)
            customer.database.execute(insert_key, (domain_id, NOW_MS, public))
        customer.database.execute("UPDATE sending_domain SET next_check_ms = ?", (NOW_MS,))


def test_nothing_is_due_before_its_time(customer: Customer) -> None:
    customer.create()
    assert checks(customer).run(NOW_MS + FIRST_CHECK_MS - 1) == 0
    assert customer.zones.asked == []


def test_a_new_domain_is_verified_without_anybody_asking(customer: Customer) -> None:
    made = customer.create()
    customer.publish_all(made)
    assert run_for(customer, EVERY_MS) == [NOW_MS + EVERY_MS]
    state = customer.get(made.domain_id).state
    assert (state.dkim_verified, state.return_path_verified, state.spf_verified) == (True, True, True)


def test_a_domain_that_waits_is_looked_at_often_then_rarely(customer: Customer) -> None:
    customer.create()
    first_hour = run_for(customer, HOUR_MS)
    first_day = run_for(customer, DAY_MS - HOUR_MS)
    assert 6 <= len(first_hour) <= 12
    assert 8 <= len(first_day) <= 20
    gaps = [after - before for before, after in itertools.pairwise(first_day)]
    assert gaps[-1] > 4 * gaps[0]


def test_a_verified_domain_is_looked_at_daily(customer: Customer) -> None:
    record = customer.verified()
    for _ in range(3):
        before = customer.get(record.domain_id)
        assert abs(before.next_check_ms - customer.now_ms - DAILY_MS) <= DAILY_MS * SPREAD / 2
        customer.now_ms = before.next_check_ms
        assert checks(customer).run(customer.now_ms) == 1


def test_a_key_that_disappears_is_doubted_then_given_up_then_found_again(customer: Customer) -> None:
    record = customer.verified()
    name = key_name(record.principal.selector, "example.com")
    customer.zones.remove(name, "TXT")
    gone_ms = customer.now_ms
    while customer.get(record.domain_id).state.dkim_verified:
        customer.now_ms = customer.get(record.domain_id).next_check_ms
        assert checks(customer).run(customer.now_ms) == 1
        assert customer.now_ms - gone_ms < LOST_AFTER_MS + 2 * DAY_MS
    report = customer.get(record.domain_id).state.report.keys[record.principal.selector]
    assert report.misses > LOST_AFTER_MISSES
    assert customer.now_ms - (report.missing_since_ms or 0) >= LOST_AFTER_MS
    assert not find_sender(customer.database, customer.account.account_id, "example.com").is_verified  # type: ignore[union-attr]
    customer.zones.add(name, "TXT", record.public_records[record.principal.selector])
    customer.now_ms = customer.get(record.domain_id).next_check_ms
    checks(customer).run(customer.now_ms)
    assert customer.get(record.domain_id).state.dkim_verified


def test_an_outage_of_the_dns_for_a_week_takes_nothing_away(customer: Customer) -> None:
    record = customer.verified()
    for labels, _ in list(customer.zones.records):
        customer.zones.failing.add(labels)
    customer.zones.records.clear()
    end_ms = customer.now_ms + 7 * DAY_MS
    looks = 0
    while customer.now_ms < end_ms:
        customer.now_ms = customer.get(record.domain_id).next_check_ms
        looks += checks(customer).run(customer.now_ms)
    assert looks > 7 * DAY_MS // DOUBT_MS // 2
    state = customer.get(record.domain_id).state
    assert (state.dkim_verified, state.return_path_verified, state.spf_verified, state.dmarc_verified) == (True,) * 4


def test_a_new_key_takes_over_and_the_old_one_retires_by_itself(customer: Customer) -> None:
    record = customer.verified()
    old = record.principal.selector
    add_key(customer.database, customer.account.account_id, record.domain_id, KeyAlgorithm.RSA, customer.now_ms)
    customer.publish_all(customer.get(record.domain_id))
    run_for(customer, HOUR_MS)
    states = {key.selector: key.state for key in customer.get(record.domain_id).state.keys}
    assert states.pop(old) is KeyState.RETIRING
    assert list(states.values()) == [KeyState.ACTIVE]
    customer.now_ms += OVERLAP_MS
    checks(customer).run(customer.now_ms)
    assert {key.selector: key.state for key in customer.get(record.domain_id).state.keys}[old] is KeyState.RETIRED
    with customer.database.reading():
        rows = customer.database.execute("SELECT private_pem FROM domain_key WHERE selector = ?", (old,))
    assert rows == [("",)]


def test_a_deleted_domain_is_looked_at_no_more_and_its_keys_go_in_the_end(customer: Customer) -> None:
    record = customer.verified()
    delete_domain(customer.database, customer.account.account_id, record.domain_id, customer.now_ms)
    customer.zones.asked.clear()
    customer.now_ms += FORGOTTEN_AFTER_MS
    assert checks(customer).run(customer.now_ms) == 0
    assert customer.zones.asked == []
    with customer.database.reading():
        assert customer.database.execute("SELECT state, private_pem FROM domain_key") == [("retired", "")]


def test_silent_name_servers_are_asked_about_at_once_and_stop_ends_it(customer: Customer) -> None:
    add_rows(customer, 3 * AT_ONCE)
    customer.zones.gate.clear()
    stop = threading.Event()
    worker = checks(customer, stop)
    outcome: list[int] = []

    def run() -> None:
        outcome.append(worker.run(NOW_MS))
        customer.database.close()

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 10
    while len({name for name, _, _ in customer.zones.asked}) < AT_ONCE and time.monotonic() < deadline:
        time.sleep(0.01)  # until all threads have asked
    assert len({name for name, _, _ in customer.zones.asked}) == AT_ONCE
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert outcome == [0]
    customer.zones.gate.set()
    for asking in threading.enumerate():
        if asking.name == "domain-check":
            asking.join(20)


def test_a_run_ends_in_time_and_what_is_left_comes_again(customer: Customer) -> None:
    add_rows(customer, BATCH + 10)
    first = checks(customer, run_s=0.0).run(NOW_MS)
    assert first == 0
    some = checks(customer, run_s=0.05).run(NOW_MS)
    assert 0 < some < BATCH + 10
    customer.now_ms += CLAIM_MS
    checks(customer).run(customer.now_ms)
    with customer.database.reading():
        assert customer.database.execute("SELECT 1 FROM sending_domain WHERE checked_ms IS NULL") == []


def test_two_gateways_do_not_take_the_same_domains(customer: Customer) -> None:
    add_rows(customer, 6)
    first = take_due(customer.database, NOW_MS, 4)
    second = take_due(customer.database, NOW_MS, 4)
    assert (len(first), len(second)) == (4, 2)
    assert not {record.domain_id for record in first} & {record.domain_id for record in second}
    assert len(take_due(customer.database, NOW_MS + CLAIM_MS, 10)) == 6


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_fails_ends_the_run_and_its_threads(customer: Customer, tmp_path: Path) -> None:
    add_rows(customer, 3)
    customer.zones.gate.clear()
    worker = checks(customer)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run(NOW_MS)
        except StorageUnavailable as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not customer.zones.asked:
        time.sleep(0.01)  # until it asks
    other = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    with other.transaction():
        other.execute("ALTER TABLE sending_domain RENAME TO gone")
    other.close()
    customer.zones.gate.set()
    thread.join(20)
    assert not thread.is_alive()
    assert len(failures) == 1


# The schedule


GOOD = CheckResult(CheckState.VERIFIED, ())
ACTIVE = DomainKey("s1", KeyAlgorithm.RSA, KeyState.ACTIVE, 0)
SETTLED = DomainState(
    keys=(ACTIVE,),
    dkim_verified=True,
    return_path_verified=True,
    spf_verified=True,
    signing_domain="example.com",
    report=DomainReport(keys={"s1": KeyReport(GOOD, "example.com")}, return_path=GOOD, spf=GOOD),
)
MISSED = DomainReport(keys={"s1": KeyReport(CheckResult(CheckState.MISSING, ()), "example.com", 1, 1)})
UNANSWERED = replace(SETTLED.report, return_path=CheckResult(CheckState.UNKNOWN, ()))


@pytest.mark.parametrize(
    ("state", "waited_ms", "interval_ms"),
    [
        (SETTLED, 0, DAILY_MS),
        (replace(SETTLED, report=MISSED), 0, DOUBT_MS),
        (replace(SETTLED, report=UNANSWERED), 0, DOUBT_MS),
        (replace(SETTLED, return_path_verified=False), 0, FIRST_CHECK_MS),
        (replace(SETTLED, keys=(ACTIVE, replace(ACTIVE, state=KeyState.PENDING))), 0, FIRST_CHECK_MS),
        (replace(SETTLED, report=replace(SETTLED.report, tracking=GOOD)), 0, FIRST_CHECK_MS),
        (DomainState(), 0, FIRST_CHECK_MS),
        (DomainState(), 4 * HOUR_MS, HOUR_MS),
        (DomainState(), 20 * DAY_MS, DAILY_MS),
        (DomainState(), ABANDONED_AFTER_MS, ABANDONED_MS),
        (replace(SETTLED, spf_verified=False), ABANDONED_AFTER_MS, DAILY_MS),
        (replace(SETTLED, dkim_verified=False), ABANDONED_AFTER_MS, ABANDONED_MS),
    ],
)
def test_the_next_look(state: DomainState, waited_ms: int, interval_ms: int) -> None:
    due = [next_check_ms(f"{number:016x}", state, NOW_MS - waited_ms, NOW_MS) - NOW_MS for number in range(300)]
    assert min(due) >= interval_ms * (1 - SPREAD / 2) - 1
    assert max(due) <= interval_ms * (1 + SPREAD / 2) + 1
    assert max(due) - min(due) > interval_ms * SPREAD * 0.9
    assert next_check_ms("a", state, NOW_MS - waited_ms, NOW_MS) == next_check_ms(
        "a", state, NOW_MS - waited_ms, NOW_MS
    )
