"""The domain in a From header, read so that it is the one a reader sees, or not at all.

Readers disagree about malformed addresses (CVE-2023-27043), so only what all of them read alike is judged: an address
with a second, different address beside it is no address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from core.addresses import parse_mailbox
from inbound.reading.headers import decode_eight_bit

MAX_FROM_LENGTH = 64 * 1024
"""Characters of a From header; longer ones are nobody's."""
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*+"'  # quoted string
    r"|[ \t\r\n]++"
    r"|[()<>\[\]:;@\\,.]"
    r'|[^()<>\[\]:;@\\,."\s\x00-\x1f\x7f]++',  # atom
    re.DOTALL,
)
_LITERAL = "["
_SPECIALS = frozenset("()<>[]:;@\\,.")
_GROUP_SIGNS = frozenset(":;")
"""Groups (RFC 6854) have no one domain, and readers differ on whether there is one."""
_ADDRESS_SIGNS = frozenset("@<>:;")


class _Unreadable(Exception):
    """The field is not one that all readers read alike."""


def from_domain(values: Sequence[str]) -> str | None:
    """The domain that the From headers of a message name, lower-case A-labels; None unless it is exactly one.

    `values` are those of all From headers, raw or made readable. Several mailboxes of one domain are one domain.
    """
    if len(values) != 1 or len(values[0]) > MAX_FROM_LENGTH:
        return None
    try:
        domains = {_domain_of(tokens) for tokens in _mailboxes(_tokens(values[0]))}
    except _Unreadable:
        return None
    return domains.pop() if len(domains) == 1 else None


def _tokens(value: str) -> list[str]:
    """Tokens without comments and white space, raw 8-bit bytes made readable."""
    if not value.isascii():
        value = decode_eight_bit(value)
    tokens: list[str] = []
    depth = position = 0
    while position < len(value):
        match = _TOKEN.match(value, position)
        if match is None:
            raise _Unreadable
        position = match.end()
        lexeme = match[0]
        if lexeme == "\\" and depth:
            position += 1
        elif lexeme == "(":
            depth += 1
        elif lexeme == ")":
            depth -= 1
        elif not depth and not lexeme.isspace():
            tokens.append(lexeme)
        if depth < 0:
            raise _Unreadable
    if depth:
        raise _Unreadable
    return tokens


def _mailboxes(tokens: list[str]) -> Iterator[list[str]]:
    """The pieces between commas that hold an address; the others are names like `Shop, Inc.` without their quotes."""
    piece: list[str] = []
    for lexeme in [*tokens, ","]:
        if lexeme != ",":
            piece.append(lexeme)
            continue
        if _ADDRESS_SIGNS & set(piece):
            yield piece
        piece = []


def _domain_of(tokens: list[str]) -> str:
    """The domain of one mailbox: `phrase <local@domain>` or `local@domain`."""
    if "<" not in tokens:
        return _domain_of_address(tokens)
    start = tokens.index("<")
    if tokens[-1] != ">" or tokens.count("<") > 1 or tokens.count(">") > 1:
        raise _Unreadable
    domain = _domain_of_address(tokens[start + 1 : -1])
    phrase = tokens[:start]
    if _GROUP_SIGNS & set(phrase) or ("@" in phrase and _domain_of_address(phrase) != domain):
        raise _Unreadable  # `ceo@bank.example <x@evil.example>`: some readers show only the first
    return domain


def _domain_of_address(tokens: list[str]) -> str:
    words = [lexeme not in _SPECIALS for lexeme in tokens]
    mailbox = parse_mailbox("".join(tokens))
    if tokens.count("@") != 1 or mailbox is None or any(left and right for left, right in pairwise(words)):
        raise _Unreadable
    if mailbox.domain.startswith(_LITERAL) or "." not in mailbox.domain:
        raise _Unreadable
    return mailbox.domain
