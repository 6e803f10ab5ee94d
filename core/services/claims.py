"""Claiming due deliveries: a compare-and-set that leases them to one worker before any I/O is done.

A claim sets token, attempt count and the end of the lease in one statement; a worker that dies afterwards is then
just a delivery that comes due again when its lease runs out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import orjson
import structlog

from core.address_settings import AddressSettings, read_address_settings
from core.clock import SECOND_MS, to_datetime
from core.delivery import MAIL_KINDS, DeliveryKind, Progress
from core.envelope import NO_VERDICTS, Envelope
from core.fairness import SLOW_MAIL_MS, SLOW_MS, Candidate, ClaimPlan, HostHealth, HostLoad
from core.formats import TargetFormat
from core.ids import new_time_ordered_id
from core.rules import Judgement, Rule, read_judgement
from core.services.rules import RulesByAccount, load_rules, rules_for
from core.store.db import Database, Row
from core.verdicts import read_verdicts

INLINE_LEASE_PREFIX = "inline-"
"""Begins the lease tokens of receivers; those of workers begin with hex digits."""
LEASE_GRACE_MS = 15 * SECOND_MS
"""How much longer a lease lasts than an attempt may: for parsing before it and recording after it."""
WINDOW_MARGIN = 50
"""How many more due deliveries are looked at than there are free places."""

_DUE = """
SELECT id, target_host FROM delivery WHERE kind = ? AND state = 'pending' AND due_ms <= ? ORDER BY due_ms LIMIT ?"""
_DUE_OF_HOST = """
SELECT id, target_host FROM delivery
WHERE kind = ? AND state = 'pending' AND target_host = ? AND due_ms <= ? ORDER BY due_ms LIMIT ?"""
_HOSTS_WITH_DUE = """
WITH RECURSIVE host(name) AS (
    SELECT min(target_host) FROM delivery WHERE kind = ? AND state = 'pending'
    UNION ALL
    SELECT (SELECT min(target_host) FROM delivery WHERE kind = ? AND state = 'pending' AND target_host > host.name)
    FROM host WHERE host.name IS NOT NULL)
SELECT name FROM (
    SELECT name, (SELECT min(due_ms) FROM delivery WHERE kind = ? AND state = 'pending' AND target_host = name) AS due
    FROM host WHERE name IS NOT NULL) AS waiting
WHERE due <= ? ORDER BY due"""
_IN_FLIGHT = """
SELECT target_host, count(*), min(due_ms) FROM delivery
WHERE kind = ? AND lease_token IS NOT NULL AND lease_token NOT LIKE ? AND due_ms > ? GROUP BY target_host"""
_ACCOUNT_COLUMN = 2  # of _LOAD
_HEALTH = "SELECT target_host, failures, open_until_ms, is_slow FROM target_health"
# The expressions keep PostgreSQL from the partial indexes, which in a busy queue are full of dead entries: with these
# ids in hand, the primary key is always the way (measured: 10 to 300 ms against less than 1).
_LEASE = """
WITH free AS MATERIALIZED (
    SELECT id FROM delivery WHERE id IN ({places}) AND state || '' = 'pending' AND due_ms + 0 <= ? {locking})
UPDATE delivery SET lease_token = ?, due_ms = ?, attempts = attempts + 1, cycle_attempts = cycle_attempts + 1
FROM free WHERE delivery.id = free.id RETURNING delivery.id"""
_RELEASE = """
UPDATE delivery SET lease_token = NULL, due_ms = ?
WHERE id IN (SELECT id FROM delivery WHERE kind = ? AND state = 'pending' AND lease_token IS NOT NULL
             AND lease_token LIKE ? ORDER BY id {locking}) RETURNING id"""
_LOAD = """
SELECT d.id, d.kind, d.account_id, d.address_id, d.due_ms, d.attempts, d.cycle_attempts, d.cycle_started_ms,
       d.target_host, d.recipients, d.is_released, d.judgement, d.detail, coalesce(c.domain_target, a.target),
       a.target_format, a.secret, CASE WHEN a.previous_secret_until_ms > ? THEN a.previous_secret END, a.settings,
       m.id, m.mail_from, m.helo, m.remote_ip, m.tls_version, m.tls_cipher, m.md5,
       m.received_ms, m.size, m.verdicts, r.body, r.blob_key
