"""What happens to a sent mail, step by step and recipient by recipient: the words of CloudMailin's event webhooks.

An event is a fact that never changes. `core.services.events` writes them down, and has webhooks told.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import orjson

from core.ids import new_time_ordered_id

MAX_TEXT = 1_000
"""Characters kept of any text in the details."""


class EventKind(StrEnum):
    """The steps, in about the order in which they happen."""

    REGISTRATION = "registration"
    """Accepted from the customer."""
    SUPPRESSED = "suppressed"
    """Not sent: the recipient is on a suppression list."""
    RATE_LIMIT = "rate_limit"
    """Waits for its turn because of a limit of the account or the domain."""
    HELD = "held"
    """Waits for a person: sending is paused, or the spam check objects. (Ours.)"""
    CANCELLED = "cancelled"
    """Taken back before its time had come. (Ours.)"""
    DISPATCH = "dispatch"
    """Handed to the workers: its first attempt has begun."""
    DISPATCH_SOFT_BOUNCE = "dispatch_soft_bounce"
    """An attempt failed for now; it will be tried again."""
    DELIVERY = "delivery"
    """The recipient's host has taken it."""
    BOUNCE = "bounce"
    """Refused for good, at once or by a notice later."""
    SOFT_BOUNCE = "soft_bounce"
    """Did not arrive for a reason that may pass: told by a notice after its delivery, or by a host that says never."""
    RETRIES_EXHAUSTED = "retries_exhausted"
    """All attempts have failed."""
    ERROR = "error"
    """An error of ours keeps it from being sent."""
    OPEN = "open"
    READ = "read"
    CLICK = "click"
    COMPLAINT = "complaint"
    """The recipient calls it spam."""
    UNSUBSCRIBE = "unsubscribe"
    """The recipient wants no more. (Ours.)"""
    AUTO_REPLY = "auto_reply"
    BOUNCE_REPLY = "bounce_reply"
    """A person has written to the bounce address."""


INTERNAL_KINDS = frozenset({EventKind.COMPLAINT})
"""Kept out of CloudMailin's `outbound_messages`, whose clients do not know them. Webhooks that name them get them."""


@dataclass(frozen=True, slots=True)
class EventDetails:
    """What there is to tell beyond the fact itself. All text is cut to `MAX_TEXT`; what is None is left out."""

    reply_code: int | None = None
    """Of the SMTP reply that decided."""
    delivery_status: str | None = None
    """RFC 3463, e.g. `5.1.1`."""
    smtp_response: str | None = None
    """The reply as it came."""
    remote_host: str | None = None
    """The name of the host that gave it."""
    agent: str | None = None
    """The user agent of an open or click; what reported a bounce or complaint."""
    reason: str | None = None
    """In words for the customer, where no host has said anything."""
    url: str | None = None
    """Of a click."""
    ip: str | None = None
    """Of an open or click, as far as privacy lets us keep it."""
    attempt: int | None = None
    next_attempt_at: str | None = None
    """RFC 3339."""
    tls: str | None = None
    """E.g. `TLSv1.3`."""
    severity: str | None = None
    """`core.sending.returned.Severity` of a bounce."""
    is_test: bool | None = None
    """Whether nothing was really sent."""

    def to_json(self) -> str:
        """Without what is None."""
        return orjson.dumps(self.as_dict()).decode()

    def as_dict(self) -> dict[str, Any]:
        """Without what is None."""
        found = ((entry.name, getattr(self, entry.name)) for entry in fields(self))
        return {name: _cut(value) for name, value in found if value is not None}


NO_DETAILS = EventDetails()


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written down."""

    kind: EventKind
    account_id: str
    sending_domain_id: str | None
    message_id: str
    delivery_id: str | None
    recipient: str
    at_ms: int
    details: EventDetails = NO_DETAILS
    event_id: str = field(default_factory=new_time_ordered_id)


def _cut(value: Any) -> Any:
    return value[:MAX_TEXT] if isinstance(value, str) else value
