"""Where messages lie that are too large for a database row: a folder of ours, or an object store.

`put` returns only when the bytes are durable. On our own disk that means the file *and* its folder are synced;
an object store's answer is taken at its word.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from core.errors import ConfigurationError, StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import RetryConfig

INLINE_LIMIT = 128 * 1024
"""Messages up to this size (in bytes) are kept in their row: one commit, one sync, no second store to ask."""
SHARD_DIGITS = 2
LIST_PAGE = 1_000
"""Keys that an object store lists at once (S3 gives no more)."""
SIGNS = "gateways"
"""The folder of what `BlobStore.sign` leaves."""
_SHARD = re.compile(r"[0-9a-f]{2}")
_TIME_ORDERED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
OBJECT_STORE_SCHEMES = {"s3", "s3a", "gs", "az", "azure", "abfs", "abfss"}
STORE_PATIENCE_S = 20
"""A store that hangs must not keep a session or a worker; obstore alone would go on for three minutes."""
_CLIENT_OPTIONS = {"connect_timeout": "5s", "timeout": f"{STORE_PATIENCE_S}s"}
_FROM_ENVIRONMENT = ("allow_http", "allow_invalid_certificates", "proxy_url", "connect_timeout", "timeout")
"""What obstore reads as `AWS_ALLOW_HTTP` and so on, until options are given to it: so we read it too."""
_VARIABLE_PREFIXES = {"s3": "AWS", "s3a": "AWS", "gs": "GOOGLE"}
_RETRIES: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=STORE_PATIENCE_S / 2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}


@dataclass(frozen=True, slots=True)
class BlobPage:
    """Some of the keys of a store, in no particular order."""

    keys: list[str]
    next_cursor: str
    """Where to go on; empty at the end."""


class BlobStore(Protocol):
    """Bytes by key. Every call raises `StorageUnavailable` when the store cannot do it now."""

    longest_s: int
    """How long one call may take."""

    def put_file(self, key: str, path: Path) -> None:
        """Store the content of a local file, which is gone afterwards."""

    def get(self, key: str) -> bytes:
        """The bytes under a key."""

    def delete(self, key: str) -> None:
        """Forget a key; one that is not there is no error."""

    def list_page(self, cursor: str) -> BlobPage:
        """Some of the keys that are time-ordered ids: the first with an empty cursor, the rest with those given."""

    def sign(self, name: str) -> list[str]:
        """Leave the sign of a gateway that keeps its messages here; gives the names of all signs, sorted."""


class DiskBlobs:
    """A folder, spread over sub-folders by the end of the key (which is random)."""

    longest_s = 0

    def __init__(self, folder: Path) -> None:
        """Makes the folder. Raises `StorageUnavailable`."""
        self._folder = folder
        self._synced_shards: set[Path] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sync_to_disk(folder.parent)
        except OSError as error:
            problem = f"BLOB_URL: the message folder {folder} cannot be made now ({error.strerror})"
            raise StorageUnavailable(problem) from error

    def put_file(self, key: str, path: Path) -> None:
        """Sync, rename into place, sync the folders. The file must lie on the same file system."""
        try:
            shard = self._make_shard(key)
            sync_to_disk(path)
            path.replace(shard / key)
            sync_to_disk(shard)
        except OSError as error:
            raise StorageUnavailable("the message folder cannot be written to now") from error

    def get(self, key: str) -> bytes:
        """Read a whole blob."""
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise StorageUnavailable(f"blob {key} cannot be read now") from error

    def delete(self, key: str) -> None:
        """Remove a blob."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StorageUnavailable(f"blob {key} cannot be removed now") from error

    def list_page(self, cursor: str) -> BlobPage:
        """The keys in one sub-folder; the cursor is its name."""
        try:
            shards = sorted(name for name in os.listdir(self._folder) if _SHARD.fullmatch(name) and name >= cursor)
            if not shards:
                return BlobPage([], "")
            keys = [name for name in os.listdir(self._folder / shards[0]) if _TIME_ORDERED.fullmatch(name)]
        except OSError as error:
            raise StorageUnavailable("the message folder cannot be listed now") from error
        return BlobPage(keys, shards[1] if len(shards) > 1 else "")

    def sign(self, name: str) -> list[str]:
        """A file of that name."""
        try:
            folder = self._folder / SIGNS
            folder.mkdir(exist_ok=True)
            (folder / name).touch()
            return sorted(os.listdir(folder))
        except OSError as error:
            raise StorageUnavailable("the message folder cannot be written to now") from error

    def _path(self, key: str) -> Path:
        return self._folder / key[-SHARD_DIGITS:] / key

    def _make_shard(self, key: str) -> Path:
        shard = self._path(key).parent
        if shard not in self._synced_shards:  # one that is there may be another process's, and not synced yet
            shard.mkdir(exist_ok=True)
            sync_to_disk(self._folder)
            self._synced_shards.add(shard)
        return shard


