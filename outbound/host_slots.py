"""How many connections this process has open to one host at once: hosts refuse those who come with too many.

Whoever finds none free waits, the most urgent first, then in the order of coming. A connection that becomes free goes
to whoever waits, and to nobody who comes meanwhile.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from outbound.mail import Urgency
from outbound.timing import Deadline

Key = tuple[str, int]
"""Address and port: many names, and many domains, may lead to the same machine."""


class HostBusy(Exception):
    """No connection became free in time. Says nothing against the host."""


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


class HostSlots:
    """Hands out places at hosts. Safe for threads."""

    def __init__(self, limit: int | None) -> None:
        """So many at once to each host; None for as many as anybody wants."""
        self._limit = limit
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
            self._arrivals += 1
            waiter = _Waiter(urgency, self._arrivals)
            heapq.heappush(host.waiting, waiter)
        waiter.wakes.wait(deadline.remaining)
        with self._lock:
            if waiter.is_served:
                return
            host.waiting.remove(waiter)
            heapq.heapify(host.waiting)
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
