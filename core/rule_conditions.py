"""When a rule matches: its conditions, each with three answers, yes, no and "not known yet". Pure, no I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any

import orjson
from pydantic import TypeAdapter

from core.errors import InvalidField
from core.netguard import IPNetwork
from core.patterns import fits
from core.rule_facts import Known
from core.verdicts import AuthResult


class Phase(IntEnum):
    """When a rule can be asked; rules belong to accounts, so never before the recipient is known."""

    RECIPIENT = 1
    """At RCPT: client, HELO, sender and recipient are known."""
    CONTENT = 2
    """After DATA."""


@dataclass(frozen=True, slots=True)
class InspectionNeeds:
    """What must be found out before a question can be answered."""

    authentication: bool = False
    """SPF, DKIM and DMARC."""
    spam: bool = False
    virus: bool = False
    content: bool = False
    """Headers and attachments: the message must be parsed."""

    def __or__(self, other: InspectionNeeds) -> InspectionNeeds:
        return InspectionNeeds(
            self.authentication or other.authentication,
            self.spam or other.spam,
            self.virus or other.virus,
            self.content or other.content,
        )

    def __bool__(self) -> bool:
        return self.authentication or self.spam or self.virus or self.content


NOTHING_NEEDED = InspectionNeeds()


@dataclass(frozen=True, slots=True)
class Conditions:
    """All of them must be met, each by any of its values; an empty one asks nothing. Spellings are the normal ones
    that `core.rule_reading` makes."""

    sender: tuple[str, ...] = ()
    """`user@example.com`, `*@example.com`, or `<>` for the null sender."""
    sender_pattern: tuple[str, ...] = ()
    """RE2, of the whole envelope sender; its domain is in lower case."""
    sender_domain: tuple[str, ...] = ()
    """`example.com` alone, or `*.example.com` for every domain below it."""
    from_domain: tuple[str, ...] = ()
    """The same, of the From header."""
    ip: tuple[str, ...] = ()
    """Networks of the client."""
    helo: tuple[str, ...] = ()
    """Names as in `sender_domain`."""
    recipient_pattern: tuple[str, ...] = ()
    subject_pattern: tuple[str, ...] = ()
    spf: tuple[AuthResult, ...] = ()
    dkim: tuple[AuthResult, ...] = ()
    dmarc: tuple[AuthResult, ...] = ()
    attachment_type: tuple[str, ...] = ()
    """`application/pdf` or `image/*`, as the message declares it."""
    attachment_extension: tuple[str, ...] = ()
    """Without the dot, lower-case."""
    spam_score_min: float | None = None
    size_min: int | None = None
    """Bytes."""
    virus_found: bool | None = None
    """True: a virus was found; False: every attachment was scanned and none was."""
    _checks: tuple[tuple[Check, InspectionNeeds], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        made = tuple(
            (kind.build(kind.attribute, value), kind.needs)
            for name, kind in _KINDS.items()
            if (value := getattr(self, name)) not in ((), None)
        )
        object.__setattr__(self, "_checks", made)

    @property
    def phase(self) -> Phase:
        """The first at which all conditions have an answer."""
        return max((_KINDS[name].phase for name in self.given), default=Phase.RECIPIENT)

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the conditions that ask something."""
        return tuple(name for name in _KINDS if getattr(self, name) not in ((), None))

    @property
    def needs(self) -> InspectionNeeds:
        """What must be found out for an answer."""
        needed = NOTHING_NEEDED
        for _, needs in self._checks:
            needed |= needs
        return needed

    def hold(self, known: Known) -> bool | None:
        """Whether all are met; None when that cannot be told yet, and no condition fails already."""
        answer: bool | None = True
        for check, _ in self._checks:
            met = check(known)
            if met is False:
                return False
            if met is None:
                answer = None
        return answer

    def open_needs(self, known: Known) -> InspectionNeeds:
        """What must be found out to answer the conditions that have no answer yet."""
        needed = NOTHING_NEEDED
        for check, needs in self._checks:
            if check(known) is None:
                needed |= needs
        return needed

    def to_json(self) -> str:
        """For the database: those that ask something."""
        return orjson.dumps({name: getattr(self, name) for name in self.given}).decode()


