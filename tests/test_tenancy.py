"""Another account's things: every call of the API, with every kind of id, finds nothing and changes nothing.

The calls are read from the OpenAPI document: one that is new is asked too, or fails the test that it has no example.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.services.accounts import NewAccount
from core.store.db import Database
from tests.api_support import api_settings
from tests.conftest import TABLES
from tests.send_api_support import SendApi

PREFIX = "/api/v0.1/{account_id}"
NOT_COMPARED = {"secret", "target_health"}
"""What the gateway keeps for itself."""
USED = "account_id, kind, username, secret_sha256, name, scopes, sending_domain_id, is_active"
"""Of a credential: all but when it was used last."""
TARGET = "https://example.com/in"
BODIES: dict[str, Any] = {
    "update_address": {"target": TARGET, "target_format": "json+n"},
    "rotate_secret": {},
    "change_credential": {"is_active": False},
    "update_layout": {"name": "taken", "html": "{{ content }}!"},
    "update_rule": {"action": "flag", "conditions": {}},
    "change_sending_domain": {"settings": {"track_opens": True}},
    "replace_sending_domain": {"settings": {}},
    "rotate_sending_key": {},
    "update_webhook": {"url": "https://evil.example/in"},
    "rotate_webhook_secret": {},
}
"""A good body of each call that names a thing in its path and has one."""


@dataclass
class Victim:
    """An account that has one of everything."""

    api: SendApi
    ids: dict[str, str] = field(default_factory=dict)

    def fill(self) -> Victim:
        api = self.api
        address_id = api.new_address()
        domain = api.post("/sending_domains", {"domain": "example.com"}).json
        message_id = api.sent(send_at="2026-09-22T00:00:00Z")
        webhook_id = made(api, "/webhooks", {"url": "https://hooks.example/in"})
        assert api.post(f"/webhooks/{webhook_id}/test").status_code == 202
        (delivery,) = api.get(f"/webhooks/{webhook_id}/deliveries").json
        made(api, "/suppressions", {"addresses": ["gone@example.net"]})
        (suppression,) = api.get("/suppressions").json
        credential = made(api, "/credentials", {"kind": "smtp"})
        self.ids = {
            "address_id": address_id,
            "custom_domain_id": made(api, "/custom_domains", {"domain": "a.example", "address_id": address_id}),
            "status_id": api.receive_and_attempt(address_id, 404),
            "rule_id": made(api, "/rules", {"action": "flag", "conditions": {}}),
            "credential_id": credential,
            "layout_id": made(api, "/layouts", {"name": "frame", "html": "{{ content }}"}),
            "sending_domain_id": domain["id"],
            "selector": domain["keys"][0]["selector"],
            "message_id": message_id,
            "webhook_id": webhook_id,
            "delivery_id": delivery["id"],
            "suppression": suppression["id"],
        }
        assert api.post("/sending_pause", {}).status_code == 200
        self.ids["held"] = api.sent()
        return self


def made(api: SendApi, path: str, body: dict[str, Any]) -> str:
    answer = api.post(path, body)
    assert answer.status_code == 201, answer.text
    return "" if isinstance(answer.json, list) else str(answer.json["id"])


@pytest.fixture
def victim(database: Database, account: NewAccount, tmp_path: Path) -> Victim:
    return Victim(SendApi(database, account, api_settings(tmp_path))).fill()


def everything(database: Database) -> dict[str, list[Any]]:
    """All rows there are."""
    found = {}
    with database.reading():
        for table in set(TABLES.split(", ")) - NOT_COMPARED:
            columns = USED if table == "credential" else "*"
            found[table] = sorted(map(repr, database.execute(f"SELECT {columns} FROM {table}")))
    return found


def calls_with_ids(api: SendApi) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path behind the account, and operation, of all calls that name more than the account."""
    for path, operations in api.client.get("/openapi.json").json["paths"].items():
        for method, operation in operations.items():
            if path.startswith(PREFIX) and path.count("{") > 1:
                yield method.upper(), path.removeprefix(PREFIX), operation


