"""The built-in store: files in a folder inside the blob store, one sub-folder a day, and the URLs they are served by.

A URL carries all that is needed to check it: nothing is looked up, and nobody can make one without the secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError

from core.clock import HOUR_MS, SECOND_MS
from core.config import Settings
from core.errors import NotFound, StorageUnavailable
from core.object_stores import clean_content_type
from core.store.blobs import open_object_store, sync_to_disk

FOLDER = "stored"
CHUNK_BYTES = 64 * 1024
MAX_TOKEN_LENGTH = 600
SIGNATURE_BYTES = 16
"""128 bits: nobody guesses one."""
MAX_URL_HOURS = 8760  # as the setting's text says
_DAY = re.compile(r"\d{8}")
_NAME = re.compile(r"\d{8}/[0-9a-f]{32}(\.[a-z0-9]{1,10})?")


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A stored file, to be read once."""

    size: int
    chunks: Iterable[bytes]


class BuiltInStore(Protocol):
    """Files by name (`core.object_stores.object_name`). Every call raises `StorageUnavailable`."""

    def put(self, name: str, content: bytes) -> None:
        """Store a file durably; one of the same name is replaced."""

    def open(self, name: str) -> OpenedFile:
        """Raises `NotFound` when there is none (any more)."""

    def purge(self, before_day: str, limit: int) -> int:
        """Remove up to so many files of days (`YYYYMMDD`) before this one; how many it were."""


class FolderStore:
    """A folder of ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._synced_days: set[Path] = set()

    def put(self, name: str, content: bytes) -> None:
        """Write beside, sync, rename into place, sync the folders."""
        path = self._path(name)
        with _translated(f"the built-in store cannot take {name} now"):
            self._make_day(path.parent)
            beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
            try:
                with beside.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)
                self._synced_days.discard(path.parent)  # it may have been purged under our hands
                raise
            sync_to_disk(path.parent)

    def open(self, name: str) -> OpenedFile:
        """Open a file; it is closed when it has been read, or when nobody wants it any more."""
        with _translated(f"{name} cannot be read now"), _missing_is_not_found():
            file = self._path(name).open("rb")
        return OpenedFile(os.fstat(file.fileno()).st_size, FileChunks(file))

    def purge(self, before_day: str, limit: int) -> int:
        """Oldest day first; a day that is empty goes too."""
        removed = 0
        with _translated("the built-in store cannot be tidied now"):
            for day in sorted(self._folder.iterdir() if self._folder.is_dir() else ()):
                if not _DAY.fullmatch(day.name) or day.name >= before_day:
                    continue
                for path in day.iterdir():
                    if removed >= limit:
                        return removed
                    path.unlink(missing_ok=True)
                    removed += 1
                self._synced_days.discard(day)
                with suppress(OSError):  # a late replay is writing there
                    day.rmdir()
        return removed

    def _path(self, name: str) -> Path:
        return self._folder / _checked(name)

    def _make_day(self, day: Path) -> None:
        if day not in self._synced_days or not day.is_dir():
            day.mkdir(parents=True, exist_ok=True)
            sync_to_disk(self._folder)
            sync_to_disk(self._folder.parent)
            self._synced_days = {*sorted(self._synced_days)[-7:], day}


class ObjectFolderStore:
    """A folder in the object store that keeps our large messages."""

    def __init__(self, url: str) -> None:
        self._store = open_object_store(url)

    def put(self, name: str, content: bytes) -> None:
        """Upload."""
        with _translated(f"the built-in store cannot take {name} now"):
            obstore.put(self._store, f"{FOLDER}/{_checked(name)}", content)

    def open(self, name: str) -> OpenedFile:
        """Begin to download."""
        with _translated(f"{name} cannot be read now"), _missing_is_not_found():
            found = obstore.get(self._store, f"{FOLDER}/{_checked(name)}")
            return OpenedFile(found.meta["size"], (bytes(chunk) for chunk in found.stream(CHUNK_BYTES)))

    def purge(self, before_day: str, limit: int) -> int:
        """Oldest day first. (Folders of an object store go with their files.)"""
        removed = 0
        with _translated("the built-in store cannot be tidied now"):
            days = obstore.list_with_delimiter(self._store, FOLDER)["common_prefixes"]
            for day in sorted(days):
                name = day.rstrip("/").rpartition("/")[2]
                if not _DAY.fullmatch(name) or name >= before_day:
                    continue
                for batch in obstore.list(self._store, day, chunk_size=1000):
                    paths = [entry["path"] for entry in batch][: limit - removed]
                    obstore.delete(self._store, paths)
                    removed += len(paths)
                    if removed >= limit:
                        return removed
        return removed


class FileChunks:
    """The content of an open file, which is closed at its end or with `close`, whatever comes first."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        try:
            while chunk := self._file.read(CHUNK_BYTES):
                yield chunk
        finally:
            self.close()

    def close(self) -> None:
        """As WSGI wants it."""
        self._file.close()


