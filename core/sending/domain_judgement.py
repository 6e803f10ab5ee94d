"""What becomes of a sending domain by what the DNS says: keys take over, checks pass or fail, the lost are given up.

A DNS that does not answer changes nothing. A record that is gone is believed at once where mail has another way:
without its return path it goes out with the gateway's own, without its tracking host links lead to the gateway's.
Without a key mail could not go at all, so that its record must be missing in `LOST_AFTER_MISSES` checks in a row, and
for `LOST_AFTER_MS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from core.clock import DAY_MS
from core.sending.domain_inspection import Findings
from core.sending.domain_report import DomainReport, KeyReport
from core.sending.domain_status import CheckState, KeyStatus
from core.sending.key_rotation import DomainKey, KeyState, published_keys, when_proven
from core.sending.sending_domains import KeyAlgorithm
from core.verdicts import DmarcPolicy

LOST_AFTER_MS = 2 * DAY_MS
"""Time to find and mend a mistake in a zone."""
LOST_AFTER_MISSES = 3
"""In a row: a gateway that was switched off for days does not judge by one look."""
_ORDER_OF_CHOICE = (KeyState.ACTIVE, KeyState.PENDING, KeyState.RETIRING, KeyState.RETIRED)


@dataclass(frozen=True, slots=True)
class DomainState:
    """What checks and rotation change of a domain."""

    keys: tuple[DomainKey, ...] = ()
    """In the order they were made."""
    dkim_verified: bool = False
    """Whether mail may be sent: the record of the active RSA key was seen."""
    return_path_verified: bool = False
    spf_verified: bool = False
    dmarc_verified: bool = False
    tracking_verified: bool = False
    signing_domain: str | None = None
    report: DomainReport = field(default_factory=DomainReport)


def judged(before: DomainState, findings: Findings, now_ms: int) -> DomainState:
    """The domain after it was looked at. Keys that the findings do not speak of stay as they are."""
    keys = before.keys
    for selector, status in findings.keys.items():
        if status.check.verified:
            keys = when_proven(keys, selector, now_ms)
    known = before.report.keys
    seen = {selector: _key_report(known.get(selector), status, now_ms) for selector, status in findings.keys.items()}
    tracking = findings.tracking
    report = DomainReport(
        keys={**known, **seen},
        return_path=findings.return_path,
        spf=findings.spf,
        dmarc=findings.dmarc,
        tracking=tracking,
        dmarc_policy=_policy(before.report, findings),
    )
    state = DomainState(
        keys=keys,
        return_path_verified=findings.return_path.kept(before.return_path_verified),
        spf_verified=findings.spf.kept(before.spf_verified),
        dmarc_verified=findings.dmarc.kept(before.dmarc_verified),
        tracking_verified=tracking is not None and tracking.kept(before.tracking_verified),
        report=report,
    )
    return with_keys(state, keys)


def with_keys(state: DomainState, keys: Sequence[DomainKey]) -> DomainState:
    """The domain with its keys as they now are, and what follows from them."""
    published = {key.selector for key in published_keys(keys)}
    reports = {selector: report for selector, report in state.report.keys.items() if selector in published}
    report = replace(state.report, keys=reports)
    place = _place_of_signing(keys, report)
    return replace(state, keys=tuple(keys), report=report, dkim_verified=place is not None, signing_domain=place)


def principal_key(keys: Sequence[DomainKey]) -> DomainKey | None:
    """The RSA key that stands for the domain: the one that signs, else the newest that will, or did."""
    rsa = [key for key in reversed(keys) if key.algorithm is KeyAlgorithm.RSA]
    return min(rsa, key=lambda key: _ORDER_OF_CHOICE.index(key.state), default=None)


def _place_of_signing(keys: Sequence[DomainKey], report: DomainReport) -> str | None:
    """Where the active RSA key lies: a signature of Ed25519 alone is believed by few (RFC 8463 came late)."""
    key = principal_key(keys)
    return report.place_of(key.selector) if key is not None and key.state is KeyState.ACTIVE else None


def _key_report(before: KeyReport | None, status: KeyStatus, now_ms: int) -> KeyReport:
    known = before or KeyReport(status.check)
    if status.check.verified:
        return KeyReport(status.check, status.signing_domain)
    if status.check.state is CheckState.UNKNOWN:
        return replace(known, check=status.check)
    misses = known.misses + 1
    since_ms = now_ms if known.missing_since_ms is None else known.missing_since_ms
    is_lost = misses >= LOST_AFTER_MISSES and now_ms - since_ms >= LOST_AFTER_MS
    return KeyReport(status.check, None if is_lost else known.seen_at, misses, since_ms)


def _policy(before: DomainReport, findings: Findings) -> DmarcPolicy | None:
    is_unknown = findings.dmarc.state is CheckState.UNKNOWN
    return before.dmarc_policy if is_unknown else findings.dmarc_policy
