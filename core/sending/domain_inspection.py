"""Everything that is asked of the DNS about one sending domain: all its keys, its return path, policies, tracking host.

Nothing here knows what was known before; `core.sending.domain_judgement` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.clock import Clock
from core.config import Settings
from core.dns_lookup import DnsLookup
from core.sending.domain_questions import Questions
from core.sending.domain_status import CheckResult, Expectation, KeyStatus
from core.sending.domain_tracking import check_tracking_host, tracking_goal
from core.sending.domain_verification import DomainVerifier
from core.sending.sending_domains import KeyRecord, SendingHosts, sending_hosts
from core.verdicts import DmarcPolicy


@dataclass(frozen=True, slots=True)
class GatewayNames:
    """What the gateway is called in the DNS, for mail and for links."""

    hosts: SendingHosts
    tracking_goal: str
    """See `core.sending.domain_tracking.tracking_goal`."""


def gateway_names(settings: Settings) -> GatewayNames:
    """The names as they are configured."""
    return GatewayNames(sending_hosts(settings), tracking_goal(settings.tracking_base))


@dataclass(frozen=True, slots=True)
class Findings:
    """What the DNS says of a domain now."""

    keys: Mapping[str, KeyStatus]
    """By selector."""
    return_path: CheckResult
    spf: CheckResult
    dmarc: CheckResult
    dmarc_policy: DmarcPolicy | None
    tracking: CheckResult | None
    """None where no tracking host was asked about."""


class DomainInspector:
    """Asks about sending domains, always anew. Safe for threads."""

    def __init__(self, lookup: DnsLookup, names: GatewayNames, clock: Clock) -> None:
        self._lookup = lookup
        self._names = names
        self._verifier = DomainVerifier(lookup, clock)

    def inspect(self, domain: str, keys: Sequence[KeyRecord], tracking_host: str | None) -> Findings:
        """Ask for everything, within `domain_questions.VERIFY_S` seconds. Never raises because of the DNS.

        The first key is the one that mail is signed with, or will be.
        """
        questions = Questions(self._lookup)
        first, *others = keys
        wanted = Expectation(domain, first.selector, first.public_record, self._names.hosts)
        status = self._verifier.verify(wanted, questions)
        found = {first.selector: KeyStatus(status.dkim, status.signing_domain)}
        for key in others:
            found[key.selector] = self._verifier.check_key(domain, key.selector, key.public_record, questions)
        goal = self._names.tracking_goal
        tracking = check_tracking_host(tracking_host, goal, questions) if tracking_host is not None else None
        return Findings(found, status.return_path, status.spf, status.dmarc, status.dmarc_policy, tracking)


def domain_inspector(lookup: DnsLookup, settings: Settings, clock: Clock) -> DomainInspector:
    """An inspector for this gateway's names."""
    return DomainInspector(lookup, gateway_names(settings), clock)
