"""Which due deliveries may start now, so that no target host delays another's mail.

Pure: the store says what is due, in flight and failing; this says what to take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
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
CROWDED_FOR_MS = 10 * SECOND_MS
"""For so long after mail found no connection free at a machine, no more is started there than had found one. Each time
that more is tried some is turned away, and goes to the end of the queue."""


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
    here: int = 0
    """How many of them this worker has."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A due delivery."""

    delivery_id: str
    target_host: str


MachineOf = Callable[[str], str | None]
"""The machine behind a target host, if that is known: several may share one."""


def unknown_machine(host: str) -> str | None:
    """Of targets that are what they are called."""
    return None


class Crowds:
    """At which machines mail of this worker has lately found no connection free, and how much had found one.

    Other kinds of mail take connections too, so the number of them does not say. Without it, all that is due there
    would be taken in hand again and again, only to be told that the host is busy.
    """

    def __init__(self) -> None:
        self._limits: dict[str, tuple[int, int]] = {}

    def note(self, machine: str, fitted: int, now_ms: int) -> None:
        """Beside those that were turned away there were so many."""
        self._limits[machine] = (max(1, fitted), now_ms + CROWDED_FOR_MS)

    def limits(self, now_ms: int) -> dict[str, int]:
        """How many may be in flight, by machine."""
        self._limits = {machine: entry for machine, entry in self._limits.items() if entry[1] > now_ms}
        return {machine: limit for machine, (limit, _) in self._limits.items()}


NO_CROWDS: Mapping[str, int] = {}


class ClaimPlan:
    """Hands out a worker's free places, one candidate at a time.

    Hosts that share a machine have its places together: as many in this worker as each of them may have in all.
    """

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
        machine_of: MachineOf = unknown_machine,
        crowds: Mapping[str, int] = NO_CROWDS,
    ) -> None:
        """`health` is that of all hosts in `load`, and of those that are offered first; `crowds` are
        `Crowds.limits`."""
        self.chosen: list[str] = []
        self._free = free_places
        self._host_concurrency = host_concurrency
        self._machine_of = machine_of
        self._crowds = crowds
        self._load = {**load, **_load_of_machines(load, machine_of)}
        self._health = dict(health)
        self._proven_hosts = proven_hosts
        self._slow_ms = slow_ms
        self._now_ms = now_ms
        self._in_flight = Counter({name: entry.count for name, entry in self._load.items()})
        suspects = sum(entry.count for host, entry in load.items() if self._is_suspect(host))
        self._suspect_places = max(1, int(pool_size * SUSPECT_POOL_SHARE)) - suspects

    def hear_of(self, health: Mapping[str, HostHealth]) -> None:
        """Learn more about hosts, before anything is offered for them."""
        self._health.update(health)

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
        room = min(self._limit_of(name) - self._in_flight[name] for name in self._names(host))
        if self._is_suspect(host):
            room = min(room, self._suspect_places)
        return max(0, min(room, self._free - len(self.chosen)))

    def _take(self, candidate: Candidate) -> None:
        self.chosen.append(candidate.delivery_id)
        self._in_flight.update(self._names(candidate.target_host))
        if self._is_suspect(candidate.target_host):
            self._suspect_places -= 1

    def _names(self, host: str) -> list[str]:
        """Of all that its deliveries are counted by."""
        machine = self._machine_of(host)
        return [host] if machine is None else [host, machine]

    def _limit_of(self, name: str) -> int:
        limit = self._limit(name)
        return min(limit, self._crowds.get(name, limit))

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
        loads = [self._load[name] for name in self._names(host) if name in self._load]
        return health.failures > 0 or health.is_slow or any(load.oldest_age_ms > self._slow_ms for load in loads)


def _load_of_machines(load: Mapping[str, HostLoad], machine_of: MachineOf) -> dict[str, HostLoad]:
    """What this worker has in flight to each machine, whatever the hosts are called."""
    machines: dict[str, HostLoad] = {}
    for host, entry in load.items():
        machine = machine_of(host)
        if machine is not None:
            so_far = machines.get(machine, HostLoad(0, 0))
            age_ms = max(so_far.oldest_age_ms, entry.oldest_age_ms)
            machines[machine] = HostLoad(so_far.count + entry.here, age_ms)
    return machines


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
