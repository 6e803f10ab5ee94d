"""From recipient to route: exact, tagged, custom domain, wildcard, pattern."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from core.addresses import Mailbox, parse_mailbox
from core.errors import InvalidField, StorageUnavailable
from core.patterns import MAX_PATTERN_LENGTH, check_pattern
from core.routing import (
    AddressEntry,
    DomainEntry,
    Refusal,
    Route,
    candidate_domains,
    pattern_matches,
    resolve,
)
from core.rules import Rule
from core.services.accounts import NewAccount
from core.services.routing_book import StoredAddressBook
from core.store.db import Database
from core.store.models import Address, CustomDomain
from tests.conftest import NOW_MS

HOME = "pillarbox.test"
ENTRY = AddressEntry("aaaa740b4c5c37b1aaaa", "account", "https://a.example/in")


@dataclass
class Book:
    """An address book in memory; the one in the database has its own tests below."""

    addresses: dict[str, AddressEntry] = field(default_factory=dict)
    domains: dict[str, DomainEntry] = field(default_factory=dict)

    def find_address(self, address_id: str) -> AddressEntry | None:
        return self.addresses.get(address_id)

    def find_domains(self, names: tuple[str, ...]) -> dict[str, DomainEntry]:
        return {name: self.domains[name] for name in names if name in self.domains}

    def find_rules(self, account_id: str, address_id: str) -> tuple[Rule, ...]:
        return ()


def mailbox(text: str) -> Mailbox:
    found = parse_mailbox(text)
    assert found is not None
    return found


def book(**domains: tuple[str | None, str | None]) -> Book:
    """`name=(auth_regex, domain_target)`, with `_` for `.` and `any_` for `*.`."""
    entries = {
        name.replace("any_", "*.").replace("_", "."): DomainEntry(name, ENTRY, regex, target)
        for name, (regex, target) in domains.items()
    }
    return Book({ENTRY.address_id: ENTRY}, entries)


@pytest.mark.parametrize(
    "local", [ENTRY.address_id, ENTRY.address_id.upper(), f"{ENTRY.address_id}+tag", f'"{ENTRY.address_id}+a b"']
)
def test_an_address_is_found_by_its_id_in_any_case_and_with_any_tag(local: str) -> None:
    route = resolve(mailbox(f"{local}@{HOME}"), HOME, book())
    assert route == Route("account", ENTRY.address_id, None, ENTRY.target)


@pytest.mark.parametrize("text", [f"nobody@{HOME}", f"+tag@{HOME}", f"{ENTRY.address_id}@other.example"])
def test_an_unknown_recipient_is_refused(text: str) -> None:
    assert resolve(mailbox(text), HOME, book()) is Refusal.UNKNOWN


def test_a_custom_domain_takes_every_local_part() -> None:
    route = resolve(mailbox("anyone+x@Example.ORG"), HOME, book(example_org=(None, None)))
    assert route == Route("account", ENTRY.address_id, None, ENTRY.target)


def test_a_custom_domain_with_its_own_target_is_a_delivery_of_its_own() -> None:
    route = resolve(mailbox("a@example.org"), HOME, book(example_org=(None, "https://b.example/")))
    assert isinstance(route, Route)
    assert route.target == "https://b.example/"
    assert route.delivery_key == (ENTRY.address_id, "example_org")


def test_an_exact_domain_wins_over_a_wildcard() -> None:
    both = book(a_example_org=(None, "https://exact.example/"), any_example_org=(None, "https://any.example/"))
    exact = resolve(mailbox("x@a.example.org"), HOME, both)
    other = resolve(mailbox("x@b.example.org"), HOME, both)
    assert isinstance(exact, Route)
    assert isinstance(other, Route)
    assert (exact.target, other.target) == ("https://exact.example/", "https://any.example/")


@pytest.mark.parametrize("domain", ["example.org", "a.b.example.org", "aexample.org"])
def test_a_wildcard_stands_for_exactly_one_more_label(domain: str) -> None:
    assert resolve(mailbox(f"x@{domain}"), HOME, book(any_example_org=(None, None))) is Refusal.UNKNOWN


def test_at_most_two_names_are_looked_up_however_long_the_domain() -> None:
    assert candidate_domains("a.b.c.example.org") == ("a.b.c.example.org", "*.b.c.example.org")
    assert candidate_domains("localhost") == ("localhost",)


@pytest.mark.parametrize(
    ("pattern", "recipient", "matches"),
    [
        (r"sales@example\.org", "sales@example.org", True),
        (r"sales@example\.org", "sales@EXAMPLE.org", True),
        (r"sales@example\.org", "Sales@example.org", False),
        (r"(?i)sales@example\.org", "Sales@example.org", True),
        (r"sales", "sales@example.org", False),  # the whole recipient must match
        (r"sales@example\.org", "xsales@example.org", False),
        (r"sales@example\.org", "sales@example.org.evil.example", False),
        (r".*", '"any thing"@example.org', True),
        (r"ü.*", "ü@example.org", True),
        (r"\w+@example\.org$", "abc@example.org", True),
    ],
)
def test_a_pattern_must_match_the_whole_recipient(pattern: str, recipient: str, matches: bool) -> None:
    assert pattern_matches(pattern, mailbox(recipient)) is matches


def test_a_recipient_that_the_pattern_does_not_match_is_refused_as_such() -> None:
    only_sales = book(example_org=(r"sales@example\.org", None))
    assert resolve(mailbox("b@example.org"), HOME, only_sales) is Refusal.PATTERN_MISMATCH
    assert isinstance(resolve(mailbox("sales@example.org"), HOME, only_sales), Route)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(", "not a valid regular expression"),
        (r"(a)\1", "not a valid regular expression"),  # RE2 has no back references
        ("(?=a)a", "not a valid regular expression"),
        ("a" * (MAX_PATTERN_LENGTH + 1), "is longer than"),
        ("((a{1000}){1000}){1000}", "not a valid regular expression"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_an_error_that_names_its_field(pattern: str, problem: str) -> None:
    with pytest.raises(InvalidField, match=problem) as caught:
        check_pattern("auth_regex", pattern)
    assert caught.value.field == "auth_regex"


@pytest.mark.parametrize("pattern", ["(a+)+", "(a|a)*b", "(a|aa)+", "(.*a){12}"])
def test_a_hostile_pattern_runs_in_linear_time(pattern: str) -> None:
    recipient = mailbox("a" * 480 + "!@example.org")
    started = time.thread_time()
    for _ in range(100):
        pattern_matches(pattern, recipient)
    assert time.thread_time() - started < 1.0


def test_a_book_that_fails_is_never_taken_for_an_unknown_recipient() -> None:
    class Failing(Book):
        def find_address(self, address_id: str) -> AddressEntry | None:
            raise StorageUnavailable("down")

    with pytest.raises(StorageUnavailable):
        resolve(mailbox(f"a@{HOME}"), HOME, Failing())


# --- the book in the database ---


def add(account: NewAccount, address_id: str, domain: str = "", **fields: object) -> None:
    Address.create(
        id=address_id, account=account.account_id, target=f"https://{address_id}.example/", target_format="json+n",
        secret="whsec_", created_ms=NOW_MS, updated_ms=NOW_MS, **fields,
    )  # fmt: skip
    if domain:
        CustomDomain.create(id=f"d-{address_id}", address=address_id, domain=domain, created_ms=NOW_MS)


def test_the_stored_book_finds_what_is_live(database: Database, account: NewAccount) -> None:
    with database.transaction():
        add(account, "live", "example.org")
        add(account, "gone", "example.net", deleted_ms=NOW_MS)
        add(account, "kept", "example.com")
        CustomDomain.update(deleted_ms=NOW_MS).where(CustomDomain.domain == "example.com").execute()
    stored = StoredAddressBook(database)

    assert stored.find_address("live") == AddressEntry(
        "live", account.account_id, "https://live.example/", secret="whsec_"
    )
    assert stored.find_address("gone") is None
    assert set(stored.find_domains(("example.org", "example.net", "example.com", "*.org"))) == {"example.org"}


def test_the_stored_book_does_not_take_a_wildcard_for_a_pattern(database: Database, account: NewAccount) -> None:
    with database.transaction():
        add(account, "any", "*.example.org")
    stored = StoredAddressBook(database)
    found = resolve(mailbox("x@a.example.org"), HOME, stored)
    assert isinstance(found, Route)
    assert found.address_id == "any"
    assert resolve(mailbox("x@a.b.example.org"), HOME, stored) is Refusal.UNKNOWN
    assert resolve(mailbox("%@pillarbox.test"), HOME, stored) is Refusal.UNKNOWN


def test_the_stored_book_raises_when_the_database_is_gone(tmp_path: object) -> None:
    stored = StoredAddressBook(Database(f"sqlite:///{tmp_path}/empty.sqlite3"))  # no tables: as good as broken
    with pytest.raises(StorageUnavailable):
        stored.find_address("live")
