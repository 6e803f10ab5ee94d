"""Each thing is kept for its age and no longer; what is pending is never touched."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.clock import DAY_MS
from core.delivery import DeliveryKind, DeliveryState
from core.errors import NotPossibleNow, StorageUnavailable
from core.ids import new_time_ordered_id
from core.routing import Route
from core.services.acceptance import AcceptedMail, DeliveryPlan
from core.services.accounts import NewAccount
from core.services.arrivals import ArrivalKind, arrive
from core.services.gateway_account import GATEWAY_ADDRESS_ID, ensure_gateway_account
from core.services.replay import Wish, replay_one
from core.services.retention import Purged, PurgeLimits, Retention, purge
from core.store.blobs import DiskBlobs
from core.store.db import Database
from core.store.models import database_proxy
from tests.api_support import accepted_mail
from tests.conftest import NOW_MS
from tests.retention_support import FAST, Archive, ages, days_ago

DELIVERED, PENDING, REJECTED = DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.REJECTED
QUARANTINED, DEFERRED, EXHAUSTED = DeliveryState.QUARANTINED, DeliveryState.DEFERRED, DeliveryState.EXHAUSTED
ENDED = (DELIVERED, REJECTED, EXHAUSTED, QUARANTINED, DEFERRED)


@pytest.fixture
def archive(database: Database, account: NewAccount, tmp_path: Path) -> Archive:
    return Archive(database, account, DiskBlobs(tmp_path / "messages"), tmp_path)


def run(archive: Archive, now_ms: int = NOW_MS, limits: PurgeLimits = FAST, **days: int) -> Purged:
    return purge(archive.database, archive.blobs, ages(**days), now_ms, limits)


def findings(archive: Archive) -> list[object]:
    return [row[0] for row in archive.deliveries.execute("SELECT body_text FROM message ORDER BY id")]


# --- each age by itself ---


@pytest.mark.parametrize("is_large", [False, True], ids=["row", "blob"])
@pytest.mark.parametrize("state", ENDED)
def test_raw_mail_goes_when_its_age_is_over_counted_from_the_end(
    archive: Archive, state: DeliveryState, is_large: bool
) -> None:
    received = days_ago(100)
    message_id = archive.receive(received, ((state, received + 5 * DAY_MS),), is_large, attempts=(received,))
    assert run(archive, received + 35 * DAY_MS, raw=30).counts == {}
    assert archive.raw_ids() == [message_id]
    purged = run(archive, received + 35 * DAY_MS + 1, raw=30)
    assert purged == Purged(raw=1, blobs=int(is_large))
    assert archive.counts() == {"message": 1, "raw_message": 0, "delivery": 1, "attempt": 1}
    assert archive.blob_keys() == []
    assert findings(archive) == ["hi"]


def test_raw_mail_stays_until_the_last_delivery_has_ended_long_enough(archive: Archive) -> None:
    received = days_ago(100)
    archive.receive(received, ((DELIVERED, received), (REJECTED, received + 3 * DAY_MS)))
    assert run(archive, received + 33 * DAY_MS, raw=30).raw == 0
    assert run(archive, received + 33 * DAY_MS + 1, raw=30).raw == 1


def test_findings_are_forgotten_at_their_age_and_nothing_else(archive: Archive) -> None:
    received = days_ago(100)
    archive.receive(received, ((DELIVERED, received),), attempts=(received,))
    assert run(archive, received + 30 * DAY_MS, parsed=30).counts == {}
    assert run(archive, received + 30 * DAY_MS + 1, parsed=30).counts == {"findings": 1}
    assert archive.deliveries.execute("SELECT body_text, verdicts FROM message") == [(None, None)]
    assert archive.counts() == dict.fromkeys(archive.counts(), 1)
    assert run(archive, received + 31 * DAY_MS, parsed=30).counts == {}


def test_attempts_go_each_at_its_own_age(archive: Archive) -> None:
    received = days_ago(100)
    moments = (received, received + DAY_MS, received + 2 * DAY_MS)
    archive.receive(received, ((EXHAUSTED, moments[-1]),), attempts=moments)
    assert run(archive, received + 11 * DAY_MS + 1, attempts=10).counts == {"attempts": 2}
    assert archive.deliveries.attempts("number") == [(3,)]
    assert archive.counts() == dict.fromkeys(archive.counts(), 1)


@pytest.mark.parametrize("is_large", [False, True], ids=["row", "blob"])
def test_with_its_last_status_goes_all_of_a_message(archive: Archive, is_large: bool) -> None:
    received = days_ago(200)
    ends = ((DELIVERED, received), (REJECTED, received + DAY_MS))
    archive.receive(received, ends, is_large, attempts=(received, received))
    assert run(archive, received + 90 * DAY_MS + 1, statuses=90) == Purged(statuses=1)
    assert archive.counts() == {"message": 1, "raw_message": 1, "delivery": 1, "attempt": 2}
    purged = run(archive, received + 91 * DAY_MS + 1, statuses=90)
    assert purged == Purged(statuses=1, messages=1, blobs=int(is_large))
    assert archive.counts() == dict.fromkeys(archive.counts(), 0)
    assert archive.blob_keys() == []


def test_a_message_that_lost_its_deliveries_otherwise_goes_too(archive: Archive) -> None:
    archive.receive(days_ago(91), is_large=True)
    recent = archive.receive(days_ago(89), is_large=True)
    archive.deliveries.execute("DELETE FROM delivery")
    assert run(archive, statuses=90) == Purged(messages=1, blobs=1)
    assert archive.blob_keys() == archive.raw_ids() == [recent]


def test_an_age_of_zero_is_for_ever(archive: Archive) -> None:
    archive.receive(0, ((DELIVERED, 0),), attempts=(0,))
    assert run(archive).counts == {}
    assert archive.counts() == dict.fromkeys(archive.counts(), 1)


# --- what is pending ---


def test_pending_mail_and_all_that_belongs_to_it_stays_whatever_its_age(archive: Archive) -> None:
    old = days_ago(10_000)
    archive.receive(old, ((PENDING, None),), is_large=True, attempts=(old, old))
    before = archive.counts()
    assert run(archive, raw=1, parsed=1, attempts=1, statuses=1).counts == {}
    assert archive.counts() == before
    assert len(archive.blob_keys()) == 1
    assert findings(archive) == ["hi"]
    (taken,) = archive.deliveries.claim().deliveries
    assert archive.blobs.get(str(taken.blob_key))


def test_what_ended_beside_a_pending_delivery_may_go_but_not_their_message(archive: Archive) -> None:
    old = days_ago(1_000)
    archive.receive(old, ((DELIVERED, old), (PENDING, None)), is_large=True, attempts=(old,))
    assert run(archive, raw=1, parsed=1, attempts=1, statuses=1) == Purged(statuses=1)
    assert archive.counts() == dict.fromkeys(archive.counts(), 1)
    assert len(archive.blob_keys()) == 1


def test_a_callback_that_waits_keeps_the_mail_it_tells_of(archive: Archive) -> None:
    old = days_ago(1_000)
    archive.receive(old, ((REJECTED, old), (PENDING, None)))
    archive.deliveries.execute("UPDATE delivery SET kind = ? WHERE state = 'pending'", (DeliveryKind.ERROR_CALLBACK,))
    assert run(archive, raw=1, statuses=1) == Purged(statuses=1)
    assert len(archive.raw_ids()) == 1


@pytest.mark.parametrize("seed", range(6))
def test_any_mixture_is_purged_as_a_simple_model_says(archive: Archive, seed: int) -> None:
    """Ages and states at random, with limits so small that every walk and every transaction is cut somewhere."""
    chance = random.Random(seed)
    days = {name: chance.choice([0, 1, 3, 10]) for name in ("raw", "parsed", "attempts", "statuses")}
    with archive.database.transaction():
        model = [_random_mail(archive, chance) for _ in range(25)]
    limits = PurgeLimits(rows=chance.choice([1, 3, 500]), bytes=chance.choice([1, 1500, 10**6]), window=3, pause_s=0)
    run(archive, limits=limits, **days)

    kept = [mail.after(days) for mail in model]
    expected = {name: sum(getattr(mail, name) for mail in kept) for name in ("message", "raw_message", "delivery")}
    expected["attempt"] = sum(mail.attempt for mail in kept)
    assert archive.counts() == expected
    assert len([text for text in findings(archive) if text]) == sum(mail.findings for mail in kept)
    assert archive.blob_keys() == sorted(mail.message_id for mail in kept if mail.is_large and mail.raw_message)


@dataclass(frozen=True)
class _Kept:
    message_id: str
    is_large: bool
    message: int
    raw_message: int
    delivery: int
    attempt: int
    findings: int


@dataclass(frozen=True)
class _Mail:
    """The model: a mail, its deliveries' states and ends in days ago, and its attempts (of each delivery)."""

    message_id: str
    is_large: bool
    ends: tuple[tuple[DeliveryState, float], ...]
    attempts: tuple[float, ...]

    def after(self, days: dict[str, int]) -> _Kept:
        def is_over(name: str, state: DeliveryState, age: float) -> bool:
            return bool(days[name]) and state is not PENDING and age > days[name]

        kept = [end for end in self.ends if not is_over("statuses", *end)]
        attempts = sum(not is_over("attempts", state, age) for state, _ in kept for age in self.attempts)
        is_there = int(bool(kept))
        # A status that went no longer counts for its message.
        has_raw = is_there and not all(is_over("raw", *end) for end in kept)
        has_findings = is_there and not all(is_over("parsed", *end) for end in kept)
        return _Kept(
            self.message_id, self.is_large, is_there, int(has_raw), len(kept), attempts, int(has_findings)
        )  # fmt: skip


