"""Sent mail in the hands of a test: a sending domain with a key, messages in the database, attempts by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from core.clock import SECOND_MS, Clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.ids import new_address_id, new_time_ordered_id
from core.mx_check import make_resolver
from core.sending.events import EventKind
from core.sending.key_rotation import KeyState
from core.sending.priority import KIND_OF, Priority
from core.sending.send_settings import SendSettings, settings_json
from core.services.accounts import NewAccount
from core.services.claims import Claim, ClaimRequest, claim
from core.services.leases import FinishedAttempt
from core.services.recording import record
from core.services.send_claims import ClaimedSend, load_sends
from core.services.send_outcomes import SendFollow
from core.services.sends import NewSend, Submitter, store_send
from core.store.blobs import DiskBlobs
from core.store.db import Database, Row
from outbound.hosts import MxRoute
from outbound.mx import MxTransport
from outbound.policy import SEND_POLICIES
from tests.conftest import NOW_MS
from tests.dkim_judges import DOMAIN as SENDER_DOMAIN
from tests.dkim_judges import PAST_MS, Signer, signer
from tests.mx_support import OUR_NAME, Edge
from workers.sending import SendAttempt

GATEWAY = "gateway.test"
ATTEMPT_LIMIT_MS = 300 * SECOND_MS
MESSAGE_ID = "one@sender.example"
MESSAGE = (
    b"From: Shop <shop@sender.example>\r\nTo: user@example.test\r\nSubject: Your order\r\n"
    b"Date: Mon, 21 Sep 2026 14:13:20 +0000\r\nMessage-ID: <one@sender.example>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\nThank you.\r\n"
)
_RANKS = {kind.value: rank for rank, kind in enumerate(EventKind)}
_INSERT_DOMAIN = """
INSERT INTO sending_domain (id, account_id, domain, dkim_verified, return_path_verified, spf_verified, signing_domain,
                            settings, next_check_ms, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_KEY = """
INSERT INTO domain_key (sending_domain_id, selector, algorithm, state, since_ms, private_pem, public_record)
VALUES (?, ?, ?, ?, ?, ?, ?)"""


class Everywhere:
    """All hosts there are: none is a newcomer."""

    def __contains__(self, host: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass
class Sends:
    """Sent mail in one database, and ways to work on it."""

    database: Database
    account: NewAccount
    folder: Path
    now_ms: int = NOW_MS
    domain_id: str | None = None
    stored: list[str] = field(default_factory=list)
    """Message ids, oldest first."""

    # --- what there is ---

    def add_domain(
        self,
        keys: Sequence[Signer],
        domain: str = SENDER_DOMAIN,
        has_return_path: bool = True,
        settings: SendSettings | None = None,
    ) -> str:
        """A verified sending domain that signs with these keys, from now on the one that is sent from."""
        made = self.domain_id = new_address_id()[:16]
        with self.database.transaction():
            self.database.execute(
                _INSERT_DOMAIN,
                (
                    made, self.account.account_id, domain, bool(keys), has_return_path, has_return_path, domain,
                    settings_json(settings or SendSettings()), NOW_MS, NOW_MS,
                ),
            )  # fmt: skip
            for key in keys:
                row = (made, key.key.selector, key.key.algorithm, KeyState.ACTIVE, NOW_MS)
                self.database.execute(_INSERT_KEY, (*row, key.pair.private_pem, key.pair.public_record))
        return made

    def store(self, *recipients: str, priority: Priority = Priority.STANDARD, **changes: Any) -> list[str]:
        """A message to these, as it is after its 202; gives the ids of its deliveries."""
        content = changes.pop("content", MESSAGE)
        size = len(content) if content is not None else 0
        message_id = changes.pop("message_id", None) or new_time_ordered_id(self.now_ms)
        given: dict[str, Any] = {
            "message_id": message_id, "submitter": Submitter(self.account.account_id, "user", "192.0.2.9"),
            "sending_domain_id": self.domain_id, "mail_from": f"shop@{SENDER_DOMAIN}", "recipients": recipients,
            "header_from": f"shop@{SENDER_DOMAIN}", "header_to": recipients, "header_cc": (), "subject": "Your order",
            "header_message_id": MESSAGE_ID, "content": content, "size": size,
            "md5": hashlib.md5(content or b"", usedforsecurity=False).hexdigest(), "needs_smtputf8": False,
            "received_ms": self.now_ms, "priority": priority, **changes,
        }  # fmt: skip
        stored = store_send(self.database, NewSend(**given), lambda: self.now_ms)
        self.stored.append(stored.message_id)
        return [one.delivery_id for one in stored.recipients]

    # --- attempts ---

    def claim(self, kind: DeliveryKind = DeliveryKind.SEND, **changes: Any) -> Claim[ClaimedSend]:
        """Claim once, as a worker of 64 threads that knows every host."""
        given: dict[str, Any] = {
            "kind": kind, "free_places": 64, "pool_size": 64, "host_concurrency": 32, "proven_hosts": Everywhere(),
            "attempt_limit_ms": ATTEMPT_LIMIT_MS, **changes,
        }  # fmt: skip
        return claim(self.database, ClaimRequest(**given), load_sends, self.now_ms)

    def attempt_with(self, transport: MxTransport, **settings: Any) -> SendAttempt:
        """What makes attempts over this transport."""
        return SendAttempt(
            send_settings(self.folder, **settings), self.database, DiskBlobs(self.folder / "messages"), transport,
            self.clock,
        )  # fmt: skip

    def transport(self, edge: Edge, **parts: Any) -> MxTransport:
        """The way out over this edge, by our clock."""
        resolver = make_resolver(f"127.0.0.1:{edge.zone.port}")
        route = MxRoute(resolver, edge.port, shuffle=lambda names: names.sort())
        return MxTransport(route, edge.guard, OUR_NAME, self.clock, edge.pool, edge.timeouts, **parts)

    @property
    def clock(self) -> Clock:
        """Our time. Signatures are made in the past, as those who verify them look at the real clock."""
        return lambda: self.now_ms

    def record(self, *finished: FinishedAttempt, limit: int = 3) -> None:
        """Record attempts of one kind as the engine does: together."""
        policy = SEND_POLICIES[finished[0].delivery.kind]
        with self.database.transaction():
            record(self.database, finished, policy, self.now_ms, SendFollow(limit))

    def go(self, attempt: SendAttempt, kind: DeliveryKind = DeliveryKind.SEND) -> None:
        """Claim what is due, attempt it one after the other, and record each."""
        for claimed in self.claim(kind).deliveries:
            self.record(attempt(claimed))

    # --- what became of it ---

    def states(self, columns: str = "state, attempts, last_status") -> list[Row]:
        """The deliveries, oldest first; those of one millisecond in no order."""
        return self.execute(f"SELECT {columns} FROM delivery WHERE message_id IS NOT NULL ORDER BY id")

    def state(self, delivery_id: str) -> tuple[str, int]:
        """State and attempts of one delivery."""
        ((state, attempts),) = self.execute("SELECT state, attempts FROM delivery WHERE id = ?", (delivery_id,))
        return state, attempts

    def events(self, delivery_id: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Kinds and details, oldest first; `registration` is left out."""
        rows = self.execute("SELECT kind, details, delivery_id, at_ms FROM event WHERE kind <> 'registration'")
        rows.sort(key=lambda row: (row[3], _RANKS[row[0]]))  # ids of one millisecond are in no order
        return [(kind, orjson.loads(details)) for kind, details, of, _ in rows if delivery_id in (None, of)]

    def kinds(self, delivery_id: str | None = None) -> list[str]:
        """Kinds of events alone."""
        return [kind for kind, _ in self.events(delivery_id)]

    def suppressed(self) -> list[Row]:
        """Address, reason, domain."""
        return self.execute("SELECT address, reason, sending_domain_id FROM suppression ORDER BY address")

    def execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
        """Any statement, in a transaction of its own."""
        with self.database.transaction():
            return self.database.execute(statement, parameters)


def send_settings(folder: Path, **changes: Any) -> Settings:
    """Those of a gateway that sends from verified domains only, and tracks nothing unless a test says so."""
    given = {
        "data": folder, "domain": GATEWAY, "require_verified": "on", "track_opens": False, "track_clicks": False,
        "public_url": "https://track.test", **changes,
    }  # fmt: skip
    return Settings(**given)


def kind_of(priority: Priority) -> DeliveryKind:
    """The queue of a priority."""
    return KIND_OF[priority]


__all__ = ["PAST_MS", "SENDER_DOMAIN", "Sends", "send_settings", "signer"]
