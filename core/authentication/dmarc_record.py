"""What domain owners publish for DMARC, and which domains belong together (RFC 7489 sections 3.2 and 6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList

from core.authentication.tags import MalformedTags, TagList, read_tags
from core.verdicts import DmarcPolicy

ALL_PERCENT = 100
_REMEMBERED = 4_096
_VERSION = b"v=dmarc1"


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """What a domain's owner publishes (RFC 7489 section 6.3)."""

    policy: DmarcPolicy
    subdomain_policy: DmarcPolicy
    percent: int
    is_dkim_strict: bool
    is_spf_strict: bool


@lru_cache(maxsize=_REMEMBERED)
def organizational_domain(domain: str) -> str:
    """The domain below a public suffix that a domain belongs to; a public suffix is its own (section 3.2)."""
    return _suffixes().privatesuffix(domain) or domain


def read_policy(texts: Sequence[bytes]) -> DmarcRecord | None:
    """The policy among the TXT records of a name; None without exactly one (section 6.6.3)."""
    policies = [text for text in texts if is_policy(text)]
    if len(policies) != 1:
        return None
    try:
        return _read_policy(read_tags(policies[0]))
    except MalformedTags:
        return None


def is_policy(text: bytes) -> bool:
    """Whether a TXT record is meant as a policy, usable or not."""
    name, _, value = text.partition(b";")[0].partition(b"=")
    return b"=".join((name.strip().lower(), value.strip().lower())) == _VERSION


def _read_policy(tags: TagList) -> DmarcRecord | None:
    policy = _policy(tags, "p", DmarcPolicy.NONE if "rua" in tags.values else None)
    if policy is None:
        return None
    return DmarcRecord(
        policy=policy,
        subdomain_policy=_policy(tags, "sp", policy) or policy,
        percent=_percent(tags),
        is_dkim_strict=tags.values.get("adkim", b"r").lower() == b"s",
        is_spf_strict=tags.values.get("aspf", b"r").lower() == b"s",
    )


def _policy(tags: TagList, name: str, otherwise: DmarcPolicy | None) -> DmarcPolicy | None:
    try:
        return DmarcPolicy(tags.text(name))
    except (ValueError, MalformedTags):
        return otherwise


def _percent(tags: TagList) -> int:
    try:
        percent = tags.number("pct", max_digits=3)
    except MalformedTags:
        return ALL_PERCENT
    return ALL_PERCENT if percent is None else min(percent, ALL_PERCENT)


@cache
def _suffixes() -> PublicSuffixList:
    """The list that comes with the package; read once, in some 50 ms."""
    return PublicSuffixList()
