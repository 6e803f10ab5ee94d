"""Claims on both databases: one owner at a time, leases that end, fair shares, and no full scan."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from core.clock import SECOND_MS
from core.delivery import HTTP_POLICY, DeliveryKind
from core.netguard import target_host
from core.services import claims
from core.services.accounts import NewAccount
from core.services.claims import Claim, claim, has_due, lease_token, release
from core.services.received import load_received
from core.services.recording import record
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.deliveries import LEASE_MS, RAW, Deliveries, claim_request, finished

TARGET = "https://one.example/in"
OTHER = "https://two.example/in"


@pytest.fixture
def mail(database: Database, account: NewAccount) -> Deliveries:
    return Deliveries(database, account)


def ids(claimed: Claim) -> list[str]:
    return [delivery.delivery_id for delivery in claimed.deliveries]


def test_a_claim_carries_everything_an_attempt_needs(mail: Deliveries) -> None:
    (delivery_id,) = mail.accept(TARGET)

    (taken,) = mail.claim(NOW_MS + 7).deliveries

    assert taken.delivery_id == delivery_id
    assert (taken.attempt_number, taken.progress.attempts_in_cycle) == (1, 1)
    assert taken.progress.cycle_started_ms == NOW_MS
    assert (taken.target, taken.target_host) == (TARGET, target_host(TARGET))
    assert taken.secret.startswith("whsec_")
    assert taken.body == RAW
    assert taken.envelope.recipients == ("in@pillarbox.test",)
    assert taken.envelope.mail_from == "sender@example.net"
    assert taken.envelope.received_at.timestamp() * 1000 == NOW_MS
    assert mail.rows("state, attempts, cycle_attempts, due_ms, lease_token") == [
        ("pending", 1, 1, NOW_MS + 7 + LEASE_MS, taken.lease_token)
    ]


def test_what_is_not_due_yet_is_left_alone(mail: Deliveries) -> None:
    mail.accept(TARGET)
    assert ids(mail.claim(NOW_MS - 1)) == []
    assert not has_due(mail.database, DeliveryKind.INBOUND, NOW_MS - 1)
    assert has_due(mail.database, DeliveryKind.INBOUND, NOW_MS)
    assert len(ids(mail.claim(NOW_MS))) == 1


@pytest.mark.parametrize("state", ["delivered", "rejected", "exhausted"])
def test_what_has_ended_is_never_claimed(mail: Deliveries, state: str) -> None:
    mail.accept(TARGET)
    mail.execute("UPDATE delivery SET state = ?", (state,))
    assert ids(mail.claim()) == []


def test_the_target_is_read_afresh_at_each_claim(mail: Deliveries) -> None:
    mail.accept(TARGET)
    mail.execute("UPDATE address SET target = ?", (OTHER,))
    assert mail.claim().deliveries[0].target == OTHER


def test_the_oldest_due_are_taken_first(mail: Deliveries) -> None:
    late, early = mail.accept(TARGET, now_ms=NOW_MS), mail.accept(OTHER, now_ms=NOW_MS - 5)
    assert ids(mail.claim(free_places=1)) == early
    assert ids(mail.claim(free_places=1)) == late


def test_a_leased_delivery_is_nobody_elses_until_its_lease_ends(mail: Deliveries) -> None:
    mail.accept(TARGET)
    (first,) = mail.claim().deliveries
    assert ids(mail.claim(NOW_MS + LEASE_MS - 1)) == []

    (second,) = mail.claim(NOW_MS + LEASE_MS).deliveries

    assert second.delivery_id == first.delivery_id
    assert second.lease_token != first.lease_token
    assert second.attempt_number == 2


def test_a_lease_outlasts_the_longest_attempt(mail: Deliveries) -> None:
    mail.accept(TARGET)
    mail.claim(attempt_limit_ms=3_600_000)
    assert ids(mail.claim(NOW_MS + 3_600_000)) == []


# --- compare-and-set ---


def drain_with(url: str, found: Callable[[str], object], barrier: object) -> None:
    """What each contender does: claim four at a time until two claims in a row are empty."""
    database = Database(url)
    barrier.wait()  # type: ignore[attr-defined]
    empty = 0
    while empty < 2:
        taken = ids(claim(database, claim_request(free_places=4, host_concurrency=10_000), load_received, NOW_MS))
        empty = 0 if taken else empty + 1
        for delivery_id in taken:
            found(delivery_id)
    database.close()


def test_threads_that_claim_at_once_never_get_the_same_delivery(mail: Deliveries, database_url: str) -> None:
    mail.accept(TARGET, 200)
    taken: list[str] = []
    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=drain_with, args=(database_url, taken.append, barrier)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(taken) == 200
    assert max(Counter(taken).values()) == 1
    assert mail.rows("attempts") == [(1,)] * 200


def test_processes_that_claim_at_once_never_get_the_same_delivery(mail: Deliveries, database_url: str) -> None:
    mail.accept(TARGET, 100)
    mail.database.close()
    context = multiprocessing.get_context("spawn")
    taken, barrier = context.Queue(), context.Barrier(2)
    contenders = [context.Process(target=drain_with, args=(database_url, taken.put, barrier)) for _ in range(2)]
    for contender in contenders:
        contender.start()
    found = [taken.get(timeout=60) for _ in range(100)]
    for contender in contenders:
        contender.join(60)
        assert contender.exitcode == 0

    assert max(Counter(found).values()) == 1
    assert mail.rows("attempts") == [(1,)] * 100


def test_a_claim_that_loses_a_race_takes_what_is_left_and_says_it_is_partial(
    mail: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail.accept(TARGET, 3)
    original = claims._lease

    def slower(database: Database, request: object, chosen: list[str], now_ms: int) -> object:
        database.execute("UPDATE delivery SET due_ms = ? WHERE id = ?", (NOW_MS + 1, chosen[0]))  # somebody was quicker
        return original(database, request, chosen, now_ms)  # type: ignore[arg-type]

    monkeypatch.setattr(claims, "_lease", slower)
    taken = mail.claim()
    assert len(taken.deliveries) == 2
    assert taken.is_partial


# --- fair shares ---


def test_a_host_gets_no_more_than_its_cap_over_several_claims(mail: Deliveries) -> None:
    mail.accept(TARGET, 50)
    first = mail.claim(host_concurrency=10)
    assert len(first.deliveries) == 10
    assert first.is_blocked
    assert not first.is_partial
    assert ids(mail.claim(host_concurrency=10)) == []

    for delivery in first.deliveries[:3]:
        mail.record(delivery, 200)
    assert len(ids(mail.claim(host_concurrency=10))) == 3


def test_an_expired_lease_no_longer_counts_towards_the_cap(mail: Deliveries) -> None:
    mail.accept(TARGET, 4)
    assert len(ids(mail.claim(host_concurrency=2))) == 2
    assert len(ids(mail.claim(NOW_MS + LEASE_MS, host_concurrency=2))) == 2


def test_free_places_running_out_makes_a_claim_partial(mail: Deliveries) -> None:
    mail.accept(TARGET, 5)
    taken = mail.claim(free_places=3)
    assert len(taken.deliveries) == 3
    assert taken.is_partial


def test_a_claim_that_took_all_is_neither_partial_nor_blocked(mail: Deliveries) -> None:
    mail.accept(TARGET, 5)
    taken = mail.claim()
    assert (len(taken.deliveries), taken.is_partial, taken.is_blocked) == (5, False, False)
    nothing = mail.claim()
    assert (nothing.deliveries, nothing.is_partial, nothing.is_blocked) == ([], False, False)


def test_an_open_breaker_postpones_without_spending_attempts(mail: Deliveries) -> None:
    mail.accept(TARGET, 5)
    mail.set_health(TARGET, failures=7, open_until_ms=NOW_MS + 1_000)

    taken = mail.claim(NOW_MS)

    assert (ids(taken), taken.is_blocked) == ([], True)
    assert mail.rows("attempts") == [(0,)] * 5


def test_after_its_pause_a_breaker_lets_one_probe_through(mail: Deliveries) -> None:
    mail.accept(TARGET, 5)
    mail.set_health(TARGET, failures=7, open_until_ms=NOW_MS + 1_000)

    (probe,) = mail.claim(NOW_MS + 1_000).deliveries
    assert ids(mail.claim(NOW_MS + 1_001)) == []

    mail.record(probe, 200, NOW_MS + 1_002)
    assert len(ids(mail.claim(NOW_MS + 1_003))) == 4


def test_a_probe_that_fails_opens_the_breaker_again(mail: Deliveries) -> None:
    mail.accept(TARGET, 5)
    mail.set_health(TARGET, failures=7, open_until_ms=NOW_MS)
    (probe,) = mail.claim().deliveries
    mail.record(probe, 503)
    assert ids(mail.claim(NOW_MS + 39_999)) == []
    assert len(ids(mail.claim(NOW_MS + 40_000))) == 1  # the eighth failure in a row: 5 s, doubled three times


def test_a_host_that_dawdles_now_keeps_only_the_share_of_suspects(mail: Deliveries) -> None:
    mail.accept(TARGET, 100)
    assert len(ids(mail.claim(NOW_MS, host_concurrency=6))) == 6
    assert len(ids(mail.claim(NOW_MS + 3_001))) == 2  # SLOW_CONCURRENCY, six in flight
    mail.accept(OTHER, 10, NOW_MS)
    assert len(ids(mail.claim(NOW_MS + 3_002))) == 10


def test_suspect_hosts_together_leave_three_quarters_to_the_others(mail: Deliveries) -> None:
    slow = [f"https://slow{number}.example/" for number in range(4)]
    for target in slow:
        mail.accept(target, 20)
        mail.set_health(target, is_slow=True)
    mail.accept(TARGET, 40, NOW_MS + 1)

    taken = Counter(delivery.target for delivery in mail.claim(NOW_MS + 1, pool_size=40, free_places=40).deliveries)

    assert sum(taken[target] for target in slow) == 10
    assert taken[TARGET] == 30


def test_a_newcomer_gets_four_places_until_this_worker_has_seen_it_answer(mail: Deliveries) -> None:
    mail.accept(TARGET, 20)
    assert len(ids(mail.claim(proven_hosts=set()))) == 4
    assert len(ids(mail.claim(proven_hosts={target_host(TARGET)}))) == 16


def test_other_hosts_are_found_behind_a_thousand_of_a_blocked_one(mail: Deliveries) -> None:
    mail.accept(TARGET, 1_000, NOW_MS - 10)
    mail.set_health(TARGET, failures=9, open_until_ms=NOW_MS + 60_000)
    others = [mail.accept(f"https://healthy{number}.example/", 2, NOW_MS)[0] for number in range(5)]

    taken = mail.claim()

    assert set(others) <= set(ids(taken))
    assert len(ids(taken)) == 10
    assert taken.is_blocked
    assert not taken.is_partial


def test_behind_the_window_the_host_that_waits_longest_comes_first(mail: Deliveries) -> None:
    mail.accept(TARGET, 200, NOW_MS - 10)
    mail.set_health(TARGET, failures=9, open_until_ms=NOW_MS + 60_000)
    mail.accept("https://aaa.example/", 10, NOW_MS - 1)
    oldest = mail.accept("https://zzz.example/", 10, NOW_MS - 2)
    assert set(ids(mail.claim(free_places=10))) == set(oldest)


def test_a_host_partly_inside_the_window_gets_its_cap_and_each_delivery_once(mail: Deliveries) -> None:
    mail.accept(OTHER, 20, NOW_MS - 20)
    mail.accept(TARGET, 200, NOW_MS - 10)
    mail.accept(OTHER, 30, NOW_MS)
    taken = Counter(delivery.target for delivery in mail.claim(free_places=64).deliveries)
    assert taken == {OTHER: 32, TARGET: 32}


def test_a_token_is_new_for_every_claim(mail: Deliveries) -> None:
    mail.accept(TARGET, 2)
    tokens = {delivery.lease_token for _ in range(2) for delivery in mail.claim(free_places=1).deliveries}
    assert len(tokens) == 2


# --- workers that died ---


def test_what_a_dead_worker_held_is_due_again_and_nothing_else(mail: Deliveries) -> None:
    mail.accept(TARGET, 3)
    (dead,) = mail.claim(free_places=1, lease_token=lease_token("aaaa", 1)).deliveries
    (alive,) = mail.claim(free_places=1, lease_token=lease_token("aaaab", 1)).deliveries

    with mail.database.transaction():
        assert release(mail.database, DeliveryKind.INBOUND, "aaaa", NOW_MS + 1) == 1

    again = mail.claim(NOW_MS + 1)
    assert dead.delivery_id in ids(again)
    assert alive.delivery_id not in ids(again)
    mail.record(dead, 404, NOW_MS + 2)
    assert mail.rows("state") == [("pending",)] * 3


def test_the_look_behind_goes_round_in_parts(mail: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HOSTS_LOOKED_AT", 2)
    mail.accept(TARGET, 200, NOW_MS - 10)  # fills the window, and its host has few places
    for number in range(5):
        mail.accept(f"https://h{number}.example/in", 1, NOW_MS)
    reached: list[str] = []
    look_behind = ""
    for _ in range(4):
        taken = mail.claim(host_concurrency=1, free_places=20, look_behind=look_behind)
        reached += [delivery.target for delivery in taken.deliveries if delivery.target != TARGET]
        look_behind = taken.looked_to
    assert sorted(reached) == [f"https://h{number}.example/in" for number in range(5)]


# --- cost ---


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (claims._DUE, (DeliveryKind.INBOUND, NOW_MS, 100)),
        (claims._DUE_OF_HOST, (DeliveryKind.INBOUND, "https://h1.example:443", NOW_MS, 100)),
        (claims._HOSTS, (DeliveryKind.INBOUND, "", DeliveryKind.INBOUND, 100, DeliveryKind.INBOUND)),
        (claims._IN_FLIGHT, ("0123-%", DeliveryKind.INBOUND, "inline-%", NOW_MS)),
    ],
    ids=["due", "due of a host", "hosts with due", "in flight"],
)
def test_no_question_of_a_claim_scans_the_table_of_deliveries(
    mail: Deliveries, statement: str, parameters: tuple[object, ...]
) -> None:
    if mail.database.is_postgres:
        many_hosts(mail)
        mail.execute("ANALYZE delivery")
        plan = "\n".join(row[0] for row in mail.execute(f"EXPLAIN {statement}", parameters))
        assert "Seq Scan on delivery" not in plan, plan
        return
    plan = "\n".join(row[3] for row in mail.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))
    reads = [line for line in plan.splitlines() if "delivery" in line]
    assert reads, plan
    # `delivery_leased` holds only what is leased, so going through the whole of it is fine.
    assert [line for line in reads if "INDEX" not in line] == [], plan
    assert "TEMP B-TREE FOR GROUP BY" not in plan, plan


def test_a_claim_stays_quick_with_many_hosts_and_a_long_history(mail: Deliveries) -> None:
    many_hosts(mail)
    mail.accept(TARGET, 200, NOW_MS - 10)
    mail.set_health(TARGET, failures=9, open_until_ms=NOW_MS + 60_000)
    if mail.database.is_postgres:
        mail.execute("ANALYZE delivery")
    started = time.thread_time()
    taken = mail.claim()
    assert len(taken.deliveries) == 64
    assert time.thread_time() - started < 1.0


def many_hosts(mail: Deliveries, hosts: int = 2_000, ended: int = 10_000) -> None:
    """Deliveries waiting for many hosts, and a history of others that have ended."""
    mail.accept("https://template.example/", 1, NOW_MS + 10**9)
    (template,) = mail.rows("account_id, message_id, address_id")
    statement = """
        INSERT INTO delivery (id, kind, account_id, message_id, address_id, recipients, target_host, state, attempts,
                              cycle_attempts, cycle_started_ms, due_ms, created_ms)
        VALUES (?, 'inbound', ?, ?, ?, '["a@b"]', ?, ?, 0, 0, 0, ?, 0)"""
    waiting = [(f"w{n}", *template, f"https://h{n}.example:443", "pending", NOW_MS + n % 2) for n in range(hosts)]
    over = [(f"e{n}", *template, f"https://h{n % 50}.example:443", "delivered", 0) for n in range(ended)]
    with mail.database.transaction():
        mail.database.execute_many(statement, [*waiting, *over])


def test_recording_makes_room_for_the_same_host_in_the_same_transaction(mail: Deliveries) -> None:
    mail.accept(TARGET, 4)
    first = mail.claim(host_concurrency=2).deliveries
    with mail.database.transaction():
        record(mail.database, [finished(entry, 200) for entry in first], HTTP_POLICY, NOW_MS)
        second = claim(mail.database, claim_request(host_concurrency=2), load_received, NOW_MS + SECOND_MS).deliveries
    assert len(second) == 2
    assert not {entry.delivery_id for entry in first} & {entry.delivery_id for entry in second}
