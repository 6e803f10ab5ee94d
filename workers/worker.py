"""A worker process: an RQ worker whose jobs wake engines, one for each kind of delivery."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import redis
import structlog
from rq import SimpleWorker
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from core.clock import system_clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.ending import end_without_waiting_for_threads
from core.errors import StorageUnavailable
from core.services.claims import release
from core.store.db import Database
from workers.doorbell import REDIS_ERRORS, Door, open_queue, open_redis
from workers.engine import Engine, EngineLimits
from workers.jobs import DRAIN_LIMIT_S, answer_with
from workers.presence import Presence
from workers.roll import WorkerRoll
from workers.transports import open_transports

SHUTDOWN_S = 7.0
"""How long attempts in flight may finish; `pillarbox up` promises to be gone within 10 seconds."""
LONGEST_REDIS_WAIT_S = 2.0
WORKER_TTL_S = 30
"""How long a worker that was killed stays in RQ's register."""
ROLL_FOLDER = "workers"
SECONDARY_KINDS = tuple(kind for kind in DeliveryKind if kind is not DeliveryKind.INBOUND)
SIDE_DOOR_S = 1.0
"""How long one wait at a side door lasts; a client of ours waits two seconds for Redis at most."""
BURYING_PAUSE_S = 2.0
"""Between tries to release what dead workers had in hand, while the database is away."""
_REDIS_LOST_IT = (*REDIS_ERRORS, InvalidJobOperation, NoSuchJobError)
"""What RQ raises when Redis is away, and when it comes back without the job that was being worked on."""

log = structlog.get_logger("worker")


class DrainWorker(SimpleWorker):
    """Runs jobs in its own process: a fork for each would cost more than the work."""

    max_connection_wait_time = LONGEST_REDIS_WAIT_S
    engines: tuple[Engine[Any], ...] = ()
    asked: threading.Event
    """Set when somebody asks for the end."""

    def subscribe(self) -> None:
        """Not to commands, which nobody gives: the thread that waits for them would outlive each worker that Redis
        ended by going away, with its connection."""

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Redis being away is no error in the program: one line says it, where RQ shows a traceback of hundreds."""
        if isinstance(exc_info[1], _REDIS_LOST_IT):
            log.warning("Redis went away during a job; what is due is looked for again", reason=str(exc_info[1]))
        else:
            super().handle_exception(job, *exc_info)

    def _install_signal_handlers(self) -> None:
        """A signal that came before RQ listened for them counts too."""
        super()._install_signal_handlers()
        self._stop_requested = self.asked.is_set()

    def handle_warm_shutdown_request(self) -> None:
        """Let a running drain end at once."""
        self.asked.set()
        for engine in self.engines:
            engine.stop_claiming()


def run_worker(settings: Settings, database: Database) -> None:
    """Work until SIGTERM or SIGINT, then finish what is in flight. Does not return."""
    roll = WorkerRoll(settings.data / ROLL_FOLDER)
    worker_id = roll.sign_in()
    connection = open_redis(settings.redis_location)
    engines = build_engines(settings, database, worker_id)
    _release_leases_of_the_dead(roll, database)
    for engine in engines.values():
        engine.start()
    for kind in engines.keys() & set(SECONDARY_KINDS):
        SideDoor(engines[kind], open_redis(settings.redis_location), kind).start()
    presence = Presence(  # its own connection, not RQ's: that waits long for answers, this must not
        open_redis(settings.redis_location), lambda: _look_unrung(engines)
    )
    presence.start()

    _work_until_stopped(engines, connection, settings.worker_threads)
    presence.stop()
    abandoned = _stop_all(engines)
    if abandoned:
        log.warning("attempts abandoned; they are made again", attempts=abandoned)
    else:
        roll.sign_out(worker_id)
    has_failed = any(engine.has_failed for engine in engines.values())
    end_without_waiting_for_threads(1 if has_failed else 0)


def _look_unrung(engines: Mapping[DeliveryKind, Engine[Any]]) -> None:
    """See what is due without having been told: no ring, and no job, comes while Redis is away."""
    for engine in engines.values():
        engine.drain(0.0)


def _stop_all(engines: Mapping[DeliveryKind, Engine[Any]]) -> int:
    """End all engines within one grace; how many attempts were abandoned."""
    deadline = time.monotonic() + SHUTDOWN_S
    for engine in engines.values():
        engine.stop_claiming()
    return sum(engine.stop(max(0.0, deadline - time.monotonic())) for engine in engines.values())


def _work_until_stopped(engines: Mapping[DeliveryKind, Engine[Any]], connection: redis.Redis, threads: int) -> None:
    """Take jobs until SIGTERM or SIGINT, which an engine that failed sends to its own process too.

    RQ's worker ends when Redis goes away while it starts or has a job. Ours takes another one then: its engines have
    attempts in flight, and side doors that do without jobs.
    """
    doors = {kind: Door(connection, kind) for kind in engines}

    def answer(name: str) -> None:
        kind = DeliveryKind(name)
        if kind in SECONDARY_KINDS:  # its side door waits for it; this loop has mail to see to
            doors[kind].answer()
            engines[kind].drain(0.0)
        else:
            drain_and_attend(engines[kind], doors[kind])

    answer_with(answer)
    logging.getLogger("rq.worker").addFilter(_shorten_redis_errors)
    asked = threading.Event()
    log.info("delivering", threads=threads)
    while not _take_jobs(engines, connection, asked):
        asked.wait(LONGEST_REDIS_WAIT_S)


def _take_jobs(engines: Mapping[DeliveryKind, Engine[Any]], connection: redis.Redis, asked: threading.Event) -> bool:
    """Take jobs while Redis lets us; returns whether somebody asked for the end."""
    for signum in (signal.SIGTERM, signal.SIGINT):  # until RQ's worker has its own handlers, and after it
        signal.signal(signum, lambda *_: asked.set())
    try:
        worker = DrainWorker(
            [open_queue(connection, kind) for kind in engines],
            connection=connection,
            serializer=JSONSerializer,
            log_job_description=False,
            worker_ttl=WORKER_TTL_S,
        )
        worker.engines = tuple(engines.values())
        worker.asked = asked
        worker.work(logging_level="WARNING")
    except REDIS_ERRORS as error:
        log.warning("Redis does not answer; trying again", reason=str(error))
    return asked.is_set()


def _shorten_redis_errors(record: logging.LogRecord) -> bool:
    """As `DrainWorker.handle_exception` does, for what RQ logs between jobs."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, _REDIS_LOST_IT):
        record.msg, record.args, record.exc_info = "Redis went away during a job: %s", (str(error),), None
    return True


