"""How urgent a sent message is: each priority has a queue and workers of its own, so that none waits for another."""

from __future__ import annotations

from enum import StrEnum

from core.delivery import DeliveryKind


class Priority(StrEnum):
    """In CloudMailin's words."""

    STANDARD = "standard"
    PRIORITY = "priority"
    """Jumps ahead: password resets and the like."""
    DIGEST = "digest"
    """May take its time: it is spread out."""


KIND_OF = {
    Priority.PRIORITY: DeliveryKind.SEND_PRIORITY,
    Priority.STANDARD: DeliveryKind.SEND,
    Priority.DIGEST: DeliveryKind.SEND_DIGEST,
}
"""The queue of each."""
