"""What belongs to sent mail is kept for its age and no longer; pending and held mail keeps what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from core.clock import DAY_MS, HOUR_MS
from core.delivery import DeliveryKind, DeliveryState
from core.ids import new_domain_id, new_time_ordered_id
from core.routing import Route
from core.sending.events import EventKind
from core.services.acceptance import store_accepted
from core.services.accounts import NewAccount
from core.services.held_sends import release_held
from core.services.idempotency import IdempotencyClaim, keep_answers
from core.services.retention import Purged, PurgeLimits, Retention, RetentionAges
from core.store.blobs import DiskBlobs
from core.store.db import Database
from tests.api_support import Api, accepted_mail, api_settings
from tests.conftest import NOW_MS
from tests.retention_support import FAST, Archive
from tests.send_support import Sends

START_MS = NOW_MS - 400 * DAY_MS
_INSERT_EVENT = """
INSERT INTO event (id, account_id, message_id, delivery_id, kind, recipient, at_ms, details)
VALUES (?, ?, ?, ?, 'open', 'r@example.com', ?, '{}')"""
_INSERT_HIT = """
INSERT INTO tracking_hit (delivery_id, at_ms, method, address, user_agent, headers, kind, reason)
VALUES (?, ?, 'GET', '', '', '{}', 'person', '')"""
_INSERT_WEBHOOK = """
INSERT INTO webhook (id, account_id, url, kinds, tags, domains, secret, is_active, created_ms, updated_ms, deleted_ms)
VALUES (?, ?, 'https://example.com/', '[]', '[]', '[]', 's', TRUE, ?, ?, ?)"""
_INSERT_POST = """
INSERT INTO delivery (id, kind, account_id, webhook_id, recipients, target_host, state, cycle_attempts,
                      attempts, cycle_started_ms, due_ms, detail, created_ms, finished_ms)
