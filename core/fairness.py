"""Which due deliveries may start now, so that no target host delays another's mail.

Pure: the store says what is due, in flight and failing; this says what to take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from core.clock import SECOND_MS
from core.delivery import Outcome, Verdict

BREAKER_FAILURES = 5
"""Consecutive failures after which a host is left alone for a while."""
BREAKER_FIRST_PAUSE_MS = 5 * SECOND_MS
BREAKER_LONGEST_PAUSE_MS = 60 * SECOND_MS
SLOW_MS = 3 * SECOND_MS
"""A host that takes longer than this for one answer, or is doing so now, counts as slow."""
SLOW_MAIL_MS = 60 * SECOND_MS
"""The same for mail hosts: greylisting, greeting delays and content scans make tens of seconds usual."""
NEWCOMER_CONCURRENCY = 4
"""In flight at once to a host of which this worker has not yet seen a good answer."""
FAILING_CONCURRENCY = 2
"""In flight at once to a host whose last attempt failed."""
SLOW_CONCURRENCY = 8
"""In flight at once to a host that answers, but slowly."""
CLOSING = 421
"""SMTP: the service is not available (RFC 5321 section 4.2.3)."""
SUSPECT_POOL_SHARE = 0.25
"""All suspect hosts together may hold this share of a worker's places."""


@dataclass(frozen=True, slots=True)
class HostHealth:
    """What is remembered of a host that fails or dawdles; healthy hosts have no record."""

    failures: int = 0
    open_until_ms: int = 0
    is_slow: bool = False


HEALTHY = HostHealth()


@dataclass(frozen=True, slots=True)
class HostLoad:
    """What is in flight to one host at the moment."""

    count: int
    oldest_age_ms: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A due delivery."""

    delivery_id: str
    target_host: str


class ClaimPlan:
    """Hands out a worker's free places, one candidate at a time."""

    def __init__(
        self,
        *,
        free_places: int,
        pool_size: int,
        host_concurrency: int,
        load: Mapping[str, HostLoad],
        health: Mapping[str, HostHealth],
        proven_hosts: Collection[str],
        now_ms: int,
        slow_ms: int = SLOW_MS,
    ) -> None:
        self.chosen: list[str] = []
        self._free = free_places
        self._host_concurrency = host_concurrency
        self._load = load
        self._health = health
        self._proven_hosts = proven_hosts
        self._slow_ms = slow_ms
        self._now_ms = now_ms
        self._in_flight = Counter({host: entry.count for host, entry in load.items()})
        suspects = sum(entry.count for host, entry in load.items() if self._is_suspect(host))
        self._suspect_places = max(1, int(pool_size * SUSPECT_POOL_SHARE)) - suspects

    @property
    def is_full(self) -> bool:
        """Whether every free place is taken."""
        return len(self.chosen) >= self._free

    def offer(self, candidates: Iterable[Candidate]) -> None:
        """Take what fits, in the order given."""
        for candidate in candidates:
            if self.is_full:
                return
            if self.allowance(candidate.target_host) > 0:
                self._take(candidate)

    def allowance(self, host: str) -> int:
        """How many more deliveries may start to a host."""
        room = self._limit(host) - self._in_flight[host]
        if self._is_suspect(host):
            room = min(room, self._suspect_places)
        return max(0, min(room, self._free - len(self.chosen)))

    def _take(self, candidate: Candidate) -> None:
        self.chosen.append(candidate.delivery_id)
        self._in_flight[candidate.target_host] += 1
        if self._is_suspect(candidate.target_host):
            self._suspect_places -= 1

    def _limit(self, host: str) -> int:
        health = self._health.get(host, HEALTHY)
        if health.open_until_ms > self._now_ms:
            return 0
        if health.failures >= BREAKER_FAILURES:
            return 1  # half open: one probe decides
        if health.failures > 0:
            return min(FAILING_CONCURRENCY, self._host_concurrency)
        if self._is_suspect(host):
            return min(SLOW_CONCURRENCY, self._host_concurrency)
        if host not in self._proven_hosts:
            return min(NEWCOMER_CONCURRENCY, self._host_concurrency)
        return self._host_concurrency

    def _is_suspect(self, host: str) -> bool:
        health = self._health.get(host, HEALTHY)
        load = self._load.get(host)
        return health.failures > 0 or health.is_slow or (load is not None and load.oldest_age_ms > self._slow_ms)


def health_after(health: HostHealth, outcome: Outcome, now_ms: int) -> HostHealth:
    """A host's health after one more attempt.

    Only a host that does not answer, or answers 5xx, is failing: a 4xx is an answer about one message, and 429 is
    paced by its own `Retry-After`. What failed on our side says nothing of a host.
    """
    if outcome.is_our_fault:
        return health
    is_slow = outcome.duration_ms > SLOW_MS
    if 0 < outcome.status < 500:
        return replace(HEALTHY, is_slow=is_slow)
    return _failed_once_more(health, now_ms, is_slow)


def mail_health_after(health: HostHealth, outcome: Outcome, now_ms: int) -> HostHealth:
    """The same for a mail host, whose statuses are SMTP's.

    A host that judges a recipient, however it does, is well; one that cannot be talked with, or says 421, is failing.
    A refusal of our own, before any host was asked (PERMANENT without a status), says nothing of it.
    """
    is_own_refusal = outcome.verdict is Verdict.PERMANENT and outcome.status == 0
    if outcome.is_our_fault or is_own_refusal:
        return health
    is_slow = outcome.duration_ms > SLOW_MAIL_MS
    if outcome.status not in (0, CLOSING):
        return replace(HEALTHY, is_slow=is_slow)
    return _failed_once_more(health, now_ms, is_slow)


def _failed_once_more(health: HostHealth, now_ms: int, is_slow: bool) -> HostHealth:
    failures = health.failures + 1
    return HostHealth(failures, now_ms + _breaker_pause(failures) if failures >= BREAKER_FAILURES else 0, is_slow)


def _breaker_pause(failures: int) -> int:
    doublings = min(failures - BREAKER_FAILURES, 10)
    return min(BREAKER_FIRST_PAUSE_MS << doublings, BREAKER_LONGEST_PAUSE_MS)
