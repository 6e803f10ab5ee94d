"""DMARC: whether the domain in the From header is who it says (RFC 7489)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList

from core.dns_lookup import DnsLookup, LookupBudget, LookupFailed, RecordType
from core.verdicts import AuthResult, DkimSignature, DkimVerdict, DmarcPolicy, DmarcVerdict, SpfVerdict
from inbound.authentication.address_list import from_domain
from inbound.authentication.header_fields import MessageView
from inbound.authentication.tags import MalformedTags, TagList, read_tags

ALL_PERCENT = 100
_REMEMBERED = 4_096
_VERSION = b"v=dmarc1"
_WEAKER = {DmarcPolicy.REJECT: DmarcPolicy.QUARANTINE, DmarcPolicy.QUARANTINE: DmarcPolicy.NONE}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Domains that somebody has shown to be behind a message: we ourselves, or a sealer we trust."""

    spf: str | None = None
    """The domain for which SPF passes."""
    dkim: tuple[str, ...] = ()
    """The domains whose signatures pass and cover the whole body."""


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """What a domain's owner publishes (RFC 7489 section 6.3)."""

    policy: DmarcPolicy
    subdomain_policy: DmarcPolicy
    percent: int
    is_dkim_strict: bool
    is_spf_strict: bool


@dataclass(frozen=True, slots=True)
class Alignment:
    """What of the evidence speaks for the From domain."""

    spf: bool
    dkim: bool

    @property
    def is_any(self) -> bool:
        """Whether DMARC passes."""
        return self.spf or self.dkim


def author_domain(view: MessageView) -> str | None:
    """The domain of the From header; None when there is not exactly one."""
    return from_domain([field.value.decode("ascii", "surrogateescape") for field in view.named(b"from")])


def evidence_of(spf: SpfVerdict, dkim: DkimVerdict) -> Evidence:
    """What our own checks have shown. A signature with `l=` says nothing of what was added to the body."""
    signers = tuple(signature.domain for signature in dkim.signatures if _is_full_pass(signature))
    return Evidence(spf.domain if spf.result is AuthResult.PASS else None, signers)


def check_dmarc(
    domain: str | None,
    spf: SpfVerdict,
    dkim: DkimVerdict,
    relayed: Evidence | None,
    sample: int,
    lookup: DnsLookup,
    budget: LookupBudget,
) -> DmarcVerdict:
    """Judge a message by its From domain.

    `relayed` is what a trusted sealer saw; it counts where our own evidence does not suffice. `sample` in 0..99
    places the message within `pct=`.
    """
    if domain is None:
        return DmarcVerdict(AuthResult.PERMERROR, "")
    try:
        found = _find_record(domain, lookup, budget)
    except LookupFailed:
        return DmarcVerdict(AuthResult.TEMPERROR, domain)
    if found is None:
        return DmarcVerdict(AuthResult.NONE, domain)
    record, is_own = found
    own = align(domain, evidence_of(spf, dkim), record)
    policy = _sampled(record.policy if is_own else record.subdomain_policy, record.percent, sample)
    result = AuthResult.PASS if own.is_any or (relayed and align(domain, relayed, record).is_any) else AuthResult.FAIL
    if result is AuthResult.FAIL and _may_yet_pass(domain, spf, dkim, record):
        result = AuthResult.TEMPERROR
    return DmarcVerdict(result, domain, policy, own.spf, own.dkim)


def align(domain: str, evidence: Evidence, record: DmarcRecord) -> Alignment:
    """Which evidence is for the From domain (RFC 7489 section 3.1)."""
    return Alignment(
        spf=evidence.spf is not None and _is_aligned(domain, evidence.spf, record.is_spf_strict),
        dkim=any(_is_aligned(domain, signer, record.is_dkim_strict) for signer in evidence.dkim),
    )


@lru_cache(maxsize=_REMEMBERED)
def organizational_domain(domain: str) -> str:
    """The domain below a public suffix that a domain belongs to; a public suffix is its own (section 3.2)."""
    return _suffixes().privatesuffix(domain) or domain


def read_policy(texts: Sequence[bytes]) -> DmarcRecord | None:
    """The policy among the TXT records of a name; None without exactly one (section 6.6.3)."""
    policies = [text for text in texts if _is_policy(text)]
    if len(policies) != 1:
        return None
    try:
        return _read_policy(read_tags(policies[0]))
    except MalformedTags:
        return None


def _find_record(domain: str, lookup: DnsLookup, budget: LookupBudget) -> tuple[DmarcRecord, bool] | None:
    """The record, and whether it is the domain's own rather than its organizational domain's."""
    organization = organizational_domain(domain)
    for asked in dict.fromkeys((domain, organization)):
        texts = lookup.find(f"_dmarc.{asked}", RecordType.TXT, budget).texts
        record = read_policy(texts)
        if record is not None:
            return record, asked == domain
        if any(map(_is_policy, texts)):
            return None  # policies that cannot be used end the search (section 6.6.3)
    return None


def _is_policy(text: bytes) -> bool:
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


def sample_of(raw_header: bytes) -> int:
    """A number in 0..99 for a message, always the same for the same header."""
    return zlib.crc32(raw_header) % ALL_PERCENT


def _sampled(policy: DmarcPolicy, percent: int, sample: int) -> DmarcPolicy:
    """Outside the share that `pct=` names, the next weaker policy is in force (section 6.6.4)."""
    return policy if sample < percent else _WEAKER.get(policy, policy)


def _may_yet_pass(domain: str, spf: SpfVerdict, dkim: DkimVerdict, record: DmarcRecord) -> bool:
    """Whether something aligned could not be judged because the DNS was silent."""
    open_spf = spf.domain if spf.result is AuthResult.TEMPERROR else None
    open_dkim = [signature.domain for signature in dkim.signatures if signature.result is AuthResult.TEMPERROR]
    return align(domain, Evidence(open_spf, tuple(open_dkim)), record).is_any


def _is_full_pass(signature: DkimSignature) -> bool:
    return signature.result is AuthResult.PASS and not signature.is_length_limited


def _is_aligned(author: str, shown: str, is_strict: bool) -> bool:
    if is_strict or author == shown:
        return author == shown
    return organizational_domain(author) == organizational_domain(shown)


@cache
def _suffixes() -> PublicSuffixList:
    """The list that comes with the package; read once, in some 50 ms."""
    return PublicSuffixList()
