"""DMARC: whether the domain in the From header is who it says (RFC 7489)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from core.authentication.dmarc_record import ALL_PERCENT, DmarcRecord, is_policy, organizational_domain, read_policy
from core.dns_lookup import DnsLookup, LookupBudget, LookupFailed, RecordType
from core.verdicts import AuthResult, DkimSignature, DkimVerdict, DmarcPolicy, DmarcVerdict, SpfVerdict
from inbound.authentication.address_list import from_domain
from inbound.authentication.header_fields import MessageView

_WEAKER = {DmarcPolicy.REJECT: DmarcPolicy.QUARANTINE, DmarcPolicy.QUARANTINE: DmarcPolicy.NONE}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Domains that somebody has shown to be behind a message: we ourselves, or a sealer we trust."""

    spf: str | None = None
    """The domain for which SPF passes."""
    dkim: tuple[str, ...] = ()
    """The domains whose signatures pass and cover the whole body."""


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


def _find_record(domain: str, lookup: DnsLookup, budget: LookupBudget) -> tuple[DmarcRecord, bool] | None:
    """The record, and whether it is the domain's own rather than its organizational domain's."""
    organization = organizational_domain(domain)
    for asked in dict.fromkeys((domain, organization)):
        texts = lookup.find(f"_dmarc.{asked}", RecordType.TXT, budget).texts
        record = read_policy(texts)
        if record is not None:
            return record, asked == domain
        if any(map(is_policy, texts)):
            return None  # policies that cannot be used end the search (section 6.6.3)
    return None


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
