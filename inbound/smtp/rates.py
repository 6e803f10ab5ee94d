"""How many messages a minute a client or a sender domain may begin.

A sliding window of two counters: of the minute before, only the part that is less than a minute ago still counts. So
a key costs three numbers, whatever its rate, and nobody gets more than his rate within one minute of the clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from core.clock import MINUTE_MS, Clock
from core.config import Settings
from inbound.clients import client_group

MAX_KEYS = 50_000
"""Clients, and domains, remembered at once: some 15 MB of each. Beyond it the longest silent one is forgotten."""


@dataclass(slots=True)
class _Window:
    """What one key has done."""

    minute: int
    count: int
    count_before: int


class RateLimit:
    """At most `per_minute` events a minute for each key; 0 is no limit."""

    def __init__(self, per_minute: int, clock: Clock, max_keys: int = MAX_KEYS) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._max_keys = max_keys
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def allow(self, key: str) -> bool:
        """Count one event, unless there were too many; those refused do not count."""
        if not self._per_minute:
            return True
        minute, passed_ms = divmod(self._clock(), MINUTE_MS)
        window = self._window(key, minute)
        still_counts = window.count_before * (MINUTE_MS - passed_ms)
        if window.count * MINUTE_MS + still_counts > (self._per_minute - 1) * MINUTE_MS:
            return False
        window.count += 1
        return True

    def _window(self, key: str, minute: int) -> _Window:
        """The window of a key, moved to this minute. A clock that was set back begins anew."""
        window = self._windows.setdefault(key, _Window(minute, 0, 0))
        self._windows.move_to_end(key)
        if len(self._windows) > self._max_keys:
            self._windows.popitem(last=False)
        if window.minute != minute:
            window.count_before = window.count if window.minute == minute - 1 else 0
            window.minute, window.count = minute, 0
        return window


class Rates:
    """The rates of one receiver process."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._by_client = RateLimit(settings.rate_per_ip, clock)
        self._by_domain = RateLimit(settings.rate_per_domain, clock)

    def allow_client(self, ip: str) -> bool:
        """Count a message of a client: an IPv4 address, or the /64 of an IPv6 one. False when it is one too many."""
        return self._by_client.allow(client_group(ip))

    def allow_domain(self, domain: str) -> bool:
        """Count a message of a sender domain (lower-case A-labels). False when it is one too many."""
        return self._by_domain.allow(domain)
