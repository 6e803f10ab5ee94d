"""Whose mail it is, asked at RCPT: over the wire, against addresses and domains in the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from core.addresses import parse_mailbox
from core.clock import system_clock
from core.formats import TargetFormat
from core.routing import Refusal, Route
from core.services.accounts import create_account
from core.services.addresses import AddressDraft, create_address, delete_address
from core.services.routing_book import StoredAddressBook
from core.store.db import Database
from inbound.smtp.book import REMEMBER_MS, CachedRoutes
from tests.gateway import Gateway, running_gateway
from tests.smtp_client import MESSAGE, RawClient, connected, new_domain, new_mailbox, stored, stuffed

UNKNOWN = "550 5.1.1 There is no such address here"
HERE = "pillarbox.test"
BOOKS = ("bücher.example", "BÜCHER.example", "xn--bcher-kva.example", "bu\u0308cher.example")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = {"PILLARBOX_MAX_SESSION_ERRORS": "1000", "PILLARBOX_TARPIT_MS": "0"}
    with running_gateway(tmp_path_factory.mktemp("routing"), "smtp", **environment) as started:
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[RawClient]:
    with connected(gateway) as opened:
        opened.ask("MAIL FROM:<a@example.com> SMTPUTF8")
        yield opened


def test_an_unknown_address_is_refused(client: RawClient) -> None:
    for recipient in ("nobody@pillarbox.test", "x@unknown.example", "@pillarbox.test", "nobody@[127.0.0.1]"):
        assert client.ask(f"RCPT TO:<{recipient}>")[:5] in {"550 5", "553 5"}
    assert client.ask("RCPT TO:<0123456789abcdef0123@pillarbox.test>") == UNKNOWN
    assert client.ask("DATA").startswith("503 ")


def test_an_address_is_found_in_any_case_and_with_any_tag(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    local = mailbox.partition("@")[0]

    for recipient in (
        mailbox, mailbox.upper(), f"{local}+tag@{HERE}", f"{local.upper()}+a+b@PillarBox.Test", f"{local}+@{HERE}",
        f'"{local}"@{HERE}', f'"{local}+a b"@{HERE}', f"{mailbox}.", f"{local}+\u00fc@{HERE}",
    ):  # fmt: skip
        assert client.ask(f"RCPT TO:<{recipient}>").startswith("250 2.1.5 "), recipient
    for recipient in (f"x{mailbox}", f"{local}x@{HERE}", f"{local}@x.{HERE}", f"+{mailbox}", f"{local[:-1]}@{HERE}"):
        assert client.ask(f"RCPT TO:<{recipient}>") == UNKNOWN, recipient


def test_a_new_address_works_at_once_after_having_been_refused(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    domain = "fresh.example"
    assert client.ask(f"RCPT TO:<x@{domain}>") == UNKNOWN

    new_domain(gateway, mailbox, domain)

    assert client.ask(f"RCPT TO:<x@{domain}>").startswith("250 ")


def test_a_domain_takes_every_local_part_and_no_sub_domain(gateway: Gateway, client: RawClient) -> None:
    new_domain(gateway, new_mailbox(gateway), "all.example")

    for local in ("a", "A.B+c", "postmaster", '"quoted user"', r'"a\"b@c"', "x..y", "üñí", "a!b%c"):
        assert client.ask(f"RCPT TO:<{local}@all.example>").startswith("250 "), local
    assert client.ask("RCPT TO:<a@ALL.Example.>").startswith("250 ")
    for domain in ("x.all.example", "example", "notall.example", "all.example.com"):
        assert client.ask(f"RCPT TO:<a@{domain}>") == UNKNOWN


def test_a_wildcard_stands_for_exactly_one_more_label(gateway: Gateway, client: RawClient) -> None:
    new_domain(gateway, new_mailbox(gateway), "*.wild.example")

    assert client.ask("RCPT TO:<a@one.wild.example>").startswith("250 ")
    for domain in ("wild.example", "two.one.wild.example", "onewild.example", "*.two.wild.example"):
        assert client.ask(f"RCPT TO:<a@{domain}>")[:5] in {"550 5", "553 5"}, domain


def test_an_exact_domain_comes_before_a_wildcard(gateway: Gateway, client: RawClient) -> None:
    wild, exact = new_mailbox(gateway), new_mailbox(gateway)
    new_domain(gateway, wild, "*.both.example")
    new_domain(gateway, exact, "one.both.example")

    client.ask("RCPT TO:<a@one.both.example>")
    client.ask("RCPT TO:<a@two.both.example>")
    _send(client)

    assert [mail.recipients for mail in stored(gateway, exact)] == ['["a@one.both.example"]']
    assert [mail.recipients for mail in stored(gateway, wild)] == ['["a@two.both.example"]']


def test_a_pattern_must_match_the_whole_recipient(gateway: Gateway, client: RawClient) -> None:
    new_domain(gateway, new_mailbox(gateway), "pattern.example", auth_regex=r"(sales|info)(\+\w+)?@pattern\.example")

    for local in ("sales", "info", "sales+x1"):
        assert client.ask(f"RCPT TO:<{local}@pattern.example>").startswith("250 "), local
    assert client.ask("RCPT TO:<sales@PATTERN.example>").startswith("250 ")
    for local in ("xsales", "salesx", "sales+", "other", "sales@pattern.example,x", '"sales@pattern.example x"'):
        reply = client.ask(f"RCPT TO:<{local}@pattern.example>")
        assert reply[:3] in {"550", "553"}, local
    assert client.ask("RCPT TO:<other@pattern.example>") == (
        "550 5.7.1 The recipient does not match the regexp of this domain"
    )


def test_an_evil_pattern_takes_no_longer_than_a_good_one(gateway: Gateway, client: RawClient) -> None:
    new_domain(gateway, new_mailbox(gateway), "evil.example", auth_regex=r"((a+)+)+@evil\.example|(a|aa)*b@.*")
    begun = time.monotonic()

    for _ in range(20):
        assert client.ask(f"RCPT TO:<{'a' * 480}!@evil.example>").startswith("550 5.7.1 ")

    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("written", BOOKS)
def test_an_international_domain_is_one_domain_however_it_is_written(gateway: Gateway, written: str) -> None:
    mailbox = new_mailbox(gateway)
    _drop_domain(gateway, "xn--bcher-kva.example")
    new_domain(gateway, mailbox, "xn--bcher-kva.example")
    with connected(gateway) as client:
        assert client.ask("MAIL FROM:<jörg@bücher.example> SMTPUTF8 BODY=8BITMIME").startswith("250 ")
        assert client.ask(f"RCPT TO:<ñ@{written}>").startswith("250 ")
        _send(client)

    (mail,) = stored(gateway, mailbox)
    assert mail.mail_from == "jörg@bücher.example"
    assert mail.recipients == f'["ñ@{written}"]'


def test_a_deleted_address_and_its_domain_are_refused(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    new_domain(gateway, mailbox, "gone.example")

    delete_address(gateway.database, gateway.account.account_id, mailbox.partition("@")[0], system_clock())

    assert client.ask(f"RCPT TO:<{mailbox}>") == UNKNOWN
    assert client.ask("RCPT TO:<a@gone.example>") == UNKNOWN


def test_a_deleted_domain_is_refused_and_its_address_is_not(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    new_domain(gateway, mailbox, "left.example")

    _drop_domain(gateway, "left.example")

    assert client.ask("RCPT TO:<a@left.example>") == UNKNOWN
    assert client.ask(f"RCPT TO:<{mailbox}>").startswith("250 ")


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        # CVE-2023-27043 and its like: the last `@` outside quotes decides, here as everywhere.
        ('"x@gmail.com x"@victim.example', "250"),
        ('"x@gmail.com> x"@victim.example', "250"),
        ('"a@victim.example"@gmail.com', "550"),
        ("a@victim.example@gmail.com", "553"),
        ("a@gmail.com@victim.example", "553"),
        ("a@victim.example,b@gmail.com", "553"),
        ("a@victim.example> b@gmail.com", "5"),
        ("a@gmail.com (x)@victim.example", "553"),
        ("a(x)@victim.example", "553"),
        ("a@victim.example\x00.gmail.com", "553"),
        ("a@victim.example\u3002gmail.com", "550"),
        ('"a"b@victim.example', "553"),
        ('a"@victim.example', "553"),
        ("a@@victim.example", "553"),
        ("a b@victim.example", "553"),
        (" a@victim.example", "553"),
        ("a@victim.example ", "553"),
        ("a@-victim.example", "5"),
        ("a@victim..example", "553"),
        ("=?utf-8?q?a=40gmail.com=3E?=@victim.example", "250"),
        ("a@" + "x" * 300 + ".example", "553"),
        ("a" * 600 + "@victim.example", "553"),
    ],
)
def test_an_address_is_read_in_one_way_only(gateway: Gateway, client: RawClient, path: str, reply: str) -> None:
    _drop_domain(gateway, "victim.example")
    new_domain(gateway, new_mailbox(gateway), "victim.example")

    assert client.ask(f"RCPT TO:<{path}>").startswith(reply)


def test_nothing_is_relayed(gateway: Gateway, client: RawClient) -> None:
    local = new_mailbox(gateway).partition("@")[0]
    for path in (
        "user@gmail.com", f"user%gmail.com@{HERE}", f"gmail.com!user@{HERE}", f"{HERE}!user@gmail.com",
        f"@{HERE}:user@gmail.com", f"@{HERE},@gmail.com:user@gmail.com", f'"user@gmail.com"@{HERE}',
        f'"user%gmail.com"@{HERE}', "user%gmail.com@[127.0.0.1]", "user@[127.0.0.1]", "user@[IPv6:::1]",
        "user@localhost", "user", '"user"', f"{local}@gmail.com", f"user@gmail.com@{HERE}", f"{local}%gmail.com@{HERE}",
        f"{local}%{HERE}@gmail.com", f"gmail.com!{local}@{HERE}", f"@gmail.com:user@{HERE}.gmail.com", "user@127.0.0.1",
        "<user@gmail.com>", "", " ", "postmaster", f'"{local}@{HERE}"@gmail.com', f"user@{HERE}\uff0egmail.com",
    ):  # fmt: skip
        assert client.ask(f"RCPT TO:<{path}>")[:3] in {"550", "553", "501", "555"}, path
    assert client.ask("DATA").startswith("503 ")


def test_a_source_route_before_an_address_of_ours_is_ignored(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)

    assert client.ask(f"RCPT TO:<@relay.example,@other.example:{mailbox}>").startswith("250 ")
    _send(client)

    assert [mail.recipients for mail in stored(gateway, mailbox)] == [f'["{mailbox}"]']


def test_the_null_sender_is_taken_and_stored_as_empty(gateway: Gateway) -> None:
    mailbox = new_mailbox(gateway)
    with connected(gateway) as client:
        assert client.ask("MAIL FROM:<>").startswith("250 ")
        client.ask(f"RCPT TO:<{mailbox}>")
        _send(client)

    assert [mail.mail_from for mail in stored(gateway, mailbox)] == [""]


@pytest.mark.parametrize(
    "sender", ["a@[192.0.2.1]", '"a b"@example.com', "b+x=y@example.com", "@r.example:a@b.example"]
)
def test_senders_of_every_legal_form_are_taken(gateway: Gateway, sender: str) -> None:
    with connected(gateway) as client:
        assert client.ask(f"MAIL FROM:<{sender}>").startswith("250 ")


async def _find(routes: CachedRoutes, mailbox: str) -> Route | Refusal:
    parsed = parse_mailbox(mailbox)
    assert parsed is not None
    return await routes.find(parsed)


def test_what_was_found_is_remembered_for_a_moment_and_what_was_not_never(database: Database) -> None:
    account = create_account(database, "test", 0)
    made = create_address(database, account.account_id, AddressDraft("http://x.example/", TargetFormat.JSON_N), 0)
    now = [1_000_000]
    routes = CachedRoutes(StoredAddressBook(database), HERE, lambda: now[0])

    async def walk() -> list[object]:
        known, tagged = f"{made.address_id}@{HERE}", f"{made.address_id}+x@{HERE}"
        seen: list[object] = [type(await _find(routes, known))]
        delete_address(database, account.account_id, made.address_id, 1)
        seen.append(type(await _find(routes, tagged)))
        now[0] += REMEMBER_MS
        seen.append(await _find(routes, known))
        with database.transaction():
            database.execute("UPDATE address SET deleted_ms = NULL")
        seen.append(type(await _find(routes, known)))
        return seen

    assert asyncio.run(walk()) == [Route, Route, Refusal.UNKNOWN, Route]


def test_the_cache_holds_no_more_than_its_limit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inbound.smtp.book.CACHE_ENTRIES", 5)
    account = create_account(database, "test", 0)
    draft = AddressDraft("http://x.example/", TargetFormat.JSON_N)
    made = [create_address(database, account.account_id, draft, 0).address_id for _ in range(20)]
    routes = CachedRoutes(StoredAddressBook(database), HERE, lambda: 0)

    async def walk() -> None:
        for address_id in made:
            assert isinstance(await _find(routes, f"{address_id}@{HERE}"), Route)

    asyncio.run(walk())
    assert len(routes._found) == 5


def _send(client: RawClient) -> None:
    assert client.ask("DATA").startswith("354 ")
    client.send(stuffed(MESSAGE))
    assert client.reply().startswith("250 ")


def _drop_domain(gateway: Gateway, domain: str) -> None:
    with gateway.database.transaction():
        gateway.database.execute("UPDATE custom_domain SET deleted_ms = 1 WHERE domain = ?", (domain,))
