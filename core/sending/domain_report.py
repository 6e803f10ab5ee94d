"""What the last checks of a sending domain found, as it is kept: for people to read, and for the next check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from core.mta_sts import DnsRecord
from core.sending.domain_status import CheckResult, CheckState
from core.verdicts import DmarcPolicy


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What is known of one key's record."""

    check: CheckResult
    seen_at: str | None = None
    """Where it lies, and so `d=` of signatures: the domain or its parent; None where it never was, or is gone."""
    misses: int = 0
    """Checks in a row that did not find it; those that got no answer do not count."""
    missing_since_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DomainReport:
    """All that was found; before the first check, nothing."""

    keys: Mapping[str, KeyReport] = field(default_factory=dict)
    """By selector; of published keys only."""
    return_path: CheckResult | None = None
    spf: CheckResult | None = None
    dmarc: CheckResult | None = None
    tracking: CheckResult | None = None
    """None also where the domain has no tracking host of its own."""
    dmarc_policy: DmarcPolicy | None = None

    def place_of(self, selector: str) -> str | None:
        """Where a key was seen."""
        report = self.keys.get(selector)
        return report.seen_at if report is not None else None


def report_json(report: DomainReport) -> str:
    """As the database keeps it."""
    return orjson.dumps(report).decode()


def read_report(text: str | None) -> DomainReport:
    """What `report_json` wrote; an empty report for None."""
    if text is None:
        return DomainReport()
    found = orjson.loads(text)
    return DomainReport(
        keys={selector: _key(facts) for selector, facts in found["keys"].items()},
        return_path=_check(found["return_path"]),
        spf=_check(found["spf"]),
        dmarc=_check(found["dmarc"]),
        tracking=_check(found["tracking"]),
        dmarc_policy=DmarcPolicy(found["dmarc_policy"]) if found["dmarc_policy"] else None,
    )


def _key(facts: dict[str, Any]) -> KeyReport:
    return KeyReport(_certain(facts["check"]), facts["seen_at"], facts["misses"], facts["missing_since_ms"])


def _check(facts: dict[str, Any] | None) -> CheckResult | None:
    return _certain(facts) if facts is not None else None


def _certain(facts: dict[str, Any]) -> CheckResult:
    looked_for, found = (tuple(DnsRecord(**record) for record in facts[name]) for name in ("looked_for", "found"))
    return CheckResult(CheckState(facts["state"]), looked_for, found, facts["cure"])
