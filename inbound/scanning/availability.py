"""Which scanner is out of order, so that not every mail waits for it anew and not every mail logs it.

A refused connection opens the breaker for a few seconds: mail then goes on at once, unscanned. An answer that is late
or makes no sense does not, because the message may be to blame, and whoever sends such messages could switch scanning
off for everybody. It only makes the scanner suspect: before the next message it must answer a ping within a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import TypeVar

import structlog

from inbound.scanning.connection import Deadline, MonotonicClock
from inbound.scanning.failures import Declined, NoAnswer, NoTimeLeft, ScannerFailure, Unreachable

REST_S = 5.0
"""How long a scanner is left alone that cannot be reached."""
PING_TIMEOUT_S = 1.0
WARNING_INTERVAL_S = 60.0
"""At most one warning a scanner in so many seconds, however often it comes and goes …"""
REMINDER_INTERVAL_S = 600.0
"""… and one in so many while it stays out of order."""

log = structlog.get_logger("receiver")
T = TypeVar("T")


class _State(Enum):
    IN_ORDER = auto()
    SUSPECT = auto()
    RESTING = auto()


class Availability:
    """The state of one scanner, shared by all threads."""

    def __init__(self, scanner: str, ping: Callable[[Deadline], None], clock: MonotonicClock = time.monotonic) -> None:
        self._scanner = scanner
        self._ping = ping
        self._clock = clock
        self._lock = threading.Lock()
        self._state = _State.IN_ORDER
        self._rests_until = 0.0
        self._failures = _FailureLog(scanner, clock)

    def run(self, deadline: Deadline, ask: Callable[[], T]) -> T:
        """Ask the scanner, unless it is known to be down. Raises `ScannerFailure`, and has logged it then."""
        try:
            self._admit(deadline)
            answer = ask()
        except ScannerFailure as failure:
            self._note(failure)
            raise
        self._trust()
        self._failures.answered()
        return answer

    def _admit(self, deadline: Deadline) -> None:
        with self._lock:
            if self._state is _State.RESTING and self._clock() < self._rests_until:
                raise Unreachable("it could not be reached a moment ago")
            is_suspect = self._state is not _State.IN_ORDER
        if not is_suspect:
            return
        try:
            self._ping(deadline.at_most(PING_TIMEOUT_S))
        except ScannerFailure as failure:
            deadline.remaining()  # a message with too little time left for a ping says nothing about the scanner
            raise Unreachable(f"no answer to a ping: {failure}") from failure

    def _note(self, failure: ScannerFailure) -> None:
        if isinstance(failure, Unreachable):
            self._rest()
        elif isinstance(failure, NoAnswer):
            self._suspect()
        if isinstance(failure, Declined):
            self._failures.declined(str(failure))
        elif not isinstance(failure, NoTimeLeft):
            self._failures.failed(str(failure))

    def _rest(self) -> None:
        with self._lock:
            if self._state is not _State.RESTING or self._clock() >= self._rests_until:
                self._rests_until = self._clock() + REST_S
            self._state = _State.RESTING

    def _suspect(self) -> None:
        with self._lock:
            if self._state is _State.IN_ORDER:  # a rest goes on, whatever comes of questions from before it
                self._state = _State.SUSPECT

    def _trust(self) -> None:
        with self._lock:
            self._state = _State.IN_ORDER


class _FailureLog:
    """Says when a scanner fails and when it answers again, and not more often than a person wants to read it."""

    def __init__(self, scanner: str, clock: MonotonicClock) -> None:
        self._scanner = scanner
        self._clock = clock
        self._lock = threading.Lock()
        self._warned_at: float | None = None
        self._declined_at: float | None = None
        self._is_out = False
        self._missed = 0

    def failed(self, reason: str) -> None:
        with self._lock:
            self._missed += 1
            interval = REMINDER_INTERVAL_S if self._is_out else WARNING_INTERVAL_S
            if not _is_past(self._warned_at, interval, self._clock()):
                return
            self._is_out = True
            self._warned_at = self._clock()
            missed = self._missed
        log.warning("scanner does not answer", scanner=self._scanner, reason=reason, missed=missed)

    def declined(self, reason: str) -> None:
        with self._lock:
            if not _is_past(self._declined_at, WARNING_INTERVAL_S, self._clock()):
                return
            self._declined_at = self._clock()
        log.warning("scanner declines", scanner=self._scanner, reason=reason)

    def answered(self) -> None:
        with self._lock:
            was_out, missed = self._is_out, self._missed
            self._is_out = False
            if was_out:
                self._missed = 0
        if was_out:
            log.info("scanner answers again", scanner=self._scanner, missed=missed)


def _is_past(moment: float | None, interval: float, now: float) -> bool:
    return moment is None or now - moment >= interval
