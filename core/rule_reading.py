"""Conditions as customers write them, brought into the one spelling they are compared in, or refused by name."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.addresses import normalise_domain, parse_mailbox
from core.errors import InvalidField
from core.patterns import check_pattern
from core.rule_conditions import CONDITION_NAMES, Conditions
from core.rule_facts import ANY_LOCAL_PREFIX, ANY_SUBTYPE, NULL_SENDER, SUBDOMAINS_PREFIX
from core.verdicts import AuthResult

MAX_VALUES = 100
"""Values of one condition."""
MAX_PATTERNS = 10
"""Patterns of one condition: each may cost as much as a hundred other values."""
MAX_SIZE = 1 << 40
MAX_SCORE = 10_000.0
MAX_EXTENSION_LENGTH = 50
PATTERN_CONDITIONS = ("sender_pattern", "recipient_pattern", "subject_pattern")
_NAME = r"[a-z0-9!#$&^_.+-]{1,127}"  # RFC 6838 section 4.2
_CONTENT_TYPE = re.compile(rf"{_NAME}/(?:{_NAME}|\*)")
_LITERAL = re.compile(r"\[[a-z0-9:.]+\]")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

Reader = Callable[[str, str], str]
"""Takes the name of the value and the value; gives its one spelling or raises `InvalidField`."""


def check_conditions(given: Mapping[str, Any]) -> Conditions:
    """Conditions that can be compared, without repetitions.

    `given` has the names of `Conditions` and sequences of text, a number or a switch; None asks nothing. Raises
    `InvalidField`, which names the value: `conditions.ip[2]`.
    """
    read: dict[str, Any] = {}
    for name in CONDITION_NAMES:
        value = given.get(name)
        if value is not None:
            read[name] = _CHECKS[name](f"conditions.{name}", value)
    return Conditions(**read)


def _read_sender(field: str, text: str) -> str:
    if text == NULL_SENDER:
        return text
    if text.startswith(ANY_LOCAL_PREFIX):
        domain = normalise_domain(text.removeprefix(ANY_LOCAL_PREFIX))
        if domain is not None:
            return ANY_LOCAL_PREFIX + domain
    mailbox = parse_mailbox(text)
    if mailbox is None:
        raise InvalidField(field, "is no sender; write user@example.com, *@example.com, or <> for the null sender")
    return f"{mailbox.text.rpartition('@')[0]}@{mailbox.domain}".lower()


def _read_domain(field: str, text: str) -> str:
    prefix = SUBDOMAINS_PREFIX if text.startswith(SUBDOMAINS_PREFIX) else ""
    domain = normalise_domain(text.removeprefix(prefix))
    if domain is None or domain.startswith("["):
        raise InvalidField(field, "is no domain name; write example.com, or *.example.com for every domain below it")
    return prefix + domain


def _read_helo(field: str, text: str) -> str:
    lowered = text.lower()
    return lowered if _LITERAL.fullmatch(lowered) else _read_domain(field, text)


def _read_network(field: str, text: str) -> str:
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise InvalidField(
            field, f"is no IP address or network ({error}); write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
        ) from error
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        raise InvalidField(field, "is an IPv4 address inside an IPv6 one; write the IPv4 address")
    return str(network)


def _read_content_type(field: str, text: str) -> str:
    lowered = text.strip().lower()
    if not _CONTENT_TYPE.fullmatch(lowered):
        raise InvalidField(field, f"is no content type; write application/pdf, or image{ANY_SUBTYPE} for all images")
    return lowered


def _read_extension(field: str, text: str) -> str:
    extension = text.strip().lower().removeprefix(".")
    if not extension or len(extension) > MAX_EXTENSION_LENGTH or extension.endswith(".") or "/" in extension:
        raise InvalidField(field, "is no file name extension; write exe or tar.gz")
    return extension


def _read_result(field: str, text: str) -> str:
    try:
        return AuthResult(text)
    except ValueError as error:
        known = ", ".join(AuthResult)
        raise InvalidField(field, f"is no result of a check; there are {known}") from error


def _each(read: Reader, limit: int = MAX_VALUES) -> Callable[[str, Any], tuple[str, ...]]:
    def check(field: str, values: Sequence[str]) -> tuple[str, ...]:
        if not values:
            raise InvalidField(field, "is empty, so nothing would ever match; leave it out to match anything")
        if len(values) > limit:
            raise InvalidField(field, f"has {len(values)} values; up to {limit} are possible, make another rule")
        return tuple(dict.fromkeys(read(f"{field}[{index}]", value) for index, value in enumerate(values)))

    return check


def _number(lowest: float, highest: float) -> Callable[[str, Any], float]:
    def check(field: str, value: float) -> float:
        if not math.isfinite(value) or not lowest <= value <= highest:
            raise InvalidField(field, f"must be between {lowest:g} and {highest:g}")
        return value

    return check


def _switch(field: str, value: bool) -> bool:
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "sender": _each(_read_sender),
    "sender_pattern": _each(check_pattern, MAX_PATTERNS),
    "sender_domain": _each(_read_domain),
    "from_domain": _each(_read_domain),
    "ip": _each(_read_network),
    "helo": _each(_read_helo),
    "recipient_pattern": _each(check_pattern, MAX_PATTERNS),
    "subject_pattern": _each(check_pattern, MAX_PATTERNS),
    "spf": _each(_read_result),
    "dkim": _each(_read_result),
    "dmarc": _each(_read_result),
    "attachment_type": _each(_read_content_type),
    "attachment_extension": _each(_read_extension),
    "spam_score_min": _number(-MAX_SCORE, MAX_SCORE),
    "size_min": _number(0, MAX_SIZE),
    "virus_found": _switch,
}
