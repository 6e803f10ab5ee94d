"""Which events become deliveries to which webhooks, and what these carry."""

from __future__ import annotations

import json
from itertools import count

import pytest

from core.delivery import DeliveryKind
from core.sending import event_bodies
from core.sending.event_bodies import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, batches
from core.sending.event_samples import SAMPLE_DETAILS
from core.sending.events import INTERNAL_KINDS, EventDetails, EventKind
from core.services.accounts import NewAccount, create_account
from core.services.events import insert_events
from core.services.webhook_fanout import tell_webhooks
from core.services.webhooks import WebhookDraft, create_webhook, delete_webhook, update_webhook
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.webhook_support import RECIPIENT, EventWorld, event

MOMENT = "2026-09-21T14:13:20.000Z"
K = EventKind


@pytest.fixture
def world(database: Database, account: NewAccount) -> EventWorld:
    return EventWorld(database, account)


def count_statements(world: EventWorld, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `tell_webhooks` asks the database from now on."""
    asked: list[str] = []
    original = Database.execute

    def counted(self: Database, statement: str, parameters: object = ()) -> object:
        asked.append(" ".join(statement.split())[:60])
        return original(self, statement, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "execute", counted)
    return asked


def test_an_event_is_told_with_its_message(world: EventWorld) -> None:
    webhook = world.webhook("https://user:pw@hooks.example/in?a=1")
    sent = world.send(tags=["welcome", "ü"], metadata={"order": "7"})
    details = EventDetails(reply_code=550, smtp_response="550 no \u20ac", remote_host="mx.example.net")
    (happened,) = world.happen(sent, K.BOUNCE, details=details)
    assert world.batches(webhook) == [
        {
            "events": [
                {
                    "kind": "bounce",
                    "message_id": sent.message_id,
                    "recipient": RECIPIENT,
                    "original_message_id": "one@example.com",
                    "timestamp": MOMENT,
                    "details": {
                        "reply_code": 550, "smtp_response": "550 no \u20ac", "remote_host": "mx.example.net",
                    },
                    "id": happened.event_id,
                    "domain": "example.com",
                    "stream": "outbound",
                    "tags": ["welcome", "ü"],
                    "metadata": {"order": "7"},
                }
            ]
        }
    ]  # fmt: skip
    columns = "kind, account_id, webhook_id, target_host, state, attempts, due_ms, created_ms, message_id, address_id"
    assert world.deliveries(columns) == [
        (
            DeliveryKind.EVENTS, world.account.account_id, webhook.webhook_id,
            f"https://hooks.example:443#{webhook.webhook_id}", "pending",
            0, NOW_MS, NOW_MS, None, None,
        )
    ]  # fmt: skip


def test_mail_from_an_unknown_domain_is_told_without_one(world: EventWorld) -> None:
    webhook = world.webhook()
    world.happen(world.send(domain=None), K.DELIVERY)
    ((told,),) = (batch["events"] for batch in world.batches(webhook))
    assert (told["domain"], told["original_message_id"]) == (None, "one@example.com")


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ((), ["registration", "delivery"]),
        ((K.DELIVERY,), ["delivery"]),
        ((K.COMPLAINT, K.DELIVERY), ["delivery", "complaint"]),
        ((K.CLICK,), []),
    ],
)
def test_a_webhook_is_told_of_the_kinds_it_names_and_of_internal_ones_only_if_it_names_them(
    world: EventWorld, kinds: tuple[EventKind, ...], told: list[str]
) -> None:
    webhook = world.webhook(kinds=kinds)
    world.happen(world.send(), K.REGISTRATION, K.DELIVERY, K.COMPLAINT)
    assert {K.COMPLAINT} == INTERNAL_KINDS
    assert world.told(webhook) == told


def test_tags_and_domains_filter(world: EventWorld) -> None:
    by_tag = world.webhook(tags=("welcome", "bye"))
    by_domain = world.webhook(sending_domain_ids=(world.domain("a.example"), world.domain("b.example")))
    by_both = world.webhook(tags=("welcome",), sending_domain_ids=(world.domain("b.example"),))
    by_all = world.webhook()
    world.happen(world.send("a.example", ["welcome", "x"]), K.OPEN)
    world.happen(world.send("a.example", ["Welcome"]), K.CLICK)
    world.happen(world.send("b.example", ["welcome"]), K.READ)
    world.happen(world.send("c.example", ["bye"]), K.BOUNCE)
    world.happen(world.send(None), K.ERROR)
    assert world.told(by_tag) == ["open", "read", "bounce"]
    assert world.told(by_domain) == ["open", "click", "read"]
    assert world.told(by_both) == ["read"]
    assert world.told(by_all) == ["open", "click", "read", "bounce", "error"]


def test_each_account_hears_of_its_own_mail_only(world: EventWorld) -> None:
    other = create_account(world.database, "other", NOW_MS)
    mine = world.webhook()
    theirs = create_webhook(world.database, other.account_id, WebhookDraft("https://other.example/"), NOW_MS)
    events = [
        event(world.send(), K.DELIVERY, NOW_MS),
        event(world.send("other.example", account_id=other.account_id), K.BOUNCE, NOW_MS),
    ]
    with world.database.transaction():
        insert_events(world.database, events, NOW_MS)
    assert (world.told(mine), world.told(theirs)) == (["delivery"], ["bounce"])


def test_webhooks_that_are_off_or_deleted_are_told_nothing(world: EventWorld) -> None:
    off, deleted = world.webhook(is_active=False), world.webhook()
    switched, account_id = world.webhook(), world.account.account_id
    update_webhook(
        world.database, account_id, switched.webhook_id, WebhookDraft(switched.draft.url, is_active=False), 1
    )
    delete_webhook(world.database, account_id, deleted.webhook_id, NOW_MS)
    world.happen(world.send(), K.DELIVERY)
    assert [world.told(webhook) for webhook in (off, deleted, switched)] == [[], [], []]


def test_many_events_are_batches_of_a_hundred_in_their_order(world: EventWorld) -> None:
    webhook, other = world.webhook(), world.webhook(kinds=(K.BOUNCE,))
    sent = world.send()
    events = world.happen(sent, *[K.DELIVERY, K.BOUNCE] * 105)
    made = world.batches(webhook)
    assert sorted(len(batch["events"]) for batch in made) == [10, MAX_BATCH_EVENTS, MAX_BATCH_EVENTS]
    ids = {entry.event_id: number for number, entry in enumerate(events)}
    placed = sorted([ids[entry["id"]] for entry in batch["events"]] for batch in made)
    assert placed == [list(range(100)), list(range(100, 200)), list(range(200, 210))]
    assert world.told(other) == ["bounce"] * 105


def test_a_batch_is_not_large_either() -> None:
    big, small = b'"' + b"x" * (MAX_BATCH_BYTES // 2) + b'"', b'"x"'
    assert [len(json.loads(batch)["events"]) for batch in batches([small, big, small, big, small])] == [3, 2]
    alone = b'"' + b"x" * MAX_BATCH_BYTES + b'"'
    assert [len(json.loads(batch)["events"]) for batch in batches([small, alone, small])] == [1, 1, 1]
    assert batches([]) == []


def test_what_the_transaction_takes_back_was_never_told(world: EventWorld) -> None:
    webhook = world.webhook()
    sent = world.send()

    def fail() -> None:
        with world.database.transaction():
            insert_events(world.database, [event(sent, K.DELIVERY, NOW_MS)], NOW_MS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert world.batches(webhook) == []


def test_an_account_without_webhooks_costs_one_statement_and_one_with_many_three(
    world: EventWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [event(world.send(), K.DELIVERY, NOW_MS) for _ in range(30)]
    asked = count_statements(world, monkeypatch)

    def statements() -> int:
        asked.clear()
        with world.database.transaction():
            tell_webhooks(world.database, events, NOW_MS)
        return len(asked)

    assert statements() == 1
    world.webhook(kinds=(K.CLICK,))
    assert statements() == 1
    for number in range(10):
        world.webhook(tags=(f"t{number}",))
    assert statements() == 2
    for _ in range(10):
        world.webhook()
    assert statements() == 3
    assert len(world.deliveries()) == 10


def test_an_event_is_written_once_for_all_webhooks(world: EventWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    written = count()
    original = event_bodies.event_body

    def counted(*arguments: object) -> bytes:
        next(written)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("core.services.webhook_fanout.event_body", counted)
    webhooks = [world.webhook() for _ in range(5)]
    world.happen(world.send(), K.DELIVERY, K.OPEN)
    assert next(written) == 2
    assert len({json.dumps(world.batches(webhook)) for webhook in webhooks}) == 1


def test_there_is_a_sample_of_every_kind() -> None:
    assert set(SAMPLE_DETAILS) == set(EventKind)
