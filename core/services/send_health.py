"""The health of accounts and domains from the counts of their events, and pausing what sends badly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog

from core.clock import DAY_MS, HOUR_MS
from core.sending.events import EventKind
from core.sending.health import COUNTED, Health, PauseBounds, SendCounts, health_of, reason_to_pause
from core.services.pauses import Pause, PausePlace, pause_by_machine, resume_mark
from core.store.db import Database, Row

WEEK_MS = 7 * DAY_MS
MAX_DOMAINS_SHOWN = 500

_KINDS = ", ".join(repr(kind.value) for kind in COUNTED)
_COUNTS = f"""
SELECT sending_domain_id, kind, hour_ms >= ?, sum(count) FROM send_tally
WHERE account_id = ? AND hour_ms >= ? AND kind IN ({_KINDS}) GROUP BY 1, 2, 3"""  # noqa: S608 (constants)
_DOMAINS = """
SELECT id, domain, paused_ms, paused_because FROM sending_domain WHERE account_id = ? AND deleted_ms IS NULL
ORDER BY domain LIMIT ?"""
_ACCOUNT = "SELECT paused_ms, paused_because FROM account WHERE id = ?"
# Along the primary key of the counts, domain by domain: what was counted long ago is not looked at.
_OF_DOMAINS = f"""
SELECT t.account_id, t.sending_domain_id, t.kind, t.hour_ms, t.count
FROM sending_domain o JOIN send_tally t ON t.account_id = o.account_id AND t.sending_domain_id = o.id
WHERE o.deleted_ms IS NULL AND o.paused_ms IS NULL AND t.hour_ms >= ? AND t.kind IN ({_KINDS})"""  # noqa: S608
_OF_ACCOUNTS = f"""
SELECT t.account_id, t.sending_domain_id, t.kind, t.hour_ms, t.count
FROM account a JOIN send_tally t ON t.account_id = a.id AND t.sending_domain_id = ''
WHERE a.paused_ms IS NULL AND t.hour_ms >= ? AND t.kind IN ({_KINDS})"""  # noqa: S608 (constants)
_MARK = "SELECT next_ms FROM send_rate WHERE scope = ?"

log = structlog.get_logger("sending")


@dataclass(frozen=True, slots=True)
class PlaceHealth:
    """How a domain, or all of an account, has sent."""

    sending_domain_id: str | None
    domain: str | None
    """None for all of the account."""
    pause: Pause | None
    day: Health
    """Of the last 24 hours, in whole hours of the clock."""
    week: Health
    """Of the last 7 days."""


@dataclass(frozen=True, slots=True)
class PausedPlace:
    """What was paused by machine."""

    place: PausePlace
    because: str


def read_health(database: Database, account_id: str, now_ms: int) -> list[PlaceHealth]:
    """Of the account, then of each live domain by name (the first `MAX_DOMAINS_SHOWN`)."""
    with database.reading():
        rows = database.execute(_COUNTS, (first_hour(now_ms, DAY_MS), account_id, first_hour(now_ms, WEEK_MS)))
        domains = database.execute(_DOMAINS, (account_id, MAX_DOMAINS_SHOWN))
        own = database.execute(_ACCOUNT, (account_id,))
    day, week = _gather(row for row in rows if row[2]), _gather(rows)
    total_day, total_week = sum(day.values(), Counter()), sum(week.values(), Counter())
    paused_ms, because = own[0] if own else (None, None)
    account = _health(None, None, _pause(paused_ms, because), total_day, total_week)
    return [
        account,
        *(
            _health(domain_id, domain, _pause(paused_ms, because), day[domain_id], week[domain_id])
            for domain_id, domain, paused_ms, because in domains
        ),
    ]


def pause_unhealthy(database: Database, bounds: PauseBounds, now_ms: int) -> list[PausedPlace]:
    """Pause each domain, and each account for mail of no domain, whose last day is above the bounds.

    Events before a resume by hand are left out, with all of the hour in which it was made.
    """
    if not bounds.bounce_percent and not bounds.complaint_permille:
        return []
    since_ms = first_hour(now_ms, DAY_MS)
    with database.reading():
        rows = [*database.execute(_OF_DOMAINS, (since_ms,)), *database.execute(_OF_ACCOUNTS, (since_ms,))]
    hours: dict[PausePlace, list[Row]] = defaultdict(list)
    for account_id, domain_id, *counted in rows:
        hours[PausePlace(account_id, domain_id or None)].append(tuple(counted))
    found = [_pause_if_unhealthy(database, place, counted, bounds, now_ms) for place, counted in hours.items()]
    return [paused for paused in found if paused is not None]


def first_hour(now_ms: int, span_ms: int) -> int:
    """The first hour of the clock that lies wholly within the span before now, or begins it."""
    return -(-(now_ms - span_ms) // HOUR_MS) * HOUR_MS


def _pause_if_unhealthy(
    database: Database, place: PausePlace, counted: list[Row], bounds: PauseBounds, now_ms: int
) -> PausedPlace | None:
    if reason_to_pause(_sum(counted, 0), bounds) is None:
        return None
    with database.transaction():
        marks = database.execute(_MARK, (resume_mark(place),))
        because = reason_to_pause(_sum(counted, marks[0][0] if marks else 0), bounds)
        if because is None or not pause_by_machine(database, place, because, now_ms):
            return None
    log.warning(
        "sending is paused", account_id=place.account_id, sending_domain_id=place.sending_domain_id, reason=because
    )
    return PausedPlace(place, because)


def _sum(counted: list[Row], since_ms: int) -> SendCounts:
    totals: Counter[EventKind] = Counter()
    for kind, hour_ms, count in counted:
        if hour_ms >= since_ms:
            totals[EventKind(kind)] += count
    return SendCounts.of(totals)


def _gather(rows: Iterable[Row]) -> defaultdict[str, Counter[EventKind]]:
    found: defaultdict[str, Counter[EventKind]] = defaultdict(Counter)
    for domain_id, kind, _, count in rows:
        found[domain_id][EventKind(kind)] += int(count)
    return found


def _health(
    domain_id: str | None,
    domain: str | None,
    pause: Pause | None,
    day: Mapping[EventKind, int],
    week: Mapping[EventKind, int],
) -> PlaceHealth:
    return PlaceHealth(domain_id, domain, pause, health_of(SendCounts.of(day)), health_of(SendCounts.of(week)))


def _pause(paused_ms: int | None, because: str | None) -> Pause | None:
    return None if paused_ms is None else Pause(paused_ms, because or "")
