"""Batches of events POSTed to real servers that take them, fail, vanish, come back, or must not be called."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, system_clock, to_datetime
from core.config import Settings
from core.delivery import HTTP_POLICY, DeliveryKind
from core.netguard import LOOPBACK, TargetPolicy
from core.sending.events import EventKind
from core.services import webhooks as service
from core.services.accounts import NewAccount
from core.services.event_posts import NOT_CALLED_BECAUSE, Standing, follow_event_posts
from core.services.webhook_deliveries import release_held, retry_one
from core.services.webhooks import DisabledBecause, WebhookRecord
from core.store.blobs import DiskBlobs
from core.store.db import Database
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from tests.conftest import NOW_MS
from tests.gateway import running_gateway
from tests.http_target import HttpTarget, Received, reply, running_target
from tests.ports import free_port
from tests.test_engine import eventually
from tests.webhook_support import TIMEOUT_S, EventWorker, EventWorld
from workers.engine import Engine, EngineLimits
from workers.event_posts import event_transports

ATTEMPTS = len(HTTP_POLICY.schedule_ms) + 1
K = EventKind


@pytest.fixture(scope="module")
def watch() -> DeadlineWatch:
    return DeadlineWatch()


@pytest.fixture
def world(database: Database, account: NewAccount) -> EventWorld:
    return EventWorld(database, account)


@pytest.fixture
def worker(world: EventWorld, watch: DeadlineWatch) -> EventWorker:
    return make_worker(world, watch, TargetPolicy(LOOPBACK))


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


def make_worker(world: EventWorld, watch: DeadlineWatch, policy: TargetPolicy) -> EventWorker:
    return EventWorker(world, Forwarder(guarded_session(policy, 8, None), watch, TIMEOUT_S, world.clock))


def switch(world: EventWorld, webhook: WebhookRecord, **changes: Any) -> WebhookRecord:
    """Change a webhook as its owner does; what it holds is released when it is switched on."""
    draft = replace(world.again(webhook).draft, **changes)
    account_id = world.account.account_id
    record, is_on = service.update_webhook(world.database, account_id, webhook.webhook_id, draft, world.now_ms)
    if is_on:
        release_held(world.database, record, world.clock)
    return record


def verified(request: Received, secret: str) -> Any:
    """The body, as the reference library of Standard Webhooks verifies it: nothing older than five minutes."""
    return Webhook(secret).verify(request.body, request.headers)


def is_signed(request: Received, secret: str) -> bool:
    """The same for a POST of another time."""
    moment = to_datetime(int(request.headers["webhook-timestamp"]) * SECOND_MS)
    signature = Webhook(secret).sign(request.headers["webhook-id"], moment, request.body.decode())
    return signature in request.headers["webhook-signature"].split(" ")


def test_a_batch_is_posted_signed_and_taken(world: EventWorld, worker: EventWorker, target: HttpTarget) -> None:
    world.now_ms = system_clock()
    webhook = world.webhook(target.url("/ok", credentials="user:pass@"))
    events = world.happen(world.send(tags=["ü"]), K.REGISTRATION, K.DELIVERY)
    assert worker.step() == 1
    (request,) = target.received
    told = verified(request, webhook.secret)
    assert [entry["id"] for entry in told["events"]] == [entry.event_id for entry in events]
    assert [entry["kind"] for entry in told["events"]] == ["registration", "delivery"]
    ((delivery_id, *state),) = world.deliveries("id, state, attempts, last_status, last_error")
    assert state == ["delivered", 1, 200, None]
    assert request.headers["webhook-id"] == delivery_id
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Basic dXNlcjpwYXNz"
    assert worker.step() == 0


def test_while_a_secret_is_replaced_both_verify(world: EventWorld, worker: EventWorker, target: HttpTarget) -> None:
    world.now_ms = system_clock()
    webhook = world.webhook(target.url())
    account_id = world.account.account_id
    rotated = service.rotate_webhook_secret(world.database, account_id, webhook.webhook_id, DAY_MS, world.now_ms)
    assert rotated.secret != webhook.secret
    world.happen(world.send(), K.OPEN)
    worker.step()
    for secret in (webhook.secret, rotated.secret):
        verified(target.received[0], secret)
    world.now_ms += DAY_MS
    world.happen(world.send(), K.OPEN)
    worker.step()
    assert [len(request.headers["webhook-signature"].split()) for request in target.received] == [2, 1]


@pytest.mark.parametrize("path", ["/status/503", "/status/404", "/status/401", "/status/413", "/status/429", "/reset"])
def test_whatever_a_webhook_answers_but_410_is_tried_again_over_the_whole_schedule(
    world: EventWorld, worker: EventWorker, target: HttpTarget, path: str
) -> None:
    webhook = world.webhook(target.url(path))
    world.happen(world.send(), K.BOUNCE)
    moments = []
    while world.deliveries() == ["pending"]:
        worker.step()
        moments.append(world.now_ms)
        world.now_ms = world.deliveries("due_ms")[0]
    assert len({(request.headers["webhook-id"], request.body) for request in target.received}) == 1
    assert len(moments) == ATTEMPTS
    for pause_ms, (before, after) in zip(HTTP_POLICY.schedule_ms, pairwise(moments), strict=True):
        assert pause_ms <= after - before <= pause_ms * 1.1
    assert world.again(webhook).disabled_because is DisabledBecause.FAILING


def test_retry_after_is_honoured(world: EventWorld, worker: EventWorker, target: HttpTarget) -> None:
    world.webhook(target.url("/busy"))
    target.scripted["/busy"] = [reply(503, b"", "Retry-After: 3600"), reply(404, b"", "Retry-After: 7200")]
    world.happen(world.send(), K.BOUNCE)
    for wait_ms in (HOUR_MS, 2 * HOUR_MS):
        worker.step()
        (due_ms,) = world.deliveries("due_ms")
        assert due_ms == world.now_ms + wait_ms
        world.now_ms = due_ms
    worker.step()
    assert world.deliveries() == ["delivered"]


def test_410_switches_a_webhook_off_and_ends_what_waits_for_it(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook, other = world.webhook(target.url("/gone")), world.webhook(target.url("/ok"))
    target.scripted["/gone"] = [reply(503), reply(410, b"moved away")]
    world.happen(world.send(), K.OPEN)
    worker.step()
    world.happen(world.send(), K.CLICK)
    worker.step()
    found = world.again(webhook)
    assert (found.draft.is_active, found.disabled_because) == (False, DisabledBecause.GONE)
    assert world.again(other).draft.is_active
    world.now_ms += HOUR_MS
    worker.step()
    rows = world.deliveries("webhook_id, state, last_status, last_error")
    assert [row[1:] for row in rows if row[0] == webhook.webhook_id] == [
        ("rejected", 503, NOT_CALLED_BECAUSE[Standing.GONE]), ("rejected", 410, None),
    ]  # fmt: skip
    assert len([request for request in target.received if request.path == "/gone"]) == 2
    world.happen(world.send(), K.READ)
    assert world.told(webhook) == ["open", "click"]
    assert world.told(other) == ["open", "click", "read"]
    assert world.execute("SELECT * FROM target_health") == []


def test_an_old_410_does_not_switch_off_a_webhook_that_has_moved(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook(target.url("/status/410"))
    world.happen(world.send(), K.OPEN)
    finished = worker.post(worker.claim())
    switch(world, webhook, url=target.url("/ok"))
    worker.record(finished)
    assert world.again(webhook).draft.is_active


def test_what_waits_goes_where_its_webhook_has_moved(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook("http://127.0.0.1:9/closed")
    world.happen(world.send(), K.OPEN)
    worker.step()
    switch(world, webhook, url=target.url("/new"))
    assert world.deliveries("state, target_host") == [
        ("pending", f"http://127.0.0.1:{target.port}#{webhook.webhook_id}")
    ]
    world.now_ms += HOUR_MS
    worker.step()
    assert world.deliveries() == ["delivered"]


def test_what_waits_for_a_deleted_webhook_ends_without_a_post(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook(target.url())
    world.happen(world.send(), K.OPEN)
    service.delete_webhook(world.database, world.account.account_id, webhook.webhook_id, world.now_ms)
    worker.step()
    assert target.received == []
    assert world.deliveries("state, last_error") == [("rejected", NOT_CALLED_BECAUSE[Standing.DELETED])]
    assert world.execute("SELECT * FROM target_health") == []


def test_what_waits_for_a_webhook_that_is_switched_off_is_held_and_released(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook(target.url("/flaky"))
    target.scripted["/flaky"] = [reply(500)]
    first = world.happen(world.send(), K.OPEN)
    worker.step()  # waits for its second attempt
    second = world.happen(world.send(), K.CLICK)
    switch(world, webhook, is_active=False)
    worker.step()
    assert len(target.received) == 1
    assert world.deliveries("state, attempts, last_error") == [
        ("pending", 1, None), ("quarantined", 0, "held: the webhook is switched off"),
    ]  # fmt: skip
    switch(world, webhook, is_active=True)
    worker.step()
    assert world.deliveries("state, last_error, attempts") == [("delivered", None, 2), ("delivered", None, 1)]
    ids = {entry["id"] for request in target.received for entry in json.loads(request.body)["events"]}
    assert ids == {entry.event_id for entry in (*first, *second)}


def test_what_is_held_in_the_moment_its_webhook_is_switched_on_is_not_forgotten(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook(target.url())
    world.happen(world.send(), K.OPEN)
    switch(world, webhook, is_active=False)
    finished = worker.post(worker.claim())
    switch(world, webhook, is_active=True)
    worker.record(finished)
    assert worker.step() == 1
    assert world.deliveries() == ["delivered"]


def test_down_for_two_days_a_webhook_gets_every_event_under_the_same_ids_when_it_is_back(
    world: EventWorld, worker: EventWorker
) -> None:
    port = free_port()
    webhook = world.webhook(f"http://127.0.0.1:{port}/ok")
    happened = []
    for _ in range(8):  # nobody listens
        happened += world.happen(world.send(), K.DELIVERY, K.OPEN)
        worker.walk(world.now_ms + 6 * HOUR_MS)
    assert world.now_ms - NOW_MS >= 2 * DAY_MS - MINUTE_MS
    assert set(world.deliveries()) == {"pending"}
    before = dict(world.deliveries("id, detail"))
    with running_target(port) as target:
        worker.walk(world.now_ms + DAY_MS)
        requests = list(target.received)
    assert world.deliveries() == ["delivered"] * 8
    assert world.again(webhook).draft.is_active
    assert {request.headers["webhook-id"]: request.body.decode() for request in requests} == before
    told = [entry["id"] for request in requests for entry in json.loads(request.body)["events"]]
    assert sorted(told) == sorted(entry.event_id for entry in happened)
    assert all(is_signed(request, webhook.secret) for request in requests)


def test_after_three_days_of_nothing_but_failures_it_is_switched_off_and_loses_nothing(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook(target.url("/status/500"))
    first = world.happen(world.send(), K.DELIVERY)
    worker.walk(world.now_ms + DAY_MS)
    second = world.happen(world.send(), K.BOUNCE)
    worker.walk(world.now_ms + 3 * DAY_MS)
    found = world.again(webhook)
    assert (found.draft.is_active, found.disabled_because) == (False, DisabledBecause.FAILING)
    assert world.deliveries("state, finished_ms IS NULL") == [("quarantined", False)] * 2
    assert "switched off because it had only failed" in world.deliveries("last_error")[0]
    before = len(target.received)
    target.scripted["/status/500"] = [reply(200), reply(204)]
    found = switch(world, webhook, is_active=True)
    assert found.disabled_because is None
    assert worker.step() == 2
    assert world.deliveries("state, last_error") == [("delivered", None)] * 2
    told = {entry["id"] for request in target.received[before:] for entry in json.loads(request.body)["events"]}
    assert told == {entry.event_id for entry in (*first, *second)}


def test_one_bad_batch_among_good_ones_is_exhausted_alone(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook(target.url("/picky"))
    too_large = reply(413, b"too large")
    target.scripted["/picky"] = [too_large]
    world.happen(world.send(), K.BOUNCE)
    worker.step()
    (bad,) = world.deliveries("id")
    world.happen(world.send(), K.OPEN)
    worker.step()
    while world.deliveries()[0] == "pending":
        target.scripted["/picky"] = [too_large]
        (world.now_ms, _) = world.deliveries("due_ms")
        worker.step()
    assert world.deliveries() == ["exhausted", "delivered"]
    assert world.again(webhook).draft.is_active
    world.now_ms += DAY_MS
    record = retry_one(world.database, world.again(webhook), bad, world.now_ms)
    assert (record.state, record.attempts) == ("pending", ATTEMPTS)
    worker.step()
    assert world.deliveries() == ["delivered", "delivered"]
    assert {request.headers["webhook-id"] for request in target.received if b'"bounce"' in request.body} == {bad}


def test_two_that_exhaust_at_once_and_a_third_in_flight_are_all_kept(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook(target.url("/status/500"))
    for _ in range(3):
        world.happen(world.send(), K.OPEN)
    world.now_ms += 4 * DAY_MS
    first, *others = worker.post(worker.claim())
    worker.record([first])
    assert world.again(webhook).disabled_because is DisabledBecause.FAILING
    worker.record(others)
    assert world.deliveries() == ["quarantined"] * 3


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/ok", "http://localhost:{port}/ok", "http://[::1]:{port}/ok"])
def test_a_webhook_in_a_private_network_is_not_called(
    world: EventWorld, watch: DeadlineWatch, target: HttpTarget, url: str
) -> None:
    strict = make_worker(world, watch, TargetPolicy())
    world.webhook(url.format(port=target.port))
    world.happen(world.send(), K.OPEN)
    strict.step()
    ((state, error),) = world.deliveries("state, last_error")
    assert state == "pending"
    assert "not a public address" in error
    assert target.received == []


def test_a_redirect_into_a_private_network_is_not_followed(
    world: EventWorld, watch: DeadlineWatch, target: HttpTarget
) -> None:
    (network,) = (network for network in LOOPBACK if network.version == 4)
    here_only = TargetPolicy((next(iter(network.subnets(new_prefix=32))).supernet(new_prefix=31),))  # 127.0.0.0/31
    world.webhook(target.url("/elsewhere"))
    target.scripted["/elsewhere"] = [reply(307, b"", f"Location: http://127.0.0.9:{target.port}/ok")]
    world.happen(world.send(), K.OPEN)
    make_worker(world, watch, here_only).step()
    assert "127.0.0.9 is not a public address" in world.deliveries("last_error")[0]
    assert len(target.received) == 1


def test_a_batch_that_another_version_wrote_is_left_to_its_lease(
    world: EventWorld, worker: EventWorker, target: HttpTarget
) -> None:
    webhook = world.webhook(target.url())
    world.happen(world.send(), K.OPEN)
    odd = "UPDATE webhook SET is_active = FALSE, disabled_because = 'other' WHERE id = ?"
    world.execute(odd, (webhook.webhook_id,))
    assert worker.claim() == []
    assert world.deliveries() == ["pending"]


def test_what_is_taken_or_tried_again_asks_nothing_more_of_the_database(
    world: EventWorld, worker: EventWorker, target: HttpTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/ok", "/status/500"):
        world.webhook(target.url(path))
    world.happen(world.send(), K.OPEN)
    worker.record(worker.post(worker.claim()))
    asked: list[str] = []
    monkeypatch.setattr(Database, "execute", lambda self, statement, parameters=(): asked.append(statement))
    follow_event_posts(world.database, [], world.now_ms)
    assert asked == []


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_owner_who_moves_a_webhook_does_not_wait_for_a_worker_that_may_want_its_row(
    world: EventWorld, target: HttpTarget
) -> None:
    """Each would wait for the other: PostgreSQL then breaks one of them off. (SQLite has one writer at a time.)"""
    webhook = world.webhook("http://127.0.0.1:9/")
    world.happen(world.send(), K.OPEN)

    def move() -> None:
        switch(world, webhook, url=target.url())
        world.database.close()

    owner = threading.Thread(target=move, daemon=True)
    with world.database.transaction():
        world.database.execute("SELECT 1 FROM delivery FOR UPDATE")
        owner.start()
        owner.join(5)
        assert not owner.is_alive()
        world.database.execute("SELECT 1 FROM webhook FOR NO KEY UPDATE")
    assert world.again(webhook).draft.url == target.url()


# --- in workers ---


@pytest.fixture
def engine(world: EventWorld, tmp_path: Path) -> Iterator[Engine[Any]]:
    settings = replace(Settings(data=tmp_path), target_timeout=1)
    transport = event_transports(settings, world.database, DiskBlobs(tmp_path), None, system_clock)[DeliveryKind.EVENTS]  # type: ignore[arg-type]
    limits = EngineLimits(DeliveryKind.EVENTS, transport.threads, 8, transport.attempt_limit_ms)
    started = Engine(world.database, transport.line, limits, system_clock)
    started.start()
    yield started
    started.stop(10)


def test_an_engine_posts_many_batches_and_a_hanging_webhook_delays_nobody(
    world: EventWorld, engine: Engine[Any], target: HttpTarget
) -> None:
    world.now_ms = system_clock() - MINUTE_MS
    with running_target() as hanging:
        slow, quick = world.webhook(hanging.url("/sleep/30")), world.webhook(target.url())
        for _ in range(30):
            world.happen(world.send(), K.DELIVERY)
        engine.drain(0.1)
        target.wait_for(30, 10)
        ids = {row[0] for row in world.execute("SELECT id FROM delivery WHERE webhook_id = ?", (quick.webhook_id,))}
        assert {request.headers["webhook-id"] for request in target.received} == ids
        for request in target.received:
            verified(request, quick.secret)

        def all_told() -> bool:
            done = "SELECT count(*) FROM delivery WHERE webhook_id = ? AND state = 'delivered'"
            return bool(world.execute(done, (quick.webhook_id,))[0][0] == 30)

        eventually(all_told)
        assert world.again(slow).draft.is_active


def test_a_webhook_that_fails_delays_no_other_at_the_same_host(
    world: EventWorld, engine: Engine[Any], target: HttpTarget
) -> None:
    world.now_ms = system_clock() - MINUTE_MS
    for number in range(5):
        world.webhook(target.url(f"/status/503?{number}"))
    good = world.webhook(target.url())
    for _ in range(20):
        world.happen(world.send(), K.DELIVERY)

    def all_told() -> bool:
        engine.drain(0.1)
        done = "SELECT count(*) FROM delivery WHERE webhook_id = ? AND state = 'delivered'"
        return bool(world.execute(done, (good.webhook_id,))[0][0] == 20)

    eventually(all_told)


def test_a_webhook_that_takes_too_long_is_cut_off_and_tried_again(world: EventWorld, engine: Engine[Any]) -> None:
    world.now_ms = system_clock() - MINUTE_MS
    with running_target() as slow:
        for path in ("/drip", "/sleep/5"):
            world.webhook(slow.url(path))
        world.happen(world.send(), K.OPEN)
        engine.drain(1)
        eventually(lambda: world.deliveries("attempts, last_error, state") == [
            (1, "no complete answer within 1 seconds", "pending")] * 2)  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_is_killed_while_it_posts_leaves_the_batch_to_the_next(
    tmp_path: Path, database_url: str, target: HttpTarget
) -> None:
    with running_gateway(tmp_path, "redis", "worker", "scheduler", database_url=database_url) as gateway:
        world = EventWorld(gateway.database, gateway.account, system_clock())
        webhook = world.webhook(target.url("/sleep/1"))
        (happened,) = world.happen(world.send(), K.DELIVERY)
        target.wait_for(1)
        gateway.kill("worker")
        gateway.start("worker")
        first, second = target.wait_for(2)
        eventually(lambda: world.deliveries() == ["delivered"])
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    assert [entry["id"] for entry in verified(second, webhook.secret)["events"]] == [happened.event_id]
