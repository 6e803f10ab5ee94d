"""Inline mail: stored under the lease of the receiver that makes the attempt, and recognised when it comes again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from core.delivery import DeliveryState
from core.errors import StorageUnavailable
from core.services.acceptance import AcceptedMail, EarlierDelivery, find_earlier, insert, plan_deliveries
from core.services.received import ClaimedDelivery, load_received
from core.store.db import Database

_LEASE_AGAIN = """
UPDATE delivery SET state = 'pending', lease_token = ?, due_ms = ?, attempts = attempts + 1, finished_ms = NULL,
                    cycle_attempts = 1, cycle_started_ms = ?
WHERE id = ? AND state IN ('deferred', 'rejected') AND (lease_token IS NULL OR due_ms <= ?) RETURNING id"""
_END_LEASE = """
UPDATE delivery SET lease_token = NULL WHERE id = ? AND lease_token IS NOT NULL AND due_ms <= ? RETURNING id"""
_MESSAGE_OF = "SELECT message_id FROM delivery WHERE id = ?"


class ArrivalKind(Enum):
    """What the arrival of an inline mail comes to."""

    TO_ATTEMPT = auto()
    """It is stored and leased to us: new, or one whose sender had been told to come again."""
    IN_PROGRESS = auto()
    """It came before, and is with its target at this moment."""
    TAKEN = auto()
    """It came before and is delivered, or ours to deliver."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An inline mail that has arrived."""

    kind: ArrivalKind
    message_id: str
    """Of the mail as it is stored: of its first arrival."""
    claimed: ClaimedDelivery | None = None
    """Set for `TO_ATTEMPT`."""
    is_stored_now: bool = False
    """Whether this arrival stored it; else its bytes were there already."""


def arrive(database: Database, mail: AcceptedMail, now_ms: int) -> Arrival:
    """Store an inline mail under the lease of its plan, or find it as it came before.

    The mail has one delivery only. Raises `StorageUnavailable`.
    """
    (made,) = plan_deliveries(mail)
    token = made.plan.lease_token
    assert token is not None  # an inline plan has one
    with database.transaction():
        earlier = find_earlier(database, made)
        if earlier is None:
            insert(database, [made])
            delivery_id, is_stored_now = made.delivery_id, True
        elif _is_to_attempt(earlier) and database.execute(
            _LEASE_AGAIN, (token, made.plan.lease_end_ms, now_ms, earlier.delivery_id, now_ms)
        ):
            delivery_id, is_stored_now = earlier.delivery_id, False
        else:
            return _known(database, earlier, now_ms)
        loaded = load_received(database, [delivery_id], token, now_ms)
        if not loaded:
            raise StorageUnavailable(f"{delivery_id} cannot be read")
        (claimed,) = loaded
    return Arrival(ArrivalKind.TO_ATTEMPT, claimed.message_id, claimed, is_stored_now)


def _is_to_attempt(earlier: EarlierDelivery) -> bool:
    """A sender that was told to come again, or never, and does, is asking anew."""
    return earlier.state in (DeliveryState.DEFERRED, DeliveryState.REJECTED)


def _known(database: Database, earlier: EarlierDelivery, now_ms: int) -> Arrival:
    """A lease that has run out is taken away before the sender hears 250: whoever held it must not be able to record
    that the sender will come again."""
    ((message_id,),) = database.execute(_MESSAGE_OF, (earlier.delivery_id,))
    is_free = not earlier.is_leased or database.execute(_END_LEASE, (earlier.delivery_id, now_ms))
    return Arrival(ArrivalKind.TAKEN if is_free else ArrivalKind.IN_PROGRESS, message_id)
