"""A worker's sign of life, see `core.presence`."""

from __future__ import annotations

import threading
from contextlib import suppress

import redis

from core.presence import EXPIRES_MS, RENEWED_EVERY_S, WORKER_SIGN


class Presence:
    """Renews the sign from a thread of its own, until told to stop or until the process ends."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
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
            with suppress(redis.RedisError):  # without Redis nobody can see it anyway
                self._redis.set(WORKER_SIGN, 1, px=EXPIRES_MS)
            if self._ended.wait(RENEWED_EVERY_S):
                return
