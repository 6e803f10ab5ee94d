"""Replaying deliveries: trying again at a customer's word, whatever became of them before.

A replay begins a new cycle of attempts. The delivery keeps its id, so a receiver that remembers ids can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from core.clock import Clock
from core.delivery import DeliveryState
from core.errors import PillarboxError
from core.services.statuses import StatusFilter, StatusRecord, get_status, matching_ids
from core.store.db import Database

MAX_REPLAYS = 10_000
"""How many deliveries one call replays."""
BATCH = 500
"""How many of them one transaction changes: a worker that wants to claim does not wait long."""

_REPLAY = f"""
UPDATE delivery SET state = '{DeliveryState.PENDING}', cycle_attempts = 0, cycle_started_ms = ?, due_ms = ?,
                    lease_token = NULL, finished_ms = NULL
WHERE id IN (SELECT id FROM delivery
             WHERE id IN ({{places}}) AND (lease_token IS NULL OR due_ms <= ?) ORDER BY id {{locking}})
RETURNING id"""  # noqa: S608 (a constant)


class BeingAttempted(PillarboxError):
    """The delivery is with its target at this moment; its outcome is not to be disturbed."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay of many came to."""

    retried: int
    in_progress: int
    """Left alone, because they were being attempted at that moment."""
    next_cursor: str | None
    """Where to go on when there was more than one call may replay."""


def replay_one(database: Database, account_id: str, delivery_id: str, now_ms: int) -> StatusRecord:
    """Make one delivery due now. Raises `NotFound` and `BeingAttempted`."""
    get_status(database, account_id, delivery_id)
    if not _replay(database, [delivery_id], now_ms):
        raise BeingAttempted(f"{delivery_id} is being delivered at this moment; see what comes of it, then try again")
    return get_status(database, account_id, delivery_id)


def replay_matching(database: Database, wanted: StatusFilter, cursor: str | None, clock: Clock) -> Replayed:
    """Make all deliveries that match due now, up to `MAX_REPLAYS`. Raises `InvalidField` for a bad cursor."""
    page = matching_ids(database, wanted, MAX_REPLAYS, cursor, clock)
    waiting = iter(page.entries)
    retried = 0
    while batch := list(islice(waiting, BATCH)):
        retried += _replay(database, batch, clock())
    return Replayed(retried, len(page.entries) - retried, page.next_cursor)


def _replay(database: Database, ids: Sequence[str], now_ms: int) -> int:
    """How many of these became due; rows that a worker is claiming or recording right now are passed over."""
    locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""
    statement = _REPLAY.format(places=", ".join("?" for _ in ids), locking=locking)
    with database.transaction():
        return len(database.execute(statement, (now_ms, now_ms, *ids, now_ms)))
