"""From a complete message to a durable one: whatever arrives while a commit runs goes into the next (group commit)."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from core.delivery import DeliveryKind
from core.errors import StorageUnavailable
from core.services.acceptance import AcceptedMail, drop_unless_stored, store_accepted
from core.store.blobs import BlobStore
from core.store.db import Database
from inbound.smtp.spool import SpooledMessage

MAX_BATCH = 100
BLOB_THREADS = 4
COMMIT_S = 60.0
"""How long a session waits for its commit. A sender waits ten minutes (RFC 5321 section 4.5.3.2.6), some less."""
_STOP = None

log = structlog.get_logger("receiver")


@dataclass(slots=True)
class _Waiting:
    """A message on its way to the disk, and the session that waits for it."""

    mail: AcceptedMail
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Acceptor:
    """One committing thread for a receiver process."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        ring: Callable[[DeliveryKind], None],
        commit_s: float = COMMIT_S,
    ) -> None:
        self._database = database
        self._commit_s = commit_s
        self._blobs = blobs
        self._ring = ring
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._blob_threads = ThreadPoolExecutor(BLOB_THREADS, thread_name_prefix="blob")
        self._thread = threading.Thread(target=self._commit_until_stopped, name="committer", daemon=True)

    def start(self) -> None:
        """Begin committing."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what was submitted, then end."""
        self._blob_threads.shutdown(wait=True)
        self._waiting.put(_STOP)
        self._thread.join()

    async def accept(self, mail: AcceptedMail, message: SpooledMessage) -> None:
        """Return once the message is durable, or known to be from when it came before. Raises `StorageUnavailable`.

        Runs to its end even when the session that waits is gone: its client may have given up just before our 250,
        and will send again, but what is stored must be whole.
        """
        loop = asyncio.get_running_loop()
        if message.path is not None:
            await loop.run_in_executor(self._blob_threads, self._blobs.put_file, mail.message_id, message.path)
        waiting = _Waiting(mail, loop, loop.create_future())
        self._waiting.put(waiting)
        try:
            await asyncio.wait_for(waiting.done, self._commit_s)
        except TimeoutError as error:
            raise StorageUnavailable("the database does not answer") from error
        except StorageUnavailable:
            if mail.blob_key is not None:
                await loop.run_in_executor(
                    self._blob_threads, drop_unless_stored, self._database, self._blobs, mail.message_id
                )
            raise

    def _commit_until_stopped(self) -> None:
        while (first := self._waiting.get()) is not _STOP:
            batch, is_last = self._gather(first)
            self._commit(batch)
            if is_last:
                break
        self._database.close()

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                entry = self._waiting.get_nowait()
            except queue.Empty:
                return batch, False
            if entry is _STOP:
                return batch, True
            batch.append(entry)
        return batch, False

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        batch = [waiting for waiting in batch if not waiting.done.cancelled()]  # their senders were told to come again
        try:
            known = store_accepted(self._database, [waiting.mail for waiting in batch])
        except StorageUnavailable as error:
            log.error("storing failed", messages=len(batch), reason=repr(error.__cause__))
            _settle(batch, error)
        except Exception as error:  # noqa: BLE001 (logged there)
            self._commit_one_by_one(batch, error)
        else:
            _settle(batch, None)
            for kind in {route.kind for waiting in batch for _, route in waiting.mail.recipients}:
                self._ring(kind)
            self._forget_duplicates(known)

    def _forget_duplicates(self, known: Sequence[AcceptedMail]) -> None:
        """Their bytes are stored with their first arrival."""
        for mail in known:
            log.info("came again", message_id=mail.message_id)
            if mail.blob_key is not None:
                with contextlib.suppress(StorageUnavailable):
                    self._blobs.delete(mail.blob_key)

    def _commit_one_by_one(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """One message the database will not take must not hold up the others of its batch."""
        if len(batch) > 1:
            for waiting in batch:
                self._commit([waiting])
            return
        log.error("a message could not be stored", message_id=batch[0].mail.message_id, exc_info=error)
        _settle(batch, StorageUnavailable("the message could not be stored"))


def _settle(batch: Sequence[_Waiting], error: StorageUnavailable | None) -> None:
    """Wake the sessions, with one call into the loop for all of them."""
    if not batch:
        return
    with contextlib.suppress(RuntimeError):  # a loop that is closed has no sessions left
        batch[0].loop.call_soon_threadsafe(_settle_in_loop, [waiting.done for waiting in batch], error)


def _settle_in_loop(futures: Sequence[asyncio.Future[None]], error: StorageUnavailable | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
