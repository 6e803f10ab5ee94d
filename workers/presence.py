"""A worker's sign of life, see `core.presence`; and what it does while nobody can see that, nor ring for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis

from core.presence import EXPIRES_MS, RENEWED_EVERY_S, WORKER_SIGN
from workers.doorbell import REDIS_ERRORS


class Presence:
    """Renews the sign from a thread of its own, until told to stop or until the process ends."""

    def __init__(self, connection: redis.Redis, when_unseen: Callable[[], None]) -> None:
        """`when_unseen` is called at each time that Redis does not take the sign. It should not raise."""
        self._redis = connection
        self._when_unseen = when_unseen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Give the sign."""
        self._thread.start()

    def stop(self) -> None:
        """Let it expire: another worker may be giving it too."""
        self._ended.set()

    def _run(self) -> None:
        while True:
            try:
                self._redis.set(WORKER_SIGN, 1, px=EXPIRES_MS)
            except REDIS_ERRORS:
                self._when_unseen()
            if self._ended.wait(RENEWED_EVERY_S):
                return
