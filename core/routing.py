"""From recipient to route: whose mail it is, decided at RCPT before any content is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from core.address_settings import DEFAULT_ADDRESS_SETTINGS, AddressSettings, DeliveryMode
from core.addresses import Mailbox
from core.delivery import DeliveryKind
from core.netguard import is_mailbox
from core.patterns import fits
from core.rules import Rule

WILDCARD_PREFIX = "*."


class Refusal(StrEnum):
    """Why a recipient is not taken."""

    UNKNOWN = "unknown"
    PATTERN_MISMATCH = "pattern_mismatch"


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """An address as routing needs it."""

    address_id: str
    account_id: str
    target: str
    settings: AddressSettings = DEFAULT_ADDRESS_SETTINGS
    secret: str = ""
    previous_secret: str | None = None


@dataclass(frozen=True, slots=True)
class DomainEntry:
    """A custom domain as routing needs it."""

    custom_domain_id: str
    address: AddressEntry
    auth_regex: str | None
    domain_target: str | None


@dataclass(frozen=True, slots=True)
class AboutSent:
    """What the recipient of a returned mail says of the mail it is about."""

    delivery_id: str | None
    """Of a recipient of a sent mail, proved by its return path (`core.sending.verp`); None at the mailbox of feedback
    loops, where the mail itself has to say it."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where mail for one recipient goes."""

    account_id: str
    address_id: str
    custom_domain_id: str | None
    """Set only when the domain has a target of its own: such mail is another delivery."""
    target: str
    """The URL as it stands now; each attempt reads it afresh."""
    settings: AddressSettings = DEFAULT_ADDRESS_SETTINGS
    secret: str = ""
    """With which POSTs for this address are signed."""
    previous_secret: str | None = None
    """Signs as well, while a rotation lasts."""
    rules: tuple[Rule, ...] = ()
    """Those of the account and of the address, in their order."""
    returns_to: str | None = None
    """For a bounce to a sender that we had rewritten (`core.srs`): the mailbox it goes back to."""
    about: AboutSent | None = None
    """For mail that comes back for what a customer has sent."""

    @property
    def delivery_key(self) -> tuple[str, str | None]:
        """Recipients of one transaction with the same key share one delivery."""
        about = None if self.about is None else self.about.delivery_id
        return (self.address_id, self.returns_to or about or self.custom_domain_id)

    @property
    def is_inline(self) -> bool:
        """Whether its target's answer is the sender's answer."""
        return self.settings.mode is DeliveryMode.INLINE and not self.is_forwarded

    @property
    def is_forwarded(self) -> bool:
        """Whether its target is a mailbox."""
        return is_mailbox(self.target)

    @property
    def kind(self) -> DeliveryKind:
        """What its delivery is."""
        if self.returns_to is not None:
            return DeliveryKind.BOUNCE
        if self.about is not None:
            return DeliveryKind.RETURNED
        return kind_of(self.target)

    @property
    def is_plain(self) -> bool:
        """Whether nothing about it asks for a look at the mail before it is taken."""
        return self.settings == DEFAULT_ADDRESS_SETTINGS and not self.rules and not self.is_forwarded


def kind_of(target: str) -> DeliveryKind:
    """What the delivery of received mail to a target is."""
    return DeliveryKind.FORWARD if is_mailbox(target) else DeliveryKind.INBOUND


class AddressBook(Protocol):
    """What routing asks the store."""

    def find_address(self, address_id: str) -> AddressEntry | None:
        """The live address of that id."""

    def find_domains(self, names: tuple[str, ...]) -> dict[str, DomainEntry]:
        """The custom domains among `names`, wildcards included, by name."""

    def find_rules(self, account_id: str, address_id: str) -> tuple[Rule, ...]:
        """The rules that mail to an address is judged by, in their order."""


def resolve(mailbox: Mailbox, receiving_domain: str, book: AddressBook) -> Route | Refusal:
    """Find the route of a recipient.

    Raises whatever the book raises: a store that is down must become a temporary refusal, never "unknown".
    """
    if mailbox.domain == receiving_domain:
        return _resolve_default(mailbox, book)
    return _resolve_custom(mailbox, book)


def _resolve_default(mailbox: Mailbox, book: AddressBook) -> Route | Refusal:
    entry = book.find_address(mailbox.untagged_local)
    if entry is None:
        return Refusal.UNKNOWN
    return _route(entry, book)


def _resolve_custom(mailbox: Mailbox, book: AddressBook) -> Route | Refusal:
    names = candidate_domains(mailbox.domain)
    found = book.find_domains(names)
    entry = next((found[name] for name in names if name in found), None)
    if entry is None:
        return Refusal.UNKNOWN
    if entry.auth_regex is not None and not pattern_matches(entry.auth_regex, mailbox):
        return Refusal.PATTERN_MISMATCH
    address = entry.address
    if entry.domain_target is None:
        return _route(address, book)
    return replace(_route(address, book), custom_domain_id=entry.custom_domain_id, target=entry.domain_target)


def _route(entry: AddressEntry, book: AddressBook) -> Route:
    return Route(
        account_id=entry.account_id,
        address_id=entry.address_id,
        custom_domain_id=None,
        target=entry.target,
        settings=entry.settings,
        secret=entry.secret,
        previous_secret=entry.previous_secret,
        rules=book.find_rules(entry.account_id, entry.address_id),
    )


def candidate_domains(domain: str) -> tuple[str, ...]:
    """The names under which mail for `domain` may be configured, the most specific first.

    `*.example.com` stands for exactly one more label: for `a.example.com`, not `a.b.example.com`.
    """
    _, dot, parent = domain.partition(".")
    return (domain, WILDCARD_PREFIX + parent) if dot and parent else (domain,)


def pattern_matches(auth_regex: str, mailbox: Mailbox) -> bool:
    """Whether the whole recipient (its domain in lower case) matches; linear in its length (RE2)."""
    recipient = f"{mailbox.text.rpartition('@')[0]}@{mailbox.domain}"
    return fits(auth_regex, recipient)
