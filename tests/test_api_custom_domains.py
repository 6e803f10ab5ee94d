"""`/custom_domains`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import dns.rcode
import psycopg
import pytest

from core.addresses import parse_mailbox
from core.routing import Refusal, Route, resolve
from core.services.accounts import NewAccount, create_account
from core.services.routing_book import StoredAddressBook
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS
from tests.dns_server import DnsServer, running_dns


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


@pytest.fixture
def dns_server() -> Iterator[DnsServer]:
    with running_dns() as server:
        yield server


@pytest.fixture
def checked_api(database: Database, account: NewAccount, tmp_path: Path, dns_server: DnsServer) -> Api:
    settings = api_settings(tmp_path, mx_check=True, resolver=f"127.0.0.1:{dns_server.port}")
    return Api(database, account, settings)


def test_created_domain_has_the_vendors_fields_and_ours(api: Api) -> None:
    address_id = api.new_address()
    fields = {"domain": "Example.COM", "auth_regex": "in.*@example.com", "domain_target": "https://example.org/x"}
    answer = api.post("/custom_domains", fields, address_id=address_id)
    assert answer.status_code == 201
    domain_id = answer.json["id"]
    assert len(domain_id) == 16
    assert answer.json == {
        **fields,
        "domain": "example.com",
        "id": domain_id,
        "address_id": address_id,
        "dns_records": answer.json["dns_records"],
        "created_at": "2026-09-21T14:13:20.000Z",
    }
    assert api.get(f"/custom_domains/{domain_id}").json == answer.json


def test_the_records_to_publish_are_shown(database: Database, account: NewAccount, tmp_path: Path) -> None:
    settings = api_settings(
        tmp_path, hostname="in.example.net", public_url="https://api.example.net", tls_rpt="tls@example.net"
    )
    api = Api(database, account, settings)
    address_id = api.new_address()
    plain = api.post("/custom_domains", {"domain": "example.com"}, address_id=address_id).json["dns_records"]
    receiver, policy, host, reports = plain
    assert receiver == {"name": "example.com", "type": "MX", "value": "10 in.example.net"}
    assert (policy["name"], policy["type"]) == ("_mta-sts.example.com", "TXT")
    assert policy["value"].startswith("v=STSv1; id=")
    assert host == {"name": "mta-sts.example.com", "type": "CNAME", "value": "api.example.net"}
    assert reports == {
        "name": "_smtp._tls.example.com",
        "type": "TXT",
        "value": "v=TLSRPTv1; rua=mailto:tls@example.net",
    }
    wildcard = api.post("/custom_domains", {"domain": "*.example.org"}, address_id=address_id).json["dns_records"]
    assert wildcard == [{"name": "*.example.org", "type": "MX", "value": "10 in.example.net"}]


def test_mail_for_a_created_domain_is_routed(api: Api, database: Database) -> None:
    address_id = api.new_address()
    made = api.post("/custom_domains", {"domain": "*.example.com", "auth_regex": "in@.*"}, address_id=address_id)
    assert made.status_code == 201
    book = StoredAddressBook(database)
    route = resolve(parse_mailbox("in@a.example.com"), "pillarbox.test", book)
    assert isinstance(route, Route)
    assert route.address_id == address_id
    refused = resolve(parse_mailbox("out@a.example.com"), "pillarbox.test", book)
    assert refused is Refusal.PATTERN_MISMATCH


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.Example.com", "*.example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
    ],
)
def test_a_domain_has_one_spelling(api: Api, written: str, kept: str) -> None:
    answer = api.post("/custom_domains", {"domain": written}, address_id=api.new_address())
    assert answer.json["domain"] == kept


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"domain": "pillarbox.test"}, "domain: pillarbox.test is where all addresses live"),
        ({"domain": "*.PILLARBOX.test."}, "domain: *.pillarbox.test is where all addresses live"),
        ({"domain": "localhost"}, "domain: is not a domain name"),
        ({"domain": ""}, "domain: is not a domain name"),
        ({"domain": "*."}, "domain"),
        ({"domain": "*.*.example.com"}, "domain"),
        ({"domain": "a b.example.com"}, "domain"),
        ({"domain": "192.0.2.1"}, "domain"),
        ({"domain": "[192.0.2.1]"}, "domain"),
        ({"domain": "user@example.com"}, "domain"),
        ({"domain": "a" * 64 + ".example.com"}, "domain"),
        ({"domain": "a." * 127 + "com"}, "domain"),
        ({"domain": "a\0.example.com"}, "domain"),
        ({"domain": None}, "domain"),
        ({"auth_regex": "a("}, "auth_regex: is not a valid regular expression"),
        ({"auth_regex": r"(a)\1"}, "auth_regex"),
        ({"auth_regex": ""}, "auth_regex"),
        ({"auth_regex": "a" * 1001}, "auth_regex"),
        ({"auth_regex": "(((a{100}){100}){100}){100}"}, "auth_regex"),
        ({"domain_target": "file:///etc/passwd"}, "domain_target: must begin with http"),
        ({"address_id": None}, "address_id: is required"),
        ({"authregex": "x"}, "authregex: is not a field"),
    ],
)
def test_wrong_field_is_named(api: Api, fields: dict[str, object], named: str) -> None:
    body = {"domain": "example.com", "address_id": api.new_address(), **fields}
    answer = api.post("/custom_domains", body)
    assert answer.status_code == 422
    assert answer.json["error"].startswith(named)
    assert api.get("/custom_domains").json == []


def test_two_different_addresses_are_refused(api: Api) -> None:
    body = {"domain": "example.com", "address_id": api.new_address()}
    answer = api.post("/custom_domains", body, address_id=api.new_address())
    assert answer.json["error"].startswith("address_id: differs")


def test_a_domain_is_taken_once_and_free_again_when_deleted(api: Api, database: Database, tmp_path: Path) -> None:
    address_id = api.new_address()
    domain_id = api.post("/custom_domains", {"domain": "example.com"}, address_id=address_id).json["id"]
    stranger = Api(database, create_account(database, "other", NOW_MS), api_settings(tmp_path))
    their_address = stranger.new_address()
    for caller, address in ((api, address_id), (stranger, their_address)):
        answer = caller.post("/custom_domains", {"domain": "EXAMPLE.com."}, address_id=address)
        assert answer.status_code == 422
        assert "in use already" in answer.json["error"]
    assert api.delete(f"/custom_domains/{domain_id}").status_code == 202
    assert stranger.post("/custom_domains", {"domain": "example.com"}, address_id=their_address).status_code == 201


def test_of_two_at_once_one_gets_the_domain(api: Api, database: Database, account: NewAccount) -> None:
    address_id = api.new_address()
    answers: list[int] = []

    def ask() -> None:
        answers.append(api.post("/custom_domains", {"domain": "example.com"}, address_id=address_id).status_code)
        database.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201] + [422] * 5


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_rival_that_commits_at_the_last_moment_wins(api: Api, database: Database, postgres_url: str) -> None:
    address_id, rivals_address, answers = api.new_address(), api.new_address(), []

    def ask() -> None:
        answers.append(api.post("/custom_domains", {"domain": "example.com"}, address_id=address_id))
        database.close()

    insert = "INSERT INTO custom_domain (id, address_id, domain, created_ms) VALUES ('0', %s, 'example.com', 1)"
    with psycopg.connect(postgres_url) as rival, psycopg.connect(postgres_url, autocommit=True) as watcher:
        rival.execute(insert, (rivals_address,))
        thread = threading.Thread(target=ask)
        thread.start()
        while not watcher.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchall():
            assert thread.is_alive(), "the request did not wait for the rival"
        rival.commit()
        thread.join()
    (answer,) = answers
    assert answer.status_code == 422
    assert "in use already" in answer.json["error"]


def test_list_filters_by_address_and_part_of_the_domain(api: Api) -> None:
    first, second = api.new_address(), api.new_address()
    for domain, address in (("a.example.com", first), ("*.b.example.org", first), ("bücher.example", second)):
        api.post("/custom_domains", {"domain": domain}, address_id=address)
        api.now_ms += 1

    def listed(**query: str) -> list[str]:
        return [entry["domain"] for entry in api.get("/custom_domains", **query).json]

    assert listed() == ["xn--bcher-kva.example", "*.b.example.org", "a.example.com"]
    assert listed(address_id=first) == ["*.b.example.org", "a.example.com"]
    assert listed(query="EXAMPLE.org") == ["*.b.example.org"]
    assert listed(query="bücher.example") == ["xn--bcher-kva.example"]
    assert listed(query="%") == []
    assert listed(query="_") == []
    assert listed(query="*.") == ["*.b.example.org"]
    assert listed(query="a", address_id=second) == ["xn--bcher-kva.example"]


def test_list_goes_on_by_cursor(api: Api) -> None:
    address_id = api.new_address()
    for number in range(5):
        api.post("/custom_domains", {"domain": f"d{number}.example.com"}, address_id=address_id)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while cursor or not seen:
        answer = api.get("/custom_domains", per_page=2, query="example", **cursor)
        seen += [entry["domain"] for entry in answer.json]
        cursor = {"cursor": answer.headers["X-Next-Cursor"]} if "X-Next-Cursor" in answer.headers else {}
    assert sorted(seen) == [f"d{number}.example.com" for number in range(5)]


def test_delete_may_name_the_address_as_the_vendors_clients_do(api: Api) -> None:
    first, second = api.new_address(), api.new_address()
    domain_id = api.post("/custom_domains", {"domain": "example.com"}, address_id=first).json["id"]
    assert api.delete(f"/custom_domains/{domain_id}", address_id=second).status_code == 422
    assert api.delete(f"/custom_domains/{domain_id}", address_id=first).status_code == 202
    assert api.delete(f"/custom_domains/{domain_id}").status_code == 404


def test_another_accounts_domain_does_not_exist(api: Api, database: Database, tmp_path: Path) -> None:
    stranger = Api(database, create_account(database, "other", NOW_MS), api_settings(tmp_path))
    theirs = stranger.post("/custom_domains", {"domain": "example.com"}, address_id=stranger.new_address()).json["id"]
    assert api.get(f"/custom_domains/{theirs}").status_code == 404
    assert api.delete(f"/custom_domains/{theirs}").status_code == 404
    assert api.get("/custom_domains").json == []
    assert stranger.get(f"/custom_domains/{theirs}").status_code == 200


def test_a_domain_whose_mx_points_here_is_created(checked_api: Api, dns_server: DnsServer) -> None:
    dns_server.records["example.com"] = ["10 mx.pillarbox.test."]
    answer = checked_api.post("/custom_domains", {"domain": "example.com"}, address_id=checked_api.new_address())
    assert answer.status_code == 201


def test_a_domain_whose_mx_points_elsewhere_is_refused_with_what_was_found(
    checked_api: Api, dns_server: DnsServer
) -> None:
    dns_server.records["example.com"] = ["10 mail.example.net."]
    answer = checked_api.post("/custom_domains", {"domain": "example.com"}, address_id=checked_api.new_address())
    assert answer.status_code == 422
    assert "mx.pillarbox.test" in answer.json["error"]
    assert "mail.example.net" in answer.json["error"]
    assert checked_api.get("/custom_domains").json == []


def test_a_dns_outage_is_503_and_to_be_tried_again(checked_api: Api, dns_server: DnsServer) -> None:
    dns_server.rcode = dns.rcode.SERVFAIL
    answer = checked_api.post("/custom_domains", {"domain": "example.com"}, address_id=checked_api.new_address())
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "no answer" in answer.json["error"]


def test_the_dns_is_not_asked_about_what_is_refused_anyway(checked_api: Api, dns_server: DnsServer) -> None:
    checked_api.post("/custom_domains", {"domain": "example.com", "auth_regex": "("}, address_id="0" * 20)
    checked_api.post("/custom_domains", {"domain": "example.com"}, address_id="0" * 20)
    assert dns_server.asked == []
