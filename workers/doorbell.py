"""The doorbell: tells workers that something is due. It carries no mail and no state.

A ring enqueues an RQ job. A worker that has just drained everything stays at the door for a moment, though, and
while one does, a ring only wakes it: a job for each ring would cost a busy worker as much as the mail itself.

A ring lost with Redis costs latency only: the scheduler looks into the database every second (`workers.scheduler`).
"""

from __future__ import annotations

import threading
import time

import redis
import structlog
from rq import Queue
from rq.serializers import JSONSerializer

from core.clock import SECOND_MS
from core.delivery import DeliveryKind
from workers.jobs import DRAIN_TIMEOUT_S, drain

WAKE_TTL_MS = 5_000
SIGN_MARGIN_MS = 250
"""How much longer the sign of an attending worker stands than it stays: for so long are rings held back for one that
was killed at the door."""
ATTENDING_S = 0.25
"""How long a worker stays at the door when nothing comes."""
PAUSE_S = 0.005
"""After a ring; those that are wanted meanwhile become one. One for each mail took a quarter of a busy web process."""
FAILED_JOB_TTL_S = 60
REDIS_TIMEOUT_S = 2.0
REDIS_ERRORS = (redis.RedisError, OSError)
"""What a call to Redis raises when it cannot be made now. The client opens a file of its own before it connects, and so
lets out a plain `OSError` in a process that has no file descriptor left: a thread must outlive that too."""

log = structlog.get_logger("doorbell")


def open_redis(url: str) -> redis.Redis:
    """A client that gives up soon: nothing waits long for Redis."""
    client: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
    )
    return client


def open_queue(connection: redis.Redis, kind: DeliveryKind) -> Queue:
    """The RQ queue of one kind of delivery; its jobs are JSON, never pickles."""
    return Queue(kind.value, connection=connection, serializer=JSONSerializer)


class Doorbell:
    """Rings from a thread of its own, so that `ring` neither blocks nor fails."""

    def __init__(self, redis_url: str) -> None:
        self._redis = open_redis(redis_url)
        self._wanted = {kind: threading.Event() for kind in DeliveryKind}
        for kind in DeliveryKind:
            threading.Thread(target=self._run, args=(kind,), name=f"doorbell-{kind}", daemon=True).start()

    def ring(self, kind: DeliveryKind) -> None:
        """Something of this kind has become due. To be called after the commit."""
        self._wanted[kind].set()

    def _run(self, kind: DeliveryKind) -> None:
        door = Door(self._redis, kind)
        is_broken = False
        while True:
            self._wanted[kind].wait()
            self._wanted[kind].clear()
            try:
                door.ring()
                is_broken = False
            except REDIS_ERRORS as error:
                if not is_broken:  # said once: mail may come by the thousand meanwhile
                    log.warning("the bell is broken; the scheduler will see to it", reason=str(error))
                is_broken = True
            time.sleep(PAUSE_S)


class Door:
    """Both sides of the door of one kind of delivery. Every call raises one of `REDIS_ERRORS` when Redis is away.

    No ring gets lost between them: `ring` leaves its mark before it looks for an attending worker, and `attend`
    withdraws its sign before it looks for a mark. Whichever comes second sees the other.
    """

    def __init__(self, connection: redis.Redis, kind: DeliveryKind) -> None:
        self._redis = connection
        self._queue = open_queue(connection, kind)
        self._kind = kind
        self._mark = f"pillarbox:rung:{kind.value}"
        self._sign = f"pillarbox:attended:{kind.value}"

    def ring(self) -> None:
        """Wake an attending worker, or enqueue a job unless one is waiting already: it will claim after us."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.lpush(self._mark, 1)
            pipeline.ltrim(self._mark, 0, 0)
            pipeline.pexpire(self._mark, WAKE_TTL_MS)
            pipeline.exists(self._sign)
            pipeline.llen(self._queue.key)
            *_, is_attended, waiting_jobs = pipeline.execute()
        if not is_attended and not waiting_jobs:
            self.enqueue()

    def enqueue(self) -> None:
        """Enqueue a drain job."""
        self._queue.enqueue(
            drain, self._kind.value, job_timeout=DRAIN_TIMEOUT_S, result_ttl=0, failure_ttl=FAILED_JOB_TTL_S
        )

    def answer(self) -> None:
        """Take notice of all rings so far; whoever does claims afterwards."""
        self._redis.delete(self._mark)

    def attend(self, seconds: float = ATTENDING_S) -> bool:
        """Stay at the door for a moment; whether it rang."""
        self._redis.set(self._sign, 1, px=int(seconds * SECOND_MS) + SIGN_MARGIN_MS)
        if self._redis.blpop([self._mark], timeout=seconds):
            return True
        self._redis.delete(self._sign)
        return bool(self._redis.delete(self._mark))
