"""`/incoming_statuses`: lists, one status, the raw message."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from core.clock import SECOND_MS
from core.services import windowed
from core.services.accounts import NewAccount, create_account
from core.store.blobs import open_blobs
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


def test_new_message_has_the_vendors_fields_and_ours(api: Api) -> None:
    address_id = api.new_address()
    status_id = api.receive(address_id, recipients=("a@pillarbox.test", "b@pillarbox.test"))
    assert api.get("/incoming_statuses", address_id=address_id).json == [
        {
            "id": status_id,
            "address_id": address_id,
            "message_id": "one@example.net",
            "to": "a@pillarbox.test",
            "recipients": ["a@pillarbox.test", "b@pillarbox.test"],
            "from": "sender@example.net",
            "status": None,
            "status_category": None,
            "state": "pending",
            "error": None,
            "flags": [],
            "released": False,
            "attempts": 0,
            "in_progress": False,
            "next_attempt_at": "2026-09-21T14:13:20.000Z",
            "subject": "hello",
            "tls": "TLSv1.3",
            "md5": "0" * 32,
            "size": 22,
            "created_at": "2026-09-21T14:13:20.000Z",
        }
    ]


@pytest.mark.parametrize(
    ("answered", "category", "state"),
    [
        (200, "successful", "delivered"),
        (404, "failed", "rejected"),
        (503, "delayed", "pending"),
        (0, "delayed", "pending"),
    ],
)
def test_status_follows_the_last_attempt(api: Api, answered: int, category: str, state: str) -> None:
    status_id = api.receive_and_attempt(api.new_address(), answered)
    status = api.get(f"/incoming_statuses/{status_id}").json
    assert (status["status"], status["status_category"], status["state"]) == (answered, category, state)
    assert (status["next_attempt_at"] is None) == (state != "pending")
    assert (status["finished_at"] is None) == (state == "pending")


def test_a_message_in_a_workers_hands_says_so(api: Api) -> None:
    status_id = api.receive(api.new_address())
    api.claim()
    status = api.get(f"/incoming_statuses/{status_id}").json
    assert (status["in_progress"], status["next_attempt_at"], status["attempts"]) == (True, None, 1)
    api.now_ms += 60 * SECOND_MS  # the worker died, its lease ran out
    status = api.get(f"/incoming_statuses/{status_id}").json
    assert (status["in_progress"], status["next_attempt_at"]) == (False, "2026-09-21T14:14:05.000Z")


def test_one_status_shows_its_attempts_in_order(api: Api) -> None:
    status_id = api.receive(api.new_address())
    for answer, response in ((503, "come back later"), (0, None), (200, None)):
        (taken,) = api.claim()
        api.finish(taken, answer, response)
        api.now_ms += 60 * SECOND_MS
    detail = api.get(f"/incoming_statuses/{status_id}").json
    assert [entry["number"] for entry in detail["attempt_log"]] == [1, 2, 3]
    assert [entry["status"] for entry in detail["attempt_log"]] == [503, 0, 200]
    assert detail["attempt_log"][0] == {
        "number": 1,
        "started_at": "2026-09-21T14:13:20.000Z",
        "duration": 0.153,
        "status": 503,
        "error": None,
        "response": "come back later",
    }
    assert detail["attempt_log"][1]["error"] == "the target could not be reached"
    assert detail["target_host"] == "https://example.com:443"
    assert detail["finished_at"] == "2026-09-21T14:15:20.000Z"


@pytest.mark.parametrize(
    ("header", "shown"),
    [("<a@b>", "a@b"), (" <a@b> ", "a@b"), ("a@b", "a@b"), (None, None), ("", None), ("<<a>>", "<a>")],
)
def test_message_id_comes_without_brackets(api: Api, header: str | None, shown: str | None) -> None:
    status_id = api.receive(api.new_address(), header_message_id=header)
    assert api.get(f"/incoming_statuses/{status_id}").json["message_id"] == shown


def test_null_sender_and_missing_headers_are_told_apart(api: Api) -> None:
    status_id = api.receive(api.new_address(), mail_from="", subject=None, tls_version=None)
    status = api.get(f"/incoming_statuses/{status_id}").json
    assert (status["from"], status["subject"], status["tls"]) == ("", None, None)


def test_list_is_newest_first_and_the_cursor_is_the_last_id(api: Api) -> None:
    address_id = api.new_address()
    made = []
    for _ in range(5):
        made.append(api.receive(address_id))
        api.now_ms += 1
    first = api.get("/incoming_statuses", address_id=address_id, per_page=2)
    assert [entry["id"] for entry in first.json] == [made[4], made[3]]
    assert first.headers["X-Next-Cursor"] == made[3]
    api.receive(address_id)
    second = api.get("/incoming_statuses", address_id=address_id, per_page=2, cursor=made[3])
    assert [entry["id"] for entry in second.json] == [made[2], made[1]]
    last = api.get("/incoming_statuses", address_id=address_id, per_page=2, cursor=made[1])
    assert [entry["id"] for entry in last.json] == [made[0]]
    assert "Link" not in last.headers


def test_link_keeps_the_other_parameters(api: Api) -> None:
    address_id = api.new_address()
    for _ in range(3):
        api.receive(address_id, subject="a b&c")
    query = 'subject:"a b&c" AND created_at:[now-1d TO now]'
    seen = []
    answer = api.get("/incoming_statuses", address_id=address_id, query=query, per_page=1, page=1)
    for _ in range(3):
        seen += [entry["id"] for entry in answer.json]
        if "Link" in answer.headers:
            url = answer.headers["Link"].split(">")[0].removeprefix("<")
            answer = api.client.get(url, headers={"Authorization": f"Bearer {api.account.api_key}"})
    assert len(set(seen)) == 3
    assert "Link" not in answer.headers


def test_list_filters_by_address_and_knows_only_the_accounts_own(api: Api, database: Database, tmp_path: Path) -> None:
    first, second = api.new_address(), api.new_address()
    stranger = Api(database, create_account(database, "other", NOW_MS), api_settings(tmp_path))
    theirs = stranger.receive(stranger.new_address())
    one, two = api.receive(first), api.receive(second)
    assert [entry["id"] for entry in api.get("/incoming_statuses", address_id=first).json] == [one]
    assert {entry["id"] for entry in api.get("/incoming_statuses").json} == {one, two}
    assert {entry["id"] for entry in api.get("/incoming_statuses", query="*").json} == {one, two}
    for path in ("", "/raw"):
        assert api.get(f"/incoming_statuses/{theirs}{path}").status_code == 404
        assert stranger.get(f"/incoming_statuses/{theirs}{path}").status_code == 200


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 50])
def test_search_meets_each_match_once_whatever_the_page_and_the_window(
    api: Api, monkeypatch: pytest.MonkeyPatch, page_size: int
) -> None:
    monkeypatch.setattr(windowed, "SEARCH_WINDOW", 4)
    address_id = api.new_address()
    made = []
    for number in range(23):
        status_id = api.receive(address_id, subject="yes" if number % 3 == 0 else "no")
        made += [status_id] if number % 3 == 0 else []
        api.now_ms += 1
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while cursor or not seen:
        answer = api.get("/incoming_statuses", query="subject:yes", per_page=page_size, **cursor)
        seen += [entry["id"] for entry in answer.json]
        cursor = {"cursor": answer.headers["X-Next-Cursor"]} if "X-Next-Cursor" in answer.headers else {}
    assert seen == made[::-1]
    numbered = [
        [entry["id"] for entry in api.get("/incoming_statuses", query="subject:yes", per_page=3, page=page).json]
        for page in (1, 2, 3, 4)
    ]
    assert list(itertools.chain(*numbered)) == made[::-1]


def test_a_search_out_of_patience_gives_what_it_has_and_a_way_on(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windowed, "SEARCH_WINDOW", 2)
    monkeypatch.setattr(windowed, "SEARCH_PATIENCE_MS", -1)
    address_id = api.new_address()
    wanted = api.receive(address_id, subject="needle")
    for _ in range(6):
        api.now_ms += 1
        api.receive(address_id)
    seen: list[str] = []
    answers = 0
    cursor: dict[str, str] = {}
    while cursor or not answers:
        answer = api.get("/incoming_statuses", query="needle", **cursor)
        answers += 1
        seen += [entry["id"] for entry in answer.json]
        cursor = {"cursor": answer.headers["X-Next-Cursor"]} if "X-Next-Cursor" in answer.headers else {}
    assert (seen, answers) == ([wanted], 4)
    assert api.get("/incoming_statuses", query="needle", page=2).json["error"].startswith("page: cannot be reached")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"query": "colour:red"}, "query: 'colour' is not a field"),
        ({"query": ""}, "query: is empty"),
        ({"query": "a\0"}, "query"),
        ({"query": "x" * 1001}, "query"),
        ({"cursor": "zzz"}, "cursor: is not one that this list gave"),
        ({"cursor": "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90'--"}, "cursor"),
    ],
)
def test_wrong_parameter_is_named(api: Api, query: dict[str, str], named: str) -> None:
    answer = api.get("/incoming_statuses", **query)
    assert answer.status_code == 422
    assert answer.json["error"].startswith(named)


def test_unknown_address_and_status_are_404(api: Api) -> None:
    assert api.get("/incoming_statuses", address_id="0" * 20).status_code == 404
    assert api.get("/incoming_statuses", address_id="x").status_code == 404
    for status_id in ("x", "%00", "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90"):
        assert api.get(f"/incoming_statuses/{status_id}").status_code == 404
        assert api.get(f"/incoming_statuses/{status_id}/raw").status_code == 404


def test_raw_message_comes_back_byte_for_byte_and_is_no_page(api: Api) -> None:
    raw = bytes(range(256)) + b"\r\n<script>alert(1)</script>\r\n"
    status_id = api.receive(api.new_address(), raw=raw)
    answer = api.get(f"/incoming_statuses/{status_id}/raw")
    assert answer.status_code == 200
    assert answer.data == raw
    assert answer.mimetype == "message/rfc822"
    assert answer.headers["Content-Disposition"] == f"attachment; filename={status_id}.eml"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_large_raw_message_comes_from_the_blob_store(api: Api, tmp_path: Path) -> None:
    raw = b"large" * 100_000
    file = tmp_path / "incoming"
    file.write_bytes(raw)
    open_blobs(api.settings.blob_location).put_file("some-key", file)
    status_id = api.receive(api.new_address(), raw=None, blob_key="some-key", size=len(raw))
    assert api.get(f"/incoming_statuses/{status_id}/raw").data == raw


def test_a_blob_that_cannot_be_read_is_503(api: Api) -> None:
    status_id = api.receive(api.new_address(), raw=None, blob_key="lost-key")
    answer = api.get(f"/incoming_statuses/{status_id}/raw")
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