FROM delivery d JOIN address a ON a.id = d.address_id JOIN message m ON m.id = d.message_id
LEFT JOIN raw_message r ON r.message_id = m.id LEFT JOIN custom_domain c ON c.id = d.custom_domain_id
WHERE d.id IN ({places}) ORDER BY d.id"""


log = structlog.get_logger("claims")


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """Everything an attempt needs, so that it never asks the database."""

    delivery_id: str
    kind: DeliveryKind
    account_id: str
    address_id: str
    lease_token: str
    lease_end_ms: int
    attempt_number: int
    progress: Progress
    target_host: str
    target: str
    target_format: TargetFormat
    secret: str
    previous_secret: str | None
    """Signs as well, while a rotation lasts."""
    settings: AddressSettings
    rules: tuple[Rule, ...]
    """What it is to be judged by, when it has not been."""
    is_released: bool
    """Whether a person let it out of quarantine: no rule holds it again."""
    judgement: Judgement | None
    """What rules and checks said, when they were asked already."""
    detail: str | None
    """What a delivery that is no mail carries, as JSON."""
    message_id: str
    envelope: Envelope
    is_checked: bool
    """Whether the envelope's verdicts are there, because the checks were made already."""
    size: int
    """Of the raw message, in bytes."""
    body: bytes | None
    blob_key: str | None
    """Where the raw message lies when it is not in `body`."""


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


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker got."""

    deliveries: list[ClaimedDelivery]
    is_partial: bool
    """Whether more may be due: the free places ran out, or another worker was quicker."""
    is_blocked: bool
    """Whether something due waits for its host: to be asked for again when an attempt has finished."""


def claim(database: Database, request: ClaimRequest, now_ms: int) -> Claim:
    """Lease what may start now. Raises `StorageUnavailable`.

    Only the lease itself is a transaction: what it is planned by is read before, and what it needs after, without
    keeping writers waiting. A plan that is out of date leases less, never twice.
    """
    with database.reading():
        plan, is_blocked = _plan(database, request, now_ms)
        leased = _lease(database, request, plan.chosen, now_ms)
        return Claim(
            load(database, leased, request.lease_token, now_ms),
            is_partial=plan.is_full or len(leased) < len(plan.chosen),
            is_blocked=is_blocked,
        )


def _plan(database: Database, request: ClaimRequest, now_ms: int) -> tuple[ClaimPlan, bool]:
    """What to lease, and whether something due has to wait for its host."""
    plan = _new_plan(database, request, now_ms)
    window = request.free_places + WINDOW_MARGIN
    due = _candidates(database.execute(_DUE, (request.kind, now_ms, window)))
    plan.offer(due)
    if not plan.is_full and len(due) == window:
        _look_behind_the_window(database, request, plan, now_ms)
    return plan, len(due) > len(plan.chosen)


def lease_token(worker_id: str, number: int) -> str:
    """The token of a worker's claim of this number. Two claims never share one, so that no attempt can be recorded
    under a lease other than its own."""
    return f"{worker_id}-{number}"


def release(database: Database, kind: DeliveryKind, worker_id: str, now_ms: int) -> int:
    """Make due what a worker holds that has certainly ended; returns how many. Inside a transaction."""
    locking = "FOR UPDATE" if database.is_postgres else ""
    pattern = f"{worker_id}-%"  # ids are hex digits: nothing to escape
    return len(database.execute(_RELEASE.format(locking=locking), (now_ms, kind, pattern)))


def has_due(database: Database, kind: DeliveryKind, now_ms: int) -> bool:
    """Whether anything waits to be claimed."""
    with database.reading():
        return bool(database.execute(_DUE, (kind, now_ms, 1)))


def _new_plan(database: Database, request: ClaimRequest, now_ms: int) -> ClaimPlan:
    return ClaimPlan(
        free_places=request.free_places,
        pool_size=request.pool_size,
        host_concurrency=request.host_concurrency,
        load=_read_load(database, request, now_ms),
        health=read_health(database),
        proven_hosts=request.proven_hosts,
        now_ms=now_ms,
        slow_ms=SLOW_MAIL_MS if request.kind in MAIL_KINDS else SLOW_MS,
    )


def _read_load(database: Database, request: ClaimRequest, now_ms: int) -> dict[str, HostLoad]:
    lease_ms = request.attempt_limit_ms + LEASE_GRACE_MS
    rows = database.execute(_IN_FLIGHT, (request.kind, f"{INLINE_LEASE_PREFIX}%", now_ms))
    return {host: HostLoad(count, now_ms + lease_ms - oldest_end) for host, count, oldest_end in rows}


def read_health(database: Database) -> dict[str, HostHealth]:
    """The hosts that are not healthy."""
    rows = database.execute(_HEALTH)
    return {host: HostHealth(failures, open_until, bool(is_slow)) for host, failures, open_until, is_slow in rows}


def _look_behind_the_window(database: Database, request: ClaimRequest, plan: ClaimPlan, now_ms: int) -> None:
    """The oldest due deliveries all belong to hosts that are busy: find the others, host by host.

    The host that has waited longest comes first, so that none is always last when places are few.
    """
    kind = request.kind
    for (host,) in database.execute(_HOSTS_WITH_DUE, (kind, kind, kind, now_ms)):
        room = plan.allowance(host)
        if room > 0:
            # Some of these may be in the plan already; the lease takes each id only once.
            rows = database.execute(_DUE_OF_HOST, (kind, host, now_ms, room + len(plan.chosen)))
            taken = set(plan.chosen)
            plan.offer(islice((c for c in _candidates(rows) if c.delivery_id not in taken), room))
        if plan.is_full:
            return


def _lease(database: Database, request: ClaimRequest, chosen: Sequence[str], now_ms: int) -> list[str]:
    """Compare and set: the ids that are ours now."""
    if not chosen:
        return []
    lease_end = now_ms + request.attempt_limit_ms + LEASE_GRACE_MS
    locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""
    statement = _LEASE.format(places=_places(chosen), locking=locking)
    with database.transaction():
        return [row[0] for row in database.execute(statement, (*chosen, now_ms, request.lease_token, lease_end))]


def load(database: Database, leased: Sequence[str], token: str, now_ms: int) -> list[ClaimedDelivery]:
    """What attempts need of deliveries that are leased under this token."""
    if not leased:
        return []
    rows = database.execute(_LOAD.format(places=_places(leased)), (now_ms, *leased))
    rules = _load_rules(database, {row[_ACCOUNT_COLUMN] for row in rows})
    return [claimed for row in rows if (claimed := _readable(row, token, rules)) is not None]


def _load_rules(database: Database, account_ids: Iterable[str]) -> RulesByAccount:
    """The rules of accounts; one whose rules cannot be read has no entry at all."""
    wanted = sorted(account_ids)
    try:
        loaded = load_rules(database, wanted)
    except ValueError as error:
        if len(wanted) == 1:
            log.error("rules of another version cannot be read", account_id=wanted[0], reason=str(error))
            return {}
        return {name: rules for one in wanted for name, rules in _load_rules(database, [one]).items()}
    return {account_id: loaded.get(account_id, ()) for account_id in wanted}


def _readable(row: Row, token: str, rules: RulesByAccount) -> ClaimedDelivery | None:
    """None for a row that another version has written and this one cannot read: it is left to its lease, and to a
    worker that can. One such row must not end the worker."""
    try:
        return _claimed(row, token, rules)
    except (ValueError, TypeError, KeyError) as error:
        log.error("a delivery of another version cannot be read", delivery_id=row[0], reason=str(error))
        return None


def _claimed(row: Row, token: str, rules: RulesByAccount) -> ClaimedDelivery:
    (
        delivery_id, kind, account_id, address_id, due_ms, attempts, cycle_attempts, cycle_started_ms, target_host,
        recipients, is_released, judgement, detail, target, target_format, secret, previous_secret,
        settings, message_id, mail_from, helo, remote_ip,
        tls_version, tls_cipher, md5, received_ms, size, verdicts, body, blob_key,
    ) = row  # fmt: skip
    envelope = Envelope(
        mail_from=mail_from,
        recipients=tuple(orjson.loads(recipients)),
        helo=helo,
        remote_ip=remote_ip,
        tls_version=tls_version,
        tls_cipher=tls_cipher,
        md5=md5,
        received_at=to_datetime(received_ms),
        verdicts=NO_VERDICTS if verdicts is None else read_verdicts(verdicts),
    )
    return ClaimedDelivery(
        delivery_id=delivery_id,
        kind=DeliveryKind(kind),
        account_id=account_id,
        address_id=address_id,
        lease_token=token,
        lease_end_ms=due_ms,
        attempt_number=attempts,
        progress=Progress(cycle_attempts, cycle_started_ms),
        target_host=target_host,
        target=target,
        target_format=TargetFormat(target_format),
        secret=secret,
        previous_secret=previous_secret,
        settings=read_address_settings(settings),
        rules=rules_for({account_id: rules[account_id]}, account_id, address_id),
        is_released=bool(is_released),
        judgement=None if judgement is None else read_judgement(judgement),
        detail=detail,
        message_id=message_id,
        envelope=envelope,
        is_checked=verdicts is not None,
        size=size,
        body=None if body is None else bytes(body),
        blob_key=blob_key,
    )


def _candidates(rows: Sequence[Row]) -> list[Candidate]:
    return [Candidate(delivery_id, host) for delivery_id, host in rows]


def _places(values: Sequence[str]) -> str:
    return ", ".join("?" for _ in values)
