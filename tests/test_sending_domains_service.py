"""Sending domains made, deleted and changed, against a real DNS server, on both kinds of database."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from core.errors import InvalidField, NotFound
from core.sending.domain_status import CheckState
from core.sending.key_rotation import KeyState
from core.sending.sending_domains import KeyAlgorithm
from core.services import sending_domain_changes
from core.services.accounts import NewAccount, create_account
from core.services.sending_domain_changes import delete_domain, update_settings
from core.services.sending_domain_checks import inspect, record_inspection
from core.services.sending_domain_keys import (
    FORGOTTEN_AFTER_MS,
    forget_keys,
    withdraw_key,
)
from core.services.sending_domain_records import SendingDomainRecord, get_domain
from core.services.sending_domains import find_sender, load_senders
from core.services.webhooks import WebhookDraft, create_webhook, get_webhook
from core.store.db import Database
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS
from tests.sending_domain_support import (
    Customer,
    gateway_settings,
    private_keys,
    publish_operator,
    states,
)

RSA, ED25519 = KeyAlgorithm
PENDING, ACTIVE, RETIRING, RETIRED = KeyState
VERIFIED, MISSING, WRONG, UNKNOWN = CheckState


@pytest.fixture
def customer(database: Database, account: NewAccount, zones: ZoneServer, tmp_path: Path) -> Customer:
    settings = gateway_settings(tmp_path, zones)
    publish_operator(zones, settings)
    return Customer(database, account, settings, zones)


# Making, finding, deleting


def test_a_new_domain_has_a_key_that_waits_for_its_record(customer: Customer) -> None:
    made = customer.create(" Bücher.Example. ")
    assert made.domain == "xn--bcher-kva.example"
    assert states(made) == [(RSA, PENDING)]
    assert made == customer.get(made.domain_id)
    sender = find_sender(customer.database, customer.account.account_id, "xn--bcher-kva.example")
    assert sender is not None
    assert (sender.is_verified, sender.signing_domain, sender.keys) == (False, None, ())


def test_an_ed25519_key_may_be_made_beside_it(customer: Customer) -> None:
    assert sorted(states(customer.create("example.com", ED25519))) == [(ED25519, PENDING), (RSA, PENDING)]


def test_a_domain_is_there_once_for_an_account_and_again_after_it_was_deleted(customer: Customer) -> None:
    made = customer.create()
    with pytest.raises(InvalidField, match="is a sending domain of this account already"):
        customer.create("EXAMPLE.com.")
    delete_domain(customer.database, customer.account.account_id, made.domain_id, customer.now_ms)
    again = customer.create()
    assert again.domain_id != made.domain_id
    assert again.principal.selector != made.principal.selector


def test_a_webhook_of_one_domain_hears_of_it_when_it_is_made_again(customer: Customer) -> None:
    database, account_id = customer.database, customer.account.account_id
    made, other = customer.create(), customer.create("example.org")
    draft = WebhookDraft("https://hooks.example/", sending_domain_ids=(made.domain_id, other.domain_id))
    webhook = create_webhook(database, account_id, draft, customer.now_ms)
    delete_domain(database, account_id, made.domain_id, customer.now_ms)
    again = customer.create()
    shown = get_webhook(database, account_id, webhook.webhook_id)
    assert set(shown.draft.sending_domain_ids) == {again.domain_id, other.domain_id}


def test_two_accounts_may_have_the_same_domain_and_only_the_key_makes_it_theirs(customer: Customer) -> None:
    ours = customer.verified()
    stranger = Customer(
        customer.database, create_account(customer.database, "other", NOW_MS), customer.settings, customer.zones
    )
    theirs = stranger.verify(stranger.create().domain_id)
    assert ours.state.dkim_verified
    assert (theirs.state.dkim_verified, theirs.state.return_path_verified) == (False, True)
    assert find_sender(customer.database, stranger.account.account_id, "example.com").is_verified is False  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        get_domain(customer.database, stranger.account.account_id, ours.domain_id)
    with pytest.raises(NotFound):
        delete_domain(customer.database, stranger.account.account_id, ours.domain_id, NOW_MS)
    with pytest.raises(NotFound):
        withdraw_key(customer.database, stranger.account.account_id, ours.domain_id, ours.principal.selector, NOW_MS)
    stranger.publish_all(stranger.get(theirs.domain_id))  # both keys lie there side by side
    assert stranger.verify(theirs.domain_id).state.dkim_verified
    assert customer.verify(ours.domain_id).state.dkim_verified


def test_of_creates_at_once_one_wins(customer: Customer) -> None:
    made: list[SendingDomainRecord] = []
    refused: list[InvalidField] = []

    def create() -> None:
        try:
            made.append(customer.create())
        except InvalidField as error:
            refused.append(error)
        customer.database.close()

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 3)
    with customer.database.reading():
        assert len(customer.database.execute("SELECT 1 FROM domain_key")) == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_rival_that_commits_at_the_last_moment_wins(customer: Customer, postgres_url: str) -> None:
    answers: list[Exception | SendingDomainRecord] = []

    def create() -> None:
        try:
            answers.append(customer.create())
        except InvalidField as error:
            answers.append(error)
        customer.database.close()

    insert = """INSERT INTO sending_domain (id, account_id, domain, next_check_ms, created_ms)
                VALUES ('rival', %s, 'example.com', 1, 1)"""
    with psycopg.connect(postgres_url) as rival, psycopg.connect(postgres_url, autocommit=True) as watcher:
        rival.execute(insert, (customer.account.account_id,))
        thread = threading.Thread(target=create)
        thread.start()
        while not watcher.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchall():
            assert thread.is_alive(), "the request did not wait for the rival"
        rival.commit()
        thread.join()
    (answer,) = answers
    assert isinstance(answer, InvalidField)
    assert answer.field == "domain"


def test_an_account_has_so_many_domains(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending_domain_changes, "MAX_DOMAINS", 1)
    made = customer.create()
    with pytest.raises(InvalidField, match="the most; delete one first"):
        customer.create("example.org")
    delete_domain(customer.database, customer.account.account_id, made.domain_id, customer.now_ms)
    customer.create("example.org")


def test_what_was_accepted_for_a_deleted_domain_is_still_signed(customer: Customer) -> None:
    record = customer.verified()
    delete_domain(customer.database, customer.account.account_id, record.domain_id, customer.now_ms)
    assert find_sender(customer.database, customer.account.account_id, "example.com") is None
    with customer.database.reading():
        sender = load_senders(customer.database, [record.domain_id])[record.domain_id]
    assert sender.is_verified
    assert len(sender.keys) == 1


def test_keys_of_domains_deleted_long_ago_are_forgotten(customer: Customer) -> None:
    record, kept = customer.verified(), customer.create("example.org")
    delete_domain(customer.database, customer.account.account_id, record.domain_id, customer.now_ms)
    assert forget_keys(customer.database, customer.now_ms + FORGOTTEN_AFTER_MS - 1, 10) == 0
    assert forget_keys(customer.database, customer.now_ms + FORGOTTEN_AFTER_MS, 10) == 1
    assert forget_keys(customer.database, customer.now_ms + FORGOTTEN_AFTER_MS, 10) == 0
    assert [bool(pem) for selector, pem in private_keys(customer).items() if selector in record.public_records] == [
        False
    ]
    assert all(private_keys(customer)[selector] for selector in kept.public_records)


# Settings


def change(customer: Customer, domain_id: str, **changes: object) -> SendingDomainRecord:
    ours = ("192.0.2.1", "2001:db8::1")
    return update_settings(customer.database, customer.account.account_id, domain_id, changes, ours, customer.now_ms)


def test_settings_are_merged(customer: Customer) -> None:
    domain_id = customer.create().domain_id
    change(customer, domain_id, track_opens=False, hourly_limit=100, source_ip="2001:0db8::1")
    after = change(customer, domain_id, track_opens=None, ramp=True).settings
    assert (after.track_opens, after.hourly_limit, after.ramp, after.source_ip) == (None, 100, True, "2001:db8::1")
    assert customer.get(domain_id).settings == after


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"track_opens": "yes"}, "settings.track_opens: must be true, false"),
        ({"hourly_limit": 0}, "settings.hourly_limit: must be a whole number from 1"),
        ({"daily_limit": True}, "settings.daily_limit: must be a whole number"),
        ({"daily_limit": 1.5}, "settings.daily_limit: must be a whole number"),
        ({"source_ip": "192.0.2.9"}, "settings.source_ip: 192.0.2.9 is no address that this gateway sends from"),
        ({"source_ip": "home"}, "settings.source_ip: 'home' is no IP address"),
        ({"tracking_host": "links.example.net"}, "settings.tracking_host: 'links.example.net' is no name in example"),
        ({"tracking_host": "links.notexample.com"}, "is no name in example.com; write one like links.example.com"),
        ({"tracking_host": "mta.example.com"}, "settings.tracking_host: mta.example.com is where bounces go"),
        ({"tracking_host": "a_b.example.com"}, "settings.tracking_host: 'a_b.example.com' is no domain name"),
        ({"tracking_host": 3}, "settings.tracking_host: must be a text"),
        ({"colour": 1}, "settings.colour: is no setting; there are track_opens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named(customer: Customer, changes: dict[str, object], words: str) -> None:
    domain_id = customer.create().domain_id
    with pytest.raises(InvalidField) as error:
        change(customer, domain_id, **changes)
    assert words in str(error.value)
    assert customer.get(domain_id).settings.tracking_host is None


@pytest.mark.parametrize(
    ("records", "is_verified"),
    [
        ([("links.example.com", "CNAME", "links.gateway.example")], True),
        ([("links.example.com", "CNAME", "x.example.com"), ("x.example.com", "CNAME", "links.gateway.example")], True),
        ([("links.example.com", "A", "192.0.2.80")], True),
        ([("links.example.com", "A", "192.0.2.80"), ("links.example.com", "AAAA", "2001:db8::bad")], False),
        ([("links.example.com", "A", "198.51.100.1")], False),
        ([("links.example.com", "CNAME", "elsewhere.example")], False),
        ([], False),
    ],
    ids=["alias", "aliases", "address", "one more address", "other address", "other alias", "nothing"],
)
def test_a_tracking_host_is_used_once_it_leads_here(
    customer: Customer, records: list[tuple[str, str, str]], is_verified: bool
) -> None:
    domain_id = customer.verified().domain_id
    assert change(customer, domain_id, tracking_host="Links.Example.com.").settings.tracking_host == "links.example.com"
    for record in records:
        customer.zones.add(*record)
    after = customer.verify(domain_id)
    assert after.state.tracking_verified is is_verified
    check = after.state.report.tracking
    assert check is not None
    assert check.state is (VERIFIED if is_verified else WRONG if records else MISSING)
    assert ("links.gateway.example" in check.cure) is not is_verified
    sender = find_sender(customer.database, customer.account.account_id, "example.com")
    assert sender is not None
    assert sender.tracking_verified is is_verified


def test_another_tracking_host_begins_anew(customer: Customer) -> None:
    domain_id = customer.verified().domain_id
    change(customer, domain_id, tracking_host="links.example.com")
    customer.zones.add("links.example.com", "CNAME", "links.gateway.example")
    before = customer.verify(domain_id)
    assert before.state.tracking_verified
    look = inspect(customer.inspector, before, customer.clock)
    after = change(customer, domain_id, tracking_host="other.example.com")
    assert (after.state.tracking_verified, after.state.report.tracking) == (False, None)
    assert after.next_check_ms == customer.now_ms
    record_inspection(customer.database, look, customer.now_ms)  # which was about the old one
    assert not customer.get(domain_id).state.tracking_verified
    assert customer.get(domain_id).next_check_ms == customer.now_ms
    customer.zones.make_fail("other.example.com")
    assert customer.verify(domain_id).state.report.tracking.state is UNKNOWN  # type: ignore[union-attr]
    assert change(customer, domain_id, tracking_host=None).settings.tracking_host is None
    assert customer.verify(domain_id).state.report.tracking is None


def test_a_gateway_known_by_its_address_is_pointed_to_by_address(
    database: Database, account: NewAccount, zones: ZoneServer, tmp_path: Path
) -> None:
    settings = gateway_settings(tmp_path, zones, tracking_url="http://127.0.0.1:8080")
    customer = Customer(database, account, settings, zones)
    domain_id = customer.create().domain_id
    change(customer, domain_id, tracking_host="links.example.com")
    check = customer.verify(domain_id).state.report.tracking
    assert check is not None
    assert [(record.type, record.value) for record in check.looked_for] == [("A", "127.0.0.1")]
    zones.add("links.example.com", "A", "127.0.0.1")
    assert customer.verify(domain_id).state.tracking_verified


def test_a_pause_shows_in_the_sender(customer: Customer) -> None:
    record = customer.verified()
    database = customer.database
    with database.transaction():
        database.execute("UPDATE account SET paused_ms = 1, paused_because = 'too many bounces'")
    assert find_sender(database, customer.account.account_id, "example.com").paused_because == "too many bounces"  # type: ignore[union-attr]
    with database.transaction():
        database.execute("UPDATE sending_domain SET paused_ms = 1")
    assert customer.get(record.domain_id).paused_because == "sending is paused"
    assert find_sender(database, customer.account.account_id, "example.com").paused_because == "sending is paused"  # type: ignore[union-attr]
