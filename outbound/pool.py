"""Connections kept open between messages: the next one to the same host saves the greeting and the handshake."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from outbound.hosts import HostAddress
from outbound.smtp_client import SmtpConnection
from outbound.timing import Deadline, Timeouts

QUIT_ALL_S = Timeouts().quit_s
"""How long leave is taken of several connections together; after a network has failed none of their hosts answers."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many idle connections are kept, and for how long."""

    idle_s: float = 20.0
    """Hosts close idle connections after 30 seconds or more; Postfix keeps its own for 2."""
    per_place: int = 4
    total: int = 100
    messages: int = 100
    """After so many messages a connection is closed: hosts limit them, often to 100."""


NO_REUSE = PoolLimits(total=0)
"""For mail that goes here and there: every connection is used once."""


@dataclass(frozen=True, slots=True)
class _Idle:
    connection: SmtpConnection
    since: float


class ConnectionPool:
    """Lends connections out, each to one thread at a time. Safe for threads. While some are kept, a thread of its own
    takes leave of those that nobody has used for too long: no mail may come that would."""

    def __init__(self, limits: PoolLimits = PoolLimits(), monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, _Idle] = OrderedDict()
        """By the identity of the connection, the longest idle first."""
        self._is_tended = False

    def take(self, place: HostAddress) -> SmtpConnection | None:
        """An idle connection that seems alive, the one used last; None when there is none."""
        while True:
            with self._lock:
                expired = self._remove_expired()
                found = next((one for one in reversed(self._idle.values()) if one.connection.place == place), None)
                if found is not None:
                    del self._idle[id(found.connection)]
            _quit_all(expired)
            if found is None or found.connection.is_alive:
                return None if found is None else found.connection
            found.connection.close()

    def give(self, connection: SmtpConnection) -> None:
        """Keep a connection, or take leave of it."""
        leaving = []
        if connection.messages >= self._limits.messages or not self._limits.total or not connection.is_alive:
            leaving.append(connection)
        with self._lock:
            if not leaving:
                leaving += self._make_room(connection.place)
                self._idle[id(connection)] = _Idle(connection, self._monotonic())
            leaving += self._remove_expired()
            self._have_tended()
        _quit_all(leaving)

    def make_way(self, place: HostAddress, room: int | None) -> None:
        """Before a connection is opened to a machine at which there may be so many beside those in use: close one that
        is kept there, if they are more. Under another name, or from another address of ours, it is of no use now.

        One at most: whoever else opens one closes one himself, and so each is closed before another is opened.
        """
        with self._lock:
            kept = [one for one in self._idle.values() if one.connection.place.machine == place.machine]
            leaving = self._remove(kept[:1]) if room is not None and len(kept) > room else []
        _quit_all(leaving)

    def expire(self) -> None:
        """Close what has been idle for too long."""
        with self._lock:
            expired = self._remove_expired()
        _quit_all(expired)

    def close(self) -> None:
        """Take leave of all."""
        with self._lock:
            leaving = [one.connection for one in self._idle.values()]
            self._idle.clear()
        _quit_all(leaving)

    @property
    def idle(self) -> int:
        """How many are kept now."""
        return len(self._idle)

    def _have_tended(self) -> None:
        if self._idle and not self._is_tended:
            with suppress(RuntimeError):  # the system has no room for another thread: the next mail will see to it
                threading.Thread(target=self._tend, name="idle-connections", daemon=True).start()
                self._is_tended = True

    def _tend(self) -> None:
        is_needed = True
        while is_needed:
            time.sleep(self._limits.idle_s)
            self.expire()
            with self._lock:
                is_needed = self._is_tended = bool(self._idle)

    def _remove_expired(self) -> list[SmtpConnection]:
        limit = self._monotonic() - self._limits.idle_s
        return self._remove([one for one in self._idle.values() if one.since <= limit])

    def _make_room(self, place: HostAddress) -> list[SmtpConnection]:
        at_place = [one for one in self._idle.values() if one.connection.place == place]
        leaving = at_place[: max(0, len(at_place) - self._limits.per_place + 1)]
        if not leaving and len(self._idle) >= self._limits.total:
            leaving = [next(iter(self._idle.values()))]
        return self._remove(leaving)

    def _remove(self, leaving: list[_Idle]) -> list[SmtpConnection]:
        for one in leaving:
            del self._idle[id(one.connection)]
        return [one.connection for one in leaving]


def _quit_all(connections: list[SmtpConnection]) -> None:
    """Within the time of a single one: whoever is here has a mail in hand, and a lease on it that runs out."""
    deadline = Deadline(QUIT_ALL_S)
    for connection in connections:
        connection.quit(deadline)
