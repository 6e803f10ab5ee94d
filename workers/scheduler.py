"""The scheduler of periodic jobs: looks every second whether something is due, and rings; keeps house beside that.

RQ's own cron scheduler is not used: it enqueues with the pickle serializer only, and needs Redis to keep time.
"""

from __future__ import annotations

import signal
import threading

import redis
import structlog

from core.clock import Clock, system_clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.errors import StorageUnavailable
from core.services.claims import has_due
from core.store.db import Database
from workers.doorbell import REDIS_ERRORS, Door, open_queue, open_redis
from workers.housekeeping import Housekeeper

SWEEP_INTERVAL_S = 1.0

log = structlog.get_logger("scheduler")


def run_scheduler(settings: Settings, database: Database) -> None:
    """Sweep until SIGTERM or SIGINT."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    connection = open_redis(settings.redis_location)
    housekeeper = Housekeeper(settings, database, system_clock)
    housekeeper.start()
    log.info("sweeping", every_s=SWEEP_INTERVAL_S)
    while not stop.wait(SWEEP_INTERVAL_S):
        try:
            sweep(database, connection, system_clock)
        except (StorageUnavailable, *REDIS_ERRORS) as error:
            log.warning("sweep failed; trying again", reason=str(error))
    housekeeper.stop()


def sweep(database: Database, connection: redis.Redis, clock: Clock) -> None:
    """Ring for everything that is due and that no waiting job will find.

    This brings retries their turn, and makes good for rings that were lost with Redis or with a worker.
    """
    for kind in DeliveryKind:
        if has_due(database, kind, clock()) and open_queue(connection, kind).count == 0:
            door = Door(connection, kind)
            door.enqueue() if kind is DeliveryKind.INBOUND else door.ring()
