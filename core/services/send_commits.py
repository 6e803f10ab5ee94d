"""Many senders, one commit: what comes while a commit runs goes into the next one together (group commit).

SQLite has one writer at a time. PostgreSQL would let each sender commit by himself, but then each pays for a dozen
statements, and those of one account still wait for each other, as all add to the same counts.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from core.clock import Clock
from core.errors import StorageUnavailable
from core.sending.send_settings import SendSettings
from core.services.sends import NewSend, StoredSend, store_sends
from core.store.db import Database, TransactionTakenBack

MAX_BATCH = 50
MAX_BATCH_RECIPIENTS = 1_000
"""No more messages join once there are so many: the others wait for the whole of it."""
MAX_TRIES = 5
"""Of a message that PostgreSQL takes back by itself, for a deadlock with somebody who locks in another order."""
IDLE_S = 5.0
LONGEST_PAUSE_S = 0.01
"""After a commit, up to as long as that took. SQLite has no queue for its write lock: whoever finds it taken sleeps and
looks again. Without a pause workers came to nothing while mail was handed in (measured: 8 mails a second)."""
COMMIT_S = 60.0
"""How long a sender waits for its commit to begin."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A message on its way to the disk, and what its sender waits for."""

    send: NewSend
    done: Future[StoredSend]


class SendCommits:
    """Stores messages, from any thread, in one of its own."""

    def __init__(self, database: Database, clock: Clock, defaults: SendSettings) -> None:
        """`defaults` are the gateway's limits."""
        self._database = database
        self._clock = clock
        self._defaults = defaults
        self._waiting: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_running = False

    def store(self, send: NewSend) -> StoredSend:
        """As `core.services.sends.store_send`. When it raises, the message is not stored, now or later: whoever has put
        its content into the blob store may take it out again."""
        waiting = _Waiting(send, Future())
        self._hand_over(waiting)
        try:
            return waiting.done.result(COMMIT_S)
        except TimeoutError as error:
            if waiting.done.cancel():  # nobody has begun with it, and nobody will
                raise StorageUnavailable("storing takes too long") from error
        return waiting.done.result()

    def _hand_over(self, waiting: _Waiting) -> None:
        """To the thread that commits. It is there only while there is something to do: a process that forks must not
        have begun, and one that has nothing more to send keeps no connection."""
        with self._lock:
            if not self._is_running:
                try:
                    threading.Thread(target=self._run, name="send-commits", daemon=True).start()
                except RuntimeError as error:  # the system has no room for another
                    raise StorageUnavailable("no thread can be started now") from error
                self._is_running = True
            self._waiting.put(waiting)  # not before: the thread of the next sender would store what we say is not

    def _run(self) -> None:
        while batch := self._next_batch():
            started = time.monotonic()
            self._commit([waiting for waiting in batch if waiting.done.set_running_or_notify_cancel()])
            if not self._database.is_postgres:
                time.sleep(min(time.monotonic() - started, LONGEST_PAUSE_S))
        self._database.close()

    def _next_batch(self) -> list[_Waiting]:
        """What waits now, or what comes within `IDLE_S`; empty when this thread is to end."""
        try:
            batch = [self._waiting.get(timeout=IDLE_S)]
        except queue.Empty:
            with self._lock:
                self._is_running = not self._waiting.empty()
                return [self._waiting.get()] if self._is_running else []
        recipients = len(batch[0].send.recipients)
        while len(batch) < MAX_BATCH and recipients < MAX_BATCH_RECIPIENTS and not self._waiting.empty():
            batch.append(self._waiting.get())
            recipients += len(batch[-1].send.recipients)
        return batch

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        """All in one transaction; where one of them spoils it for all, each in its own. Never raises: every sender
        hears of its own."""
        try:
            results: Sequence[StoredSend | Exception] = self._store([waiting.send for waiting in batch])
        except StorageUnavailable as error:
            is_over = len(batch) == 1 or not isinstance(error, TransactionTakenBack)
            results = [error] * len(batch) if is_over else []
        except Exception as error:  # noqa: BLE001 (nobody above would hear it; each sender does)
            results = [error] if len(batch) == 1 else []
        if not results:
            for waiting in batch:
                self._commit([waiting])
            return
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                waiting.done.set_exception(result)
            else:
                waiting.done.set_result(result)

    def _store(self, sends: Sequence[NewSend]) -> Sequence[StoredSend | Exception]:
        for _ in range(MAX_TRIES if len(sends) == 1 else 1):
            try:
                return store_sends(self._database, sends, self._clock, self._defaults)
            except TransactionTakenBack as error:
                taken_back = error
        raise taken_back
