"""Claiming due deliveries: a compare-and-set that leases them to one worker before any I/O is done.

A claim sets token, attempt count and the end of the lease in one statement; a worker that dies afterwards is then
just a delivery that comes due again when its lease runs out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic

from core.clock import SECOND_MS
from core.delivery import MAIL_KINDS, DeliveryKind
from core.fairness import (
    NO_CROWDS,
    SLOW_MAIL_MS,
    SLOW_MS,
    Candidate,
    ClaimPlan,
    HostHealth,
    HostLoad,
    MachineOf,
    unknown_machine,
)
from core.ids import new_time_ordered_id
from core.services.leases import Leased, Loader
from core.store.db import Database, Row, places

INLINE_LEASE_PREFIX = "inline-"
"""Begins the lease tokens of receivers; those of workers begin with hex digits."""
LEASE_GRACE_MS = 15 * SECOND_MS
"""How much longer a lease lasts than an attempt may: for parsing before it and recording after it."""
HOSTS_LOOKED_AT = 1_000
"""In one claim, behind the window; the next one goes on from there. (Measured: 2 ms on SQLite, 11 on PostgreSQL.)"""
WINDOW_MARGIN = 50
"""How many more due deliveries are looked at than there are free places."""

_DUE = """
SELECT id, target_host FROM delivery WHERE kind = ? AND state = 'pending' AND due_ms <= ? ORDER BY due_ms LIMIT ?"""
_DUE_OF_HOST = """
SELECT id, target_host FROM delivery
WHERE kind = ? AND state = 'pending' AND target_host = ? AND due_ms <= ? ORDER BY due_ms LIMIT ?"""
_HOSTS = """
WITH RECURSIVE host(name, number) AS (
    SELECT min(target_host), 1 FROM delivery WHERE kind = ? AND state = 'pending' AND target_host > ?
    UNION ALL
    SELECT (SELECT min(target_host) FROM delivery WHERE kind = ? AND state = 'pending' AND target_host > host.name),
           number + 1
    FROM host WHERE host.name IS NOT NULL AND number < ?)
SELECT name, (SELECT min(due_ms) FROM delivery WHERE kind = ? AND state = 'pending' AND target_host = name) AS due
FROM host WHERE name IS NOT NULL"""
_IN_FLIGHT = """
SELECT target_host, count(*), min(due_ms), sum(CASE WHEN lease_token LIKE ? THEN 1 ELSE 0 END) FROM delivery
WHERE kind = ? AND lease_token IS NOT NULL AND lease_token NOT LIKE ? AND due_ms > ? GROUP BY target_host"""
_HEALTH = """
SELECT target_host, failures, open_until_ms, is_slow FROM target_health WHERE target_host IN ({places})"""
# The expressions keep PostgreSQL from the partial indexes, which in a busy queue are full of dead entries: with these
# ids in hand, the primary key is always the way (measured: 10 to 300 ms against less than 1).
_LEASE = """
WITH free AS MATERIALIZED (
    SELECT id FROM delivery WHERE id IN ({places}) AND state || '' = 'pending' AND due_ms + 0 <= ? {locking})
UPDATE delivery SET lease_token = ?, due_ms = ?, attempts = attempts + 1, cycle_attempts = cycle_attempts + 1
FROM free WHERE delivery.id = free.id RETURNING delivery.id"""
_RELEASE = """
UPDATE delivery SET lease_token = NULL, due_ms = ?, attempts = attempts - ?, cycle_attempts = cycle_attempts - ?
WHERE id IN (SELECT id FROM delivery WHERE kind = ? AND state = 'pending' AND lease_token IS NOT NULL
             AND lease_token LIKE ? ORDER BY id {locking}) RETURNING id"""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What one worker asks for."""

    kind: DeliveryKind
    free_places: int
    pool_size: int
    host_concurrency: int
    proven_hosts: Collection[str]
    attempt_limit_ms: int
    """The longest an attempt may take; the lease is longer."""
    lease_token: str = field(default_factory=new_time_ordered_id)
    """Never used before; of a worker it is a `lease_token`, so that `release` finds it."""
    machine_of: MachineOf = unknown_machine
    crowds: Mapping[str, int] = field(default_factory=lambda: NO_CROWDS)
    """`core.fairness.Crowds.limits` of this worker."""
    look_behind: str = ""
    """The host behind which the look behind the window begins: `Claim.looked_to` of the claim before."""
    looks_behind: bool = True
    """Whether to look there at all."""


