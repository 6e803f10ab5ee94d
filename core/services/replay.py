"""Replaying deliveries, and releasing them from quarantine: trying (again) at a customer's word.

Either begins a new cycle of attempts. The delivery keeps its id, so a receiver that remembers ids can tell. A retry
leaves quarantine alone: what rules hold goes out by a release only, and after that no rule holds it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from core.clock import Clock
from core.delivery import DeliveryState
from core.errors import NotPossibleNow
from core.netguard import target_host
from core.routing import kind_of
from core.services.statuses import StatusFilter, StatusRecord, get_status, matching_ids
from core.store.db import Database

MAX_REPLAYS = 10_000
"""How many deliveries one call replays."""
BATCH = 500
"""How many of them one transaction changes: a worker that wants to claim does not wait long."""

# The raw row is joined so that it is locked too: a purge that is removing it is then seen, see core.services.retention.
_MAKE_DUE = f"""
UPDATE delivery SET state = '{DeliveryState.PENDING}', cycle_attempts = 0, cycle_started_ms = ?, due_ms = ?,
                    lease_token = NULL, finished_ms = NULL {{change}}
WHERE id IN (SELECT id FROM delivery JOIN raw_message r ON r.message_id = delivery.message_id
             WHERE id IN ({{places}}) AND (lease_token IS NULL OR due_ms <= ?) AND {{which}}
             ORDER BY id {{locking}})
RETURNING id"""  # noqa: S608 (constants)
_TARGETS = """
SELECT d.id, d.kind, d.target_host, coalesce(c.domain_target, a.target)
FROM delivery d JOIN address a ON a.id = d.address_id LEFT JOIN custom_domain c ON c.id = d.custom_domain_id
WHERE d.id IN ({places})"""
_MOVE = "UPDATE delivery SET kind = ?, target_host = ? WHERE id = ?"
_HAS_RAW = """
SELECT 1 FROM delivery d JOIN raw_message r ON r.message_id = d.message_id WHERE d.id = ?"""


class Wish(Enum):
    """What a customer asks for."""

    RETRY = ("", f"state <> '{DeliveryState.QUARANTINED}'")
    RELEASE = (", is_released = TRUE, last_error = NULL", f"state = '{DeliveryState.QUARANTINED}'")

    def __init__(self, change: str, which: str) -> None:
        self.change = change
        self.which = which


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay of many came to."""

    retried: int
    left_alone: int
    """Being attempted at that moment, in quarantine (not in it, for a release), or with their mail purged."""
    next_cursor: str | None
    """Where to go on when there was more than one call may replay."""


def replay_one(
    database: Database, account_id: str, delivery_id: str, now_ms: int, wish: Wish = Wish.RETRY
) -> StatusRecord:
    """Make one delivery due now. Raises `NotFound` and `NotPossibleNow`."""
    before = get_status(database, account_id, delivery_id)
    if not _make_due(database, [delivery_id], wish, now_ms):
        raise NotPossibleNow(_obstacle(database, before, wish))
    return get_status(database, account_id, delivery_id)


def replay_matching(
    database: Database, wanted: StatusFilter, cursor: str | None, clock: Clock, wish: Wish = Wish.RETRY
) -> Replayed:
    """Make all deliveries that match due now, up to `MAX_REPLAYS`. Raises `InvalidField` for a bad cursor."""
    page = matching_ids(database, wanted, MAX_REPLAYS, cursor, clock)
    waiting = iter(page.entries)
    retried = 0
    while batch := list(islice(waiting, BATCH)):
        retried += _make_due(database, batch, wish, clock())
    return Replayed(retried, len(page.entries) - retried, page.next_cursor)


def _obstacle(database: Database, record: StatusRecord, wish: Wish) -> str:
    """Why a delivery was left alone."""
    is_held = record.state is DeliveryState.QUARANTINED
    with database.reading():
        has_raw = bool(database.execute(_HAS_RAW, (record.delivery_id,)))
    if not has_raw:
        return f"{record.delivery_id} has no message any more; it was purged after PILLARBOX_KEEP_RAW_DAYS"
    if wish is Wish.RETRY and is_held:
        return f"{record.delivery_id} is in quarantine ({record.last_error}); release it instead"
    if wish is Wish.RELEASE and not is_held:
        return f"{record.delivery_id} is not in quarantine; it is {record.state}"
    return f"{record.delivery_id} is being delivered at this moment; see what comes of it, then try again"


def _make_due(database: Database, ids: Sequence[str], wish: Wish, now_ms: int) -> int:
    """How many of these became due; rows that a worker is claiming or recording right now are passed over."""
    locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""
    places = ", ".join("?" for _ in ids)
    statement = _MAKE_DUE.format(places=places, locking=locking, change=wish.change, which=wish.which)
    with database.transaction():
        made_due = [row[0] for row in database.execute(statement, (now_ms, now_ms, *ids, now_ms))]
        _follow_targets(database, made_due)
    return len(made_due)


def _follow_targets(database: Database, ids: Sequence[str]) -> None:
    """What was over did not follow its address to a new target: the transport and the host may be others by now."""
    if not ids:
        return
    rows = database.execute(_TARGETS.format(places=", ".join("?" for _ in ids)), ids)
    moved = [
        (kind_of(target), target_host(target), delivery_id)
        for delivery_id, kind, host, target in rows
        if (kind, host) != (kind_of(target), target_host(target))
    ]
    database.execute_many(_MOVE, sorted(moved, key=lambda row: row[2]))
