"""Places under the limits of an account and its domains, taken in the table `send_rate`: exact over all processes.

Whoever takes places locks the row of the account first (on SQLite every writer is alone anyway), since limits of one
account never touch another's. Where nothing is limited nothing is read, locked or written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
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
from core.store.db import Database, places

DESTINATION_DIGITS = 16
"""Of the hash of a domain, in the name of a row."""

_LOCK = "SELECT id FROM account WHERE id IN ({places}) ORDER BY id FOR NO KEY UPDATE"
_READ = "SELECT scope, next_ms FROM send_rate WHERE scope IN ({places})"
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
        self._known: dict[str, int] = {}
        self._is_locked = False
        self._terms: dict[str | None, tuple[list[Quota], bool]] = {}
        self._limits: dict[str | None, list[Limit]] = {}

    def depart(self, standing: SendStanding, recipient: str, priority: Priority, earliest_ms: int) -> Departure:
        """Take a place for one recipient."""
        if not self.may_delay(standing, priority):
            return Departure(earliest_ms, is_limited=False)
        self.lock()
        limits, spacing = self._limits_of(standing), self._spacing(recipient, priority)
        is_priority = priority is Priority.PRIORITY
        limited_ms = find_moment(self._ledger, limits, earliest_ms, is_priority) if spacing else None
        due_ms = reserve(self._ledger, [*limits, *spacing], earliest_ms, is_priority)
        return Departure(due_ms, (due_ms if limited_ms is None else limited_ms) > earliest_ms)

    def may_delay(self, standing: SendStanding, priority: Priority) -> bool:
        """Whether there is anything that such mail may have to wait for."""
        quotas, has_ramp = self._terms_of(standing)
        return priority is Priority.DIGEST or bool(quotas) or has_ramp

    def lock(self) -> None:
        """Let nobody else take places, or let go of held mail, for this account until the transaction ends."""
        if not self._is_locked and self._database.is_postgres:
            self._database.execute(_LOCK.format(places="?"), (self._account_id,))
        self._is_locked = True

    def take_over(self, known: Mapping[str, int]) -> None:
        """The account is locked, and these rows were read since."""
        self._is_locked = True
        self._known = dict(known)

    def scopes_of_now(self, standing: SendStanding) -> list[str]:
        """The rows that mail which goes now asks for first. After the lock."""
        pieces = [limit.slice_at(self._now_ms) for limit in self._limits_of(standing)]
        return [piece.scope for piece in pieces if piece is not None]

    def taken(self) -> list[tuple[str, int]]:
        """What is to be written down, and will not be given again."""
        rows = list(self._ledger.changed.items())
        self._ledger.changed.clear()
        return rows

    def save(self) -> None:
        """Write down what was taken."""
        save_together(self._database, [self])

    def _limits_of(self, standing: SendStanding) -> list[Limit]:
        domain_id = standing.sending_domain_id
        if domain_id not in self._limits:
            quotas, has_ramp = self._terms_of(standing)
            ramps = [self._ramp(domain_id)] if domain_id is not None and has_ramp else []
            self._limits[domain_id] = [*quotas, *ramps]
        return self._limits[domain_id]

    def _terms_of(self, standing: SendStanding) -> tuple[list[Quota], bool]:
        """Limits by the hour and the day, and whether there may be one by age."""
        domain_id = standing.sending_domain_id
        if domain_id not in self._terms:
            of_account = f"a:{standing.account_id}"
            quotas = [*_quotas(of_account, self._defaults), *_quotas(of_account, _stricter(standing, self._defaults))]
            quotas += _quotas(f"d:{domain_id}", standing.domain) if domain_id is not None else ()
            ramp = combined(standing.domain, standing.account, self._defaults).ramp
            has_ramp = domain_id is not None and bool(ramp)
            self._terms[domain_id] = (quotas, has_ramp)
        return self._terms[domain_id]

    def _ramp(self, domain_id: str) -> NewDomainRamp:
        """It begins with the first mail that is remembered: after a long silence a domain is new again."""
        first_ms = self._database.execute(_BEGAN, (self._account_id, domain_id))[0][0]
        began_ms = self._now_ms - self._now_ms % HOUR_MS if first_ms is None else first_ms
        return NewDomainRamp(f"r:{domain_id}:{began_ms // HOUR_MS}", began_ms)

    def _read(self, scope: str) -> int:
        if scope not in self._known:
            self._known |= _read_rates(self._database, [scope])
        return self._known[scope]

    def _spacing(self, recipient: str, priority: Priority) -> list[Limit]:
        if priority is not Priority.DIGEST:
            return []
        domain = suppression_key(recipient).rpartition("@")[2]
        digest = hashlib.sha256(domain.encode()).hexdigest()[:DESTINATION_DIGITS]
        return [digest_spacing(f"g:{self._account_id}:{digest}")]


def open_pacers(
    database: Database, wanted: Sequence[tuple[SendStanding, Priority]], defaults: SendSettings, now_ms: int
) -> dict[str, Pacer]:
    """Those of several accounts, by id, for mail of these kinds. Inside a transaction; `save_together` at its end.

    The accounts are locked at once and in one order, so that two who each want several never wait for each other, and
    the rows that mail of now asks for first are read at once.
    """
    pacers = {standing.account_id: Pacer(database, standing.account_id, defaults, now_ms) for standing, _ in wanted}
    limited = [standing for standing, priority in wanted if pacers[standing.account_id].may_delay(standing, priority)]
    locked = sorted({standing.account_id for standing in limited})
    if locked and database.is_postgres:
        database.execute(_LOCK.format(places=places(locked)), locked)
    scopes = [scope for standing in limited for scope in pacers[standing.account_id].scopes_of_now(standing)]
    known = _read_rates(database, list(dict.fromkeys(scopes)))
    for account_id in locked:
        pacers[account_id].take_over(known)
    return pacers


def save_together(database: Database, pacers: Iterable[Pacer]) -> None:
    """Write down what was taken, by all of them."""
    rows = [row for pacer in pacers for row in pacer.taken()]
    database.execute_values(_WRITE, sorted(rows))


def _read_rates(database: Database, scopes: Sequence[str]) -> dict[str, int]:
    """From when on each slice has room; 0 for one that nothing was taken of."""
    rows = database.execute(_READ.format(places=places(scopes)), scopes) if scopes else []
    return dict.fromkeys(scopes, 0) | dict(rows)


def _stricter(standing: SendStanding, gateway: SendSettings) -> SendSettings:
    """What an account asks of itself beyond the gateway's limits. Those hold beside it with places of their own: a new
    limit begins with all its places free, and who could exchange the gateway's for it would be free of that."""

    def own(limit: int | None, of_gateway: int | None) -> int | None:
        return limit if limit and (not of_gateway or limit < of_gateway) else None

    return replace(
        standing.account,
        hourly_limit=own(standing.account.hourly_limit, gateway.hourly_limit),
        daily_limit=own(standing.account.daily_limit, gateway.daily_limit),
    )


def _quotas(name: str, settings: SendSettings) -> Iterable[Quota]:
    if settings.hourly_limit and is_limit(settings.hourly_limit, HOUR_MS):
        yield hourly(f"{name}:h", settings.hourly_limit)
    if settings.daily_limit and is_limit(settings.daily_limit, DAY_MS):
        yield daily(f"{name}:d", settings.daily_limit)