Check = Callable[[Known], bool | None]


def _names_one(attribute: str, wanted: tuple[str, ...]) -> Check:
    read: Callable[[Known], frozenset[str] | None] = attrgetter(attribute)
    names = frozenset(wanted)

    def check(known: Known) -> bool | None:
        found = read(known)
        return None if found is None else not names.isdisjoint(found)

    return check


def _fits_one(attribute: str, patterns: tuple[str, ...]) -> Check:
    read: Callable[[Known], tuple[str, ...] | None] = attrgetter(attribute)

    def check(known: Known) -> bool | None:
        texts = read(known)
        if texts is None:
            return None
        try:
            return any(fits(pattern, text) for text in texts for pattern in patterns)
        except InvalidField:
            return None  # as little known as what was not found out: one broken rule must not stop all mail

    return check


def _at_least(attribute: str, floor: float) -> Check:
    read: Callable[[Known], float | None] = attrgetter(attribute)

    def check(known: Known) -> bool | None:
        found = read(known)
        return None if found is None else found >= floor

    return check


def _is(attribute: str, wanted: bool) -> Check:
    read: Callable[[Known], bool | None] = attrgetter(attribute)

    def check(known: Known) -> bool | None:
        found = read(known)
        return None if found is None else found is wanted

    return check


def _in_one(attribute: str, wanted: tuple[str, ...]) -> Check:
    read: Callable[[Known], tuple[int, int] | None] = attrgetter(attribute)
    networks: tuple[IPNetwork, ...] = tuple(ipaddress.ip_network(text) for text in wanted)
    ranges = tuple((one.version, int(one.network_address), int(one.broadcast_address)) for one in networks)

    def check(known: Known) -> bool | None:
        address = read(known)
        if address is None:
            return None
        version, number = address
        return any(first <= number <= last for family, first, last in ranges if family == version)

    return check


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one condition is checked, and what it takes to know."""

    build: Callable[[str, Any], Check]
    attribute: str
    """Of `Known`."""
    phase: Phase = Phase.RECIPIENT
    needs: InspectionNeeds = NOTHING_NEEDED


_CONTENT = (Phase.CONTENT, InspectionNeeds(content=True))
_AUTHENTICATION = (Phase.CONTENT, InspectionNeeds(authentication=True))
_KINDS = {
    "sender": _Kind(_names_one, "sender_keys"),
    "sender_domain": _Kind(_names_one, "sender_names"),
    "ip": _Kind(_in_one, "ip"),
    "helo": _Kind(_names_one, "helo_names"),
    "sender_pattern": _Kind(_fits_one, "senders"),
    "recipient_pattern": _Kind(_fits_one, "recipients"),
    "size_min": _Kind(_at_least, "size", Phase.CONTENT),
    "from_domain": _Kind(_names_one, "from_names", *_CONTENT),
    "attachment_type": _Kind(_names_one, "attachment_types", *_CONTENT),
    "attachment_extension": _Kind(_names_one, "attachment_extensions", *_CONTENT),
    "subject_pattern": _Kind(_fits_one, "subjects", *_CONTENT),
    "spf": _Kind(_names_one, "spf", *_AUTHENTICATION),
    "dkim": _Kind(_names_one, "dkim", *_AUTHENTICATION),
    "dmarc": _Kind(_names_one, "dmarc", *_AUTHENTICATION),
    "spam_score_min": _Kind(_at_least, "spam_score", Phase.CONTENT, InspectionNeeds(spam=True)),
    "virus_found": _Kind(_is, "is_infected", Phase.CONTENT, InspectionNeeds(virus=True)),
}
CONDITION_NAMES = tuple(entry.name for entry in fields(Conditions) if entry.init)
_ADAPTER: TypeAdapter[Conditions] = TypeAdapter(Conditions)


@lru_cache(maxsize=4096)
def read_conditions(text: str) -> Conditions:
    """What `to_json` wrote."""
    return _ADAPTER.validate_json(text)
