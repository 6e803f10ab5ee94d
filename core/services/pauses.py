"""Pausing what an account or one of its domains sends, by hand or by machine, and letting go what was held meanwhile.

Mail that comes during a pause is held by the gate; mail that was accepted before is held when its turn comes. A resume
gives all of it new turns under the limits, a batch in each transaction; what it leaves undone (or what a crash leaves)
`release_unpaused` finds.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.clock import Clock
from core.errors import InvalidField, NotFound, NotPossibleNow, PillarboxError
from core.sending.send_settings import SendSettings
from core.services.held_sends import HeldSend, let_go, lock_unpaused
from core.services.send_accounts import NO_SETTINGS
from core.services.send_pacing import Pacer
from core.store.db import Database

BATCH = 200
"""Recipients that one transaction lets go: a worker that wants to claim does not wait long."""
RELEASED_AT_ONCE = 5_000
"""How many a resume lets go before it answers; the rest follow within a minute."""
DEFAULT_REASON = "paused by hand"
BY_OPERATOR = "by the operator: "
"""Begins the reason of a pause that only whoever runs the gateway can end."""
_UNLESS_BY_OPERATOR = f"AND coalesce(paused_because, '') NOT LIKE '{BY_OPERATOR}%'"

_PAUSE_ACCOUNT = "UPDATE account SET paused_ms = ?, paused_because = ? WHERE id = ? {only} RETURNING id"
_PAUSE_DOMAIN = """
UPDATE sending_domain SET paused_ms = ?, paused_because = ? WHERE id = ? AND account_id = ? AND deleted_ms IS NULL
{only} RETURNING id"""
_RESUME_ACCOUNT = "UPDATE account SET paused_ms = NULL, paused_because = NULL WHERE id = ? {only} RETURNING id"
# A deleted domain too: what was accepted from it is still sent, and may be held.
_RESUME_DOMAIN = """
UPDATE sending_domain SET paused_ms = NULL, paused_because = NULL WHERE id = ? AND account_id = ? {only} RETURNING id"""
_ACCOUNT_PAUSE = "SELECT paused_ms, paused_because FROM account WHERE id = ?"
_DOMAIN_PAUSE = """
SELECT paused_ms, paused_because FROM sending_domain WHERE id = ? AND account_id = ? AND deleted_ms IS NULL"""
_MARK = """
INSERT INTO send_rate (scope, next_ms) VALUES (?, ?) ON CONFLICT (scope) DO UPDATE SET next_ms = excluded.next_ms"""
_MARKS = "SELECT scope FROM send_rate WHERE scope >= ? AND scope < ? ORDER BY scope"
_MARKED = "resumed:"
_AFTER_MARKED = "resumed;"  # the next character


@dataclass(frozen=True, slots=True)
class PausePlace:
    """What is paused."""

    account_id: str
    sending_domain_id: str | None = None
    """None for all of the account's."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Since when nothing is sent, and why."""

    since_ms: int
    because: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a resume has let go."""

    released: int
    """Recipients."""
    is_partial: bool
    """Whether more follow by themselves."""


def read_pause(database: Database, place: PausePlace) -> Pause | None:
    """Whether this place is paused itself. Raises `NotFound`."""
    with database.reading():
        rows = database.execute(*_of(place, _ACCOUNT_PAUSE, _DOMAIN_PAUSE))
    if not rows:
        raise _missing(place)
    since_ms, because = rows[0]
    return None if since_ms is None else Pause(since_ms, because or DEFAULT_REASON)


def pause(database: Database, place: PausePlace, because: str, now_ms: int) -> Pause:
    """Hold everything from now on; a pause that was there before is replaced. Raises `NotFound`, `InvalidField`, and
    `NotPossibleNow` where the operator has paused it."""
    if because.startswith(BY_OPERATOR):
        raise InvalidField("reason", f"must not begin with {BY_OPERATOR!r}: only the operator's do")
    with database.transaction():
        if not _write_pause(database, place, because, now_ms, _UNLESS_BY_OPERATOR):
            raise _refusal(database, place)
    return Pause(now_ms, because)


def pause_by_operator(database: Database, account_id: str, because: str, now_ms: int) -> Pause:
    """Hold everything of an account until the operator ends it. Raises `NotFound`."""
    place, reason = PausePlace(account_id), f"{BY_OPERATOR}{because}"
    with database.transaction():
        if not _write_pause(database, place, reason, now_ms, ""):
            raise _missing(place)
    return Pause(now_ms, reason)


def pause_by_machine(database: Database, place: PausePlace, because: str, now_ms: int) -> bool:
    """The same where nothing is paused yet; whether it is paused by this. Inside a transaction."""
    return _write_pause(database, place, because, now_ms, "AND paused_ms IS NULL")


def resume(
    database: Database,
    place: PausePlace,
    clock: Clock,
    defaults: SendSettings = NO_SETTINGS,
    is_operator: bool = False,
) -> Resumed:
    """End a pause, and let go what only it held. Raises `NotFound`, and `NotPossibleNow` where the operator has paused
    it and somebody else wants to end that.

    What has bounced until now does not pause this place again (`core.services.send_health`).
    """
    statement, parameters = _of(place, _RESUME_ACCOUNT, _RESUME_DOMAIN)
    only = "" if is_operator else _UNLESS_BY_OPERATOR
    with database.transaction():
        if not database.execute(statement.format(only=only), parameters):
            raise _refusal(database, place)
        database.execute(_MARK, (resume_mark(place), clock()))
    return _release(database, place.account_id, clock, defaults, RELEASED_AT_ONCE)


def resume_mark(place: PausePlace) -> str:
    """The row of `send_rate` that remembers when a place was resumed, for as long as that matters."""
    kind = "a" if place.sending_domain_id is None else "d"
    return f"{_MARKED}{kind}:{place.account_id}:{place.sending_domain_id or ''}"


def release_unpaused(database: Database, clock: Clock, defaults: SendSettings = NO_SETTINGS) -> int:
    """Let go what no pause holds any more, of accounts that were resumed lately; how many recipients."""
    with database.reading():
        marks = database.execute(_MARKS, (_MARKED, _AFTER_MARKED))
    accounts = sorted({scope.split(":")[2] for (scope,) in marks})
    return sum(_release(database, account, clock, defaults, RELEASED_AT_ONCE).released for account in accounts)


def _release(database: Database, account_id: str, clock: Clock, defaults: SendSettings, most: int) -> Resumed:
    released, after = 0, ""
    while released < most:
        with database.transaction():
            batch = _release_batch(database, account_id, after, clock(), defaults)
        if not batch:
            return Resumed(released, is_partial=False)
        released += len(batch)
        after = batch[-1].delivery_id
    return Resumed(released, is_partial=True)


def _release_batch(
    database: Database, account_id: str, after: str, now_ms: int, defaults: SendSettings
) -> list[HeldSend]:
    pacer = Pacer(database, account_id, defaults, now_ms)
    pacer.lock()  # the account first, then deliveries, as the gate does: no deadlock
    held = lock_unpaused(database, account_id, after, BATCH)
    let_go(database, held, pacer, now_ms)
    pacer.save()
    return held


def _write_pause(database: Database, place: PausePlace, because: str, now_ms: int, only: str) -> bool:
    statement, parameters = _of(place, _PAUSE_ACCOUNT, _PAUSE_DOMAIN)
    return bool(database.execute(statement.format(only=only), (now_ms, because, *parameters)))


def _of(place: PausePlace, of_account: str, of_domain: str) -> tuple[str, tuple[str, ...]]:
    if place.sending_domain_id is None:
        return of_account, (place.account_id,)
    return of_domain, (place.sending_domain_id, place.account_id)


def _refusal(database: Database, place: PausePlace) -> PillarboxError:
    """Why a place could not be changed: it is not there, or the operator has paused it."""
    rows = database.execute(*_of(place, _ACCOUNT_PAUSE, _DOMAIN_PAUSE))
    if rows and (rows[0][1] or "").startswith(BY_OPERATOR):
        return NotPossibleNow(f"sending was paused {rows[0][1]}; ask whoever runs this gateway")
    return _missing(place)


def _missing(place: PausePlace) -> NotFound:
    if place.sending_domain_id is None:
        return NotFound(f"there is no account {place.account_id}")
    return NotFound(f"this account has no sending domain {place.sending_domain_id}")
