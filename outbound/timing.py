"""How long a host may take, phase by phase and in all.

RFC 5321 section 4.5.3.2 asks for patience of minutes; a worker has few places, so ours is shorter everywhere but after
the last dot, where giving up early makes duplicates.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. The RFC's figure in brackets."""

    connect_s: float = 15.0
    greeting_s: float = 60.0
    """[300] Some hosts greet late on purpose, by up to half a minute."""
    helo_s: float = 30.0
    tls_s: float = 30.0
    command_s: float = 60.0
    """[300] MAIL, RCPT, RSET and [120] DATA."""
    block_s: float = 60.0
    """[180] For a block of content to be taken off our hands."""
    dot_s: float = 180.0
    """[600] The host stores and perhaps scans the message; if it answers later than this, it gets it twice."""
    quit_s: float = 2.0
    wait_s: float = 10.0
    """For a connection to be free, where the host has as many of ours as it may have; most wait less
    (`outbound.host_slots`)."""
    total_s: float = 300.0
    """All hosts of one attempt together."""
    reserve_s: float = 60.0
    """Content is neither begun nor ended with less than this left: the answer to it would come too late, and the mail
    twice."""


class Deadline:
    """A moment by which something is over. A silent peer and one that sends a byte now and then fare alike."""

    __slots__ = ("_ends_at",)

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never less than a millisecond, so that it can serve as a socket timeout."""
        return max(0.001, self._ends_at - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self._ends_at

    def within(self, seconds: float) -> Deadline:
        """One that ends after so many seconds, or with this one."""
        return Deadline(min(seconds, self._ends_at - time.monotonic()))
