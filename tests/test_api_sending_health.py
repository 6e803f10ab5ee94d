"""`/sending_health`, `/sending_settings`, pauses and held messages over HTTP; on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.clock import to_rfc3339
from core.delivery import SEND_KINDS
from core.sending.events import EventKind, NewEvent
from core.sending.send_settings import SendSettings
from core.services.accounts import NewAccount, create_account
from core.services.send_accounts import read_account_settings
from core.services.tallies import count_events
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS
from tests.send_support import Sends

UNKNOWN = "0198d4a2-7c11-7f6e-9a53-2f1d8a3e7b90"
PART_NAMES = ("delivery", "bounce", "complaint", "engagement")


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    settings = api_settings(tmp_path, send_hourly_limit=1_000, source_ips="192.0.2.1, 192.0.2.2")
    return Api(database, account, settings)


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path)
    made.add_domain([])
    return made


def states(sends: Sends) -> list[Any]:
    return [row[0] for row in sends.database.execute("SELECT state FROM delivery ORDER BY id")]


# --- health ---


def test_health_has_its_parts_for_account_and_domains(api: Api, sends: Sends) -> None:
    counts = {EventKind.DISPATCH: 100, EventKind.DELIVERY: 94, EventKind.BOUNCE: 6}
    events = [
        NewEvent(kind, api.account.account_id, sends.domain_id, "m", None, "r@example.com", NOW_MS)
        for kind, count in counts.items()
        for _ in range(count)
    ]
    with sends.database.transaction():
        count_events(sends.database, events)
    answer = api.get("/sending_health")
    assert answer.status_code == 200
    (domain,) = answer.json["domains"]
    assert (domain["sending_domain_id"], domain["domain"]) == (sends.domain_id, "sender.example")
    for shown in (answer.json["account"], domain):
        assert shown["paused"] is None
        for span in ("last_day", "last_week"):
            score = shown[span]
            assert (score["score"], score["level"], score["recipients"], score["bounced"]) == (74, "danger", 100, 6)
            assert score["bounce"] == {"rate": 0.06, "points_lost": 25, "points": 50}
            assert score["engagement"] == {"rate": None, "points_lost": 0, "points": 10}
            assert score["score"] == 100 - sum(score[name]["points_lost"] for name in PART_NAMES)


def test_without_mail_there_is_no_score(api: Api) -> None:
    shown = api.get("/sending_health").json
    assert shown["domains"] == []
    assert (shown["account"]["last_day"]["score"], shown["account"]["last_day"]["level"]) == (None, None)


# --- settings ---


def test_settings_are_replaced_as_a_whole(api: Api) -> None:
    empty = api.get("/sending_settings").json
    assert set(empty.values()) == {None}
    wanted = {**empty, "track_opens": False, "hourly_limit": 500, "ramp": True, "source_ip": "192.0.2.2"}
    answer = api.put("/sending_settings", wanted)
    assert (answer.status_code, answer.json) == (200, wanted)
    assert api.get("/sending_settings").json == wanted
    assert read_account_settings(api.database, api.account.account_id) == SendSettings(
        track_opens=False, hourly_limit=500, ramp=True, source_ip="192.0.2.2"
    )
    assert api.put("/sending_settings", {}).json == empty


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"hourly_limit": 1_001}, "hourly_limit: must be 1 to 1000, the limit of this gateway"),
        ({"hourly_limit": 0}, "hourly_limit"),
        ({"daily_limit": "many"}, "daily_limit"),
        ({"source_ip": "192.0.2.9"}, "source_ip: is none of PILLARBOX_SOURCE_IPS; choose from: 192.0.2.1, 192.0.2.2"),
        ({"tracking_host": "a.example"}, "tracking_host: is not a field"),
        ({"ramp": "yes"}, "ramp"),
    ],
)
def test_settings_that_cannot_be_had(api: Api, body: dict[str, Any], problem: str) -> None:
    answer = api.put("/sending_settings", body)
    assert answer.status_code == 422
    assert problem in answer.json["error"]
    assert set(api.get("/sending_settings").json.values()) == {None}


# --- pauses ---


def test_pause_and_resume_of_an_account(api: Api, sends: Sends) -> None:
    answer = api.post("/sending_pause", {"reason": "the wrong list"})
    assert answer.status_code == 200
    assert answer.json == {"since": to_rfc3339(NOW_MS), "reason": "the wrong list"}
    assert api.get("/sending_health").json["account"]["paused"] == answer.json
    sends.store("ann@example.com", "bob@example.com")
    api.rung.clear()
    resumed = api.post("/sending_resume")
    assert (resumed.status_code, resumed.json) == (202, {"released": 2, "is_partial": False})
    assert api.rung == list(SEND_KINDS)
    assert states(sends) == ["pending"] * 2
    assert api.get("/sending_health").json["account"]["paused"] is None
    assert api.post("/sending_resume").json["released"] == 0  # once more does no harm


def test_pause_and_resume_of_a_domain(api: Api, sends: Sends) -> None:
    assert api.post("/sending_pause", {}, sending_domain_id=sends.domain_id).json["reason"] == "paused by hand"
    shown = api.get("/sending_health").json
    assert (shown["account"]["paused"], shown["domains"][0]["paused"]["reason"]) == (None, "paused by hand")
    sends.store("ann@example.com")
    assert api.post("/sending_resume").json["released"] == 0
    assert api.post("/sending_resume", sending_domain_id=sends.domain_id).json["released"] == 1


def test_a_resume_keeps_to_the_gateways_limit(api: Api, sends: Sends) -> None:
    api.put("/sending_settings", {"hourly_limit": 1})
    api.post("/sending_pause", {})
    sends.store("ann@example.com", "bob@example.com")
    assert api.post("/sending_resume").json["released"] == 2
    assert len({row[0] for row in sends.database.execute("SELECT due_ms FROM delivery")}) == 2


@pytest.mark.parametrize("domain", ["f" * 16, "nonsense", "a\0"])
@pytest.mark.parametrize("call", ["/sending_pause", "/sending_resume"])
def test_domains_that_are_not_ones_own_are_not_found(api: Api, call: str, domain: str) -> None:
    assert api.post(call, {}, sending_domain_id=domain).status_code == 404


def test_a_key_that_may_not_manage_may_not_pause(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.account.smtp_password}"}
    assert api.call("POST", "/sending_pause", json={}, headers=headers).status_code == 401


# --- held messages ---


def test_held_messages_are_listed_released_and_cancelled(api: Api, sends: Sends) -> None:
    sends.store("ann@example.com", spam_reason="9 points (GTUBE)")
    api.post("/sending_pause", {"reason": "stop"})
    sends.now_ms += 1
    sends.store("bob@example.com", send_at_ms=NOW_MS + 60_000)
    spam, paused = sends.stored
    first = api.get("/held_messages", per_page=1)
    second = api.get("/held_messages", per_page=1, cursor=first.headers["X-Next-Cursor"])
    assert "Link" not in second.headers
    assert [entry["message_id"] for entry in first.json + second.json] == [paused, spam]
    assert second.json[0] == {
        "message_id": spam, "subject": "Your order", "from": "shop@sender.example",
        "sending_domain_id": sends.domain_id, "priority": "standard", "recipients": ["ann@example.com"],
        "reason": "the spam check objects: 9 points (GTUBE)", "is_spam": True, "send_at": None,
        "created_at": to_rfc3339(NOW_MS),
    }  # fmt: skip
    assert (first.json[0]["is_spam"], first.json[0]["send_at"]) == (False, to_rfc3339(NOW_MS + 60_000))
    refused = api.post(f"/held_messages/{spam}/release")
    assert (refused.status_code, "stop" in refused.json["error"]) == (409, True)
    gone = api.delete(f"/held_messages/{paused}")
    assert (gone.status_code, gone.json) == (202, {"message_id": paused, "recipients": ["bob@example.com"]})
    api.post("/sending_resume")
    released = api.post(f"/held_messages/{spam}/release")
    assert (released.status_code, released.json["recipients"]) == (202, ["ann@example.com"])
    assert states(sends) == ["pending", "cancelled"]
    assert api.get("/held_messages").json == []


@pytest.mark.parametrize("message_id", [UNKNOWN, "nonsense", "%00"])
def test_unknown_messages_are_not_found(api: Api, message_id: str) -> None:
    assert api.post(f"/held_messages/{message_id}/release").status_code == 404
    assert api.delete(f"/held_messages/{message_id}").status_code == 404


def test_another_accounts_held_mail_is_not_shown(api: Api, sends: Sends, tmp_path: Path) -> None:
    sends.store("ann@example.com", spam_reason="x")
    stranger = Api(api.database, create_account(api.database, "other", NOW_MS), api.settings)
    assert stranger.get("/held_messages").json == []
    assert stranger.post(f"/held_messages/{sends.stored[0]}/release").status_code == 404
    assert stranger.delete(f"/held_messages/{sends.stored[0]}").status_code == 404
    assert states(sends) == ["quarantined"]
