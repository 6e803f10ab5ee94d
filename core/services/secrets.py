"""Secrets that all processes of the gateway share, each made when it is first needed."""

from __future__ import annotations

import base64
import os
import threading
import weakref

from core.store.db import Database

SECRET_BYTES = 32
STORING_SECRET = "storing"  # noqa: S105 (the name of a row)
"""What names in stores and URLs of the built-in store are made with."""
_GET = "SELECT value FROM secret WHERE name = ?"
_MAKE = "INSERT INTO secret (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"

_known: weakref.WeakKeyDictionary[Database, dict[str, bytes]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def shared_secret(database: Database, name: str) -> bytes:
    """32 random bytes, the same in every process and for ever. Raises `StorageUnavailable`.

    Whoever needs it first makes it; of two at once one row wins, and both read it.
    """
    with _lock:
        known = _known.setdefault(database, {})
        if name not in known:
            known[name] = _read_or_make(database, name)
        return known[name]


def _read_or_make(database: Database, name: str) -> bytes:
    with database.reading():
        rows = database.execute(_GET, (name,))
    if not rows:
        made = base64.b64encode(os.urandom(SECRET_BYTES)).decode()
        with database.transaction():
            database.execute(_MAKE, (name, made))
        with database.reading():  # afterwards: what another process committed meanwhile is seen
            rows = database.execute(_GET, (name,))
    return base64.b64decode(rows[0][0])
