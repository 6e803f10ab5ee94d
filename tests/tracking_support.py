"""Sent mails in the store, as tracking finds them: delivered a moment ago, with tokens for what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from core.delivery import DeliveryState
from core.ids import new_time_ordered_id
from core.sending.tracking_tokens import SECRET_NAME, TrackedLink, TrackingTokens, unsubscribe_url
from core.services.secrets import shared_secret
from core.services.sends import NewSend, Submitter, store_send
from core.store.db import Database

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
)
PERSON = {"User-Agent": CHROME, "Accept-Language": "en"}
GMAIL = {"User-Agent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"}
RECIPIENT = "Reader@example.net"
DOMAIN_ID = "dddd111122223333"
TARGETS = ("https://shop.example/one?a=1&b=2", "https://shop.example/two", "https://shop.example/three")


@dataclass(frozen=True)
class SentMail:
    """A mail that was delivered to one recipient, and the paths of what is in it."""

    message_id: str
    delivery_id: str
    pixel: str
    links: tuple[str, ...]
    unsubscribe: str


def send_mail(database: Database, account_id: str, delivered_ms: int | None, **changes: Any) -> SentMail:
    """Store a mail, delivered at that moment; None leaves it pending."""
    message_id = new_time_ordered_id()
    domain_id = changes.get("sending_domain_id")
    if domain_id:
        add_domain(database, account_id, domain_id)
    send = NewSend(
        message_id, Submitter(account_id, "5f0c9ad2b1e84d37", "192.0.2.1"), domain_id, "news@sender.example",
        (changes.get("recipient", RECIPIENT),), "news@sender.example", (RECIPIENT,), (), "News", "one@sender.example",
        b"Subject: News\r\n\r\nhello\r\n", 25, "0" * 32, False, delivered_ms or 0,
    )  # fmt: skip
    delivery_id = store_send(database, send, lambda: delivered_ms or 0).recipients[0].delivery_id
    if delivered_ms is not None:
        finish(database, delivery_id, delivered_ms)
    tokens = TrackingTokens(shared_secret(database, SECRET_NAME))
    links = tuple(
        f"/c/{tokens.for_click(delivery_id, TrackedLink(number, target))}"
        for number, target in enumerate(TARGETS, start=1)
    )
    pixel = f"/o/{tokens.for_open(delivery_id)}"
    return SentMail(message_id, delivery_id, pixel, links, unsubscribe_url("", tokens, delivery_id))


def finish(database: Database, delivery_id: str, delivered_ms: int) -> None:
    """Say that the recipient's host has taken it."""
    with database.transaction():
        database.execute(
            "UPDATE delivery SET state = ?, attempts = 1, lease_token = NULL, finished_ms = ? WHERE id = ?",
            (DeliveryState.DELIVERED, delivered_ms, delivery_id),
        )


def add_domain(database: Database, account_id: str, domain_id: str, domain: str = "sender.example") -> None:
    """A sending domain, once."""
    with database.transaction():
        database.execute(
            "INSERT INTO sending_domain (id, account_id, domain, next_check_ms, created_ms) VALUES (?, ?, ?, 0, 0) "
            "ON CONFLICT (id) DO NOTHING",
            (domain_id, account_id, domain),
        )


def events_of(database: Database, kinds: tuple[str, ...] = ("open", "click", "read", "unsubscribe")) -> list[Any]:
    """Kind, time and details of events, in the order of their times."""
    with database.reading():
        rows = database.execute("SELECT kind, at_ms, details FROM event ORDER BY at_ms, kind")
    return [(row[0], row[1], orjson.loads(row[2])) for row in rows if row[0] in kinds]


def kinds_of(database: Database) -> list[str]:
    """Only their kinds, sorted."""
    return sorted(kind for kind, _, _ in events_of(database))


def hits_of(database: Database, delivery_id: str) -> list[Any]:
    """Link, kind, reason, network and agent of each hit, in the order they came."""
    with database.reading():
        return database.execute(
            "SELECT link, kind, reason, address, user_agent FROM tracking_hit WHERE delivery_id = ? ORDER BY at_ms, id",
            (delivery_id,),
        )
