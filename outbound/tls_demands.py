"""What TLS the mail for a domain demands at each host: by DANE, by the domain's MTA-STS policy, or none in particular.

DANE comes first: a host with TLSA records that can be used is judged by these, whatever the policy says. Where neither
speaks, TLS is opportunistic.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.clock import Clock
from core.config import Settings
from core.delivery import Verdict
from core.dns_lookup import open_lookup
from core.setting_values import DEFAULT_DOMAIN
from outbound.dane import AUTO, Dane, TlsaUnknown, ask_for_dnssec, believes_dnssec, usable
from outbound.hosts import SMTP_PORT, HostAddress, Route, SmartHost, caching_resolver, route_for
from outbound.mail import NO_ANSWER, Judgement
from outbound.mta_sts_cache import StsPolicies
from outbound.mta_sts_fetch import PolicyFetcher
from outbound.mta_sts_policy import StsMode, StsPolicy
from outbound.timing import Deadline
from outbound.tls import WHATEVER_THERE_IS, TlsContexts, TlsDemand, TlsLevel


class HostUnfit(Exception):
    """Mail must not go to this host; carries what that means for the recipients."""

    def __init__(self, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.judgement = Judgement(Verdict.TEMPORARY, NO_ANSWER, enhanced, text)


class TlsDemands:
    """Finds out what is demanded. Safe for threads."""

    def __init__(self, policies: StsPolicies | None = None, dane: Dane | None = None) -> None:
        self._policies = policies
        self._dane = dane

    def of(self, domain: str, deadline: Deadline) -> DomainDemands:
        """For one attempt at a domain. Takes seconds where a policy is to be fetched; never raises for what others
        do."""
        is_known = domain != DEFAULT_DOMAIN  # to the DNS
        policy = self._policies.find(domain, deadline) if self._policies is not None and is_known else None
        return DomainDemands(domain, policy, self._dane)


@dataclass(frozen=True, slots=True)
class DomainDemands:
    """What one domain demands."""

    domain: str
    policy: StsPolicy | None
    dane: Dane | None

    def at(self, place: HostAddress, deadline: Deadline) -> TlsDemand:
        """The demand at one of its hosts. Raises `HostUnfit`."""
        if not place.is_guarded:  # our own relay, of which our own settings say what it needs
            return place.tls
        return self._by_dane(place, deadline) or self._by_policy(place)

    def _by_dane(self, place: HostAddress, deadline: Deadline) -> TlsDemand | None:
        try:
            found = None if self.dane is None else self.dane.find(place, deadline)
        except TlsaUnknown as error:
            text = f"{error}; without it mail does not go to {place.host}, and is tried again later"
            raise HostUnfit("4.7.5", text) from error
        if found is None:
            return None
        name, records = found
        good = usable(records)
        reason = f"the TLSA records of {name}"
        if good:
            names = tuple(dict.fromkeys((name, place.host, self.domain)))
            return TlsDemand(TlsLevel.DANE, True, reason, tlsa=good, names=names)
        if self._is_enforced:
            return None  # records that say nothing of certificates must not take away what the policy says of them
        return TlsDemand(TlsLevel.OPPORTUNISTIC, True, reason)

    def _by_policy(self, place: HostAddress) -> TlsDemand:
        policy = self.policy
        if policy is None or policy.mode is StsMode.NONE:
            return WHATEVER_THERE_IS
        reason = f"the MTA-STS policy of {self.domain}"
        if policy.allows(place.host):
            return TlsDemand(TlsLevel.STS, self._is_enforced, reason)
        text = f"{place.host} is not among the hosts that {reason} allows"
        if self._is_enforced:
            raise HostUnfit("4.7.0", text)
        return TlsDemand(TlsLevel.OPPORTUNISTIC, False, reason, warning=text)

    @property
    def _is_enforced(self) -> bool:
        return self.policy is not None and self.policy.mode is StsMode.ENFORCE


def route_and_demands(
    settings: Settings, clock: Clock, contexts: TlsContexts, port: int = SMTP_PORT, dnssec: str = AUTO
) -> tuple[Route, TlsDemands]:
    """Where mail goes and what is demanded there, as configured. Raises `ConfigurationError`."""
    resolver = caching_resolver(settings)
    route = route_for(settings, port, resolver)
    if isinstance(route, SmartHost):
        return route, TlsDemands()
    dane = None
    if believes_dnssec(dnssec, resolver):
        ask_for_dnssec(resolver)
        dane = Dane(resolver)
    lookup = open_lookup(settings, clock)
    fetcher = PolicyFetcher(lookup, settings.target_policy, contexts)
    return route, TlsDemands(StsPolicies(lookup, fetcher, clock), dane)
