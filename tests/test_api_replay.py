"""Retrying deliveries over the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.clock import SECOND_MS
from core.delivery import RECEIVED_KINDS
from core.services import replay
from core.services.accounts import NewAccount, create_account
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


def row(api: Api, status_id: str) -> dict[str, object]:
    names = ("state", "attempts", "cycle_attempts", "cycle_started_ms", "due_ms", "lease_token", "last_status")
    with api.database.reading():
        (values,) = api.database.execute(
            f"SELECT {', '.join(names)}, finished_ms FROM delivery WHERE id = ?", (status_id,)
        )
    return dict(zip((*names, "finished_ms"), values, strict=True))


@pytest.mark.parametrize("answered", [200, 404, 503])
def test_a_retry_begins_a_new_cycle_whatever_became_of_it(api: Api, answered: int) -> None:
    status_id = api.receive_and_attempt(api.new_address(), answered)
    api.now_ms += SECOND_MS
    answer = api.post(f"/incoming_statuses/{status_id}/retry")
    assert answer.status_code == 202
    assert (answer.json["id"], answer.json["state"], answer.json["status"]) == (status_id, "pending", answered)
    assert answer.json["next_attempt_at"] == "2026-09-21T14:13:21.000Z"
    assert row(api, status_id) == {
        "state": "pending",
        "attempts": 1,
        "cycle_attempts": 0,
        "cycle_started_ms": api.now_ms,
        "due_ms": api.now_ms,
        "lease_token": None,
        "last_status": answered,
        "finished_ms": None,
    }
    assert api.rung == list(RECEIVED_KINDS)


def test_a_retried_delivery_is_delivered_under_its_old_id(api: Api) -> None:
    status_id = api.receive_and_attempt(api.new_address(), 404)
    api.post(f"/incoming_statuses/{status_id}/retry")
    (taken,) = api.claim()
    assert (taken.delivery_id, taken.attempt_number, taken.progress.attempts_in_cycle) == (status_id, 2, 1)
    api.finish(taken, 200)
    detail = api.get(f"/incoming_statuses/{status_id}").json
    assert detail["status_category"] == "successful"
    assert [entry["number"] for entry in detail["attempt_log"]] == [1, 2]


def test_what_is_being_attempted_is_left_alone(api: Api) -> None:
    status_id = api.receive(api.new_address())
    (taken,) = api.claim()
    before = row(api, status_id)
    answer = api.post(f"/incoming_statuses/{status_id}/retry")
    assert answer.status_code == 409
    assert status_id in answer.json["error"]
    assert row(api, status_id) == before
    assert api.rung == []
    api.finish(taken, 200)
    assert row(api, status_id)["state"] == "delivered"


def test_a_worker_that_died_does_not_block_a_retry_nor_spoil_it(api: Api) -> None:
    status_id = api.receive(api.new_address())
    (taken,) = api.claim()
    api.now_ms += 60 * SECOND_MS
    assert api.post(f"/incoming_statuses/{status_id}/retry").status_code == 202
    api.finish(taken, 404)  # it was not dead but slow; its word on this cycle no longer counts
    assert row(api, status_id)["state"] == "pending"


def test_unknown_and_foreign_statuses_are_404(api: Api, database: Database, tmp_path: Path) -> None:
    stranger = Api(database, create_account(database, "other", NOW_MS), api_settings(tmp_path))
    theirs = stranger.receive_and_attempt(stranger.new_address(), 404)
    for status_id in (theirs, "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90", "x"):
        assert api.post(f"/incoming_statuses/{status_id}/retry").status_code == 404
    assert row(stranger, theirs)["state"] == "rejected"


def test_all_that_match_are_retried_and_nothing_else(api: Api, database: Database, tmp_path: Path) -> None:
    first, second = api.new_address(), api.new_address()
    failed = [api.receive_and_attempt(first, 404) for _ in range(3)]
    elsewhere = api.receive_and_attempt(second, 404)
    delivered = api.receive_and_attempt(first, 200)
    stranger = Api(database, create_account(database, "other", NOW_MS), api_settings(tmp_path))
    theirs = stranger.receive_and_attempt(stranger.new_address(), 404)
    answer = api.post("/incoming_statuses/retry", query="status_category:failed", address_id=first)
    assert answer.status_code == 202
    assert answer.json == {"retried": 3, "left_alone": 0, "next_cursor": None}
    assert [row(api, status_id)["state"] for status_id in failed] == ["pending"] * 3
    assert row(api, elsewhere)["state"] == "rejected"
    assert row(api, delivered)["state"] == "delivered"
    assert row(stranger, theirs)["state"] == "rejected"
    assert api.rung == list(RECEIVED_KINDS)


def test_the_answer_counts_what_was_left_alone(api: Api) -> None:
    address_id = api.new_address()
    api.receive_and_attempt(address_id, 404)
    api.receive(address_id)
    api.claim()
    answer = api.post("/incoming_statuses/retry", query="*")
    assert answer.json == {"retried": 1, "left_alone": 1, "next_cursor": None}


def test_a_large_retry_is_done_in_parts(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_REPLAYS", 4)
    monkeypatch.setattr(replay, "BATCH", 3)
    address_id = api.new_address()
    failed = {api.receive_and_attempt(address_id, 404) for _ in range(10)}
    counts = []
    cursor: dict[str, str] = {}
    while cursor or not counts:
        answer = api.post("/incoming_statuses/retry", query="state:rejected", **cursor)
        counts.append(answer.json["retried"])
        cursor = {"cursor": answer.json["next_cursor"]} if answer.json["next_cursor"] else {}
    assert counts == [4, 4, 2]
    assert {row(api, status_id)["state"] for status_id in failed} == {"pending"}


def test_nothing_is_retried_without_saying_what(api: Api) -> None:
    status_id = api.receive_and_attempt(api.new_address(), 404)
    for query in ({}, {"query": ""}, {"query": "colour:red"}, {"query": "*", "addres_id": "x"}):
        answer = api.post("/incoming_statuses/retry", **query)
        assert answer.status_code == 422
    assert row(api, status_id)["state"] == "rejected"
    assert api.rung == []


def test_nothing_found_rings_nobody(api: Api) -> None:
    assert api.post("/incoming_statuses/retry", query="*").json["retried"] == 0
    assert api.rung == []


def test_a_broken_bell_fails_no_request(database: Database, account: NewAccount, tmp_path: Path) -> None:
    class BrokenBell(list):
        def append(self, _: object) -> None:
            raise OSError("no bell")

    api = Api(database, account, api_settings(tmp_path), rung=BrokenBell())
    status_id = api.receive_and_attempt(api.new_address(), 404)
    assert api.post(f"/incoming_statuses/{status_id}/retry").status_code == 202
    assert row(api, status_id)["state"] == "pending"


def test_the_bell_rings_after_the_commit(api: Api) -> None:
    status_id = api.receive_and_attempt(api.new_address(), 404)
    seen: list[object] = []

    class WatchingBell(list):
        def append(self, _: object) -> None:
            assert not api.database._peewee.in_transaction()
            seen.append(row(api, status_id)["state"])

    watched = Api(api.database, api.account, api.settings, rung=WatchingBell())
    watched.post(f"/incoming_statuses/{status_id}/retry")
    assert set(seen) == {"pending"}
