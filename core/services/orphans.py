"""Blobs that no message names: left by a receiver that was killed between blob and commit, or by a purge that was
killed between commit and blob. A part of the store is looked through at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import structlog

from core.clock import DAY_MS
from core.ids import first_id_at
from core.services.secrets import shared_secret
from core.store.blobs import BlobStore
from core.store.db import Database

GRACE_MS = DAY_MS
"""A message that began to arrive longer ago is committed by now, or never will be."""
PAGES = 16
"""Of the store's keys, looked at in one run: of our own folder that is a sixteenth, of an object store 16,000 keys."""
SIGN_SECRET = "store sign"  # noqa: S105 (the name of a row)
SIGN_DIGITS = 16
_AT_ONCE = 500
_NAMED = "SELECT blob_key FROM raw_message WHERE message_id IN ({places}) AND blob_key IS NOT NULL"

log = structlog.get_logger("retention")


class OrphanSweep:
    """Goes round and round through one store."""

    def __init__(self, database: Database, blobs: BlobStore, stop: threading.Event | None = None) -> None:
        self._database = database
        self._blobs = blobs
        self._stop = stop or threading.Event()
        self._cursor = ""

    @property
    def is_at_start(self) -> bool:
        """Whether the next run begins a new round."""
        return not self._cursor

    def run(self, now_ms: int, pages: int = PAGES) -> int:
        """Look at the next pages, at most to the end of the store; how many blobs were removed.

        Nothing is removed where another gateway's messages lie too: they would all look like orphans.
        Raises `StorageUnavailable`.
        """
        if self._is_shared():
            return 0
        removed = 0
        for _ in range(pages):
            page = self._blobs.list_page(self._cursor)
            old = sorted(key for key in page.keys if key < first_id_at(now_ms - GRACE_MS))
            for start in range(0, len(old), _AT_ONCE):
                removed += self._remove_orphans(old[start : start + _AT_ONCE])
            self._cursor = page.next_cursor
            if self._stop.is_set() or not self._cursor:
                break
        return removed

    def _is_shared(self) -> bool:
        own = hashlib.sha256(shared_secret(self._database, SIGN_SECRET)).hexdigest()[:SIGN_DIGITS]
        others = [name for name in self._blobs.sign(own) if name != own]
        if others:
            log.warning(
                "BLOB_URL is used by gateways with other databases too; orphans stay. Give each its own folder, or "
                "delete the signs of those that are gone",
                own=own,
                others=others[:10],
            )
        return bool(others)

    def _remove_orphans(self, keys: Sequence[str]) -> int:
        """A blob lies under the id of its message."""
        places = ", ".join("?" for _ in keys)
        with self._database.reading():
            named = {row[0] for row in self._database.execute(_NAMED.format(places=places), keys)}
        orphans = [key for key in keys if key not in named]
        for key in orphans:
            self._blobs.delete(key)
        return len(orphans)
