"""The web application in the hands of a test: a client with a key, a clock, and the mail it is told of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.clock import DAY_MS
from core.config import Settings
from core.delivery import HTTP_POLICY, DeliveryKind, Outcome, Verdict, http_verdict
from core.ids import new_time_ordered_id
from core.routing import Route
from core.services.acceptance import AcceptedMail, store_accepted
from core.services.accounts import NewAccount
from core.services.claims import Claim, ClaimRequest, claim
from core.services.leases import FinishedAttempt
from core.services.received import ClaimedDelivery, load_received
from core.services.recording import record
from core.store.db import Database
from tests.conftest import NOW_MS
from web.app import create_app

TARGET = "https://example.com/in"
ATTEMPT_LIMIT_MS = 30_000
FAR_MS = 1_000 * DAY_MS


def api_settings(folder: Path, **changes: Any) -> Settings:
    """Settings of a test: its own folder, no question to the DNS."""
    return replace(Settings(data=folder, mx_check=False), **changes)


@dataclass
class Api:
    """An application and an account to use it with."""

    database: Database
    account: NewAccount
    settings: Settings
    now_ms: int = NOW_MS
    rung: list[DeliveryKind] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = create_app(self.settings, self.database, self.rung.append, lambda: self.now_ms)
        self.client: FlaskClient = self.app.test_client()

    def call(self, method: str, path: str, **options: Any) -> TestResponse:
        """A request with the account's key."""
        headers = {"Authorization": f"Bearer {self.account.api_key}", **options.pop("headers", {})}
        url = f"/api/v0.1/{self.account.account_id}{path}"
        return self.client.open(url, method=method, headers=headers, **options)

    def get(self, path: str, **query: Any) -> TestResponse:
        """GET with a query string."""
        return self.call("GET", path, query_string=query)

    def post(self, path: str, json: Any = None, **query: Any) -> TestResponse:
        """POST a JSON body, if any."""
        options = {} if json is None else {"json": json}
        return self.call("POST", path, query_string=query, **options)

    def put(self, path: str, json: Any) -> TestResponse:
        """PUT a JSON body."""
        return self.call("PUT", path, json=json)

    def delete(self, path: str, **query: Any) -> TestResponse:
        """DELETE."""
        return self.call("DELETE", path, query_string=query)

    def new_address(self, target: str = TARGET, **fields: Any) -> str:
        """Create an address and give its id."""
        answer = self.post("/addresses", {"target": target, "target_format": "json+n", **fields})
        assert answer.status_code == 201, answer.text
        address_id: str = answer.json["id"]
        return address_id

    def receive(self, address_id: str, recipients: tuple[str, ...] = ("in@pillarbox.test",), **mail: Any) -> str:
        """Accept a message for an address now, and give the id of its status."""
        body_text = mail.pop("body_text", None)
        domain_id, target = mail.pop("custom_domain_id", None), mail.pop("target", TARGET)
        route = Route(self.account.account_id, address_id, domain_id, target)
        accepted = accepted_mail(self.now_ms, tuple((recipient, route) for recipient in recipients), **mail)
        store_accepted(self.database, [accepted])
        with self.database.transaction():
            self.database.execute("UPDATE message SET body_text = ? WHERE id = ?", (body_text, accepted.message_id))
            rows = self.database.execute("SELECT id FROM delivery WHERE message_id = ?", (accepted.message_id,))
        status_id: str = rows[0][0]
        return status_id

    def claim(self) -> list[ClaimedDelivery]:
        """Take what is due into work, as a worker does."""
        request = ClaimRequest(DeliveryKind.INBOUND, 50, 50, 50, {"https://example.com:443"}, ATTEMPT_LIMIT_MS)
        with self.database.transaction():
            taken: Claim[ClaimedDelivery] = claim(self.database, request, load_received, self.now_ms)
        return taken.deliveries

    def finish(self, delivery: ClaimedDelivery, status: int, response: str | None = None) -> None:
        """Record what an attempt came to, as a worker does."""
        error = "the target could not be reached" if status == 0 else None
        verdict: Verdict = http_verdict(status)
        outcome = Outcome(verdict, status, self.now_ms, 153, error, response)
        with self.database.transaction():
            record(self.database, [FinishedAttempt(delivery, outcome)], HTTP_POLICY, self.now_ms)

    def receive_and_attempt(self, address_id: str, status: int, **mail: Any) -> str:
        """Accept a message and attempt it once, with that result."""
        status_id = self.receive(address_id, **mail)
        (delivery,) = self._claim_only(status_id)
        self.finish(delivery, status)
        return status_id

    def _claim_only(self, status_id: str) -> list[ClaimedDelivery]:
        """Take one delivery into work, whatever else is due and however its host has fared."""
        move_others = "UPDATE delivery SET due_ms = due_ms + ? WHERE state = 'pending' AND id <> ?"
        with self.database.transaction():
            self.database.execute("DELETE FROM target_health")
            self.database.execute(move_others, (FAR_MS, status_id))
        taken = self.claim()
        with self.database.transaction():
            self.database.execute(move_others, (-FAR_MS, status_id))
        return taken


def accepted_mail(now_ms: int, recipients: tuple[tuple[str, Route], ...], **fields: Any) -> AcceptedMail:
    """A small message; `fields` replace any of its parts."""
    raw: bytes = fields.get("raw", b"Subject: hello\r\n\r\nhi\r\n")
    defaults = AcceptedMail(
        message_id=new_time_ordered_id(now_ms),
        mail_from="sender@example.net",
        recipients=recipients,
        helo="client.example.net",
        remote_ip="192.0.2.7",
        tls_version="TLSv1.3",
        tls_cipher="TLS_AES_256_GCM_SHA384",
        size=len(raw or b""),
        md5="0" * 32,
        subject="hello",
        header_from="Sender <sender@example.net>",
        header_message_id="<one@example.net>",
        received_ms=now_ms,
        raw=raw,
        blob_key=None,
    )
    return replace(defaults, **fields)
