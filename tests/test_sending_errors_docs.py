"""The errors in `docs/sending.md` are those that the API gives, and it gives no others to the requests made here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from core.services.accounts import NewAccount
from core.store.db import Database
from tests.api_support import Api, api_settings

PAGE = (Path(__file__).parents[1] / "docs" / "sending.md").read_text("utf-8")
ROWS = [
    (int(cells[1]), text)
    for cells in (line.split("|") for line in PAGE.splitlines() if re.match(r"\| 4\d\d \|", line))
    for text in re.findall(r"`([^`]+)`", cells[2])
]
MESSAGE = {"from": "ann@example.com", "to": "bob@example.net", "plain": "Hi."}
WRONG_FIELDS: tuple[dict[str, Any], ...] = (
    {"plain": None},
    {"test-mode": True},
    {"to": "bob@"},
    {"to": [f"{number}@example.net" for number in range(21)]},
    {"attachments": [{"file_name": "a.exe", "content": ""}]},
    {"attachments": [{"file_name": "a.txt", "content": "?"}]},
    {"attachments": [{"file_name": "a.txt", "content": "A" * 12 * 1024 * 1024}]},
    {"headers": {"Date": "now"}},
    {"headers": {"X-A": "a\r\nb"}},
    {"raw": "no header", "plain": None},
    {"layout": "missing"},
    {"layout": "frame", "html": "<p>Hi.</p>"},
    {"send_at": "2001-01-01T00:00:00Z"},
)


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


@pytest.fixture
def strict(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    """Where mail is taken from verified domains only."""
    return Api(database, account, api_settings(tmp_path, require_verified="on"))


def wrong_messages(api: Api) -> Iterator[TestResponse]:
    assert api.post("/layouts", {"name": "frame", "html": "{{ content }}{{ city }}"}).status_code == 201
    for fields in WRONG_FIELDS:
        yield api.post("/messages", {**MESSAGE, **fields})
    yield api.post("/messages", {"from": "ann@example.com", "plain": "Hi."})


def wrong_requests(api: Api) -> Iterator[TestResponse]:
    reading = api.post("/credentials", {"kind": "api", "scopes": ["read"]}).json
    path = f"/api/v0.1/{api.account.account_id}/messages"
    yield api.client.post(path, json=MESSAGE)
    yield api.call("POST", "/messages", json=MESSAGE, headers={"Authorization": "Bearer wrong"})
    yield api.call("POST", "/messages", json=MESSAGE, headers={"Authorization": f"Bearer {reading['secret']}"})
    yield api.call("POST", "/messages", data="{")
    yield api.call("POST", "/messages", data="{", headers={"Content-Type": "application/json"})
    yield api.post("/messages", {**MESSAGE, "plain": "A" * 16 * 1024 * 1024})
    yield api.get("/outbound_messages/0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90")
    for subject in ("One", "Two"):
        key = {"Idempotency-Key": "key"}
        last = api.call("POST", "/messages", json={**MESSAGE, "subject": subject}, headers=key)
    yield last
    message_id = api.post("/messages", MESSAGE).json["id"]
    assert api.call("DELETE", f"/messages/{message_id}").status_code == 202
    yield api.call("DELETE", f"/messages/{message_id}")


def wrong_senders(strict: Api) -> Iterator[TestResponse]:
    yield strict.post("/messages", MESSAGE)
    strict.post("/sending_domains", {"domain": "example.com"})
    yield strict.post("/messages", MESSAGE)
    other = strict.post("/sending_domains", {"domain": "example.org"}).json
    bound = strict.post("/credentials", {"kind": "smtp", "sending_domain_id": other["id"]}).json
    yield strict.client.post(
        f"/api/v0.1/{bound['username']}/messages", json=MESSAGE, headers={"Authorization": f"Bearer {bound['secret']}"}
    )


def as_pattern(text: str) -> str:
    return ".*".join(re.escape(part) for part in text.split("…"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_each_error_is_given_and_each_that_is_given_is_told(api: Api, strict: Api) -> None:
    answers = [*wrong_messages(api), *wrong_requests(api), *wrong_senders(strict)]
    given = [(answer.status_code, answer.json["error"]) for answer in answers]
    assert all(status >= 400 for status, _ in given)
    assert len(ROWS) > 20
    for status, text in ROWS:
        assert any(status == code and re.match(as_pattern(text), error) for code, error in given), (text, given)
    for code, error in given:
        assert any(status == code and re.match(as_pattern(text), error) for status, text in ROWS), (code, error)