@dataclass(frozen=True, slots=True)
class Claim(Generic[Leased]):
    """What a worker got."""

    deliveries: Sequence[Leased]
    is_partial: bool
    """Whether more may be due: the free places ran out, or another worker was quicker."""
    is_blocked: bool
    """Whether something due waits for its host: to be asked for again when an attempt has finished."""
    looked_to: str
    """The last host that was looked at behind the window."""
    looked_in_vain: bool
    """Whether a look there found nothing that may start now."""


def claim(database: Database, request: ClaimRequest, load: Loader[Leased], now_ms: int) -> Claim[Leased]:
    """Lease what may start now, and read what its attempts need. Raises `StorageUnavailable`.

    Only the lease itself is a transaction: what it is planned by is read before, and what it needs after, without
    keeping writers waiting. A plan that is out of date leases less, never twice.
    """
    with database.reading():
        planned = _plan(database, request, now_ms)
        plan = planned.plan
        leased = _lease(database, request, plan.chosen, now_ms)
        return Claim(
            load(database, leased, request.lease_token, now_ms) if leased else [],
            is_partial=plan.is_full or len(leased) < len(plan.chosen),
            is_blocked=planned.is_blocked,
            looked_to=planned.looked_to,
            looked_in_vain=planned.looked_in_vain,
        )


@dataclass(frozen=True, slots=True)
class _Planned:
    """What to lease, and of the rest what `Claim` tells."""

    plan: ClaimPlan
    is_blocked: bool
    looked_to: str
    looked_in_vain: bool


def _plan(database: Database, request: ClaimRequest, now_ms: int) -> _Planned:
    window = request.free_places + WINDOW_MARGIN
    due = _candidates(database.execute(_DUE, (request.kind, now_ms, window)))
    plan = _new_plan(database, request, {candidate.target_host for candidate in due}, now_ms)
    plan.offer(due)
    looked_to, found_before = request.look_behind, len(plan.chosen)
    looks = request.looks_behind and not plan.is_full and len(due) == window
    if looks:
        looked_to = _look_behind_the_window(database, request, plan, now_ms)
    in_vain = looks and len(plan.chosen) == found_before
    return _Planned(plan, len(due) > len(plan.chosen), looked_to, in_vain)


def lease_token(worker_id: str, number: int) -> str:
    """The token of a worker's claim of this number. Two claims never share one, so that no attempt can be recorded
    under a lease other than its own."""
    return f"{worker_id}-{number}"


def release(database: Database, kind: DeliveryKind, worker_id: str, now_ms: int) -> int:
    """Make due what a worker holds that has certainly ended; returns how many. Inside a transaction."""
    return _release(database, kind, f"{worker_id}-%", now_ms, unmade=0)  # ids are hex digits: nothing to escape


def give_back(database: Database, kind: DeliveryKind, token: str, now_ms: int) -> int:
    """Make due what a single claim leased and nobody works on; returns how many. Inside a transaction.

    No attempt was made: else an outage would use up the schedules of all that is claimed while it lasts.
    """
    return _release(database, kind, token, now_ms, unmade=1)


def _release(database: Database, kind: DeliveryKind, pattern: str, now_ms: int, unmade: int) -> int:
    locking = "FOR UPDATE" if database.is_postgres else ""
    return len(database.execute(_RELEASE.format(locking=locking), (now_ms, unmade, unmade, kind, pattern)))


def has_due(database: Database, kind: DeliveryKind, now_ms: int) -> bool:
    """Whether anything waits to be claimed."""
    with database.reading():
        return bool(database.execute(_DUE, (kind, now_ms, 1)))


