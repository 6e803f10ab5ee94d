"""What the DNS says of a sending domain, compared with what it should say: in facts, and in words with a cure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.mta_sts import DnsRecord
from core.sending.sending_domains import SendingHosts
from core.verdicts import DmarcPolicy


class CheckState(StrEnum):
    """How a check came out."""

    VERIFIED = "verified"
    MISSING = "missing"
    """There is no such record."""
    WRONG = "wrong"
    """There is one, and it does not do."""
    UNKNOWN = "unknown"
    """The DNS did not answer: this says nothing, and is to be tried again."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check."""

    state: CheckState
    looked_for: tuple[DnsRecord, ...]
    """What would do, each by itself."""
    found: tuple[DnsRecord, ...] = ()
    """What is there, at most `MAX_SHOWN` records; printable, shortened."""
    cure: str = ""
    """What to do, in words; advice where the check is verified; empty where there is nothing to do."""

    @property
    def verified(self) -> bool:
        """Whether it is right. False also when unknown: ask `kept` what to write down."""
        return self.state is CheckState.VERIFIED

    def kept(self, before: bool) -> bool:
        """What to write down of it: a DNS that fails takes nothing away that was verified before."""
        return before if self.state is CheckState.UNKNOWN else self.verified


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a domain's DNS should say."""

    domain: str
    """As `core.sending.sending_domains.sending_domain` gives it."""
    selector: str
    public_record: str
    """Of the key, as `core.sending.sending_domains.new_key` made it."""
    hosts: SendingHosts


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What became of one key."""

    check: CheckResult
    signing_domain: str | None = None
    """Where the key was found, and so `d=` of signatures: the domain or its parent; None when not verified."""


@dataclass(frozen=True, slots=True)
class DomainStatus:
    """All checks of a domain. Mail can be signed with DKIM alone; bounces need the return path, and it SPF."""

    dkim: CheckResult
    return_path: CheckResult
    spf: CheckResult
    dmarc: CheckResult
    """Never required."""
    signing_domain: str | None = None
    """See `KeyStatus`."""
    dmarc_policy: DmarcPolicy | None = None
    """What receivers are asked to do with mail from this domain that does not pass; None without a usable record."""
