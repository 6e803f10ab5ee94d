"""Time as the store keeps it: integer milliseconds since the epoch, UTC."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]
"""Gives the present moment in milliseconds since the epoch; tests pass their own."""

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def system_clock() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def to_datetime(moment_ms: int) -> datetime:
    """The same moment as an aware datetime in UTC."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC)


def to_ms(moment: datetime) -> int:
    """The same moment as the store keeps it."""
    return int(moment.timestamp() * 1000)


def to_rfc3339(moment_ms: int) -> str:
    """E.g. `2026-08-24T14:15:22.123Z` (RFC 3339), as the API prints every time."""
    return to_datetime(moment_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
