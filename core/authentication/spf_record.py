"""Reading an SPF record: the whole of it is checked before anything is evaluated (RFC 7208 sections 4.6 and 5)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from core.authentication.spf_macros import SpfSyntaxError, check_domain_spec, check_macros
from core.netguard import IPNetwork
from core.verdicts import AuthResult

IPV4_BITS = 32
IPV6_BITS = 128
_VERSION = b"v=spf1"
_QUALIFIERS = {
    "+": AuthResult.PASS,
    "-": AuthResult.FAIL,
    "~": AuthResult.SOFTFAIL,
    "?": AuthResult.NEUTRAL,
}
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*+)=(.*)", re.IGNORECASE | re.DOTALL)
_DIRECTIVE = re.compile(r"([+~?-]?)([a-z0-9]++)(.*)", re.IGNORECASE | re.DOTALL)
_LENGTH = r"(0|[1-9][0-9]{0,2})"
_DOMAIN_AND_LENGTHS = re.compile(rf"(?::(?P<spec>.+?))?(?:/(?P<four>{_LENGTH}))?(?://(?P<six>{_LENGTH}))?", re.DOTALL)
_ADDRESS = re.compile(rf":(?P<address>[0-9a-f:.]++)(?:/(?P<length>{_LENGTH}))?", re.IGNORECASE)


class Mechanism(StrEnum):
    """How a directive recognises a client."""

    ALL = "all"
    INCLUDE = "include"
    A = "a"
    MX = "mx"
    PTR = "ptr"
    IP4 = "ip4"
    IP6 = "ip6"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Directive:
    """One mechanism, and the result when it matches."""

    result: AuthResult
    mechanism: Mechanism
    spec: str | None = None
    """The domain-spec, unexpanded; None stands for the current domain."""
    network: IPNetwork | None = None
    """Of `ip4` and `ip6`."""
    ipv4_bits: int = IPV4_BITS
    ipv6_bits: int = IPV6_BITS


@dataclass(frozen=True, slots=True)
class SpfRecord:
    """A record without syntax errors."""

    directives: tuple[Directive, ...]
    redirect: str | None
    explanation: str | None


def is_spf_record(text: bytes) -> bool:
    """Whether a TXT record is an SPF record (section 4.5)."""
    return text[: len(_VERSION)].lower() == _VERSION and text[len(_VERSION) : len(_VERSION) + 1] in (b"", b" ")


def read_record(text: bytes) -> SpfRecord:
    """Read an SPF record. Raises `SpfSyntaxError`."""
    if not text.isascii():
        raise SpfSyntaxError("the record is not in ASCII")
    directives: list[Directive] = []
    modifiers: dict[str, str] = {}
    for term in text.decode("ascii")[len(_VERSION) :].split(" "):
        modifier = _MODIFIER.fullmatch(term)
        if modifier:
            _add_modifier(modifiers, modifier[1].lower(), modifier[2])
        elif term:
            directives.append(_read_directive(term))
    return SpfRecord(tuple(directives), modifiers.get("redirect"), modifiers.get("exp"))


def _add_modifier(modifiers: dict[str, str], name: str, value: str) -> None:
    if name not in ("redirect", "exp"):
        check_macros(value)
        return
    if name in modifiers:
        raise SpfSyntaxError(f"{name}= occurs more than once")
    modifiers[name] = check_domain_spec(value)


def _read_directive(term: str) -> Directive:
    match = _DIRECTIVE.fullmatch(term)
    if match is None or match[2].lower() not in _READERS:
        raise SpfSyntaxError(f"{term[:80]!r} is no mechanism")
    mechanism = Mechanism(match[2].lower())
    directive = _READERS[mechanism](_QUALIFIERS[match[1] or "+"], mechanism, match[3])
    if directive is None:
        raise SpfSyntaxError(f"{term[:80]!r} is malformed")
    return directive


def _read_all(result: AuthResult, mechanism: Mechanism, rest: str) -> Directive | None:
    return Directive(result, mechanism) if not rest else None


def _read_with_domain(result: AuthResult, mechanism: Mechanism, rest: str) -> Directive | None:
    return Directive(result, mechanism, check_domain_spec(rest[1:])) if rest.startswith(":") else None


def _read_ptr(result: AuthResult, mechanism: Mechanism, rest: str) -> Directive | None:
    return _read_with_domain(result, mechanism, rest) if rest else Directive(result, mechanism)


def _read_with_lengths(result: AuthResult, mechanism: Mechanism, rest: str) -> Directive | None:
    match = _DOMAIN_AND_LENGTHS.fullmatch(rest)
    if match is None:
        return None
    four, six = int(match["four"] or IPV4_BITS), int(match["six"] or IPV6_BITS)
    if four > IPV4_BITS or six > IPV6_BITS:
        return None
    spec = check_domain_spec(match["spec"]) if match["spec"] is not None else None
    return Directive(result, mechanism, spec, ipv4_bits=four, ipv6_bits=six)


def _read_address(result: AuthResult, mechanism: Mechanism, rest: str) -> Directive | None:
    match = _ADDRESS.fullmatch(rest)
    if match is None:
        return None
    length = match["length"]
    text = match["address"] if length is None else f"{match['address']}/{length}"
    network = ipaddress.IPv4Network if mechanism is Mechanism.IP4 else ipaddress.IPv6Network
    try:
        return Directive(result, mechanism, network=network(text, strict=False))
    except ValueError:
        return None


_READERS: dict[str, Callable[[AuthResult, Mechanism, str], Directive | None]] = {
    Mechanism.ALL: _read_all,
    Mechanism.INCLUDE: _read_with_domain,
    Mechanism.EXISTS: _read_with_domain,
    Mechanism.PTR: _read_ptr,
    Mechanism.A: _read_with_lengths,
    Mechanism.MX: _read_with_lengths,
    Mechanism.IP4: _read_address,
    Mechanism.IP6: _read_address,
}
