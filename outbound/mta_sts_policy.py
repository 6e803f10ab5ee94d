"""MTA-STS policies of domains that we send to: how a record and a policy are read, and which hosts a policy allows.

RFC 8461 sections 3.1, 3.2 and 4.1. The other side, policies that we serve, is `core.mta_sts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from core.mta_sts import WILDCARD_PREFIX

MAX_AGE_LIMIT_S = 31_557_600
"""The longest a policy may be kept (RFC 8461 section 3.2): a year."""
MAX_PATTERNS = 100
"""`mx` lines of one policy; the largest providers have under ten."""
VERSION = "STSv1"
_RECORD_START = re.compile(rb"v=STSv1[ \t]*(?:;|\Z)")
_RECORD_FIELD = re.compile(r"[ \t]*([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([\x21-\x3a\x3c\x3e-\x7e]+)[ \t]*\Z")
_RECORD_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_NUMBER = re.compile(r"[0-9]{1,10}\Z")
_HOST = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"
)


class PolicyUnusable(Exception):
    """There is no policy to be had, or what came is none; the text says what is wrong."""


class StsMode(Enum):
    """What a policy asks of senders."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """One policy."""

    mode: StsMode
    hosts: frozenset[str]
    """Lower-case names that are allowed as they stand."""
    parents: frozenset[str]
    """`example.com` for the pattern `*.example.com`."""
    max_age_s: int

    def allows(self, host: str) -> bool:
        """Whether mail may go to this MX host; an asterisk stands for exactly one label (RFC 8461 section 4.1)."""
        name = host.lower().removesuffix(".")
        return name in self.hosts or name.partition(".")[2] in self.parents


def read_record(texts: Iterable[bytes]) -> str | None:
    """The `id` in the TXT records at `_mta-sts`; None where there is not exactly one record of this version."""
    found = [text for text in texts if _RECORD_START.match(text)]
    if len(found) != 1:
        return None
    for field in found[0].decode("ascii", "replace").split(";")[1:]:
        match = _RECORD_FIELD.match(field)
        if match is not None and match[1] == "id":
            return match[2] if _RECORD_ID.match(match[2]) else None
    return None


def read_policy(content: bytes) -> StsPolicy:
    """Read a policy file. Of a key that comes twice the first holds, unknown keys mean nothing (RFC 8461 section 3.2).

    Raises `PolicyUnusable`.
    """
    fields, patterns = _fields(content)
    if fields.get("version") != VERSION:
        raise PolicyUnusable(f"its version is not {VERSION}")
    try:
        mode = StsMode(fields.get("mode"))
    except ValueError as error:
        raise PolicyUnusable("its mode is none of enforce, testing and none") from error
    max_age = fields.get("max_age", "")
    if not _NUMBER.match(max_age):
        raise PolicyUnusable("its max_age is no number of seconds")
    if not patterns and mode is not StsMode.NONE:
        raise PolicyUnusable("it names no mx")
    hosts, parents = _hosts(patterns)
    return StsPolicy(mode, hosts, parents, min(int(max_age), MAX_AGE_LIMIT_S))


def _fields(content: bytes) -> tuple[dict[str, str], list[str]]:
    """The first value of each key, and all values of `mx`."""
    try:
        lines = content.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise PolicyUnusable("it is no UTF-8") from error
    fields: dict[str, str] = {}
    patterns: list[str] = []
    for line in lines:
        if not line.strip():
            continue
        key, colon, value = line.partition(":")
        if not colon:
            raise PolicyUnusable("a line of it has no colon")
        if key == "mx":
            patterns.append(value.strip(" \t"))
        else:
            fields.setdefault(key, value.strip(" \t"))
    return fields, patterns


def _hosts(patterns: list[str]) -> tuple[frozenset[str], frozenset[str]]:
    if len(patterns) > MAX_PATTERNS:
        raise PolicyUnusable(f"it has more than {MAX_PATTERNS} mx")
    hosts: set[str] = set()
    parents: set[str] = set()
    for pattern in patterns:
        name = pattern.lower().removesuffix(".")
        is_wildcard = name.startswith(WILDCARD_PREFIX)
        if not _HOST.match(name.removeprefix(WILDCARD_PREFIX)):
            raise PolicyUnusable("an mx of it is no host name and no wildcard like *.example.com")
        (parents if is_wildcard else hosts).add(name.removeprefix(WILDCARD_PREFIX))
    return frozenset(hosts), frozenset(parents)
