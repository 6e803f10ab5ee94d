"""`/suppressions`."""

from __future__ import annotations

import csv
import threading
from pathlib import Path

import pytest

from core.clock import DAY_MS
from core.sending.suppression import SuppressionReason
from core.services.accounts import NewAccount, create_account
from core.services.suppression_lists import EXPORT_PAGE, MAX_ADDED
from core.services.suppressions import NewSuppression, SendTarget, add_suppressions, count_soft_bounces
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS

DOMAIN = "0123456789abcdef"
OTHER_DOMAIN = "fedcba9876543210"


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    with database.transaction():
        for made, name in ((DOMAIN, "shop.example"), (OTHER_DOMAIN, "news.example")):
            add_domain(database, account.account_id, made, name)
    return Api(database, account, api_settings(tmp_path))


def add_domain(database: Database, account_id: str, domain_id: str, name: str, deleted_ms: int | None = None) -> None:
    database.execute(
        "INSERT INTO sending_domain (id, account_id, domain, dkim_verified, return_path_verified, spf_verified, "
        "dmarc_verified, tracking_verified, next_check_ms, settings, created_ms, deleted_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, '{}', 0, ?)",
        (domain_id, account_id, name, True, True, True, True, False, deleted_ms),
    )


def suppress(api: Api, address: str, reason: SuppressionReason, domain_id: str | None = None) -> None:
    with api.database.transaction():
        target = SendTarget(api.account.account_id, domain_id, address)
        add_suppressions(api.database, [NewSuppression(target, reason)], api.now_ms)
    api.now_ms += 1


def add(api: Api, *addresses: str, **fields: object) -> list[dict[str, object]]:
    answer = api.post("/suppressions", {"addresses": list(addresses), **fields})
    assert answer.status_code == 201, answer.text
    api.now_ms += 1
    found: list[dict[str, object]] = answer.json
    return found


def test_an_added_address_is_shown_as_lists_hold_it(api: Api) -> None:
    (made,) = add(api, "Ann.Lee@BÜCHER.example", note="asked by telephone")
    assert made == {
        "id": made["id"],
        "address": "ann.lee@xn--bcher-kva.example",
        "reason": "manual",
        "sending_domain_id": None,
        "detail": "asked by telephone",
        "message_id": None,
        "created_at": "2026-09-21T14:13:20.000Z",
    }
    for named in (made["id"], "ANN.LEE@bücher.example", "ann.lee@xn--bcher-kva.example"):
        assert api.get(f"/suppressions/{named}").json == made


def test_what_is_on_the_list_stays_as_it_is(api: Api) -> None:
    suppress(api, "ann@example.com", SuppressionReason.COMPLAINT)
    made = add(api, "bob@example.com", "Ann@example.com", "BOB@example.com")
    assert [(one["address"], one["reason"]) for one in made] == [
        ("bob@example.com", "manual"),
        ("ann@example.com", "complaint"),
    ]
    assert len(api.get("/suppressions").json) == 2


@pytest.mark.parametrize(
    "bad", ["", "ann", "ann@", "Ann <ann@example.com>", "a@b c", "a@example.com\r\nBcc: b@c", "\ud800@a.b"]
)
def test_one_address_that_is_none_is_named_and_nothing_is_added(api: Api, bad: str) -> None:
    answer = api.post("/suppressions", {"addresses": ["fine@example.com", bad]})
    assert answer.status_code == 422
    assert api.get("/suppressions").json == []
    if bad.isascii():
        assert answer.json["error"].startswith("addresses.1: ")


def test_how_many_at_once(api: Api) -> None:
    many = [f"r{number}@example.com" for number in range(MAX_ADDED)]
    assert len(add(api, *many)) == MAX_ADDED
    assert api.post("/suppressions", {"addresses": [*many, "one@example.com"]}).status_code == 422
    assert api.post("/suppressions", {"addresses": []}).status_code == 422
    assert api.post("/suppressions", {"address": "ann@example.com"}).status_code == 422


def test_a_domains_list_is_its_own(api: Api) -> None:
    (of_account,) = add(api, "ann@example.com")
    (of_domain,) = add(api, "ann@example.com", sending_domain_id=DOMAIN)
    assert of_account["id"] != of_domain["id"]
    assert api.get("/suppressions/ann@example.com").json == of_account
    assert api.get("/suppressions/ann@example.com", sending_domain_id=DOMAIN).json == of_domain
    assert api.get("/suppressions/ann@example.com", sending_domain_id=OTHER_DOMAIN).status_code == 404
    assert api.get("/suppressions", sending_domain_id=DOMAIN).json == [of_domain]
    assert api.delete("/suppressions/Ann@example.com", sending_domain_id=DOMAIN).json == of_domain
    assert api.get("/suppressions").json == [of_account]