def _new_plan(database: Database, request: ClaimRequest, hosts: Collection[str], now_ms: int) -> ClaimPlan:
    load = _read_load(database, request, now_ms)
    return ClaimPlan(
        free_places=request.free_places,
        pool_size=request.pool_size,
        host_concurrency=request.host_concurrency,
        load=load,
        health=read_health(database, load.keys() | hosts),
        proven_hosts=request.proven_hosts,
        now_ms=now_ms,
        slow_ms=SLOW_MAIL_MS if request.kind in MAIL_KINDS else SLOW_MS,
        machine_of=request.machine_of,
        crowds=request.crowds,
    )


def _read_load(database: Database, request: ClaimRequest, now_ms: int) -> dict[str, HostLoad]:
    lease_ms = request.attempt_limit_ms + LEASE_GRACE_MS
    ours = f"{request.lease_token.partition('-')[0]}-%"
    rows = database.execute(_IN_FLIGHT, (ours, request.kind, f"{INLINE_LEASE_PREFIX}%", now_ms))
    return {host: HostLoad(count, now_ms + lease_ms - oldest_end, here) for host, count, oldest_end, here in rows}


def read_health(database: Database, hosts: Collection[str]) -> dict[str, HostHealth]:
    """Those of these hosts that are not healthy. (Of all that there are, thousands may be failing at a time.)"""
    if not hosts:
        return {}
    rows = database.execute(_HEALTH.format(places=places(list(hosts))), list(hosts))
    return {host: HostHealth(failures, open_until, bool(is_slow)) for host, failures, open_until, is_slow in rows}


def _look_behind_the_window(database: Database, request: ClaimRequest, plan: ClaimPlan, now_ms: int) -> str:
    """The oldest due deliveries all belong to hosts that are busy: find the others, host by host; gives where the next
    look goes on.

    The host that has waited longest comes first, so that none is always last when places are few.
    """
    hosts, looked_to = _hosts_with_due(database, request, now_ms)
    plan.hear_of(read_health(database, hosts))
    for host in hosts:
        room = plan.allowance(host)
        if room > 0:
            # Some of these may be in the plan already; the lease takes each id only once.
            rows = database.execute(_DUE_OF_HOST, (request.kind, host, now_ms, room + len(plan.chosen)))
            taken = set(plan.chosen)
            plan.offer(islice((c for c in _candidates(rows) if c.delivery_id not in taken), room))
        if plan.is_full:
            break
    return looked_to


def _hosts_with_due(database: Database, request: ClaimRequest, now_ms: int) -> tuple[list[str], str]:
    """Hosts, the one that has waited longest first, and the last that was looked at; behind the end comes the first."""
    kind = request.kind
    found: dict[str, int] = dict(database.execute(_HOSTS, (kind, request.look_behind, kind, HOSTS_LOOKED_AT, kind)))
    looked_to = max(found, default="")
    if request.look_behind and len(found) < HOSTS_LOOKED_AT:
        rest: dict[str, int] = dict(database.execute(_HOSTS, (kind, "", kind, HOSTS_LOOKED_AT - len(found), kind)))
        looked_to = max(rest, default=looked_to)
        found |= rest
    return sorted((name for name, due_ms in found.items() if due_ms <= now_ms), key=found.__getitem__), looked_to


def _lease(database: Database, request: ClaimRequest, chosen: Sequence[str], now_ms: int) -> list[str]:
    """Compare and set: the ids that are ours now."""
    if not chosen:
        return []
    lease_end = now_ms + request.attempt_limit_ms + LEASE_GRACE_MS
    locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""
    statement = _LEASE.format(places=places(chosen), locking=locking)
    with database.transaction():
        return [row[0] for row in database.execute(statement, (*chosen, now_ms, request.lease_token, lease_end))]


def _candidates(rows: Sequence[Row]) -> list[Candidate]:
    return [Candidate(delivery_id, host) for delivery_id, host in rows]
