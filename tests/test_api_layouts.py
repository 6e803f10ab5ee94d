"""`/layouts`: kept, listed, changed, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.services import layouts as service
from core.services.accounts import NewAccount
from core.services.layouts import MAX_LAYOUTS
from core.store.db import Database
from tests.api_support import api_settings
from tests.conftest import NOW_MS
from tests.send_api_support import SendApi, add_layout

HTML = "<html><body><h1>{{ title | News }}</h1>{{ content }}{{ foot }}</body></html>"

only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> SendApi:
    return SendApi(database, account, api_settings(tmp_path / "data"))


def made(api: SendApi, name: str = "news", html: str = HTML) -> dict[str, Any]:
    answer = api.post("/layouts", {"name": name, "html": html})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json
    return found


def test_the_life_of_a_layout(api: SendApi) -> None:
    layout = made(api)
    assert layout == {
        "id": layout["id"],
        "name": "news",
        "html": HTML,
        "variables": {"title": "News", "foot": None},
        "created_at": "2026-09-21T14:13:20.000Z",
        "updated_at": "2026-09-21T14:13:20.000Z",
    }
    assert api.get(f"/layouts/{layout['id']}").json == layout
    assert api.get("/layouts").json == [{name: value for name, value in layout.items() if name != "html"}]
    api.now_ms += 1_000
    changed = api.put(f"/layouts/{layout['id']}", {"name": "other", "html": "{{ content }}"}).json
    assert (changed["name"], changed["variables"]) == ("other", {})
    assert (changed["created_at"], changed["updated_at"]) == (layout["created_at"], "2026-09-21T14:13:21.000Z")
    assert api.get(f"/layouts/{layout['id']}").json == changed
    deleted = api.delete(f"/layouts/{layout['id']}")
    assert (deleted.status_code, deleted.json) == (202, changed)
    for method in ("GET", "DELETE"):
        assert api.call(method, f"/layouts/{layout['id']}").status_code == 404
    assert api.put(f"/layouts/{layout['id']}", {"name": "other", "html": "{{ content }}"}).status_code == 404


def test_a_change_holds_for_what_is_accepted_from_then_on(api: SendApi) -> None:
    layout = made(api, "frame", "<b>old</b>{{ content }}")
    before = api.sent(layout="frame", html="<p>x</p>")
    api.put(f"/layouts/{layout['id']}", {"name": "frame", "html": "<b>new</b>{{ content }}"})
    after = api.sent(layout="frame", html="<p>x</p>")
    assert (b"<b>old</b>" in api.source(before), b"<b>new</b>" in api.source(after)) == (True, True)


def test_names_are_unique_within_an_account(api: SendApi) -> None:
    first, second = made(api, "one"), made(api, "two")
    for answer in (
        api.post("/layouts", {"name": "one", "html": "{{ content }}"}),
        api.put(f"/layouts/{second['id']}", {"name": "one", "html": "{{ content }}"}),
    ):
        assert (answer.status_code, answer.json["error"]) == (
            422,
            "name: 'one' is another layout's; change that one, or take another name",
        )
    assert api.put(f"/layouts/{first['id']}", {"name": "one", "html": "x{{ content }}"}).status_code == 200
    stranger = api.stranger()
    made(stranger, "one")
    assert stranger.get(f"/layouts/{first['id']}").status_code == 404
    assert stranger.put(f"/layouts/{first['id']}", {"name": "x", "html": "{{ content }}"}).status_code == 404
    assert stranger.delete(f"/layouts/{first['id']}").status_code == 404
    assert len(api.get("/layouts").json) == 2


@only_sqlite
@pytest.mark.parametrize(
    ("name", "html", "error"),
    [
        ("", "{{ content }}", "name: must be 1 to 100 of the characters"),
        ("two words", "{{ content }}", "name: must be 1 to 100 of the characters"),
        ("a\r\nb", "{{ content }}", "name: must be 1 to 100 of the characters"),
        ("x" * 101, "{{ content }}", "name: must have at most 100 characters"),
        ("none", "{{ content }}", "name: 'none' is how a message says that it wants no layout"),
        ("a", "no place", "html: must hold {{ content }} once, where the mail goes; it does 0 times"),
        ("a", "{{ content }}{{ content }}", "it does 2 times"),
        ("a", "{{ content }}{{ 1x }}", "html: has {{ 1x }}, which is no variable"),
        ("a", "{{ content", "html: has double braces that are no variable"),
        ("a", "{{ content }}" + "x" * 300_000, "html: must have at most 262144 characters"),
        ("all_default", "{{ content }}{{ x }}", "html: x needs a default, like {{ x | text }}"),
        ("f00_default", "{{ content }}{{ x }}", "html: x needs a default, like {{ x | text }}"),
    ],
)
def test_what_cannot_be_a_layout(api: SendApi, name: str, html: str, error: str) -> None:
    answer = api.post("/layouts", {"name": name, "html": html})
    assert (answer.status_code, error in answer.json["error"]) == (422, True), answer.text
    layout = made(api)
    assert api.put(f"/layouts/{layout['id']}", {"name": name, "html": html}).status_code == 422
    assert api.get(f"/layouts/{layout['id']}").json == layout


def test_lists_lead_on(api: SendApi) -> None:
    ids = []
    for number in range(5):
        api.now_ms += 1_000
        ids.append(made(api, f"l{number}")["id"])
    first = api.get("/layouts", per_page=3)
    assert [entry["id"] for entry in first.json] == ids[:1:-1]
    second = api.get("/layouts", per_page=3, cursor=first.headers["X-Next-Cursor"])
    assert [entry["id"] for entry in second.json] == ids[1::-1]
    assert "Link" not in second.headers


@only_sqlite
def test_an_account_has_so_many_and_no_more(api: SendApi) -> None:
    for number in range(MAX_LAYOUTS - 1):
        add_layout(api.database, api.account.account_id, f"l{number}", "{{ content }}")
    made(api, "last")
    refused = api.post("/layouts", {"name": "more", "html": "{{ content }}"})
    assert refused.json["error"] == "name: would be layout 501; an account may have 500"
    found = service.layout_sources(api.database, api.account.account_id, ["l1", "last", "gone"])
    assert found == {"l1": "{{ content }}", "last": HTML}


@only_sqlite
def test_smtp_logins_do_not_manage_layouts(api: SendApi) -> None:
    login = api.with_login(api.account.smtp_username, api.account.smtp_password)
    assert login.get("/layouts").status_code in (401, 403)
    assert api.now_ms == NOW_MS
