"""How often a client or a sender domain may do something: messages a minute, failed logins in ten.

A sliding window of two counters: of the period before, only the part that is less than a period ago still counts. So
a key costs three numbers, whatever its rate, and nobody gets more than his rate within one period of the clock.
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

    period: int
    count: int
    count_before: int


class RateLimit:
    """At most `most` events in each period for each key; 0 is no limit."""

    def __init__(self, most: int, clock: Clock, max_keys: int = MAX_KEYS, period_ms: int = MINUTE_MS) -> None:
        self._most = most
        self._clock = clock
        self._max_keys = max_keys
        self._period_ms = period_ms
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def allow(self, key: str) -> bool:
        """Count one event, unless there were too many; those refused do not count."""
        if not self._most:
            return True
        window, weighed = self._weighed(key)
        if weighed > (self._most - 1) * self._period_ms:
            return False
        window.count += 1
        return True

    def is_used_up(self, key: str) -> bool:
        """Whether the next event would be one too many; nothing is counted."""
        return bool(self._most) and self._weighed(key)[1] > (self._most - 1) * self._period_ms

    def count(self, key: str) -> int:
        """How many events count against a key now."""
        return self._weighed(key)[1] // self._period_ms

    def _weighed(self, key: str) -> tuple[_Window, int]:
        """The window of a key, and its events, each times the period's milliseconds."""
        period, passed_ms = divmod(self._clock(), self._period_ms)
        window = self._window(key, period)
        return window, window.count * self._period_ms + window.count_before * (self._period_ms - passed_ms)

    def _window(self, key: str, period: int) -> _Window:
        """The window of a key, moved to this period. A clock that was set back begins anew."""
        window = self._windows.setdefault(key, _Window(period, 0, 0))
        self._windows.move_to_end(key)
        if len(self._windows) > self._max_keys:
            self._windows.popitem(last=False)
        if window.period != period:
            window.count_before = window.count if window.period == period - 1 else 0
            window.period, window.count = period, 0
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
