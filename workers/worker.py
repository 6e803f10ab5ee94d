"""A worker process: an RQ worker whose jobs wake an `Engine`."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import redis
import structlog
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from core.clock import SECOND_MS, system_clock
from core.config import Settings
from core.delivery import HTTP_POLICY, DeliveryKind
from core.errors import StorageUnavailable
from core.services.claims import release
from core.store.blobs import open_blobs
from core.store.db import Database
from inbound.attempt import InboundAttempt
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from workers.doorbell import Door, open_queue, open_redis
from workers.engine import Engine, EngineLimits
from workers.jobs import DRAIN_LIMIT_S, answer_with
from workers.presence import Presence
from workers.roll import WorkerRoll

SHUTDOWN_S = 7.0
"""How long attempts in flight may finish; `pillarbox up` promises to be gone within 10 seconds."""
LONGEST_REDIS_WAIT_S = 2.0
WORKER_TTL_S = 30
"""How long a worker that was killed stays in RQ's register."""
ROLL_FOLDER = "workers"

log = structlog.get_logger("worker")


class DrainWorker(SimpleWorker):
    """Runs jobs in its own process: a fork for each would cost more than the work."""

    max_connection_wait_time = LONGEST_REDIS_WAIT_S
    engine: Engine
    is_asked_to_stop = False

    def handle_warm_shutdown_request(self) -> None:
        """Let a running drain end at once."""
        self.is_asked_to_stop = True
        self.engine.stop_claiming()


def run_worker(settings: Settings, database: Database) -> None:
    """Work until SIGTERM or SIGINT, then finish what is in flight. Does not return."""
    kind = DeliveryKind.INBOUND
    roll = WorkerRoll(settings.data / ROLL_FOLDER)
    worker_id = roll.sign_in()
    connection = open_redis(settings.redis_location)
    engine = build_engine(settings, database, kind, worker_id)
    _release_leases_of_the_dead(roll, database, kind)
    engine.start()
    presence = Presence(open_redis(settings.redis_location))  # not RQ's: that waits long for answers, this must not
    presence.start()

    is_asked = _work_until_stopped(engine, connection, kind, settings.worker_threads)
    presence.stop()
    abandoned = engine.stop(SHUTDOWN_S)
    if abandoned:
        log.warning("attempts abandoned; they are made again", attempts=abandoned)
    else:
        roll.sign_out(worker_id)
    _end_without_waiting_for_threads(0 if is_asked and not engine.has_failed else 1)


def _work_until_stopped(engine: Engine, connection: redis.Redis, kind: DeliveryKind, threads: int) -> bool:
    """Take jobs; returns whether somebody asked for the end. RQ's worker also ends when Redis does during a job."""
    door = Door(connection, kind)
    answer_with(lambda _: drain_and_attend(engine, door))
    logging.getLogger("rq.worker").addFilter(_shorten_redis_errors)
    try:
        worker = DrainWorker(
            [open_queue(connection, kind)],
            connection=connection,
            serializer=JSONSerializer,
            log_job_description=False,
            worker_ttl=WORKER_TTL_S,
        )
        worker.engine = engine
        log.info("delivering", threads=threads)
        worker.work(logging_level="WARNING")
    except redis.RedisError as error:
        log.error("Redis does not answer; this worker ends, to be started again", reason=str(error))
        return False
    return worker.is_asked_to_stop


def _shorten_redis_errors(record: logging.LogRecord) -> bool:
    """Redis being away is no error in the program: one line says it, where RQ shows a traceback of hundreds."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, redis.RedisError):
        record.msg, record.args, record.exc_info = "Redis went away during a job: %s", (str(error),), None
    return True


def _release_leases_of_the_dead(roll: WorkerRoll, database: Database, kind: DeliveryKind) -> None:
    def release_all(dead_id: str) -> int:
        with database.transaction():
            return release(database, kind, dead_id, system_clock())

    try:
        roll.bury_the_dead(release_all)
    except StorageUnavailable as error:
        log.warning("leases of dead workers must run out", reason=repr(error.__cause__))
    database.close()  # the connection of this thread; the clerk has its own


def drain_and_attend(engine: Engine, door: Door) -> None:
    """Deliver what is due and what comes meanwhile, until it is quiet; after a while let RQ take a breath."""
    deadline = time.monotonic() + DRAIN_LIMIT_S
    door.answer()
    while engine.drain(deadline - time.monotonic()):
        if time.monotonic() > deadline or not door.attend():
            return
    door.enqueue()


def build_engine(settings: Settings, database: Database, kind: DeliveryKind, worker_id: str) -> Engine:
    """The engine that the settings describe."""
    session = guarded_session(settings.target_policy, settings.host_concurrency, settings.ca_file or None)
    forwarder = Forwarder(session, DeadlineWatch(), settings.target_timeout, system_clock)
    attempt = InboundAttempt(forwarder, open_blobs(settings.blob_location), system_clock)
    limits = EngineLimits(
        kind=kind,
        threads=settings.worker_threads,
        host_concurrency=settings.host_concurrency,
        attempt_limit_ms=settings.target_timeout * SECOND_MS,
        worker_id=worker_id,
    )
    return Engine(database, attempt, limits, HTTP_POLICY, system_clock)


def _end_without_waiting_for_threads(status: int) -> Any:
    """The interpreter would wait for attempts that hang; their leases say all there is to say."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