def _random_mail(archive: Archive, chance: random.Random) -> _Mail:
    age = chance.uniform(0, 14)
    ends = tuple((chance.choice([PENDING, *ENDED]), chance.uniform(0, age)) for _ in range(chance.choice([1, 1, 2, 3])))
    attempts = tuple(chance.uniform(0, age) for _ in range(chance.choice([0, 1, 4])))
    is_large = chance.random() < 0.3
    states = tuple((state, None if state is PENDING else days_ago(end)) for state, end in ends)
    message_id = archive.receive(days_ago(age), states, is_large, tuple(days_ago(entry) for entry in attempts))
    return _Mail(message_id, is_large, ends, attempts)


# --- limits ---


def test_a_run_does_only_so_much_and_says_that_there_is_more(archive: Archive) -> None:
    for _ in range(5):
        archive.receive(days_ago(10))
    limits = PurgeLimits(rows=2, transactions=2, pause_s=0)
    first = run(archive, limits=limits, raw=1)
    assert (first.raw, first.is_partial) == (4, True)
    second = run(archive, limits=limits, raw=1)
    assert (second.raw, second.is_partial) == (1, False)


def test_a_transaction_holds_only_so_many_bytes(archive: Archive) -> None:
    for _ in range(4):
        archive.receive(days_ago(10), is_large=True)
    limits = PurgeLimits(bytes=2_100, transactions=1, pause_s=0)  # two of them
    assert run(archive, limits=limits, raw=1).raw == 2


