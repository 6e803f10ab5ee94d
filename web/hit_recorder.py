"""Takes hits on pixels and links from the threads that answer them to the database, behind their backs.

Whoever opens a mail waits for no database: a hit goes into a queue of bounded length, and one thread of the process
stores what has come in batches, then judges what has settled. While the database is away the queue keeps what fits;
beyond that hits are lost, and the log says how many.
"""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

import structlog

from core.clock import Clock
from core.delivery import DeliveryKind
from core.errors import StorageUnavailable
from core.sending.tracking_hits import SETTLED_MS
from core.sending.tracking_tokens import SECRET_NAME, TrackingTokens
from core.services.secrets import shared_secret
from core.services.tracking import NewHit, judge_hits, left_behind, store_hits
from core.store.db import Database

MAX_WAITING = 10_000
"""Hits in the queue; with the longest user agents and addresses 20 MB."""
MAX_WAITING_PER_DELIVERY = 100
"""Of those: one mail whose links are hammered does not crowd out the others."""
BATCH = 500
"""Hits stored in one commit."""
JUDGED_AT_ONCE = 50
"""Deliveries judged in one commit."""
MAX_UNSETTLED = 50_000
"""Deliveries that wait to be judged, once for each batch; those beyond are judged with their next hit."""
PAUSE_S = 1.0
"""Between two tries while the database is away."""
LOOK_S = 0.5
"""Between two looks for what has settled."""
REPORT_EVERY_S = 10.0
FIRST_TOKENS_S = 1.0
"""How long the first requests of a process wait for the secret."""
CLOSE_TIMEOUT_S = 3.0
log = structlog.get_logger("tracking")


class HitRecorder:
    """The queue, and the thread that empties it: started with the first request, not before."""

    def __init__(self, database: Database, ring: Callable[[DeliveryKind], None], clock: Clock) -> None:
        self._database = database
        self._ring = ring
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[NewHit] = deque()
        self._waiting_of: Counter[str] = Counter()
        self._unsettled: deque[tuple[int, str]] = deque()
        """When deliveries are to be judged, the earliest first. The thread's own."""
        self._lost = 0
        self._reported_s = -REPORT_EVERY_S
        self._is_away = False
        self._is_closing = False
        self._tokens: TrackingTokens | None = None
        self._has_tokens = threading.Event()
        self._thread: threading.Thread | None = None

    def tokens(self) -> TrackingTokens | None:
        """What reads tokens; None while the database that holds the secret has never yet been reached."""
        if self._tokens is None:
            self._start()
            self._has_tokens.wait(FIRST_TOKENS_S)
        return self._tokens

    @property
    def waiting(self) -> int:
        """Hits that are not stored yet."""
        return len(self._waiting)

    def put(self, hit: NewHit) -> None:
        """Have a hit recorded. Never waits; a hit that finds no room is lost, and counted."""
        self._start()
        with self._changed:
            is_full = len(self._waiting) >= MAX_WAITING
            if self._is_closing or is_full or self._waiting_of[hit.delivery_id] >= MAX_WAITING_PER_DELIVERY:
                self._lost += 1
                return
            self._waiting.append(hit)
            self._waiting_of[hit.delivery_id] += 1
            self._changed.notify()

    def close(self, timeout: float = CLOSE_TIMEOUT_S) -> None:
        """Store and judge what there is, settled or not, if the database lets us within the time (in seconds)."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._changed:
            if self._thread is None and not self._is_closing:
                self._thread = threading.Thread(target=self._run, name="tracking-recorder", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def _run(self) -> None:
        try:
            while self._tokens is None and not self._is_closing:
                self._attempt(self._begin)
            while not self._is_closing:
                self._wait()
                self._attempt(self._work)
                self._report()
            self._attempt(self._finish)
            self._report(is_last=True)
        finally:
            self._database.close()

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do it, or say why not and pause. What the database could not take now is kept for the next attempt."""
        try:
            work()
        except StorageUnavailable as error:
            if not self._is_away:
                log.warning("the database is away; opens and clicks wait for it", reason=str(error))
            self._is_away = True
        except Exception:
            log.exception("opens or clicks could not be recorded")
        else:
            self._is_away = False
            return
        self._pause()

    def _begin(self) -> None:
        """Learn the secret, and take over what a killed process has left behind."""
        tokens = TrackingTokens(shared_secret(self._database, SECRET_NAME))
        due_ms = self._clock() + SETTLED_MS
        self._unsettled.extend((due_ms, delivery_id) for delivery_id in left_behind(self._database))
        self._tokens = tokens
        self._has_tokens.set()

    def _work(self) -> None:
        self._store()
        self._judge(self._clock())

    def _finish(self) -> None:
        self._store()
        self._judge(None)

    def _store(self) -> None:
        """Hits stay in the queue until they are stored; those that fail otherwise than for want of the database would
        fail again, and are lost."""
        while batch := self._first():
            try:
                stored = store_hits(self._database, batch)
            except StorageUnavailable:
                raise
            except Exception:
                self._remove(batch, is_lost=True)
                raise
            self._remove(batch)
            room = max(0, MAX_UNSETTLED - len(self._unsettled))
            due_ms = self._clock() + SETTLED_MS
            self._unsettled.extend((due_ms, delivery_id) for delivery_id in stored[:room])

    def _judge(self, until_ms: int | None) -> None:
        """Judge what is due; None judges all, settled or not."""
        while some := self._take_due(until_ms):
            try:
                now_ms = self._clock()
                names = {delivery_id for _, delivery_id in some}
                events = judge_hits(self._database, names, now_ms, SETTLED_MS if until_ms is not None else 0)
            except StorageUnavailable:
                self._unsettled.extendleft(reversed(some))
                raise
            if events:
                self._ring(DeliveryKind.EVENTS)

    def _take_due(self, until_ms: int | None) -> list[tuple[int, str]]:
        due: list[tuple[int, str]] = []
        while self._unsettled and len(due) < JUDGED_AT_ONCE:
            if until_ms is not None and self._unsettled[0][0] > until_ms:
                break
            due.append(self._unsettled.popleft())
        return due

    def _first(self) -> list[NewHit]:
        with self._changed:
            return list(itertools.islice(self._waiting, BATCH))

    def _remove(self, batch: Sequence[NewHit], *, is_lost: bool = False) -> None:
        """Take out the first of the queue."""
        with self._changed:
            self._lost += len(batch) if is_lost else 0
            for hit in batch:
                self._waiting.popleft()
                self._waiting_of[hit.delivery_id] -= 1
                if not self._waiting_of[hit.delivery_id]:
                    del self._waiting_of[hit.delivery_id]

    def _wait(self) -> None:
        """Until there is a hit, or something may have settled."""
        with self._changed:
            if not self._waiting and not self._is_closing:
                self._changed.wait(LOOK_S if self._unsettled else None)

    def _pause(self) -> None:
        deadline_s = time.monotonic() + PAUSE_S
        with self._changed:
            while not self._is_closing and (left_s := deadline_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _report(self, *, is_last: bool = False) -> None:
        """Say how many hits were lost, now and then."""
        now_s = time.monotonic()
        with self._changed:
            lost = self._lost + (len(self._waiting) if is_last else 0)
            if not lost or (not is_last and now_s - self._reported_s < REPORT_EVERY_S):
                return
            self._lost, self._reported_s = 0, now_s
        log.warning("opens and clicks were not recorded", lost=lost)
