"""Places under the limits of an account and its domains, taken in the table `send_rate`: exact over all processes.

Whoever takes places locks the row of the account first (on SQLite every writer is alone anyway), since limits of one
account never touch another's. Where nothing is limited nothing is read, locked or written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from core.clock import DAY_MS, HOUR_MS, to_rfc3339
from core.sending.events import EventDetails
from core.sending.pacing import (
    Ledger,
    Limit,
    NewDomainRamp,
    Quota,
    daily,
    digest_spacing,
    find_moment,
    hourly,
    is_limit,
    reserve,
)
from core.sending.priority import Priority
from core.sending.send_settings import SendSettings, combined
from core.sending.suppression import suppression_key
from core.services.send_accounts import SendStanding
from core.store.db import Database

DESTINATION_DIGITS = 16
"""Of the hash of a domain, in the name of a row."""

_LOCK = "SELECT id FROM account WHERE id = ? FOR NO KEY UPDATE"
_READ = "SELECT next_ms FROM send_rate WHERE scope = ?"
_WRITE = """
INSERT INTO send_rate (scope, next_ms) VALUES {rows}
ON CONFLICT (scope) DO UPDATE SET next_ms = excluded.next_ms"""
_BEGAN = "SELECT min(hour_ms) FROM send_tally WHERE account_id = ? AND sending_domain_id = ?"


@dataclass(frozen=True, slots=True)
class Departure:
    """When a mail goes."""

    due_ms: int
    is_limited: bool
    """Whether a limit makes it wait: being spread out with its digest does not count."""

    @property
    def details(self) -> EventDetails:
        """Of the event that tells of it."""
        return EventDetails(
            reason="a limit on mails by the hour, by the day, or of a new domain is reached",
            next_attempt_at=to_rfc3339(self.due_ms),
        )


class Pacer:
    """Finds departures for the mail of one account within one transaction; `save` at its end."""

    def __init__(self, database: Database, account_id: str, defaults: SendSettings, now_ms: int) -> None:
        self._database = database
        self._account_id = account_id
        self._defaults = defaults
        self._now_ms = now_ms
        self._ledger = Ledger(self._read)
        self._is_locked = False
        self._limits: dict[str | None, list[Limit]] = {}

    def depart(self, standing: SendStanding, recipient: str, priority: Priority, earliest_ms: int) -> Departure:
        """Take a place for one recipient."""
        limits = self._limits_of(standing)
        everything = [*limits, *self._spacing(recipient, priority)]
        if not everything:
            return Departure(earliest_ms, is_limited=False)
        self.lock()
        is_priority = priority is Priority.PRIORITY
        is_limited = find_moment(self._ledger, limits, earliest_ms, is_priority) > earliest_ms
        return Departure(reserve(self._ledger, everything, earliest_ms, is_priority), is_limited)

    def lock(self) -> None:
        """Let nobody else take places, or let go of held mail, for this account until the transaction ends."""
        if not self._is_locked and self._database.is_postgres:
            self._database.execute(_LOCK, (self._account_id,))
        self._is_locked = True

    def save(self) -> None:
        """Write down what was taken."""
        rows = sorted(self._ledger.changed.items())
        self._database.execute_values(_WRITE, rows)
        self._ledger.changed.clear()

    def _limits_of(self, standing: SendStanding) -> list[Limit]:
        domain_id = standing.sending_domain_id
        if domain_id not in self._limits:
            of_account = combined(standing.account, self._defaults)
            limits: list[Limit] = list(_quotas(f"a:{standing.account_id}", _strictest(of_account, self._defaults)))
            if domain_id is not None:
                limits += _quotas(f"d:{domain_id}", standing.domain)
                if combined(standing.domain, of_account).ramp:
                    limits.append(self._ramp(domain_id))
            self._limits[domain_id] = limits
        return self._limits[domain_id]

    def _ramp(self, domain_id: str) -> NewDomainRamp:
        """It begins with the first mail that is remembered: after a long silence a domain is new again."""
        self.lock()
        first_ms = self._database.execute(_BEGAN, (self._account_id, domain_id))[0][0]
        began_ms = self._now_ms - self._now_ms % HOUR_MS if first_ms is None else first_ms
        return NewDomainRamp(f"r:{domain_id}:{began_ms // HOUR_MS}", began_ms)

    def _spacing(self, recipient: str, priority: Priority) -> list[Limit]:
        if priority is not Priority.DIGEST:
            return []
        domain = suppression_key(recipient).rpartition("@")[2]
        digest = hashlib.sha256(domain.encode()).hexdigest()[:DESTINATION_DIGITS]
        return [digest_spacing(f"g:{self._account_id}:{digest}")]

    def _read(self, scope: str) -> int:
        rows = self._database.execute(_READ, (scope,))
        return rows[0][0] if rows else 0


def _strictest(of_account: SendSettings, gateway: SendSettings) -> SendSettings:
    """The limits of both: what an account chose may be older than a stricter limit of the gateway."""
    return replace(
        of_account,
        hourly_limit=min(filter(None, (of_account.hourly_limit, gateway.hourly_limit)), default=None),
        daily_limit=min(filter(None, (of_account.daily_limit, gateway.daily_limit)), default=None),
    )


def _quotas(name: str, settings: SendSettings) -> Iterable[Quota]:
    if settings.hourly_limit and is_limit(settings.hourly_limit, HOUR_MS):
        yield hourly(f"{name}:h", settings.hourly_limit)
    if settings.daily_limit and is_limit(settings.daily_limit, DAY_MS):
        yield daily(f"{name}:d", settings.daily_limit)