def test_findings_are_not_looked_for_twice_until_the_next_day(archive: Archive) -> None:
    replayed = archive.receive(days_ago(10), ((DELIVERED, NOW_MS),))
    archive.receive(days_ago(10))
    retention = Retention(archive.database, archive.blobs, ages(parsed=1), FAST)
    assert retention.run(NOW_MS).findings == 1
    archive.end(archive.delivery_of(replayed), DELIVERED, days_ago(5))
    assert retention.run(NOW_MS).findings == 0
    retention.begin_again(NOW_MS)
    assert retention.run(NOW_MS).findings == 1


# --- killed in between ---


def test_a_blob_that_cannot_be_deleted_now_stops_nothing(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        archive.receive(days_ago(10), is_large=True)

    def fail(_: str) -> None:
        raise StorageUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(archive.blobs, "delete", fail)
        assert run(archive, raw=1) == Purged(raw=3)
    assert len(archive.blob_keys()) == 3


# --- after a purge ---


@pytest.mark.parametrize(("state", "wish"), [(REJECTED, Wish.RETRY), (QUARANTINED, Wish.RELEASE)])
def test_purged_mail_can_be_neither_retried_nor_released(archive: Archive, state: DeliveryState, wish: Wish) -> None:
    delivery_id = archive.delivery_of(archive.receive(days_ago(10), ((state, days_ago(10)),)))
    run(archive, raw=1)
    with pytest.raises(NotPossibleNow, match="PILLARBOX_KEEP_RAW_DAYS"):
        replay_one(archive.database, archive.account.account_id, delivery_id, NOW_MS, wish)
    assert archive.deliveries.rows("state") == [(state,)]


@pytest.mark.parametrize("state", [DEFERRED, REJECTED])
def test_inline_mail_that_comes_again_after_its_bytes_were_purged_is_new(
    archive: Archive, state: DeliveryState
) -> None:
    mail = inline_mail(archive, days_ago(10))
    arrive(archive.database, mail, days_ago(10))
    archive.end(archive.delivery_of(mail.message_id), state, days_ago(10))
    assert run(archive, raw=1).raw == 1
    again = inline_mail(archive, NOW_MS)
    arrival = arrive(archive.database, again, NOW_MS)
    assert arrival.kind is ArrivalKind.TO_ATTEMPT
    assert (arrival.is_stored_now, arrival.message_id) == (True, again.message_id)


def test_what_was_delivered_is_recognised_after_its_bytes_were_purged(archive: Archive) -> None:
    mail = inline_mail(archive, days_ago(10))
    arrive(archive.database, mail, days_ago(10))
    archive.end(archive.delivery_of(mail.message_id), DELIVERED, days_ago(10))
    archive.deliveries.execute("UPDATE delivery SET lease_token = NULL")
    assert run(archive, raw=1).raw == 1
    assert arrive(archive.database, inline_mail(archive, NOW_MS), NOW_MS).kind is ArrivalKind.TAKEN


def inline_mail(archive: Archive, at_ms: int) -> AcceptedMail:
    target = "https://example.com/in"
    route = Route(archive.account.account_id, archive.deliveries.address(target), None, target)
    plan = DeliveryPlan(duplicate_window_ms=30 * DAY_MS, lease_token=new_time_ordered_id(), lease_end_ms=at_ms + 1)
    return accepted_mail(at_ms, (("in@pillarbox.test", route),), plans={route.delivery_key: plan})


# --- what others do at the same moment (PostgreSQL; SQLite has one writer at a time) ---


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_raw_mail_that_somebody_locks_is_left_for_the_next_time(archive: Archive, postgres_url: str) -> None:
    message_id = archive.receive(days_ago(10))
    free = archive.receive(days_ago(10))
    with other_connection(postgres_url) as other, other.transaction():
        other.execute("SELECT 1 FROM raw_message WHERE message_id = ? FOR UPDATE", (message_id,))
        assert run(archive, raw=1).raw == 1
    assert archive.raw_ids() == [message_id] != [free]
    assert run(archive, raw=1).raw == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_mail_whose_sender_brings_it_again_at_this_moment_keeps_its_bytes(archive: Archive, postgres_url: str) -> None:
    mail = inline_mail(archive, days_ago(10))
    arrive(archive.database, mail, days_ago(10))
    archive.end(archive.delivery_of(mail.message_id), DEFERRED, days_ago(10))
    ((fingerprint,),) = archive.deliveries.rows("fingerprint")
    with other_connection(postgres_url) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (fingerprint,))  # as `arrive` does first
        assert run(archive, raw=1).raw == 0
    assert run(archive, raw=1).raw == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("kind", ["raw", "statuses", "parsed"])
