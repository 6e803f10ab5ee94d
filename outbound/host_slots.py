"""How many connections this process has open to one host at once: hosts refuse those who come with too many.

Whoever finds none free waits a moment, the most urgent first, then in the order of coming. A connection that becomes
free goes to whoever waits, and to nobody who comes meanwhile. Where somebody has waited in vain, the host is slow, and
waiting would only keep threads from other hosts' mail: for a while one of each urgency waits there, and nobody else.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from outbound.mail import Urgency
from outbound.timing import Deadline

CROWD_WAIT_S = 1.0
"""How long those wait who are not the first of their urgency: a host that is not slow has freed a place by then."""
SLOW_FOR_S = 10.0
"""For so long after one has waited in vain a host counts as slow."""

Key = tuple[str, int]
"""Address and port: many names, and many domains, may lead to the same machine."""


class HostBusy(Exception):
    """No connection became free in time, or none will. Says nothing against the host."""


@dataclass(slots=True, order=True)
class _Waiter:
    urgency: Urgency
    number: int
    is_served: bool = field(default=False, compare=False)
    wakes: threading.Event = field(default_factory=threading.Event, compare=False)


@dataclass(slots=True)
class _Host:
    taken: int = 0
    waiting: list[_Waiter] = field(default_factory=list)
    """A heap."""
    slow_until: float = 0.0

    def has_waiting(self, urgency: Urgency) -> bool:
        """Whether somebody as urgent waits already."""
        return any(waiter.urgency is urgency for waiter in self.waiting)


class HostSlots:
    """Hands out places at hosts. Safe for threads."""

    def __init__(self, limit: int | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """So many at once to each host; None for as many as anybody wants."""
        self._limit = limit
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._hosts: dict[Key, _Host] = {}
        self._arrivals = 0

    @contextmanager
    def place(self, key: Key, urgency: Urgency, deadline: Deadline) -> Iterator[None]:
        """Hold a place for the block. Raises `HostBusy`."""
        if self._limit is None:
            yield
            return
        self._take(key, self._limit, urgency, deadline)
        try:
            yield
        finally:
            self._leave(key)

    def room(self, key: Key) -> int | None:
        """How many more places there are now; None for no limit."""
        with self._lock:
            taken = self._hosts[key].taken if key in self._hosts else 0
        return None if self._limit is None else self._limit - taken

    def _take(self, key: Key, limit: int, urgency: Urgency, deadline: Deadline) -> None:
        with self._lock:
            host = self._hosts.setdefault(key, _Host())
            if host.taken < limit:
                host.taken += 1
                return
            is_first = not host.has_waiting(urgency)
            if not is_first and self._monotonic() < host.slow_until:
                raise HostBusy
            self._arrivals += 1
            waiter = _Waiter(urgency, self._arrivals)
            heapq.heappush(host.waiting, waiter)
        waiter.wakes.wait(deadline.remaining if is_first else min(CROWD_WAIT_S, deadline.remaining))
        with self._lock:
            if waiter.is_served:
                return
            host.waiting.remove(waiter)
            heapq.heapify(host.waiting)
            host.slow_until = self._monotonic() + SLOW_FOR_S
        raise HostBusy

    def _leave(self, key: Key) -> None:
        """The place goes to whoever waits, else it is free; a host without any is forgotten."""
        with self._lock:
            host = self._hosts[key]
            if host.waiting:
                waiter = heapq.heappop(host.waiting)
                waiter.is_served = True
                waiter.wakes.set()
                return
            host.taken -= 1
            if not host.taken:
                del self._hosts[key]
