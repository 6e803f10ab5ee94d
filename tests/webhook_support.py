"""Sent messages, webhooks and events in a database, and a worker without threads that POSTs batches of events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.clock import SECOND_MS
from core.delivery import HTTP_POLICY, DeliveryKind
from core.ids import new_domain_id, new_time_ordered_id
from core.sending.events import NO_DETAILS, EventDetails, EventKind, NewEvent
from core.services.accounts import NewAccount
from core.services.claims import ClaimRequest, claim
from core.services.event_posts import EventPost, follow_event_posts, load_event_posts
from core.services.events import insert_events
from core.services.leases import FinishedAttempt
from core.services.recording import record
from core.services.webhooks import WebhookDraft, WebhookRecord, create_webhook, get_webhook
from core.store.db import Database, Row
from inbound.forward import Forwarder
from tests.conftest import NOW_MS
from workers.event_posts import EventPostAttempt

RECIPIENT = "jo@example.net"
TIMEOUT_S = 5.0


@dataclass
class Sent:
    """A message of an account that was sent."""

    message_id: str
    account_id: str
    domain_id: str | None


@dataclass
class EventWorld:
    """One account that sends mail and wants to hear of it, and a clock."""

    database: Database
    account: NewAccount
    now_ms: int = NOW_MS
    domains: dict[str, str] = field(default_factory=dict)

    def clock(self) -> int:
        """The moment it is here."""
        return self.now_ms

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Any statement, in a transaction of its own."""
        with self.database.transaction():
            return self.database.execute(statement, parameters)

    def domain(self, name: str, account_id: str | None = None) -> str:
        """The id of a sending domain, made where there is none."""
        if name not in self.domains:
            made = self.domains[name] = new_domain_id()
            self.execute(
                "INSERT INTO sending_domain (id, account_id, domain, next_check_ms, created_ms) VALUES (?, ?, ?, 0, 0)",
                (made, account_id or self.account.account_id, name),
            )
        return self.domains[name]

    def send(
        self,
        domain: str | None = "example.com",
        tags: Sequence[str] = (),
        metadata: dict[str, str] | None = None,
        account_id: str | None = None,
    ) -> Sent:
        """A message as `core.services.sends` stores it, without recipients."""
        sent = Sent(
            new_time_ordered_id(self.now_ms),
            account_id or self.account.account_id,
            self.domain(domain, account_id) if domain else None,
        )
        self.execute(
            "INSERT INTO message (id, mail_from, helo, remote_ip, size, md5, header_message_id, received_ms) "
            "VALUES (?, 'me@example.com', '', '', 1, '', 'one@example.com', ?)",
            (sent.message_id, self.now_ms),
        )
        self.execute(
            "INSERT INTO sent_message (message_id, account_id, username, sending_domain_id, header_to, header_cc, "
            "tags, metadata, stream, priority, is_test, needs_smtputf8, options) "
            "VALUES (?, ?, 'x', ?, '[]', '[]', ?, ?, 'outbound', 'standard', FALSE, FALSE, '{}')",
            (sent.message_id, sent.account_id, sent.domain_id, json.dumps(list(tags)), json.dumps(metadata or {})),
        )
        return sent

    def webhook(self, url: str = "https://hooks.example/in", **fields: Any) -> WebhookRecord:
        """Make one; `fields` are a draft's."""
        return create_webhook(self.database, self.account.account_id, WebhookDraft(url, **fields), self.now_ms)

    def again(self, webhook: WebhookRecord) -> WebhookRecord:
        """How it stands now."""
        return get_webhook(self.database, self.account.account_id, webhook.webhook_id)

    def happen(self, sent: Sent, *kinds: EventKind, details: EventDetails = NO_DETAILS) -> list[NewEvent]:
        """Write events of a message down, and have webhooks told, in one transaction; what is next happens later."""
        events = [event(sent, kind, self.now_ms, details) for kind in kinds]
        with self.database.transaction():
            insert_events(self.database, events, self.now_ms)
        self.now_ms += 1
        return events

    def batches(self, webhook: WebhookRecord) -> list[dict[str, Any]]:
        """What is to be POSTed to it, as it was made."""
        rows = self.execute("SELECT detail FROM delivery WHERE webhook_id = ? ORDER BY id", (webhook.webhook_id,))
        return [json.loads(row[0]) for row in rows]

    def told(self, webhook: WebhookRecord) -> list[str]:
        """The kinds of the events it is told of."""
        return [entry["kind"] for batch in self.batches(webhook) for entry in batch["events"]]

    def deliveries(self, columns: str = "state") -> list[Any]:
        """All batches, in the order of their ids; bare values where only one column is asked for."""
        rows = self.execute(f"SELECT {columns} FROM delivery WHERE kind = 'events' ORDER BY id")
        return [row[0] for row in rows] if "," not in columns else rows


@dataclass
class EventWorker:
    """Claims, POSTs and records batches when a test says so."""

    world: EventWorld
    forwarder: Forwarder

    def claim(self) -> Sequence[EventPost]:
        """Lease what is due, whatever was heard of hosts."""
        self.world.execute("DELETE FROM target_health")
        hosts = {row[0] for row in self.world.execute("SELECT DISTINCT target_host FROM delivery")}
        request = ClaimRequest(DeliveryKind.EVENTS, 50, 50, 50, hosts, int(TIMEOUT_S * SECOND_MS))
        return claim(self.world.database, request, load_event_posts, self.world.now_ms).deliveries

    def post(self, claimed: Sequence[EventPost]) -> list[FinishedAttempt]:
        """Make the attempts."""
        attempt = EventPostAttempt(self.forwarder, self.world.clock)
        return [attempt(post) for post in claimed]

    def record(self, finished: Sequence[FinishedAttempt]) -> None:
        """Write them down."""
        with self.world.database.transaction():
            record(self.world.database, finished, HTTP_POLICY, self.world.now_ms, follow_event_posts)

    def step(self) -> int:
        """All of that once; how many batches."""
        claimed = self.claim()
        self.record(self.post(claimed))
        return len(claimed)

    def walk(self, until_ms: int) -> None:
        """Step from one due moment to the next, until a moment (or until nothing waits)."""
        while True:
            self.step()
            rows = self.world.execute("SELECT min(due_ms) FROM delivery WHERE kind = 'events' AND state = 'pending'")
            if rows[0][0] is None or rows[0][0] > until_ms:
                self.world.now_ms = max(self.world.now_ms, until_ms)
                return
            self.world.now_ms = max(self.world.now_ms, rows[0][0])


def event(sent: Sent, kind: EventKind, at_ms: int, details: EventDetails = NO_DETAILS) -> NewEvent:
    """An event of a message."""
    return NewEvent(kind, sent.account_id, sent.domain_id, sent.message_id, None, RECIPIENT, at_ms, details)