def test_a_replay_that_is_not_committed_yet_is_waited_for_by_nobody_and_loses_nothing(
    archive: Archive, postgres_url: str, kind: str
) -> None:
    message_id = archive.receive(days_ago(10))
    with other_connection(postgres_url) as other, other.transaction():
        other.execute("SELECT 1 FROM raw_message WHERE message_id = ? FOR UPDATE", (message_id,))
        other.execute("UPDATE delivery SET state = 'pending', finished_ms = NULL")
        run(archive, **{kind: 1})
    assert archive.counts() == {"message": 1, "raw_message": 1, "delivery": 1, "attempt": 0}
    assert archive.deliveries.rows("state") == [("pending",)]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_whatever_is_replayed_while_it_is_purged_keeps_its_bytes(archive: Archive) -> None:
    """Without the lock on the raw row this made 34 of 2,400 deliveries pending whose bytes were gone."""
    ids = [archive.delivery_of(archive.receive(days_ago(10))) for _ in range(400)]

    def replay_each() -> None:
        for delivery_id in ids:
            with suppress(NotPossibleNow):
                replay_one(archive.database, archive.account.account_id, delivery_id, NOW_MS)
        archive.database.close()

    replaying = threading.Thread(target=replay_each)
    replaying.start()
    run(archive, limits=PurgeLimits(rows=1, pause_s=0), raw=1)
    replaying.join(60)
    has_raw = "EXISTS (SELECT 1 FROM raw_message r WHERE r.message_id = d.message_id)"
    rows = archive.deliveries.execute(f"SELECT d.state, {has_raw}, count(*) FROM delivery d GROUP BY 1, 2")
    assert {(state, raw) for state, raw, _ in rows} <= {("pending", True), ("delivered", False)}


