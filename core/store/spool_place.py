"""Where large messages are written before the blob store takes them over: on the disk they will lie on.

Storing is a rename then. What a killed process leaves behind there is removed when the receiver starts.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from core.config import Settings
from core.errors import StorageUnavailable
from core.store.blobs import BlobStore

SPOOL_PREFIX = "incoming-"


def spool_folder(settings: Settings) -> Path:
    """The folder; it need not exist."""
    location = urlsplit(settings.blob_location)
    base = Path(unquote(location.path)) if location.scheme == "file" else settings.data
    return base / "incoming"


def put_content(blobs: BlobStore, folder: Path, key: str, content: bytes) -> None:
    """Store bytes that are in memory; durable when it returns. Raises `StorageUnavailable`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=SPOOL_PREFIX)
    except OSError as error:
        raise StorageUnavailable("the message folder cannot be written to now") from error
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        blobs.put_file(key, path)
    except OSError as error:
        raise StorageUnavailable("the message folder cannot be written to now") from error
    finally:
        path.unlink(missing_ok=True)  # gone already, when the store has taken it
