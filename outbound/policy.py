"""When mail that we send is tried again (RFC 5321 section 4.5.4.1)."""

from __future__ import annotations

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from core.delivery import Policy

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