def test_a_domain_must_be_the_accounts_own(api: Api) -> None:
    other = create_account(api.database, "other", NOW_MS)
    foreign, deleted = "1" * 16, "2" * 16
    with api.database.transaction():
        add_domain(api.database, other.account_id, foreign, "other.example")
        add_domain(api.database, api.account.account_id, deleted, "old.example", NOW_MS)
    for domain_id in (foreign, deleted, "3" * 16, "nonsense"):
        answer = api.post("/suppressions", {"addresses": ["a@example.com"], "sending_domain_id": domain_id})
        assert answer.status_code == 404, domain_id
    assert api.get("/suppressions", sending_domain_id=foreign).status_code == 404
    assert api.get("/suppressions", sending_domain_id=deleted).json == []


def test_filters(api: Api) -> None:
    suppress(api, "ann@example.com", SuppressionReason.HARD_BOUNCE)
    suppress(api, "bob@example.com", SuppressionReason.COMPLAINT, DOMAIN)
    suppress(api, "a_n%@example.org", SuppressionReason.COMPLAINT)

    def found(**query: str) -> list[str]:
        return [entry["address"] for entry in api.get("/suppressions", **query).json]

    assert found() == ["a_n%@example.org", "bob@example.com", "ann@example.com"]
    assert found(reason="complaint") == ["a_n%@example.org", "bob@example.com"]
    assert found(address="EXAMPLE.com") == ["bob@example.com", "ann@example.com"]
    assert found(address="n%") == found(address="_n") == ["a_n%@example.org"]
    assert found(reason="complaint", sending_domain_id=DOMAIN) == ["bob@example.com"]
    assert api.get("/suppressions", reason="nonsense").status_code == 422
    assert api.get("/suppressions", adress="x").status_code == 422


def test_pages_follow_each_other_while_the_list_grows(api: Api) -> None:
    for number in range(5):
        add(api, f"r{number}@example.com")
    first = api.get("/suppressions", per_page=2, reason="manual")
    add(api, "new@example.com")
    second = api.client.get(
        first.headers["Link"].partition("<")[2].partition(">")[0],
        headers={"Authorization": f"Bearer {api.account.api_key}"},
    )
    assert [entry["address"] for entry in first.json + second.json] == [
        f"r{number}@example.com" for number in (4, 3, 2, 1)
    ]
    last = api.get("/suppressions", per_page=2, cursor=second.headers["X-Next-Cursor"])
    assert [entry["address"] for entry in last.json] == ["r0@example.com"]
    assert "Link" not in last.headers
    assert api.get("/suppressions", cursor="nonsense").status_code == 422


def test_accounts_see_their_own_only(api: Api, tmp_path: Path) -> None:
    (made,) = add(api, "ann@example.com")
    other = Api(api.database, create_account(api.database, "other", NOW_MS), api.settings)
    assert other.get("/suppressions").json == []
    for named in (made["id"], "ann@example.com"):
        assert other.get(f"/suppressions/{named}").status_code == 404
        assert other.delete(f"/suppressions/{named}").status_code == 404
    assert len(api.get("/suppressions").json) == 1


def test_to_remove_forgets_soft_bounces_too(api: Api) -> None:
    target = SendTarget(api.account.account_id, None, "ann@example.com")
    for days in (0, 3):
        with api.database.transaction():
            count_soft_bounces(api.database, [target] * 2, 3, NOW_MS + days * DAY_MS)
    with api.database.transaction():
        count_soft_bounces(api.database, [target], 3, NOW_MS)
    (found,) = api.get("/suppressions", reason="soft_bounce").json
    assert api.delete(f"/suppressions/{found['id']}").status_code == 202
    assert api.delete(f"/suppressions/{found['id']}").status_code == 404
    assert api.get("/suppressions").json == []
    with api.database.reading():
        assert api.database.execute("SELECT address FROM soft_bounce") == []


def test_the_export_is_the_whole_list(api: Api) -> None:
    many = [f"r{number}@example.com" for number in range(EXPORT_PAGE)]
    add(api, *many)
    add(api, '"quoted, with comma"@example.com', note='a "note"\nof two lines', sending_domain_id=DOMAIN)
    answer = api.get("/suppressions.csv")
    assert answer.content_type == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(answer.text.splitlines(keepends=True)))
    assert len(rows) == EXPORT_PAGE + 1
    assert sorted(row["address"] for row in rows[1:]) == sorted(many)
    assert rows[0] == {
        "address": '"quoted, with comma"@example.com',
        "reason": "manual",
        "sending_domain_id": DOMAIN,
        "detail": 'a "note"\nof two lines',
        "message_id": "",
        "created_at": "2026-09-21T14:13:20.001Z",
    }
    filtered = api.get("/suppressions.csv", sending_domain_id=DOMAIN).text
    assert len(list(csv.reader(filtered.splitlines(keepends=True)))) == 2
    assert api.get("/suppressions.csv", sending_domain_id="1" * 16).status_code == 404


def test_those_who_add_at_once_make_one_entry(api: Api) -> None:
    answers: list[list[object]] = []

    def work(turn: int) -> None:
        addresses = [f"r{number}@example.com" for number in range(20)]
        ids = {entry["address"]: entry["id"] for entry in add(api, *addresses[:: 1 if turn % 2 else -1])}
        answers.append([ids[address] for address in addresses])
        api.database.close()

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 6
    assert all(answer == answers[0] for answer in answers)
    assert len(api.get("/suppressions", per_page=200).json) == 20
