"""What a worker holds while it makes an attempt, and what it gives back: the same for every kind of delivery.

A kind adds what its attempts need (`load`) and what follows from their outcomes in the same transaction (`follow`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from core.delivery import Decision, DeliveryKind, Outcome, Progress
from core.rules import Judgement
from core.store.db import Database


@dataclass(frozen=True, slots=True)
class LeasedDelivery:
    """A delivery that is leased to whoever makes its next attempt. Kinds add all that the attempt needs."""

    delivery_id: str
    kind: DeliveryKind
    account_id: str
    lease_token: str
    lease_end_ms: int
    attempt_number: int
    progress: Progress
    target_host: str


@dataclass(frozen=True, slots=True)
class FinishedAttempt:
    """A leased delivery and how its attempt went. Kinds add what they want to be written down."""

    delivery: LeasedDelivery
    outcome: Outcome
    judgement: Judgement | None = None
    """What rules and checks said, when they were asked this time."""


@dataclass(frozen=True, slots=True)
class RecordedAttempt:
    """An attempt that has been written down, with the state that followed."""

    attempt: FinishedAttempt
    decision: Decision
    counts: bool
    """False when the lease was lost meanwhile: what becomes of the delivery is somebody else's to tell."""


Leased = TypeVar("Leased", bound=LeasedDelivery)

Loader = Callable[[Database, Sequence[str], str, int], Sequence[Leased]]
"""Reads what attempts need: of these deliveries, leased under this token, at this moment. One that cannot be read is
left out, and to its lease. Raises `StorageUnavailable`."""

Follow = Callable[[Database, Sequence[RecordedAttempt], int], None]
"""Writes what follows from recorded attempts, at this moment. Inside the transaction that records them."""