class ObjectStoreBlobs:
    """An S3, Google Cloud Storage or Azure container, by obstore; credentials come from the environment."""

    longest_s = STORE_PATIENCE_S + STORE_PATIENCE_S // 2  # a retry may begin within half of the patience

    def __init__(self, url: str) -> None:
        self._store = open_object_store(url)

    def put_file(self, key: str, path: Path) -> None:
        """Upload, in parts where it is large, then remove the local file."""
        try:
            obstore.put(self._store, key, path)
            path.unlink()
        except (BaseError, OSError) as error:
            raise StorageUnavailable("the object store does not take the message now") from error

    def get(self, key: str) -> bytes:
        """Download a whole blob."""
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"blob {key} cannot be read now") from error

    def delete(self, key: str) -> None:
        """Remove a blob."""
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"blob {key} cannot be removed now") from error

    def list_page(self, cursor: str) -> BlobPage:
        """The next keys in their order; the cursor is the last of those before."""
        try:
            found = next(iter(obstore.list(self._store, offset=cursor or None, chunk_size=LIST_PAGE)), [])
        except (BaseError, OSError) as error:
            raise StorageUnavailable("the object store cannot be listed now") from error
        names = sorted(entry["path"] for entry in found)
        keys = [name for name in names if _TIME_ORDERED.fullmatch(name)]
        # What else lies there (signs, stored files) sorts behind all ids, whose digits are hexadecimal.
        return BlobPage(keys, names[-1] if len(keys) == len(names) and len(names) == LIST_PAGE else "")

    def sign(self, name: str) -> list[str]:
        """An empty object of that name."""
        try:
            obstore.put(self._store, f"{SIGNS}/{name}", b"")
            batches = obstore.list(self._store, f"{SIGNS}/")
            return sorted(entry["path"].rpartition("/")[2] for batch in batches for entry in batch)
        except (BaseError, OSError) as error:
            raise StorageUnavailable("the object store cannot be written to now") from error


def open_object_store(url: str) -> Any:
    """obstore's store of our own `BLOB_URL`. No call of it takes much longer than `STORE_PATIENCE_S`.

    Raises `ConfigurationError`.
    """
    scheme = urlsplit(url).scheme
    options: Any = {"client_options": _client_options(scheme), "retry_config": _RETRIES}
    try:
        return from_url(url, **(options if scheme in OBJECT_STORE_SCHEMES else {}))
    except (BaseError, ValueError) as error:
        raise ConfigurationError(f"BLOB_URL: {url!r} cannot be used ({error})") from error


def _client_options(scheme: str) -> dict[str, str]:
    prefix = _VARIABLE_PREFIXES.get(scheme, "AZURE")
    given = {name: os.environ.get(f"{prefix}_{name.upper()}", "") for name in _FROM_ENVIRONMENT}
    return _CLIENT_OPTIONS | {name: value for name, value in given.items() if value}


def open_blobs(url: str) -> BlobStore:
    """The blob store of a URL. Raises `ConfigurationError`; `StorageUnavailable` when its folder cannot be made."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return DiskBlobs(Path(unquote(parts.path)))
    if parts.scheme in OBJECT_STORE_SCHEMES:
        return ObjectStoreBlobs(url)
    raise ConfigurationError(f"BLOB_URL: scheme {parts.scheme!r} is not known; use file, s3, gs or az")


def sync_to_disk(path: Path) -> None:
    """Flush a file or a folder to the disk (fsync of the folder makes a rename in it durable)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
