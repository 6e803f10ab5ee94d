"""Samples of events: what a webhook's test button sends, and what the documentation shows."""

from __future__ import annotations

from collections.abc import Mapping

from core.ids import new_message_id, new_time_ordered_id
from core.sending.events import EventDetails, EventKind, NewEvent

RECIPIENT = "recipient@example.net"
_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_HOST = "mx.example.net"

SAMPLE_DETAILS: Mapping[EventKind, EventDetails] = {
    EventKind.REGISTRATION: EventDetails(),
    EventKind.SUPPRESSED: EventDetails(reason="the address is on the suppression list: hard_bounce"),
    EventKind.RATE_LIMIT: EventDetails(
        reason="the hourly limit is reached", next_attempt_at="2026-08-24T15:00:00.000Z"
    ),
    EventKind.HELD: EventDetails(reason="sending is paused"),
    EventKind.CANCELLED: EventDetails(reason="cancelled by request"),
    EventKind.DISPATCH: EventDetails(),
    EventKind.DISPATCH_SOFT_BOUNCE: EventDetails(
        reply_code=451,
        delivery_status="4.7.1",
        smtp_response="451 4.7.1 Greylisted, please come again",
        remote_host=_HOST,
        attempt=1,
        next_attempt_at="2026-08-24T14:20:22.123Z",
    ),
    EventKind.DELIVERY: EventDetails(
        reply_code=250,
        delivery_status="2.0.0",
        smtp_response="250 2.0.0 Ok: queued as 4XbQ1z0Fz5z9",
        remote_host=_HOST,
        attempt=2,
        tls="TLSv1.3",
    ),
    EventKind.BOUNCE: EventDetails(
        reply_code=550,
        delivery_status="5.1.1",
        smtp_response="550 5.1.1 User unknown",
        remote_host=_HOST,
        attempt=1,
        severity="hard",
    ),
    EventKind.SOFT_BOUNCE: EventDetails(
        delivery_status="4.2.2", smtp_response="452 4.2.2 Mailbox full", agent=_HOST, severity="soft"
    ),
    EventKind.RETRIES_EXHAUSTED: EventDetails(
        reply_code=451,
        delivery_status="4.3.2",
        smtp_response="451 4.3.2 Try again later",
        remote_host=_HOST,
        attempt=14,
    ),
    EventKind.ERROR: EventDetails(reason="an error of ours; it is in the log"),
    EventKind.OPEN: EventDetails(agent=_AGENT, ip="192.0.2.0"),
    EventKind.READ: EventDetails(agent=_AGENT, ip="192.0.2.0"),
    EventKind.CLICK: EventDetails(agent=_AGENT, ip="192.0.2.0", url="https://example.com/welcome"),
    EventKind.COMPLAINT: EventDetails(agent="example.net feedback loop"),
    EventKind.UNSUBSCRIBE: EventDetails(agent=_AGENT),
    EventKind.AUTO_REPLY: EventDetails(reason="Out of office"),
    EventKind.BOUNCE_REPLY: EventDetails(reason="Re: Welcome"),
}
"""What each kind typically tells."""


def sample_event(kind: EventKind, account_id: str, now_ms: int) -> NewEvent:
    """An event that never happened."""
    return NewEvent(
        kind=kind,
        account_id=account_id,
        sending_domain_id=None,
        message_id=new_message_id(now_ms),
        delivery_id=None,
        recipient=RECIPIENT,
        at_ms=now_ms,
        details=SAMPLE_DETAILS[kind],
        event_id=new_time_ordered_id(now_ms),
    )
