"""The sending side of the API in the hands of a test: messages, domains, keys, and what the database says of them."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

from werkzeug.test import TestResponse

from core.ids import new_domain_id
from core.sending.events import EventDetails, EventKind, NewEvent
from core.services.accounts import CredentialKind, NewAccount, create_account
from core.services.credential_records import CredentialDraft, create_credential
from core.services.credentials import Scope
from core.services.events import insert_events
from core.services.sends import Submitter
from core.store.db import Database
from tests.api_support import Api
from tests.conftest import NOW_MS

SENDER = "Ann <ann@example.com>"
RECIPIENT = "bob@example.net"


class SendApi(Api):
    """An application and an account that sends."""

    def send(self, http_headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
        """POST a small message; `fields` are added, and those that are None taken out."""
        body = {"from": SENDER, "to": RECIPIENT, "subject": "hello", "plain": "Hi.", **fields}
        body["from"] = body.pop("from_", body["from"])
        given = {name: value for name, value in body.items() if value is not None}
        return self.call("POST", "/messages", json=given, headers=http_headers or {})

    def sent(self, **fields: Any) -> str:
        """The id of a message that was accepted."""
        answer = self.send(**fields)
        assert answer.status_code == 202, answer.text
        message_id: str = answer.json["id"]
        return message_id

    def source(self, message_id: str) -> bytes:
        """The message as it was accepted."""
        answer = self.get(f"/outbound_messages/{message_id}/raw")
        assert answer.status_code == 200, answer.text
        return answer.data

    def parsed(self, message_id: str) -> EmailMessage:
        """The same, read by the standard library."""
        return cast(EmailMessage, message_from_bytes(self.source(message_id), policy=policy.default))

    def shown(self, message_id: str) -> dict[str, Any]:
        """The message with its events."""
        answer = self.get(f"/outbound_messages/{message_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json
        return found

    def found(self, query: str, **parameters: Any) -> list[str]:
        """The ids that a search gives."""
        answer = self.get("/outbound_messages", query=query, **parameters)
        assert answer.status_code == 200, answer.text
        return [entry["id"] for entry in answer.json]

    def tell(self, message_id: str, *kinds: EventKind, at_ms: int | None = None, **details: Any) -> None:
        """Write events of a message's recipients down, as workers do."""
        recipients = [one["email"] for one in self.shown(message_id)["recipients"]]
        moment = self.now_ms if at_ms is None else at_ms
        events = [
            NewEvent(kind, self.account.account_id, None, message_id, None, one, moment, EventDetails(**details))
            for kind in kinds
            for one in recipients
        ]
        with self.database.transaction():
            insert_events(self.database, events, moment)

    def set_state(self, message_id: str, **columns: Any) -> None:
        """Change columns of a message's deliveries."""
        changed = ", ".join(f"{name} = ?" for name in columns)
        with self.database.transaction():
            self.database.execute(
                f"UPDATE delivery SET {changed} WHERE message_id = ?", (*columns.values(), message_id)
            )

    def with_login(self, username: str, secret: str) -> SendApi:
        """The same application, asked with another name and key."""
        return SendApi(
            self.database, replace(self.account, account_id=username, api_key=secret), self.settings, self.now_ms
        )

    def with_credential(
        self, kind: CredentialKind, scopes: frozenset[Scope] | None = None, domain_id: str | None = None
    ) -> SendApi:
        """The same with a new credential."""
        draft = CredentialDraft(kind, "test", scopes, domain_id)
        record, secret = create_credential(self.database, self.account.account_id, draft, NOW_MS)
        return self.with_login(record.username, secret)

    def stranger(self) -> SendApi:
        """The same with another account."""
        return SendApi(self.database, create_account(self.database, "other", NOW_MS), self.settings, self.now_ms)


def add_domain(database: Database, account_id: str, domain: str, is_verified: bool = True) -> str:
    """A sending domain of an account; gives its id."""
    domain_id = new_domain_id()
    values = (domain_id, account_id, domain, is_verified, domain, NOW_MS, NOW_MS)
    with database.transaction():
        database.execute(
            "INSERT INTO sending_domain (id, account_id, domain, dkim_verified, signing_domain, next_check_ms, "
            "created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        )
    return domain_id


def add_layout(database: Database, account_id: str, name: str, html: str) -> None:
    """A layout of an account."""
    with database.transaction():
        database.execute(
            "INSERT INTO layout (id, account_id, name, html, created_ms, updated_ms) VALUES (?, ?, ?, ?, ?, ?)",
            (new_domain_id(), account_id, name, html, NOW_MS, NOW_MS),
        )


def submitter_of(account: NewAccount) -> Submitter:
    """The account's SMTP login, at work."""
    return Submitter(account.account_id, account.smtp_username, "192.0.2.7", "client.example.com", "TLSv1.3")
