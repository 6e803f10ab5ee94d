"""MTA-STS policies in force: announced in the DNS, fetched when they are new, kept as long as they say.

A policy that is known holds until its `max_age` ends, although the DNS or the policy's host fails meanwhile: whoever
can make those fail must not be able to switch it off (RFC 8461 sections 3.3 and 5.1). Where none is known, mail goes
as if there were none. Kept in memory, so that a process which starts anew asks anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeout
from dataclasses import dataclass, replace

import structlog

from core.clock import DAY_MS, MINUTE_MS, SECOND_MS, Clock, system_clock
from core.dns_lookup import DnsLookup, LookupBudget, LookupFailed, RecordType
from outbound.mta_sts_fetch import PolicyFetcher
from outbound.mta_sts_policy import PolicyUnusable, StsPolicy, read_record
from outbound.timing import Deadline

MAX_DOMAINS = 5_000
"""Domains with a policy, or with one that could not be fetched, that are remembered; those used last stay."""
REFRESH_MS = DAY_MS
"""A policy is fetched anew after a day, or half its `max_age`, though its id is the same (RFC 8461 section 10.2 wants
it refreshed well before it ends)."""
RETRY_MS = 5 * MINUTE_MS
"""After a fetch that failed (RFC 8461 section 3.3: five minutes or longer)."""
PAUSE_MS = MINUTE_MS
"""No policy is fetched twice within a minute, even if its id changes or its `max_age` is shorter."""
TXT_TIMEOUT_S = 5.0
_PREFIX = "_mta-sts."

log = structlog.get_logger("outbound")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of one domain. Times are milliseconds since the epoch."""

    version: str = ""
    """The id under which the policy was fetched."""
    policy: StsPolicy | None = None
    expires_ms: int = 0
    refresh_ms: int = 0
    pause_until_ms: int = 0
    """No fetch before this."""

    def in_force(self, now_ms: int) -> StsPolicy | None:
        """The policy, while it has not expired."""
        return self.policy if now_ms < self.expires_ms else None

    def wants_fetch(self, announced: str, now_ms: int) -> bool:
        """Whether there may be another policy than this, or this one grows old."""
        if now_ms < self.pause_until_ms:
            return False
        return self.policy is None or announced != self.version or now_ms >= self.refresh_ms


_NOTHING = _Known()


class StsPolicies:
    """Finds the policy of a domain. One for a process; safe for threads."""

    def __init__(
        self, lookup: DnsLookup, fetcher: PolicyFetcher, clock: Clock = system_clock, max_domains: int = MAX_DOMAINS
    ) -> None:
        self._lookup = lookup
        self._fetcher = fetcher
        self._clock = clock
        self._max_domains = max_domains
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._flights: dict[str, Future[StsPolicy | None]] = {}
        self._lock = threading.Lock()

    def find(self, domain: str, deadline: Deadline) -> StsPolicy | None:
        """The policy in force, None when none is known. Takes seconds where it must be fetched; never raises for what
        others do."""
        announced = self._announced(domain, deadline)
        with self._lock:
            now_ms = self._clock()
            known = self._known.get(domain, _NOTHING)
            policy = known.in_force(now_ms)
            if known is not _NOTHING:
                self._known.move_to_end(domain)
            if announced is None or not known.wants_fetch(announced, now_ms):
                return policy
            flight = self._flights.get(domain)
            if flight is None:
                ours: Future[StsPolicy | None] = Future()
                self._flights[domain] = ours
        if flight is None:
            return self._fetch(domain, announced, known, ours, deadline)
        return policy or _follow(flight, deadline)

    def _announced(self, domain: str, deadline: Deadline) -> str | None:
        """The id in the DNS; None where there is none, or the DNS fails."""
        budget = LookupBudget(min(TXT_TIMEOUT_S, deadline.remaining), questions=1)
        try:
            return read_record(self._lookup.find(_PREFIX + domain, RecordType.TXT, budget).texts)
        except LookupFailed:
            return None

    def _fetch(
        self, domain: str, announced: str, known: _Known, flight: Future[StsPolicy | None], deadline: Deadline
    ) -> StsPolicy | None:
        found = known
        try:
            found = self._ask(domain, announced, known, deadline)
        finally:
            policy = found.in_force(self._clock())
            with self._lock:
                self._keep(domain, found)
                del self._flights[domain]
            flight.set_result(policy)
        return policy

    def _ask(self, domain: str, announced: str, known: _Known, deadline: Deadline) -> _Known:
        """What is known after a fetch, be it no more than before."""
        try:
            policy = self._fetcher.fetch(domain, deadline.remaining)
        except PolicyUnusable as error:
            now_ms = self._clock()
            is_kept = known.in_force(now_ms) is not None
            log.warning("MTA-STS policy not fetched", domain=domain, problem=str(error), older_one_holds=is_kept)
            return replace(known, pause_until_ms=now_ms + RETRY_MS)
        now_ms = self._clock()
        age_ms = max(policy.max_age_s * SECOND_MS, PAUSE_MS)
        return _Known(announced, policy, now_ms + age_ms, now_ms + min(REFRESH_MS, age_ms // 2), now_ms + PAUSE_MS)

    def _keep(self, domain: str, found: _Known) -> None:
        self._known[domain] = found
        self._known.move_to_end(domain)
        if len(self._known) > self._max_domains:
            self._known.popitem(last=False)


def _follow(flight: Future[StsPolicy | None], deadline: Deadline) -> StsPolicy | None:
    """Wait for a fetch that another thread makes."""
    try:
        return flight.result(deadline.remaining)
    except WaitTimeout:
        return None