VALUES (?, 'events', ?, ?, '[]', 'https://example.com:443', ?, 0, 0, ?, ?, '{}', ?, ?)"""


@pytest.fixture
def blobs(tmp_path: Path) -> DiskBlobs:
    return DiskBlobs(tmp_path / "messages")


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path, now_ms=START_MS)
    made.add_domain([])
    return made


def run(sends: Sends, blobs: DiskBlobs, now_ms: int, limits: PurgeLimits = FAST, **days: int) -> dict[str, int]:
    ages = {f"{name}_days": number for name, number in days.items()}
    return Retention(sends.database, blobs, RetentionAges(**ages), limits).run(now_ms).counts


def daily(sends: Sends, blobs: DiskBlobs, now_ms: int, **days: int) -> dict[str, int]:
    ages = {f"{name}_days": number for name, number in days.items()}
    return Retention(sends.database, blobs, RetentionAges(**ages), FAST).begin_again(now_ms).counts


def execute(sends: Sends, statement: str, *parameters: Any) -> list[Any]:
    with sends.database.transaction():
        return sends.database.execute(statement, parameters)


def count(sends: Sends, table: str) -> int:
    number: int = execute(sends, f"SELECT count(*) FROM {table}")[0][0]
    return number


def end(sends: Sends, state: DeliveryState, ended_ms: int) -> None:
    execute(sends, "UPDATE delivery SET state = ?, finished_ms = ?", state.value, ended_ms)


def add_event(sends: Sends, delivery_id: str, at_ms: int) -> None:
    event_id = new_time_ordered_id(at_ms)
    execute(sends, _INSERT_EVENT, event_id, sends.account.account_id, sends.stored[0], delivery_id, at_ms)


def add_webhook(sends: Sends, deleted_ms: int | None = None) -> str:
    webhook_id = new_domain_id()
    execute(sends, _INSERT_WEBHOOK, webhook_id, sends.account.account_id, START_MS, START_MS, deleted_ms)
    return webhook_id


def add_post(sends: Sends, webhook_id: str, state: str, at_ms: int) -> None:
    ended = None if state == "pending" else at_ms
    post = (new_time_ordered_id(at_ms), sends.account.account_id, webhook_id, state, at_ms, at_ms, at_ms, ended)
    execute(sends, _INSERT_POST, *post)


# --- with the ages that all mail has ---


@pytest.mark.parametrize("state", ["delivered", "rejected", "exhausted", "suppressed", "cancelled"])
def test_raw_bytes_and_statuses_of_sent_mail_go_at_their_ages(sends: Sends, blobs: DiskBlobs, state: str) -> None:
    sends.store("ann@example.com", "bob@example.com")
    end(sends, DeliveryState(state), START_MS + DAY_MS)
    assert run(sends, blobs, START_MS + 31 * DAY_MS, raw=30, statuses=90) == {}
    assert run(sends, blobs, START_MS + 31 * DAY_MS + 1, raw=30, statuses=90) == {"raw": 1}
    assert run(sends, blobs, START_MS + 91 * DAY_MS + 1, raw=30, statuses=90) == {"statuses": 2, "messages": 1}
    tables = ("delivery", "message", "sent_message", "event", "raw_message")
    assert {table: count(sends, table) for table in tables} == dict.fromkeys(tables, 0)


def test_a_large_sent_mail_takes_its_blob_along(sends: Sends, blobs: DiskBlobs, tmp_path: Path) -> None:
    message_id = new_time_ordered_id(START_MS)
    (tmp_path / "spooled").write_bytes(b"x")
    blobs.put_file(message_id, tmp_path / "spooled")
    sends.store("ann@example.com", content=None, message_id=message_id)
    end(sends, DeliveryState.DELIVERED, START_MS)
    assert run(sends, blobs, NOW_MS, raw=30) == {"raw": 1, "blobs": 1}


def test_returned_mail_goes_like_received_mail(sends: Sends, blobs: DiskBlobs) -> None:
    archive = Archive(sends.database, sends.account, blobs, sends.folder)
    archive.receive(START_MS, ((DeliveryState.DELIVERED, START_MS),))
    execute(sends, "UPDATE delivery SET kind = ?, address_id = NULL", DeliveryKind.RETURNED.value)
    assert run(sends, blobs, START_MS + 31 * DAY_MS, raw=30) == {"raw": 1}
    assert run(sends, blobs, START_MS + 91 * DAY_MS, statuses=90) == {"statuses": 1, "messages": 1}


def test_pending_mail_keeps_everything_however_far_ahead_it_is_scheduled(sends: Sends, blobs: DiskBlobs) -> None:
    (delivery_id,) = sends.store("ann@example.com", send_at_ms=NOW_MS + DAY_MS)
    add_event(sends, delivery_id, START_MS)
    assert run(sends, blobs, NOW_MS, raw=1, parsed=1, attempts=1, statuses=1, events=1) == {}
    assert daily(sends, blobs, NOW_MS, statuses=1) == {"counts_of_events": 1}
    assert (count(sends, "event"), count(sends, "raw_message")) == (2, 1)


# --- held mail ---


@pytest.mark.parametrize("hold", ["gate", "worker"])
def test_held_mail_keeps_its_bytes_until_it_is_cancelled_after_thirty_days(
    sends: Sends, blobs: DiskBlobs, hold: str
) -> None:
    if hold == "gate":
        sends.store("ann@example.com", spam_reason="x")
    else:
        sends.store("ann@example.com")
        end(sends, DeliveryState.QUARANTINED, START_MS)
    last = START_MS + 30 * DAY_MS
    assert daily(sends, blobs, last) == {}
    assert run(sends, blobs, NOW_MS, raw=1, parsed=1, attempts=1, statuses=1) == {}
    assert daily(sends, blobs, last + 1) == {"cancelled": 1}
    assert execute(sends, "SELECT state, finished_ms FROM delivery") == [("cancelled", last + 1)]
    ((details,),) = execute(sends, "SELECT details FROM event WHERE kind = ?", EventKind.CANCELLED.value)
    assert orjson.loads(details)["reason"] == "nobody released it within 30 days"
    assert run(sends, blobs, last + DAY_MS, raw=30) == {}
    assert run(sends, blobs, last + 30 * DAY_MS + 2, raw=30) == {"raw": 1}


def test_what_is_released_in_time_is_not_cancelled(sends: Sends, blobs: DiskBlobs) -> None:
    sends.store("ann@example.com", spam_reason="x")
    release_held(sends.database, sends.account.account_id, sends.stored[0], START_MS + DAY_MS)
    assert "cancelled" not in daily(sends, blobs, NOW_MS)
    assert len(sends.claim().deliveries) == 0  # due a day later than this clock shows
    sends.now_ms = NOW_MS
    assert len(sends.claim().deliveries) == 1


def test_quarantined_received_mail_goes_as_before(sends: Sends, blobs: DiskBlobs) -> None:
    archive = Archive(sends.database, sends.account, blobs, sends.folder)
    archive.receive(START_MS, ((DeliveryState.QUARANTINED, START_MS),))
    assert daily(sends, blobs, NOW_MS) == {}
    assert run(sends, blobs, NOW_MS, raw=30) == {"raw": 1}


# --- what has an age of its own ---


def test_events_and_hits_go_at_their_age_beside_a_message_that_stays(sends: Sends, blobs: DiskBlobs) -> None:
    (delivery_id,) = sends.store("ann@example.com")
    end(sends, DeliveryState.DELIVERED, START_MS)
    execute(sends, "DELETE FROM event")
    for days in range(5):
        add_event(sends, delivery_id, START_MS + days * DAY_MS)
        execute(sends, _INSERT_HIT, delivery_id, START_MS + days * DAY_MS)
    assert run(sends, blobs, START_MS + 90 * DAY_MS, events=90) == {}
    assert run(sends, blobs, START_MS + 92 * DAY_MS, events=90, limits=PurgeLimits(rows=1, pause_s=0)) == {
        "events": 2, "hits": 2,
    }  # fmt: skip
    assert (count(sends, "event"), count(sends, "tracking_hit"), count(sends, "message")) == (3, 3, 1)
    assert run(sends, blobs, NOW_MS, events=0) == {}
    assert run(sends, blobs, NOW_MS, events=90) == {"events": 3, "hits": 3}


def test_batches_for_webhooks_go_at_the_age_of_attempts_but_not_pending_ones(sends: Sends, blobs: DiskBlobs) -> None:
    webhook_id = add_webhook(sends)
    for state in ("pending", "delivered", "rejected", "exhausted", "quarantined"):
        add_post(sends, webhook_id, state, START_MS)
    add_post(sends, webhook_id, "delivered", START_MS + 2 * DAY_MS)
    assert run(sends, blobs, START_MS + 90 * DAY_MS, attempts=90) == {}
    assert run(sends, blobs, START_MS + 91 * DAY_MS, attempts=90, limits=PurgeLimits(rows=3, pause_s=0)) == {
        "event_posts": 4
    }
    assert execute(sends, "SELECT state FROM delivery ORDER BY id") == [("pending",), ("delivered",)]


def test_batches_for_webhooks_go_with_the_statuses_where_attempts_stay_for_ever(sends: Sends, blobs: DiskBlobs) -> None:
    webhook_id = add_webhook(sends)
    for state in ("pending", "delivered"):
        add_post(sends, webhook_id, state, START_MS)
    assert run(sends, blobs, NOW_MS, statuses=90) == {"statuses": 1}


def test_idempotency_keys_go_after_a_day(sends: Sends, blobs: DiskBlobs) -> None:
    with sends.database.transaction():
        for number, at_ms in enumerate((START_MS, START_MS + 1, START_MS + HOUR_MS)):
            keep_answers(sends.database, [(IdempotencyClaim("user", f"k{number}", "0" * 64, "{}"), "m")], at_ms)
    assert run(sends, blobs, START_MS + DAY_MS + 1) == {"idempotency_keys": 2}
    assert execute(sends, "SELECT key FROM idempotency") == [("k2",)]


def test_counts_soft_bounces_and_slices_of_limits_go_once_a_day(sends: Sends, blobs: DiskBlobs) -> None:
    account_id = sends.account.account_id
    for number, age_ms in enumerate((60 * DAY_MS, 60 * DAY_MS + 1)):
        execute(sends, "INSERT INTO send_tally VALUES (?, '', ?, 'open', 1)", account_id, NOW_MS - age_ms)
        execute(sends, "INSERT INTO soft_bounce VALUES (?, ?, 1, 0, ?)", account_id, f"a{number}", NOW_MS - age_ms)
        execute(sends, "INSERT INTO send_rate VALUES (?, ?)", f"r{number}", NOW_MS - age_ms + 58 * DAY_MS)
    assert daily(sends, blobs, NOW_MS) == {"counts_of_events": 1, "soft_bounces": 1, "rates": 1}
    assert daily(sends, blobs, NOW_MS) == {}


def test_deleted_webhooks_and_domains_go_when_nothing_refers_to_them(sends: Sends, blobs: DiskBlobs) -> None:
    sends.store("ann@example.com")
    used, unused = sends.domain_id, sends.add_domain([], "unused.example")
    sends.add_domain([], "live.example")
    execute(sends, "UPDATE sending_domain SET deleted_ms = ? WHERE id IN (?, ?)", START_MS, used, unused)
    execute(sends, "INSERT INTO domain_key VALUES (?, 's', 'rsa', 'retired', 0, '', '')", unused)
    silent, told = add_webhook(sends, START_MS), add_webhook(sends, START_MS)
    add_webhook(sends)
    add_post(sends, told, "pending", START_MS)
    just_deleted = START_MS + DAY_MS
    assert daily(sends, blobs, just_deleted) == {}
    assert daily(sends, blobs, just_deleted + 1) == {"webhooks": 1, "sending_domains": 1}
    assert (count(sends, "webhook"), count(sends, "sending_domain"), count(sends, "domain_key")) == (2, 2, 0)
    assert execute(sends, "SELECT 1 FROM webhook WHERE id = ?", silent) == []
    assert execute(sends, "SELECT sending_domain_id FROM sent_message") == [(used,)]


def test_nothing_to_do_writes_nothing_and_waits_for_nothing(sends: Sends, blobs: DiskBlobs) -> None:
    slow = PurgeLimits(pause_s=3600.0)
    ages = RetentionAges(1, 1, 1, 1, 1)
    retention = Retention(sends.database, blobs, ages, slow)
    assert retention.begin_again(NOW_MS) == Purged()
    assert retention.run(NOW_MS) == Purged()


# --- what incoming statuses show ---


def test_nothing_of_sent_mail_is_an_incoming_status(
    sends: Sends, blobs: DiskBlobs, account: NewAccount, tmp_path: Path
) -> None:
    api = Api(sends.database, account, api_settings(tmp_path), now_ms=NOW_MS)
    address_id = api.new_address()
    received = api.receive(address_id)
    ids = sends.store("ann@example.com") + sends.store("bob@example.com", spam_reason="x")
    add_post(sends, add_webhook(sends), "delivered", NOW_MS)
    route = Route(account.account_id, address_id, None, "https://example.com/in")
    store_accepted(sends.database, [accepted_mail(NOW_MS, (("b-x@pillarbox.test", route),))])
    execute(
        sends,
        "UPDATE delivery SET kind = 'returned', address_id = NULL WHERE address_id IS NOT NULL AND id <> ?",
        received,
    )
    others = [row[0] for row in execute(sends, "SELECT id FROM delivery WHERE id <> ?", received)]
    assert len(others) == len(ids) + 2
    assert [entry["id"] for entry in api.get("/incoming_statuses").json] == [received]
    assert [entry["id"] for entry in api.get("/incoming_statuses", query="order").json] == []
    assert [entry["id"] for entry in api.get("/incoming_statuses", query="hello").json] == [received]
    for other in others:
        assert api.get(f"/incoming_statuses/{other}").status_code == 404
        assert api.get(f"/incoming_statuses/{other}/raw").status_code == 404
        assert api.post(f"/incoming_statuses/{other}/retry").status_code == 404
        assert api.post(f"/incoming_statuses/{other}/release").status_code == 404
    before = execute(sends, "SELECT id, state, due_ms FROM delivery WHERE id <> ? ORDER BY id", received)
    assert api.post("/incoming_statuses/retry", query="sender").json["retried"] == 1
    assert api.post("/incoming_statuses/release", query="sender").json["retried"] == 0
    assert execute(sends, "SELECT id, state, due_ms FROM delivery WHERE id <> ? ORDER BY id", received) == before
