"""Connections to scanners that are over by a deadline, whatever the other side does, and take only so many bytes.

The timeout of a socket bounds the silence between two bytes; a scanner that sends one byte a second would keep us for
ever. So each step gets what is left of the whole.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from inbound.scanning.failures import NoAnswer, NoTimeLeft

RECEIVE_BYTES = 64 * 1024

MonotonicClock = Callable[[], float]
"""Seconds that only grow, as `time.monotonic` gives them."""


class Deadline:
    """The end of everything that scanners do for one message."""

    def __init__(self, seconds: float, clock: MonotonicClock = time.monotonic) -> None:
        self._clock = clock
        self._ends_at = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, more than 0. Raises `NoTimeLeft`."""
        left = self._ends_at - self._clock()
        if left <= 0:
            raise NoTimeLeft("the time for scanners was over")
        return left

    def at_most(self, seconds: float) -> Deadline:
        """An end no later than this one and no later than in so many seconds. Raises `NoTimeLeft`."""
        return Deadline(min(seconds, self.remaining()), self._clock)


class Connection:
    """One connection, over by its deadline. Every method raises `NoAnswer`."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._socket = sock
        self._deadline = deadline
        self._received = bytearray()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        self._prepare()
        try:
            self._socket.sendall(data)  # its timeout counts for the whole
        except OSError as error:
            raise _no_answer(error) from error

    def finish_sending(self) -> None:
        """Say that nothing more comes; the answer can still be read."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def receive(self, most: int = RECEIVE_BYTES) -> bytes:
        """What comes next; empty when the other side has hung up."""
        self._prepare()
        try:
            return self._socket.recv(most)
        except OSError as error:
            raise _no_answer(error) from error

    def receive_until(self, end: bytes, limit: int) -> bytes:
        """What comes before `end`, at most so many bytes. What follows it is kept for the next call."""
        searched = 0
        while (found := self._received.find(end, max(0, searched - len(end)))) < 0:
            searched = len(self._received)
            if searched > limit:
                raise too_long(limit)
            piece = self.receive()
            if not piece:
                raise NoAnswer("the connection was closed before the answer was complete")
            self._received += piece
        answer = bytes(self._received[:found])
        del self._received[: found + len(end)]
        return answer

    def receive_to_end(self, limit: int) -> bytes:
        """Everything until the other side hangs up, at most so many bytes."""
        pieces = bytearray()
        while piece := self.receive():
            pieces += piece
            if len(pieces) > limit:
                raise too_long(limit)
        return bytes(pieces)

    def _prepare(self) -> None:
        try:
            self._socket.settimeout(self._deadline.remaining())
        except NoTimeLeft as error:
            raise NoAnswer("no answer in time") from error


def too_long(limit: int) -> NoAnswer:
    """The failure of a scanner that talks without end."""
    return NoAnswer(f"an answer of more than {limit} bytes")


def _no_answer(error: OSError) -> NoAnswer:
    if isinstance(error, TimeoutError):
        return NoAnswer("no answer in time")
    return NoAnswer(f"the connection broke: {error.strerror or error}")
