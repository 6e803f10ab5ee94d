"""Deliveries that tell webhooks of events: one for each webhook and batch, made with the events.

It runs in the transaction of every send and every outcome: an account without webhooks costs one look along an index,
one with webhooks two statements more, however many events and webhooks there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import orjson

from core.delivery import DeliveryKind, DeliveryState
from core.ids import new_time_ordered_id
from core.netguard import webhook_place
from core.sending.event_bodies import NO_FACTS, MessageFacts, batches, event_body
from core.sending.events import INTERNAL_KINDS, NewEvent
from core.store.db import Database, Row, places

_REMEMBERED_LISTS = 4_096
_LISTENERS = """
SELECT id, account_id, url, kinds, tags, domains FROM webhook
WHERE account_id IN ({places}) AND is_active AND deleted_ms IS NULL ORDER BY id"""
_FACTS = """
SELECT s.message_id, m.header_message_id, d.domain, s.stream, s.tags, s.metadata
FROM sent_message s JOIN message m ON m.id = s.message_id LEFT JOIN sending_domain d ON d.id = s.sending_domain_id
WHERE s.message_id IN ({places})"""
_INSERT = """
INSERT INTO delivery (id, kind, account_id, webhook_id, recipients, target_host, state, attempts, cycle_attempts,
                      cycle_started_ms, due_ms, created_ms, detail)
VALUES {rows}"""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """What one POST to a webhook carries."""

    delivery_id: str
    """The `webhook-id`, for ever."""
    account_id: str
    webhook_id: str
    url: str
    body: str
    """As it is POSTed, each time."""


@dataclass(frozen=True, slots=True)
class _Listener:
    """An active webhook and what it wants; what is empty wants all."""

    webhook_id: str
    account_id: str
    url: str
    kinds: frozenset[str]
    tags: frozenset[str]
    domains: frozenset[str]

    def may_want(self, event: NewEvent) -> bool:
        """As far as can be said without the tags of its message."""
        if event.account_id != self.account_id:
            return False
        if event.kind not in self.kinds if self.kinds else event.kind in INTERNAL_KINDS:
            return False
        return not self.domains or event.sending_domain_id in self.domains

    def wants_tags(self, facts: MessageFacts) -> bool:
        """Whether one of the message's tags is one of its."""
        return not self.tags or not self.tags.isdisjoint(_words(facts.tags))


def tell_webhooks(database: Database, events: Sequence[NewEvent], now_ms: int) -> bool:
    """Insert a delivery of kind `EVENTS` for each webhook that wants some of them; whether there was one.

    Inside a transaction."""
    listeners = _listeners(database, {event.account_id for event in events})
    offered = [(listener, [event for event in events if listener.may_want(event)]) for listener in listeners]
    message_ids = {event.message_id for _, some in offered for event in some}
    if not message_ids:
        return False
    facts = _facts(database, message_ids)
    bodies: dict[str, bytes] = {}
    made: list[EventBatch] = []
    for listener, some in offered:
        wanted = [event for event in some if listener.wants_tags(facts.get(event.message_id, NO_FACTS))]
        for event in wanted:
            if event.event_id not in bodies:
                bodies[event.event_id] = event_body(event, facts.get(event.message_id, NO_FACTS))
        made += [
            EventBatch(new_time_ordered_id(now_ms), listener.account_id, listener.webhook_id, listener.url, body)
            for body in batches(bodies[event.event_id] for event in wanted)
        ]
    insert_batches(database, made, now_ms)
    return bool(made)


def insert_batches(database: Database, made: Sequence[EventBatch], now_ms: int) -> None:
    """Write batches to be POSTed now. Inside a transaction."""
    database.execute_values(_INSERT, [_row(batch, now_ms) for batch in made])


def _listeners(database: Database, account_ids: Iterable[str]) -> list[_Listener]:
    wanted = sorted(account_ids)
    return [
        _Listener(webhook_id, account_id, url, _words(kinds), _words(tags), _words(domains))
        for webhook_id, account_id, url, kinds, tags, domains in database.execute(
            _LISTENERS.format(places=places(wanted)), wanted
        )
    ]


def _facts(database: Database, message_ids: Iterable[str]) -> Mapping[str, MessageFacts]:
    wanted = sorted(message_ids)
    rows = database.execute(_FACTS.format(places=places(wanted)), wanted)
    return {row[0]: MessageFacts(*row[1:]) for row in rows}


def _row(batch: EventBatch, now_ms: int) -> Row:
    return (
        batch.delivery_id, DeliveryKind.EVENTS, batch.account_id, batch.webhook_id, "[]",
        webhook_place(batch.url, batch.webhook_id), DeliveryState.PENDING, 0, 0, now_ms, now_ms, now_ms, batch.body,
    )  # fmt: skip


@lru_cache(maxsize=_REMEMBERED_LISTS)
def _words(text: str) -> frozenset[str]:
    """A JSON list of texts: the same few again and again."""
    return frozenset(orjson.loads(text))
