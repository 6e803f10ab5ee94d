"""When mail that we send is tried again (RFC 5321 section 4.5.4.1)."""

from __future__ import annotations

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from core.delivery import DeliveryKind, Policy

SMTP_POLICY = Policy(
    schedule_ms=(
        *(1 * MINUTE_MS, 5 * MINUTE_MS, 10 * MINUTE_MS, 15 * MINUTE_MS, 30 * MINUTE_MS, 1 * HOUR_MS),
        *(2 * HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS, 4 * HOUR_MS, 4 * HOUR_MS, 6 * HOUR_MS, 6 * HOUR_MS),
        *(6 * HOUR_MS, 6 * HOUR_MS),
    ),
    give_up_after_ms=2 * DAY_MS,
    jitter=0.1,
    max_retry_after_ms=0,
)
"""43 to 47.3 hours of pauses, by jitter. Greylisting lets a sender in after 1 to 15 minutes, so the first hour is
dense; after that a host is down or a mailbox full, and two of three hours is often enough. RFC 5321 asks for 30 minutes
between attempts later on, and for 4 to 5 days in all; two days is what large senders have come to (a sender wants to
know before the week is over), and less than the 3 days for which we hold a mail's HTTP delivery."""
PRIORITY_POLICY = Policy(
    schedule_ms=(
        *(30 * SECOND_MS, 1 * MINUTE_MS, 2 * MINUTE_MS, 3 * MINUTE_MS, 5 * MINUTE_MS, 5 * MINUTE_MS),
        *(10 * MINUTE_MS, 10 * MINUTE_MS, 15 * MINUTE_MS, 15 * MINUTE_MS, 30 * MINUTE_MS, 30 * MINUTE_MS),
        *(1 * HOUR_MS, 1 * HOUR_MS, 1 * HOUR_MS, 1 * HOUR_MS, 1 * HOUR_MS, 1 * HOUR_MS, 1 * HOUR_MS, 1 * HOUR_MS),
    ),
    give_up_after_ms=12 * HOUR_MS,
    jitter=0.1,
    max_retry_after_ms=0,
)
"""10.1 to 11.1 hours. Somebody waits for a code or a link: ten attempts in the first hour let it in a minute or so
after greylisting ends, whenever that is; and tomorrow nobody wants it any more."""
DIGEST_POLICY = Policy(
    schedule_ms=(
        *(15 * MINUTE_MS, 1 * HOUR_MS, 2 * HOUR_MS, 4 * HOUR_MS, 6 * HOUR_MS, 8 * HOUR_MS, 10 * HOUR_MS),
        12 * HOUR_MS,
    ),
    give_up_after_ms=2 * DAY_MS,
    jitter=0.1,
    max_retry_after_ms=0,
)
"""43.3 to 47.6 hours. Nobody waits: a second attempt when greylisting is over, and few after it, so that a crowd of
recipients at a host that is down costs little."""
SEND_POLICIES = {
    DeliveryKind.SEND_PRIORITY: PRIORITY_POLICY,
    DeliveryKind.SEND: SMTP_POLICY,
    DeliveryKind.SEND_DIGEST: DIGEST_POLICY,
}
"""By the queue of each priority."""