@contextmanager
def other_connection(url: str) -> Iterator[Database]:
    """A database of its own, which does not become the models'."""
    models = database_proxy.obj
    other = Database(url)
    database_proxy.initialize(models)
    try:
        yield other
    finally:
        other.close()


# --- leftovers ---


def test_deleted_addresses_go_when_nothing_speaks_of_them_any_more(archive: Archive) -> None:
    ensure_gateway_account(archive.database, lambda: 0)
    old, in_use, recent, live = (archive.deliveries.address(f"https://{n}.example.com/") for n in range(4))
    archive.receive(days_ago(1))
    archive.deliveries.execute("UPDATE address SET deleted_ms = ? WHERE id <> ?", (days_ago(100), live))
    archive.deliveries.execute("UPDATE address SET deleted_ms = ? WHERE id = ?", (days_ago(80), recent))
    archive.deliveries.execute("UPDATE delivery SET address_id = ?", (in_use,))
    archive.deliveries.execute("DELETE FROM address WHERE target = 'https://target0.example.com/'")
    retention = Retention(archive.database, archive.blobs, ages(statuses=90), FAST)
    assert retention.begin_again(NOW_MS) == Purged(addresses=1)
    left = {row[0] for row in archive.deliveries.execute("SELECT id FROM address")}
    assert left == {in_use, recent, live, GATEWAY_ADDRESS_ID}
    assert old not in left


def test_failing_hosts_are_forgotten_when_no_mail_waits_for_them(archive: Archive) -> None:
    for name in ("idle", "waiting", "recent"):
        archive.deliveries.set_health(f"https://{name}.example.com/", 5, days_ago(0.5 if name == "recent" else 2))
    archive.deliveries.accept("https://waiting.example.com/")
    retention = Retention(archive.database, archive.blobs, ages(), FAST)
    assert retention.begin_again(NOW_MS) == Purged(hosts=1)
    hosts = [row[0] for row in archive.deliveries.execute("SELECT target_host FROM target_health ORDER BY 1")]
    assert [host.split(".")[0].rpartition("/")[2] for host in hosts] == ["recent", "waiting"]
