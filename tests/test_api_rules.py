"""`/rules`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.services.accounts import NewAccount, create_account
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS

EVERYTHING = {
    "sender": ["Jo@Example.COM", "*@bücher.example", "<>"],
    "sender_pattern": ["a.*"],
    "sender_domain": ["example.com", "*.Example.com."],
    "from_domain": ["*.example.com"],
    "ip": ["192.0.2.0/24", "2001:DB8::/32", "192.0.2.7"],
    "helo": ["[192.0.2.7]", "*.Dyn.example"],
    "recipient_pattern": ["(sales|info)@.*"],
    "subject_pattern": ["(?i).*invoice.*"],
    "spf": ["fail", "softfail"],
    "dkim": ["none"],
    "dmarc": ["fail"],
    "attachment_type": ["Image/*", "application/zip"],
    "attachment_extension": [".EXE", "tar.gz"],
    "spam_score_min": 5,
    "size_min": 1000,
    "virus_found": True,
}


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


def new_rule(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.post("/rules", {"action": "reject", "conditions": {}, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json
    return made


def test_a_created_rule_is_shown_with_its_conditions_in_their_one_spelling(api: Api) -> None:
    address_id = api.new_address()
    body = {"action": "quarantine", "conditions": EVERYTHING, "address_id": address_id, "note": "why"}
    answer = api.post("/rules", body)
    assert answer.status_code == 201
    shown = answer.json
    assert len(shown.pop("id")) == 16
    assert shown == {
        "address_id": address_id,
        "position": 1,
        "action": "quarantine",
        "conditions": EVERYTHING
        | {
            "sender": ["jo@example.com", "*@xn--bcher-kva.example", "<>"],
            "sender_domain": ["example.com", "*.example.com"],
            "ip": ["192.0.2.0/24", "2001:db8::/32", "192.0.2.7/32"],
            "helo": ["[192.0.2.7]", "*.dyn.example"],
            "attachment_type": ["image/*", "application/zip"],
            "attachment_extension": ["exe", "tar.gz"],
        },
        "note": "why",
        "created_at": "2026-09-21T14:13:20.000Z",
        "updated_at": "2026-09-21T14:13:20.000Z",
    }
    assert api.get(f"/rules/{answer.json['id']}").json == answer.json


@pytest.mark.parametrize("action", ["allow", "reject", "quarantine", "flag"])
def test_every_action_is_taken_and_only_conditions_that_ask_are_shown(api: Api, action: str) -> None:
    made = new_rule(api, action=action, conditions={"virus_found": False, "spf": None})
    assert made["action"] == action
    assert made["conditions"] == {"virus_found": False}


@pytest.mark.parametrize(
    ("conditions", "named"),
    [
        ({"ip": ["192.0.2.1", "10.0.0.0/8", "10.0.0.0.1"]}, "conditions.ip[2]: is no IP address or network"),
        ({"ip": ["10.0.0.1/8"]}, "conditions.ip[0]: is no IP address or network (10.0.0.1/8 has host bits set)"),
        ({"ip": ["::ffff:192.0.2.1"]}, "conditions.ip[0]: is an IPv4 address inside"),
        ({"ip": []}, "conditions.ip: is empty"),
        ({"ip": "192.0.2.1"}, "conditions.ip: "),
        ({"ip": [f"10.0.0.{n}" for n in range(101)]}, "conditions.ip: has 101 values"),
        ({"sender": ["*"]}, "conditions.sender[0]: is no sender"),
        ({"sender": [""]}, "conditions.sender[0]: is no sender"),
        ({"sender": ["a@b.example", "a@b c"]}, "conditions.sender[1]: is no sender"),
        ({"sender": ["*@"]}, "conditions.sender[0]: is no sender"),
        ({"sender_domain": ["a@b.example"]}, "conditions.sender_domain[0]: is no domain name"),
        ({"sender_domain": ["*.*.example"]}, "conditions.sender_domain[0]: is no domain name"),
        ({"from_domain": ["[192.0.2.1]"]}, "conditions.from_domain[0]: is no domain name"),
        ({"helo": ["[ ]"]}, "conditions.helo[0]: is no domain name"),
        ({"recipient_pattern": ["a", "("]}, "conditions.recipient_pattern[1]: is not a valid regular expression"),
        ({"subject_pattern": ["(a)\\1"]}, "conditions.subject_pattern[0]: is not a valid regular expression"),
        ({"subject_pattern": ["a" * 1001]}, "conditions.subject_pattern[0]: is longer than 1000"),
        ({"sender_pattern": ["a"] * 11}, "conditions.sender_pattern: has 11 values"),
        ({"sender_pattern": ["(((a{100}){100}){100}){100}"]}, "conditions.sender_pattern[0]: is not a valid"),
        ({"spf": ["passed"]}, "conditions.spf.0: must be 'none'"),
        ({"attachment_type": ["pdf"]}, "conditions.attachment_type[0]: is no content type"),
        ({"attachment_type": ["*/*"]}, "conditions.attachment_type[0]: is no content type"),
        ({"attachment_extension": ["."]}, "conditions.attachment_extension[0]: is no file name extension"),
        ({"spam_score_min": "5"}, "conditions.spam_score_min: must be a valid number"),
        ({"spam_score_min": 1e9}, "conditions.spam_score_min: must be less"),
        ({"size_min": -1}, "conditions.size_min: must be greater"),
        ({"size_min": True}, "conditions.size_min"),
        ({"virus_found": "yes"}, "conditions.virus_found"),
        ({"senders": ["a@b.example"]}, "conditions.senders: is not a field"),
        ({"subject_pattern": ["a\0"]}, "conditions.subject_pattern.0: must not contain NUL"),
        (None, "conditions: "),
    ],
)
def test_a_wrong_condition_is_named_and_nothing_is_stored(api: Api, conditions: Any, named: str) -> None:
    answer = api.post("/rules", {"action": "reject", "conditions": conditions})
    assert answer.status_code == 422
    assert answer.json["error"].startswith(named)
    assert api.get("/rules").json == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"action": "drop"}, "action: must be 'allow'"),
        ({"action": None}, "action"),
        ({"position": -1}, "position"),
        ({"position": 1_000_001}, "position"),
        ({"position": "1"}, "position"),
        ({"note": "x" * 201}, "note"),
        ({"condition": {}}, "condition: is not a field"),
    ],
)
def test_a_wrong_field_is_named(api: Api, fields: dict[str, Any], named: str) -> None:
    answer = api.post("/rules", {"action": "reject", "conditions": {}, **fields})
    assert answer.status_code == 422
    assert answer.json["error"].startswith(named)


def test_conditions_must_be_written_out(api: Api) -> None:
    assert api.post("/rules", {"action": "reject"}).json["error"] == "conditions: is required"


def test_put_replaces_action_and_conditions_and_keeps_what_is_left_out(api: Api) -> None:
    address_id = api.new_address()
    made = new_rule(api, conditions={"ip": ["192.0.2.1"]}, address_id=address_id, note="why", position=7)
    api.now_ms += 1_000
    answer = api.put(f"/rules/{made['id']}", {"action": "flag", "conditions": {"spf": ["fail"]}})
    assert answer.status_code == 200
    assert answer.json == made | {
        "action": "flag",
        "conditions": {"spf": ["fail"]},
        "updated_at": "2026-09-21T14:13:21.000Z",
    }
    assert api.get(f"/rules/{made['id']}").json == answer.json


def test_put_with_null_takes_away(api: Api) -> None:
    made = new_rule(api, address_id=api.new_address(), note="why", position=7)
    answer = api.put(f"/rules/{made['id']}", made | {"address_id": None, "note": None, "position": None})
    assert (answer.json["address_id"], answer.json["note"], answer.json["position"]) == (None, None, 7)
    moved = api.put(f"/rules/{made['id']}", made | {"position": 3})
    assert (moved.json["position"], moved.json["note"]) == (3, "why")


def test_what_get_gives_can_be_put_back(api: Api) -> None:
    made = new_rule(api, conditions=EVERYTHING, address_id=api.new_address(), note="why")
    assert api.put(f"/rules/{made['id']}", made).json == made


def test_a_deleted_rule_is_gone(api: Api) -> None:
    made = new_rule(api)
    answer = api.delete(f"/rules/{made['id']}")
    assert (answer.status_code, answer.json) == (202, made)
    body = {"action": "reject", "conditions": {}}
    answers = [
        api.get(f"/rules/{made['id']}"),
        api.put(f"/rules/{made['id']}", body),
        api.delete(f"/rules/{made['id']}"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert api.get("/rules").json == []


def test_another_accounts_rule_and_address_do_not_exist(api: Api, database: Database, tmp_path: Path) -> None:
    stranger = Api(database, create_account(database, "other", NOW_MS), api_settings(tmp_path))
    theirs, their_address = new_rule(stranger), stranger.new_address()
    body = {"action": "allow", "conditions": {}}
    answers = [
        api.get(f"/rules/{theirs['id']}"),
        api.put(f"/rules/{theirs['id']}", body),
        api.delete(f"/rules/{theirs['id']}"),
        api.post("/rules", body | {"address_id": their_address}),
        api.put(f"/rules/{new_rule(api)['id']}", body | {"address_id": their_address}),
        api.get("/rules", address_id=their_address),
    ]
    assert [answer.status_code for answer in answers] == [404] * 6
    assert stranger.get(f"/rules/{theirs['id']}").json == theirs


@pytest.mark.parametrize("rule_id", ["zzz", "%00", "0" * 16, "a" * 17, "..%2f"])
def test_an_id_that_names_nothing_is_404(api: Api, rule_id: str) -> None:
    assert api.get(f"/rules/{rule_id}").status_code == 404


def test_the_list_is_in_the_order_of_asking_and_leads_on(api: Api) -> None:
    address_id = api.new_address()
    last, first, middle = (new_rule(api, position=position)["id"] for position in (9, 1, 5))
    bound = new_rule(api, position=3, address_id=address_id)["id"]
    page = api.get("/rules", per_page=3)
    assert [entry["id"] for entry in page.json] == [first, bound, middle]
    assert page.headers["Link"].endswith('>; rel="next"')
    behind = api.get("/rules", per_page=3, cursor=page.headers["X-Next-Cursor"])
    assert [entry["id"] for entry in behind.json] == [last]
    assert "Link" not in behind.headers
    assert [entry["id"] for entry in api.get("/rules", address_id=address_id).json] == [bound]
    assert [entry["id"] for entry in api.get("/rules", page=2, per_page=3).json] == [last]
    assert api.get("/rules", cursor="x").json["error"].startswith("cursor: ")


def test_the_reference_describes_each_condition(api: Api) -> None:
    schemas = api.client.get("/openapi.json").json["components"]["schemas"]
    described = schemas["RuleConditions"]["properties"]
    assert set(described) == set(EVERYTHING)
    assert all(entry["description"] for entry in described.values())
    assert schemas["RuleConditions"]["additionalProperties"] is False