def test_ids_of_others_are_unknown_in_every_path(victim: Victim) -> None:
    thief = victim.api.stranger()
    before = everything(victim.api.database)
    asked = 0
    for method, path, operation in calls_with_ids(thief):
        named = operation["operationId"]
        ids = {**victim.ids, "message_id": victim.ids["held"]} if "held" in path else victim.ids
        options: dict[str, Any] = {"json": BODIES[named]} if "requestBody" in operation else {}
        answer = thief.call(method, path.format_map(ids), **options)
        assert answer.status_code == 404, f"{method} {path} of another account: {answer.status_code} {answer.text}"
        own = victim.api.call("GET", path.format_map(ids)) if method == "GET" else None
        assert own is None or own.status_code == 200, f"GET {path} is not there for its owner either: {own.text}"
        asked += 1
    assert everything(victim.api.database) == before
    assert asked > 30


def test_keys_open_no_other_account(victim: Victim) -> None:
    thief = victim.api.stranger()
    before = everything(victim.api.database)
    document = thief.client.get("/openapi.json").json["paths"]
    for path, operations in document.items():
        for method, operation in operations.items():
            if not path.startswith(PREFIX):
                continue
            url = path.format_map({**victim.ids, "account_id": victim.api.account.account_id})
            options = {"json": BODIES.get(operation["operationId"], {})} if "requestBody" in operation else {}
            headers = {"Authorization": f"Bearer {thief.account.api_key}"}
            answer = thief.client.open(url, method=method.upper(), headers=headers, **options)
            assert answer.status_code == 401, f"{method} {path}: {answer.status_code} {answer.text}"
    assert everything(victim.api.database) == before


def test_ids_of_others_are_unknown_in_bodies_and_queries(victim: Victim) -> None:
    thief = victim.api.stranger()
    own_address = thief.new_address()
    ids = victim.ids
    before = everything(victim.api.database)
    domain = ids["sending_domain_id"]
    refused = [
        thief.post("/credentials", {"kind": "smtp", "sending_domain_id": domain}),
        thief.post("/credentials", {"kind": "api", "sending_domain_id": domain}),
        thief.post("/webhooks", {"url": TARGET, "sending_domain_ids": [domain]}),
        thief.post("/suppressions", {"addresses": ["a@example.com"], "sending_domain_id": domain}),
        thief.get("/suppressions", sending_domain_id=domain),
        thief.get("/suppressions.csv", sending_domain_id=domain),
        thief.delete("/suppressions/gone@example.net"),
        thief.delete("/suppressions/gone@example.net", sending_domain_id=domain),
        thief.post("/sending_pause", {}, sending_domain_id=domain),
        thief.post("/sending_resume", sending_domain_id=domain),
        thief.get("/tracking_hits", message_id=ids["message_id"]),
        thief.post("/rules", {"action": "flag", "conditions": {}, "address_id": ids["address_id"]}),
        thief.get("/rules", address_id=ids["address_id"]),
        thief.post("/custom_domains", {"domain": "b.example", "address_id": ids["address_id"]}),
        thief.get("/custom_domains", address_id=ids["address_id"]),
        thief.send(layout="frame", html="<p>x</p>"),
    ]
    for number, answer in enumerate(refused):
        assert answer.status_code in (404, 422), f"{number}: {answer.status_code} {answer.text}"
    assert everything(victim.api.database) == before
    assert own_address


def test_lists_show_nothing_of_others(victim: Victim) -> None:
    thief = victim.api.stranger()
    secrets = [value for name, value in victim.ids.items() if name != "selector"]
    secrets += [victim.api.account.account_id, "gone@example.net", "a.example", "bob@example.net"]
    for path, operations in thief.client.get("/openapi.json").json["paths"].items():
        if "get" in operations and path.startswith(PREFIX) and path.count("{") == 1 and "tracking_hits" not in path:
            for query in ({}, {"outbound_account_id": victim.api.account.account_id}, {"query": "*"}):
                answer = thief.get(path.removeprefix(PREFIX), **query)
                shown = [one for one in secrets if one in answer.text]
                assert not shown or answer.status_code == 422, f"{path} shows {shown}"


def test_a_resume_of_ones_own_account_sends_nothing_of_others(victim: Victim) -> None:
    thief = victim.api.stranger()
    before = everything(victim.api.database)
    assert thief.post("/sending_resume").json == {"released": 0, "is_partial": False}
    assert everything(victim.api.database)["delivery"] == before["delivery"]
