"""Requests to send as clients of CloudMailin write them, beside its Node client."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.services.accounts import NewAccount
from core.store.db import Database
from tests.api_support import api_settings
from tests.send_api_support import SendApi

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP0rdr1HwAFHwKCk87e6gAAAABJRU5ErkJggg=="


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> SendApi:
    return SendApi(database, account, api_settings(tmp_path))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_go_clients_message_twice(api: SendApi) -> None:
    """Its struct has header lists, attachments without a type, `priorty`, and after sending the id of the answer."""
    message = {
        "from": "sender@example.com", "to": ["debug@example.net"], "cc": ["carbon@example.net"],
        "headers": {"x-agent": ["cloudmailin-go"]}, "subject": "Hello From Go", "plain": "Hello World",
        "html": "<h1>Hello!</h1>\nWorld", "priorty": "digest", "tags": ["go"], "test_mode": True,
        "attachments": [{"content": PIXEL, "content_id": "<pix12>", "content_type": "", "file_name": "pixel.png"}],
    }  # fmt: skip
    first = api.call("POST", "/messages", json=message)
    assert first.status_code == 202, first.text
    again = api.call("POST", "/messages", json={**message, "id": first.json["id"]})
    assert again.status_code == 202, again.text
    assert again.json["id"] != first.json["id"]
    assert api.shown(again.json["id"])["priority"] == "digest"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_null_is_the_same_as_nothing(api: SendApi) -> None:
    names = ("cc", "bcc", "subject", "html", "markdown", "raw", "headers", "attachments", "tags", "priority",
             "test_mode", "send_at", "inline_css", "stream", "metadata", "unsubscribe", "layout")  # fmt: skip
    answer = api.call(
        "POST", "/messages", json={"from": "a@example.com", "to": "b@example.net", "plain": "x", **dict.fromkeys(names)}
    )
    assert (answer.status_code, answer.json.get("test_mode")) == (202, False), answer.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_required_field_that_is_null_is_missing(api: SendApi) -> None:
    answer = api.call("POST", "/messages", json={"from": "a@example.com", "to": None, "plain": "x"})
    assert (answer.status_code, answer.json["error"]) == (422, "to: is required")
