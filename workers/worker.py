"""A worker process: an RQ worker whose jobs wake an `Engine`."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import structlog
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from core.clock import SECOND_MS, system_clock
from core.config import Settings
from core.delivery import HTTP_POLICY, DeliveryKind
from core.store.blobs import open_blobs
from core.store.db import Database
from inbound.attempt import InboundAttempt
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from workers.doorbell import Door, open_queue, open_redis
from workers.engine import Engine, EngineLimits
from workers.jobs import DRAIN_LIMIT_S, answer_with

SHUTDOWN_S = 7.0
"""How long attempts in flight may finish; `pillarbox up` promises to be gone within 10 seconds."""
LONGEST_REDIS_WAIT_S = 2.0
WORKER_TTL_S = 30
"""How long a worker that was killed still counts as alive to RQ, and so to `/healthz`."""

log = structlog.get_logger("worker")


class DrainWorker(SimpleWorker):
    """Runs jobs in its own process: a fork for each would cost more than the work."""

    max_connection_wait_time = LONGEST_REDIS_WAIT_S
    engine: Engine

    def handle_warm_shutdown_request(self) -> None:
        """Let a running drain end at once."""
        self.engine.stop_claiming()


def run_worker(settings: Settings, database: Database) -> None:
    """Work until SIGTERM or SIGINT, then finish what is in flight. Does not return."""
    kind = DeliveryKind.INBOUND
    connection = open_redis(settings.redis_location)
    engine = build_engine(settings, database, kind)
    engine.start()

    door = Door(connection, kind)
    answer_with(lambda _: drain_and_attend(engine, door))
    worker = DrainWorker(
        [open_queue(connection, kind)],
        connection=connection,
        serializer=JSONSerializer,
        log_job_description=False,
        worker_ttl=WORKER_TTL_S,
    )
    worker.engine = engine
    log.info("delivering", threads=settings.worker_threads)
    worker.work(logging_level="WARNING")
    abandoned = engine.stop(SHUTDOWN_S)
    if abandoned:
        log.warning("attempts abandoned; they are repeated when their leases run out", attempts=abandoned)
    _end_without_waiting_for_threads()


def drain_and_attend(engine: Engine, door: Door) -> None:
    """Deliver what is due and what comes meanwhile, until it is quiet; after a while let RQ take a breath."""
    deadline = time.monotonic() + DRAIN_LIMIT_S
    door.answer()
    while engine.drain(deadline - time.monotonic()):
        if time.monotonic() > deadline or not door.attend():
            return
    door.enqueue()


def build_engine(settings: Settings, database: Database, kind: DeliveryKind) -> Engine:
    """The engine that the settings describe."""
    session = guarded_session(settings.target_policy, settings.host_concurrency, settings.ca_file or None)
    forwarder = Forwarder(session, DeadlineWatch(), settings.target_timeout, system_clock)
    attempt = InboundAttempt(forwarder, open_blobs(settings.blob_location), system_clock)
    limits = EngineLimits(
        kind=kind,
        threads=settings.worker_threads,
        host_concurrency=settings.host_concurrency,
        attempt_limit_ms=settings.target_timeout * SECOND_MS,
    )
    return Engine(database, attempt, limits, HTTP_POLICY, system_clock)


def _end_without_waiting_for_threads() -> Any:
    """The interpreter would wait for attempts that hang; their leases say all there is to say."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
