"""Mailbox syntax: what may stand between the angle brackets of MAIL FROM and RCPT TO (RFC 5321 section 4.1.2).

One reading of an address is used everywhere, so that the domain policy checks is the domain mail goes to
(compare CVE-2023-27043).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import idna

MAX_PATH_OCTETS = 512  # twice what RFC 5321 section 4.5.3.1.3 asks for: VERP senders exceed it in earnest
TAG_SEPARATOR = "+"

_ATOM_TEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]"
_DOT_STRING = rf"(?:{_ATOM_TEXT}|\.)+"  # dots anywhere: some providers hand out `a..b@` and `a.@`
_QUOTED_STRING = r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"'
_DOMAIN = r"[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9._\u0080-\U0010ffff-]*)"
_ADDRESS_LITERAL = r"\[[A-Za-z0-9:.]+\]"
_MAILBOX = re.compile(rf"(?P<local>{_DOT_STRING}|{_QUOTED_STRING})@(?P<domain>{_DOMAIN}|{_ADDRESS_LITERAL})")
_SOURCE_ROUTE = re.compile(rf"@(?:{_DOMAIN}|{_ADDRESS_LITERAL})(?:,@(?:{_DOMAIN}|{_ADDRESS_LITERAL}))*:")
_QUOTED_PAIR = re.compile(r"\\(.)")
_PLAIN_ASCII_DOMAIN = re.compile(r"[a-z0-9._-]+\Z")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox, taken apart."""

    text: str
    """As the client wrote it, without brackets and source route."""
    local: str
    """The local part, unquoted."""
    domain: str
    """Lower-case ASCII (A-labels, IDNA 2008)."""

    @property
    def untagged_local(self) -> str:
        """The local part before the first `+`, lower-case."""
        return self.local.partition(TAG_SEPARATOR)[0].lower()


def parse_mailbox(text: str) -> Mailbox | None:
    """Read `local@domain`; None when it is no mailbox."""
    if not _is_encodable(text) or len(text.encode()) > MAX_PATH_OCTETS:
        return None
    match = _MAILBOX.fullmatch(text)
    if match is None:
        return None
    domain = normalise_domain(match["domain"])
    local = _unquote(match["local"])
    if domain is None:
        return None
    return Mailbox(text=text, local=local, domain=domain)


def normalise_domain(name: str) -> str | None:
    """Lower-case A-labels of a domain name, without a trailing dot; None when it is no domain name."""
    lowered = name.lower().removesuffix(".")
    if lowered.startswith("["):
        return lowered
    if not lowered or len(lowered) > 253:
        return None
    if _PLAIN_ASCII_DOMAIN.match(lowered):
        labels = lowered.split(".")
        return lowered if all(0 < len(label) <= 63 for label in labels) else None
    try:
        return idna.encode(lowered, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return None


def strip_source_route(path: str) -> str:
    """Drop `@a,@b:` before a mailbox: servers ignore it and never act on it (RFC 5321 appendix C)."""
    if not path.startswith("@"):
        return path
    match = _SOURCE_ROUTE.match(path)
    return path[match.end() :] if match else path


def _unquote(local: str) -> str:
    if not local.startswith('"'):
        return local
    return _QUOTED_PAIR.sub(r"\1", local[1:-1])


def _is_encodable(text: str) -> bool:
    """Bytes that were no UTF-8 arrive as lone surrogates; no mailbox holds them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
