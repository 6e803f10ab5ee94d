"""Reading the bytes of a message for a customer, who may come at the moment they are purged."""

from __future__ import annotations

from collections.abc import Callable

from core.errors import NotFound, StorageUnavailable
from core.store.blobs import BlobStore
from core.store.db import Row


def read_content(blobs: BlobStore, find: Callable[[], list[Row]], gone: Callable[[], NotFound]) -> bytes:
    """The bytes. `find` reads body and blob key, or nothing; `gone` makes the error for a message that was purged.

    Raises that, whatever these two raise, and `StorageUnavailable`.
    """
    rows = find()
    if not rows:
        raise gone()
    body, blob_key = rows[0]
    if body is not None:
        return bytes(body)
    try:
        return blobs.get(blob_key)
    except StorageUnavailable:
        if find():
            raise
        raise gone() from None  # at this moment
