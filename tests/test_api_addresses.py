"""`/addresses`."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.clock import HOUR_MS
from core.formats import TargetFormat
from core.services.accounts import NewAccount, create_account
from core.store.db import Database
from tests.api_support import TARGET, Api, api_settings
from tests.conftest import NOW_MS


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


def test_a_rotated_secret_signs_beside_the_old_one_until_the_overlap_is_over(api: Api) -> None:
    made = api.post("/addresses", {"target": TARGET, "target_format": "json+n"}).json
    path = f"/addresses/{made['id']}"
    assert made["previous_signing_secret"] is None
    rotated = api.post(f"{path}/rotate_secret", {"overlap_hours": 2}).json
    assert rotated["previous_signing_secret"] == made["signing_secret"] != rotated["signing_secret"]
    assert rotated["previous_signing_secret_expires_at"] == "2026-09-21T16:13:20.000Z"
    assert api.get(path).json == rotated
    api.now_ms += 2 * HOUR_MS
    over = api.get(path).json
    assert (over["previous_signing_secret"], over["previous_signing_secret_expires_at"]) == (None, None)
    assert over["signing_secret"] == rotated["signing_secret"]
    at_once = api.post(f"{path}/rotate_secret", {"overlap_hours": 0}).json
    assert at_once["previous_signing_secret"] is None


@pytest.mark.parametrize("hours", [-1, 721, "many", 1.5, None])
def test_an_overlap_that_cannot_be_is_named(api: Api, hours: object) -> None:
    made = api.post("/addresses", {"target": TARGET, "target_format": "json+n"}).json
    answer = api.post(f"/addresses/{made['id']}/rotate_secret", {"overlap_hours": hours})
    assert answer.status_code == 422
    assert answer.json["error"].startswith("overlap_hours")


def test_created_address_has_the_vendors_fields_and_ours(api: Api) -> None:
    answer = api.post("/addresses", {"target": TARGET, "target_format": "json+n", "nickname": "support"})
    assert answer.status_code == 201
    body = answer.json
    assert body["target"] == TARGET
    assert body["target_format"] == "json+n"
    assert body["nickname"] == "support"
    assert body["attachments"] == {}
    assert len(body["id"]) == 20
    assert body["address"] == f"{body['id']}@pillarbox.test"
    assert body["signing_secret"].startswith("whsec_")
    assert body["created_at"] == "2026-09-21T14:13:20.000Z"
    assert api.get(f"/addresses/{body['id']}").json == body


@pytest.mark.parametrize("target_format", list(TargetFormat))
def test_every_format_is_taken(api: Api, target_format: str) -> None:
    answer = api.post("/addresses", {"target": TARGET, "target_format": target_format})
    assert answer.status_code == 201
    assert answer.json["target_format"] == target_format


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"target": None}, "target"),
        ({"target": "ftp://example.com/"}, "target: must begin with http"),
        ({"target": "not a url"}, "target"),
        ({"target": "https://" + "a" * 2000}, "target"),
        ({"target_format": "xml"}, "target_format: must be 'json+n'"),
        ({"target_format": None}, "target_format"),
        ({"nickname": "x" * 101}, "nickname"),
        ({"nickname": "a\0b"}, "nickname: must not contain NUL"),
        ({"nickname": 7}, "nickname"),
        ({"attachments": {"store": "s3"}}, "attachments.kind: is required"),
        ({"nickanme": "x"}, "nickanme: is not a field"),
    ],
)
def test_wrong_field_is_named(api: Api, fields: dict[str, object], named: str) -> None:
    answer = api.post("/addresses", {"target": TARGET, "target_format": "json+n", **fields})
    assert answer.status_code == 422
    assert answer.json["status"] == 422
    assert answer.json["error"].startswith(named)


def test_missing_fields_are_named(api: Api) -> None:
    assert api.post("/addresses", {}).json["error"] == "target: is required; target_format: is required"


@pytest.mark.parametrize("attachments", [{}, None])
def test_an_empty_attachment_store_is_taken(api: Api, attachments: object) -> None:
    answer = api.post("/addresses", {"target": TARGET, "target_format": "json+n", "attachments": attachments})
    assert answer.status_code == 201


def test_put_replaces_target_and_format_and_keeps_a_nickname_left_out(api: Api) -> None:
    address_id = api.new_address(nickname="support")
    answer = api.put(f"/addresses/{address_id}", {"target": "http://example.org/", "target_format": "raw"})
    assert answer.status_code == 200
    assert (answer.json["target"], answer.json["target_format"]) == ("http://example.org/", "raw")
    assert answer.json["nickname"] == "support"
    assert api.get(f"/addresses/{address_id}").json == answer.json


def test_put_with_null_takes_the_nickname_away(api: Api) -> None:
    address_id = api.new_address(nickname="support")
    body = {"target": TARGET, "target_format": "raw", "nickname": None}
    assert api.put(f"/addresses/{address_id}", body).json["nickname"] is None


def test_put_needs_target_and_format(api: Api) -> None:
    answer = api.put(f"/addresses/{api.new_address()}", {"nickname": "x"})
    assert answer.status_code == 422
    assert "target: is required" in answer.json["error"]


def test_what_get_gives_can_be_put_back(api: Api) -> None:
    address_id = api.new_address(nickname="a")
    before = api.get(f"/addresses/{address_id}").json
    assert api.put(f"/addresses/{address_id}", before).json == before


def test_put_with_a_new_target_moves_waiting_mail_to_its_host(api: Api, database: Database) -> None:
    address_id, other_id = api.new_address(), api.new_address()
    domain = api.post("/custom_domains", {"domain": "d.example.org", "address_id": address_id}).json["id"]
    own_target = api.receive(address_id, custom_domain_id=domain, target="https://own.example.org/")
    delivered = api.receive_and_attempt(address_id, 200)
    waiting, others = api.receive(address_id), api.receive(other_id)
    api.put(f"/addresses/{address_id}", {"target": "http://new.example.net:81/x", "target_format": "raw"})
    with database.reading():
        hosts = dict(database.execute("SELECT id, target_host FROM delivery"))
    assert hosts == {
        waiting: "http://new.example.net:81",
        delivered: "https://example.com:443",
        others: "https://example.com:443",
        own_target: "https://own.example.org:443",
    }


def test_deleted_address_is_gone_with_its_domains(api: Api) -> None:
    address_id = api.new_address()
    domain_id = api.post("/custom_domains", {"domain": "d.example.org", "address_id": address_id}).json["id"]
    answer = api.delete(f"/addresses/{address_id}")
    assert answer.status_code == 202
    assert answer.json["id"] == address_id
    assert api.get(f"/addresses/{address_id}").status_code == 404
    assert api.put(f"/addresses/{address_id}", {"target": TARGET, "target_format": "raw"}).status_code == 404
    assert api.delete(f"/addresses/{address_id}").status_code == 404
    assert api.get(f"/custom_domains/{domain_id}").status_code == 404
    assert api.get("/addresses").json == []
    assert api.get("/custom_domains").json == []


def test_deleted_address_takes_its_rules_along(api: Api) -> None:
    address_id = api.new_address()
    rule = {"action": "reject", "conditions": {}}
    bound = api.post("/rules", rule | {"address_id": address_id}).json["id"]
    free = api.post("/rules", rule).json["id"]
    api.delete(f"/addresses/{address_id}")
    assert [entry["id"] for entry in api.get("/rules").json] == [free]
    assert api.get(f"/rules/{bound}").status_code == 404


def test_what_a_deleted_address_received_is_still_delivered_and_listed(api: Api) -> None:
    address_id = api.new_address()
    status_id = api.receive(address_id)
    api.delete(f"/addresses/{address_id}")
    assert [delivery.delivery_id for delivery in api.claim()] == [status_id]
    assert [status["id"] for status in api.get("/incoming_statuses", address_id=address_id).json] == [status_id]


def test_another_accounts_address_does_not_exist(api: Api, database: Database, tmp_path: Path) -> None:
    stranger = Api(database, create_account(database, "other", NOW_MS), api_settings(tmp_path))
    theirs = stranger.new_address()
    body = {"target": TARGET, "target_format": "raw"}
    answers = [
        api.get(f"/addresses/{theirs}"),
        api.put(f"/addresses/{theirs}", body),
        api.delete(f"/addresses/{theirs}"),
        api.post("/custom_domains", {"domain": "d.example.org", "address_id": theirs}),
        api.get("/incoming_statuses", address_id=theirs),
    ]
    assert [answer.status_code for answer in answers] == [404] * 5
    assert api.get("/addresses").json == []
    assert stranger.get(f"/addresses/{theirs}").status_code == 200


@pytest.mark.parametrize("address_id", ["zzz", "%00", "0" * 20, "a" * 21, "%F0%9F%98%80", "..%2f"])
def test_an_id_that_names_nothing_is_404(api: Api, address_id: str) -> None:
    answer = api.get(f"/addresses/{address_id}")
    assert answer.status_code == 404
    assert answer.json["status"] == 404


def test_list_is_newest_first_and_the_cursor_meets_each_entry_once(api: Api) -> None:
    made = []
    for _ in range(7):
        made.append(api.new_address())
        api.now_ms += 1 if len(made) % 3 == 0 else 0  # several of the same millisecond
    seen: list[str] = []
    answer = api.get("/addresses", per_page=2)
    while True:
        seen += [entry["id"] for entry in answer.json]
        if "Link" not in answer.headers:
            break
        api.now_ms += 1
        api.new_address()  # the list grows at the top while it is read
        assert answer.headers["Link"].endswith('>; rel="next"')
        url = answer.headers["Link"].split(">")[0].removeprefix("<")
        answer = api.client.get(url, headers={"Authorization": f"Bearer {api.account.api_key}"})
    assert sorted(seen) == sorted(made)
    assert seen[0] == made[-1]


def test_numbered_pages_work_as_the_vendors_do(api: Api) -> None:
    for _ in range(3):
        api.new_address()
        api.now_ms += 1
    pages = [[entry["id"] for entry in api.get("/addresses", page=page, per_page=2).json] for page in (1, 2, 3)]
    assert [len(page) for page in pages] == [2, 1, 0]
    assert len({entry for page in pages for entry in page}) == 3


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"page": "0"}, "page"),
        ({"page": "x"}, "page: must be a valid integer"),
        ({"page": "99999999999999999999"}, "page"),
        ({"per_page": "201"}, "per_page"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "\0"}, "cursor"),
        ({"cursor": "1-a", "page": "1"}, "page"),
        ({"adress_id": "1"}, "adress_id: is not a field"),
    ],
)
def test_wrong_parameter_is_named(api: Api, query: dict[str, str], named: str) -> None:
    answer = api.get("/addresses", **query)
    assert answer.status_code == 422
    assert answer.json["error"].startswith(named)
