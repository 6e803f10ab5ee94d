"""When each key was used last, roughly: noted at most once an hour, by a thread of its own.

Nobody waits for it, and nothing depends on it: a note that cannot be written is forgotten.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import structlog

from core.clock import HOUR_MS, Clock
from core.errors import StorageUnavailable
from core.services.credentials import Credential
from core.store.db import Database

NOTED_EVERY_MS = HOUR_MS
MAX_REMEMBERED = 10_000
"""Names noted by this process; beyond it all are forgotten, and some noted once more."""
_NOTE = """
UPDATE credential SET last_used_ms = ? WHERE username = ? AND (last_used_ms IS NULL OR last_used_ms <= ?)"""

log = structlog.get_logger("credentials")


class CredentialUse:
    """Takes notes for one process; from any thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[str, int] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="credential-use")

    def note(self, credential: Credential) -> None:
        """It has just been used."""
        now_ms = self._clock()
        last_ms = credential.last_used_ms
        if last_ms is not None and now_ms - last_ms < NOTED_EVERY_MS:
            return
        with self._lock:
            if now_ms - self._noted.get(credential.username, now_ms - NOTED_EVERY_MS) < NOTED_EVERY_MS:
                return
            if len(self._noted) >= MAX_REMEMBERED:
                self._noted.clear()
            self._noted[credential.username] = now_ms
        with suppress(RuntimeError):  # the process is ending
            self._thread.submit(self._write, credential.username, now_ms)

    def stop(self) -> None:
        """Write what was noted, and end."""
        self._thread.shutdown(wait=True)

    def _write(self, username: str, now_ms: int) -> None:
        try:
            with self._database.transaction():
                self._database.execute(_NOTE, (now_ms, username, now_ms - NOTED_EVERY_MS))
        except StorageUnavailable as error:
            log.info("a key's use was not noted", username=username, reason=repr(error.__cause__))
            with self._lock:
                self._noted.pop(username, None)
        except Exception:
            log.exception("a key's use was not noted", username=username)
        finally:
            self._database.close()  # this thread's; the next note is an hour away
