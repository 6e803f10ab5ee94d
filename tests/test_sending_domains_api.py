"""`/sending_domains`: the vendor's fields and ours, records to copy, keys to rotate, and nothing of anybody else's."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core.clock import DAY_MS
from core.sending import domain_questions
from core.services.accounts import NewAccount, create_account
from core.store.db import Database
from tests.api_support import Api
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS
from tests.sending_domain_support import MX, RETURNS, TRACKING, gateway_settings, publish_operator, publish_shown
from web.api import sending_domains

VENDORS = {
    *("id", "domain", "mta_domain", "dkim_selector", "dkim_domain", "dkim_public_record", "required_cname"),
    *("dkim_verified", "return_path_verified", "spf_verified"),
}
VERDICTS = ("dkim_verified", "return_path_verified", "spf_verified", "dmarc_verified", "tracking_verified")


@pytest.fixture
def api(database: Database, account: NewAccount, zones: ZoneServer, tmp_path: Path) -> Api:
    settings = gateway_settings(tmp_path, zones, dmarc_reports="dmarc@gateway.example", source_ips="192.0.2.1")
    publish_operator(zones, settings)
    return Api(database, account, settings)


def create(api: Api, domain: str = "example.com", **fields: Any) -> dict[str, Any]:
    answer = api.post("/sending_domains", {"domain": domain, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json
    return made


def verify(api: Api, domain_id: str) -> dict[str, Any]:
    answer = api.post(f"/sending_domains/{domain_id}/verify")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def verdicts(answer: dict[str, Any]) -> list[bool]:
    return [answer[name] for name in VERDICTS]


def test_a_new_domain_has_the_vendors_fields_and_ours(api: Api) -> None:
    made = create(api, "Example.COM.")
    selector = made["dkim_selector"]
    assert set(made) > VENDORS
    assert len(made["id"]) == 16
    assert (made["domain"], made["mta_domain"], made["required_cname"]) == ("example.com", "mta.example.com", RETURNS)
    assert made["dkim_domain"] == f"{selector}._domainkey.example.com"
    assert made["dkim_public_record"].startswith("v=DKIM1; k=rsa; p=")
    assert verdicts(made) == [False] * 5
    assert made["created_at"] == "2026-09-21T14:13:20.000Z"
    assert (made["signing_domain"], made["checked_at"], made["paused_because"]) == (None, None, None)
    assert set(made["checks"].values()) == {None}
    assert set(made["settings"].values()) == {None}
    assert [(key["selector"], key["algorithm"], key["state"]) for key in made["keys"]] == [(selector, "rsa", "pending")]
    assert api.get(f"/sending_domains/{made['id']}").json == made


def test_the_records_can_be_copied_and_then_verify(api: Api, zones: ZoneServer) -> None:
    made = create(api, ed25519=True)
    assert [(record["purpose"], record["type"], record["is_required"]) for record in made["records"]] == [
        ("return_path", "CNAME", True),
        ("dkim", "TXT", True),
        ("dkim", "TXT", True),
        ("dmarc", "TXT", False),
    ]
    path, key = made["records"][:2]
    assert (path["name"], path["value"]) == ("mta.example.com", RETURNS)
    assert path["zone_line"] == f"mta.example.com. IN CNAME {RETURNS}."
    assert (key["name"], key["value"]) == (made["dkim_domain"], made["dkim_public_record"])
    assert key["zone_line"].startswith(f'{made["dkim_domain"]}. IN TXT "v=DKIM1; k=rsa; p=')
    assert '" "' in key["zone_line"]
    assert verdicts(verify(api, made["id"])) == [False] * 5
    publish_shown(zones, made["records"])
    found = verify(api, made["id"])
    assert verdicts(found) == [True, True, True, True, False]
    assert (found["signing_domain"], found["dmarc_policy"]) == ("example.com", "none")
    assert [key["state"] for key in found["keys"]] == ["active", "active"]
    assert {name: check and check["state"] for name, check in found["checks"].items()} == {
        **dict.fromkeys(("dkim", "return_path", "spf", "dmarc"), "verified"),
        "tracking": None,
    }
    assert found["checks"]["return_path"]["found"] == [{"name": "mta.example.com", "type": "CNAME", "value": RETURNS}]
    assert api.get(f"/sending_domains/{made['id']}").json == found


def test_the_records_without_a_cname_do_as_well(api: Api, zones: ZoneServer) -> None:
    made = create(api)
    assert [(record["type"], record["value"]) for record in made["records_without_cname"]] == [
        ("MX", f"10 {MX}"),
        ("TXT", f"v=spf1 include:{RETURNS} -all"),
    ]
    publish_shown(zones, [*made["records"][1:], *made["records_without_cname"]])
    assert verdicts(verify(api, made["id"])) == [True, True, True, True, False]


def test_a_check_says_what_was_found_and_what_to_do(api: Api, zones: ZoneServer) -> None:
    made = create(api)
    zones.add(made["dkim_domain"], "TXT", "v=spf1 -all")
    found = verify(api, made["id"])["checks"]
    assert found["dkim"]["state"] == "wrong"
    assert found["dkim"]["found"] == [{"name": made["dkim_domain"], "type": "TXT", "value": "v=spf1 -all"}]
    assert "Replace the TXT record" in found["dkim"]["cure"]
    assert found["return_path"]["state"] == "missing"
    assert f"Make mta.example.com a CNAME of {RETURNS}" in found["return_path"]["cure"]


def test_a_failing_dns_is_unknown_and_takes_nothing_away(api: Api, zones: ZoneServer) -> None:
    made = create(api)
    publish_shown(zones, made["records"])
    verify(api, made["id"])
    for labels, _ in list(zones.records):
        zones.failing.add(labels)
    zones.records.clear()
    found = verify(api, made["id"])
    assert verdicts(found) == [True, True, True, True, False]
    assert {check["state"] for check in found["checks"].values() if check} == {"unknown"}
    assert found["dmarc_policy"] == "none"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_silent_dns_is_bounded_and_does_not_hold_all_threads(
    api: Api, zones: ZoneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain_questions, "VERIFY_S", 1.0)
    made = create(api)
    zones.gate.clear()
    codes: list[int] = []

    def ask() -> None:
        codes.append(api.post(f"/sending_domains/{made['id']}/verify").status_code)
        api.database.close()

    started = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(sending_domains.VERIFICATIONS_AT_ONCE)]
    for thread in threads:
        thread.start()
    while len(zones.asked) < len(threads):
        time.sleep(0.01)  # until each of them has asked
    refused = api.post(f"/sending_domains/{made['id']}/verify")
    assert refused.status_code == 503
    assert "try again" in refused.json["error"]
    assert refused.headers["Retry-After"]
    for thread in threads:
        thread.join(30)
    assert time.monotonic() - started < 6
    assert codes == [200] * len(threads)
    zones.gate.set()
    assert api.get(f"/sending_domains/{made['id']}").json["checks"]["dkim"]["state"] == "unknown"
    assert verify(api, made["id"])["checks"]["dkim"]["state"] == "missing"


def test_private_keys_are_nowhere_to_be_seen(api: Api, database: Database, zones: ZoneServer) -> None:
    made = create(api, ed25519=True)
    publish_shown(zones, made["records"])
    answers = [made, verify(api, made["id"]), api.get("/sending_domains").json]
    answers.append(api.post(f"/sending_domains/{made['id']}/keys", {}).json)
    with database.reading():
        pems = [row[0] for row in database.execute("SELECT private_pem FROM domain_key")]
    assert len(pems) == 3
    shown = json.dumps(answers)
    assert "PRIVATE" not in shown
    assert not any(line in shown for pem in pems for line in pem.splitlines()[1:-1])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"domain": "localhost"}, "domain: 'localhost' is no domain name"),
        ({"domain": "co.uk"}, "domain: co.uk is a public suffix"),
        ({"domain": "192.0.2.1"}, "is no domain name"),
        ({"domain": "a\0.example"}, "domain: must not contain NUL"),
        ({"domain": "a." * 120 + "example"}, "domain: has"),
        ({"domain": "user@example.com"}, "is no domain name"),
        ({"domain": "x" * 256}, "domain: must have at most 255"),
        ({"domain": None}, "domain: must be a valid string"),
        ({}, "domain: is required"),
        ({"domain": "example.com", "ed25519": "yes"}, "ed25519: must be a valid boolean"),
        ({"domain": "example.com", "selector": "s1"}, "selector: is not a field"),
    ],
)
def test_a_wrong_field_is_named(api: Api, fields: dict[str, object], words: str) -> None:
    answer = api.post("/sending_domains", fields)
    assert answer.status_code == 422
    assert words in answer.json["error"]
    assert api.get("/sending_domains").json == []


def test_a_domain_is_there_once(api: Api, database: Database) -> None:
    made = create(api)
    answer = api.post("/sending_domains", {"domain": "EXAMPLE.com"})
    assert (answer.status_code, answer.json["error"].partition(":")[0]) == (422, "domain")
    assert api.delete(f"/sending_domains/{made['id']}").status_code == 202
    assert api.get(f"/sending_domains/{made['id']}").status_code == 404
    assert api.delete(f"/sending_domains/{made['id']}").status_code == 404
    create(api)


def test_list_finds_parts_of_names_and_goes_on_by_cursor(api: Api) -> None:
    for name in ("a.example.com", "b.example.org", "bücher.example"):
        create(api, name)
        api.now_ms += 1

    def listed(**query: object) -> list[str]:
        return [entry["domain"] for entry in api.get("/sending_domains", **query).json]

    assert listed() == ["xn--bcher-kva.example", "b.example.org", "a.example.com"]
    assert listed(query="EXAMPLE.org") == ["b.example.org"]
    assert listed(query="bücher.example") == ["xn--bcher-kva.example"]
    assert listed(query="%") == listed(query="_") == []
    assert listed(query="example", page=2, per_page=2) == ["a.example.com"]
    first = api.get("/sending_domains", per_page=2, query="example")
    second = api.get("/sending_domains", per_page=2, query="example", cursor=first.headers["X-Next-Cursor"])
    assert [entry["domain"] for entry in first.json + second.json] == listed()
    assert "X-Next-Cursor" not in second.headers
    assert api.get("/sending_domains", cursor="x").status_code == 422


def test_another_accounts_domain_does_not_exist(api: Api, database: Database) -> None:
    stranger = Api(database, create_account(database, "other", NOW_MS), api.settings)
    theirs = create(stranger)
    path = f"/sending_domains/{theirs['id']}"
    answers = [
        api.get(path),
        api.delete(path),
        api.post(f"{path}/verify"),
        api.post(f"{path}/keys", {}),
        api.delete(f"{path}/keys/{theirs['dkim_selector']}"),
        api.put(path, {"settings": {}}),
        api.call("PATCH", path, json={"settings": {"track_opens": False}}),
    ]
    assert [answer.status_code for answer in answers] == [404] * 7
    assert api.get("/sending_domains").json == []
    assert stranger.get(path).json == theirs
    assert create(api)["dkim_public_record"] != theirs["dkim_public_record"]


@pytest.mark.parametrize("name", ["x", "0" * 15, "g" * 16, "0" * 17])
def test_an_id_of_another_form_names_nothing(api: Api, name: str) -> None:
    assert api.get(f"/sending_domains/{name}").status_code == 404


def test_keys_are_rotated_and_withdrawn(api: Api, zones: ZoneServer) -> None:
    made = create(api)
    publish_shown(zones, made["records"])
    verify(api, made["id"])
    path, old = f"/sending_domains/{made['id']}", made["dkim_selector"]
    api.now_ms += DAY_MS
    rotated = api.post(f"{path}/keys", {"algorithm": "rsa"})
    assert rotated.status_code == 201
    (new,) = [key for key in rotated.json["keys"] if key["state"] == "pending"]
    assert rotated.json["dkim_selector"] == old
    assert [record["name"] for record in rotated.json["records"] if record["purpose"] == "dkim"] == [
        f"{old}._domainkey.example.com",
        new["name"],
    ]
    again = api.post(f"{path}/keys", {})
    assert again.status_code == 409
    assert new["selector"] in again.json["error"]
    zones.add(new["name"], "TXT", new["public_record"])
    moved = verify(api, made["id"])
    assert moved["dkim_selector"] == new["selector"]
    assert {key["selector"]: key["state"] for key in moved["keys"]} == {old: "retiring", new["selector"]: "active"}
    gone = api.delete(f"{path}/keys/{old}")
    assert gone.status_code == 202
    assert {key["selector"]: key["state"] for key in gone.json["keys"]} == {old: "retired", new["selector"]: "active"}
    assert api.delete(f"{path}/keys/nothing").status_code == 404
    assert api.delete(f"{path}/keys/{'x' * 64}").status_code == 404
    assert api.post(f"{path}/keys", {"algorithm": "dsa"}).status_code == 422


def test_settings_are_changed_and_replaced(api: Api, zones: ZoneServer) -> None:
    made = create(api)
    path = f"/sending_domains/{made['id']}"
    some = {"track_opens": False, "hourly_limit": 50, "tracking_host": "Links.example.com", "source_ip": "192.0.2.1"}
    changed = api.call("PATCH", path, json={"settings": some})
    assert changed.status_code == 200
    kept = {name: value for name, value in changed.json["settings"].items() if value is not None}
    assert kept == {**some, "tracking_host": "links.example.com"}
    (record,) = [record for record in changed.json["records"] if record["purpose"] == "tracking"]
    assert (record["name"], record["type"], record["value"]) == ("links.example.com", "CNAME", TRACKING)
    publish_shown(zones, [record])
    assert verify(api, made["id"])["tracking_verified"] is True
    back = api.call("PATCH", path, json={"settings": {"hourly_limit": None}}).json["settings"]
    assert (back["hourly_limit"], back["track_opens"]) == (None, False)
    replaced = api.put(path, {"settings": {"ramp": True}}).json
    assert {name: value for name, value in replaced["settings"].items() if value is not None} == {"ramp": True}
    assert (replaced["tracking_verified"], replaced["checks"]["tracking"]) == (False, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"track_opens": 1}, "settings.track_opens: must be a valid boolean"),
        ({"hourly_limit": "5"}, "settings.hourly_limit: must be a valid integer"),
        ({"daily_limit": 0}, "settings.daily_limit: must be greater than or equal to 1"),
        ({"source_ip": "192.0.2.7"}, "settings.source_ip: 192.0.2.7 is no address that this gateway sends from"),
        ({"tracking_host": "example.org"}, "settings.tracking_host: 'example.org' is no name in example.com"),
        ({"colour": "red"}, "settings.colour: is not a field"),
        (None, "settings: "),
    ],
)
def test_a_wrong_setting_is_named(api: Api, settings: object, words: str) -> None:
    made = create(api)
    for method in ("PATCH", "PUT"):
        answer = api.call(method, f"/sending_domains/{made['id']}", json={"settings": settings})
        assert answer.status_code == 422
        assert words in answer.json["error"]
    assert api.get(f"/sending_domains/{made['id']}").json == made