@lru_cache(maxsize=8)
def open_built_in(blob_location: str) -> BuiltInStore:
    """The built-in store that belongs to a blob store. Raises `ConfigurationError`."""
    parts = urlsplit(blob_location)
    if parts.scheme == "file":
        return FolderStore(Path(unquote(parts.path)) / FOLDER)
    return ObjectFolderStore(blob_location)


def purge_built_in(settings: Settings, before: datetime, limit: int) -> int:
    """Remove up to so many stored files of deliveries made on days before this moment's; how many it were.

    To be called again while it gives `limit`. Raises `StorageUnavailable`.
    """
    return open_built_in(settings.blob_location).purge(before.strftime("%Y%m%d"), limit)


@dataclass(frozen=True, slots=True)
class StoredLink:
    """What the URL of a stored file says."""

    name: str
    content_type: str
    expires_s: int
    """Seconds since the epoch."""


def stored_url(settings: Settings, secret: bytes, name: str, content_type: str, file_name: str, now_ms: int) -> str:
    """The URL at which anyone can fetch a file until it expires. The file name is under its signature too."""
    hours = min(settings.stored_url_hours, MAX_URL_HOURS)
    link = StoredLink(_checked(name), clean_content_type(content_type), (now_ms + hours * HOUR_MS) // SECOND_MS)
    said = "\n".join((str(link.expires_s), link.name, link.content_type)).encode()
    token = base64.urlsafe_b64encode(_signature(secret, said, file_name) + said).rstrip(b"=").decode()
    return f"{settings.api_url}/{FOLDER}/{token}/{quote(file_name, safe='')}"


def read_stored_link(secret: bytes, token: str, file_name: str) -> StoredLink:
    """What a URL says, expired or not. Raises `NotFound` when we did not make it."""
    try:
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise ValueError
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        signature, said = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _signature(secret, said, file_name)):
            raise ValueError
    except (ValueError, binascii.Error):
        raise NotFound("there is no such file; the URL was not made here, or not copied whole") from None
    expires_s, name, content_type = said.decode().split("\n")  # it is under our signature
    return StoredLink(name, content_type, int(expires_s))


def _signature(secret: bytes, said: bytes, file_name: str) -> bytes:
    text = b"url\0" + said + b"\0" + file_name.encode("utf-8", "replace")
    return hmac.digest(secret, text, hashlib.sha256)[:SIGNATURE_BYTES]


def _checked(name: str) -> str:
    """A name is ours, or nothing is touched: no path leads out of the folder."""
    if not _NAME.fullmatch(name):
        raise NotFound("there is no such file")
    return name


@contextmanager
def _missing_is_not_found() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound("there is no such file; it may have been removed when its time was over") from error


@contextmanager
def _translated(problem: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise StorageUnavailable(problem) from error