def _release_leases_of_the_dead(roll: WorkerRoll, database: Database) -> None:
    """At once, or as soon as the database is there: after a power cut it often starts later than we do, and leases of
    sent mail last for minutes."""
    if not _bury(roll, database):
        threading.Thread(target=_bury_later, args=(roll, database), name="burying", daemon=True).start()


def _bury_later(roll: WorkerRoll, database: Database) -> None:
    while not _bury(roll, database):
        time.sleep(BURYING_PAUSE_S)


def _bury(roll: WorkerRoll, database: Database) -> bool:
    """Whether that is done."""

    def release_all(dead_id: str) -> int:
        with database.transaction():
            return sum(release(database, kind, dead_id, system_clock()) for kind in DeliveryKind)

    try:
        roll.bury_the_dead(release_all)
    except StorageUnavailable as error:
        log.warning("leases of dead workers cannot be released now; trying again", reason=repr(error.__cause__))
        return False
    finally:
        database.close()  # the connection of this thread; the clerk has its own
    return True


def drain_and_attend(engine: Engine[Any], door: Door) -> None:
    """Deliver what is due and what comes meanwhile, until it is quiet; after a while let RQ take a breath."""
    deadline = time.monotonic() + DRAIN_LIMIT_S
    door.answer()
    while engine.drain(deadline - time.monotonic()):
        if time.monotonic() > deadline or not door.attend():
            return
    door.enqueue()


class SideDoor(threading.Thread):
    """Attends for one kind, beside the jobs: those may be busy with received mail for half a minute.

    A ring then needs no job. When Redis is away it waits, and `Presence` has the engines look for themselves.
    """

    def __init__(self, engine: Engine[Any], connection: redis.Redis, kind: DeliveryKind) -> None:
        super().__init__(name=f"side-door-{kind}", daemon=True)
        self._engine = engine
        self._door = Door(connection, kind)

    def run(self) -> None:
        """Wait for rings, for as long as the engine takes work: one that stops must leave them to others."""
        while not self._engine.is_stopping:
            try:
                if self._door.attend(SIDE_DOOR_S):
                    self._engine.drain(DRAIN_LIMIT_S)
            except REDIS_ERRORS:
                time.sleep(SIDE_DOOR_S)


def build_engines(settings: Settings, database: Database, worker_id: str) -> dict[DeliveryKind, Engine[Any]]:
    """The engines that the settings describe, one for each kind of delivery. Raises `ConfigurationError`."""
    engines: dict[DeliveryKind, Engine[Any]] = {}

    def ring(kind: DeliveryKind) -> None:
        """Our own engine is nearer than any bell."""
        if kind in engines:
            engines[kind].drain(0.0)

    for kind, transport in open_transports(settings, database, system_clock).items():
        limits = EngineLimits(
            kind=kind,
            threads=transport.threads,
            host_concurrency=transport.host_concurrency or settings.host_concurrency,
            attempt_limit_ms=transport.attempt_limit_ms,
            worker_id=worker_id,
        )
        engines[kind] = Engine(database, transport.line, limits, system_clock, ring)
    return engines
