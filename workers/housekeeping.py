"""Housekeeping beside the scheduler: purges what has outlived its age, sweeps up orphans, gives the disk back; and
watches how well mail is sent.

Several gateways' schedulers may do so at once: whatever one has removed, the others do not find.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

import structlog

from core.built_in_store import purge_built_in
from core.clock import DAY_MS, SECOND_MS, Clock, to_datetime
from core.config import Settings
from core.errors import StorageUnavailable
from core.sending.health import PauseBounds
from core.services.orphans import OrphanSweep
from core.services.pauses import release_unpaused
from core.services.retention import DEFAULT_LIMITS, PurgeLimits, Retention, RetentionAges
from core.services.send_accounts import gateway_send_settings
from core.services.send_health import pause_unhealthy
from core.store.blobs import open_blobs
from core.store.db import Database
from core.store.reclaim import can_give_back, give_back
from core.store.spool_place import spool_folder
from inbound.smtp.spool import remove_abandoned
from workers.domain_checks import DomainChecks

FIRST_AFTER_S = 60.0
"""A gateway that has just started has better things to do."""
EVERY_S = 300.0
GUARD_EVERY_S = 60.0
"""How soon sending is paused after bounces or complaints have come."""
SHUTDOWN_S = 2.0
"""More than the longest transaction takes; what is not finished is rolled back."""
STORED_FILES = 1_000
"""Of the built-in store, removed in one run of the loop over them."""

log = structlog.get_logger("housekeeping")


class Household:
    """All that is tidied, and how far each task got."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        clock: Clock,
        stop: threading.Event | None = None,
        limits: PurgeLimits = DEFAULT_LIMITS,
    ) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._stop = stop or threading.Event()
        blobs = open_blobs(settings.blob_location)
        self._retention = Retention(database, blobs, RetentionAges.of(settings), limits, self._stop)
        self._orphans = OrphanSweep(database, blobs, self._stop)
        self._domain_checks = DomainChecks(settings, database, clock, self._stop)
        self._new_day_ms = 0

    def tidy(self) -> tuple[dict[str, int], bool]:
        """Do a part of everything: what was done, by name, and whether more waits.

        Raises `StorageUnavailable`; then the rest waits for the next time.
        """
        now_ms = self._clock()
        done: Counter[str] = Counter()
        if now_ms >= self._new_day_ms:
            self._new_day_ms = now_ms + DAY_MS
            done.update(self._retention.begin_again(now_ms).counts)
        purged = self._retention.run(now_ms)
        done.update(purged.counts)
        done["bytes_given_back"] = give_back(self._database, self._stop)
        self._remove_abandoned(now_ms)
        done["stored_files"] = self._purge_stored(now_ms)
        done["orphans"] = self._orphans.run(now_ms)
        done["domains_checked"] = self._domain_checks.run(now_ms)
        return {name: count for name, count in done.items() if count}, purged.is_partial

    def tidy_all(self) -> dict[str, int]:
        """Do everything there is to do now, with a whole round through the blobs. Raises `StorageUnavailable`."""
        total: Counter[str] = Counter()
        is_partial = True
        while is_partial and not self._stop.is_set():
            done, is_partial = self.tidy()
            total.update(done)
        while not self._orphans.is_at_start and not self._stop.is_set():
            total["orphans"] += self._orphans.run(self._clock())
        return {name: count for name, count in total.items() if count}

    def _purge_stored(self, now_ms: int) -> int:
        days = self._settings.keep_parsed_days
        removed = 0
        while days and not self._stop.is_set():
            batch = purge_built_in(self._settings, to_datetime(now_ms - days * DAY_MS), STORED_FILES)
            removed += batch
            if batch < STORED_FILES:
                break
        return removed

    def _remove_abandoned(self, now_ms: int) -> None:
        """What receivers that were killed had begun to receive, on this machine."""
        folder = spool_folder(self._settings)
        remove_abandoned(folder, older_than_s=2 * self._settings.data_timeout, now_s=now_ms / SECOND_MS)


class SendGuard:
    """Pauses what sends badly, and lets go what no pause holds any more."""

    def __init__(self, settings: Settings, database: Database, clock: Clock) -> None:
        self._bounds = PauseBounds(settings.pause_bounce_percent, settings.pause_complaint_permille)
        self._defaults = gateway_send_settings(settings)
        self._database = database
        self._clock = clock

    def look(self) -> tuple[int, int]:
        """Once: how many domains and accounts were paused, and how many recipients' mail was let go.

        Raises `StorageUnavailable`.
        """
        paused = pause_unhealthy(self._database, self._bounds, self._clock())
        return len(paused), release_unpaused(self._database, self._clock, self._defaults)


class Housekeeper:
    """Tidies every few minutes and guards sending every minute, each in a thread of its own, so that nothing else in
    its process is ever late."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        clock: Clock,
        first_after_s: float = FIRST_AFTER_S,
        limits: PurgeLimits = DEFAULT_LIMITS,
    ) -> None:
        self._stop = threading.Event()
        self._database = database
        self._first_after_s = first_after_s
        self._household = Household(settings, database, clock, self._stop, limits)
        self._guard = SendGuard(settings, database, clock)
        self._threads = (
            threading.Thread(target=self._run, name="housekeeper", daemon=True),
            threading.Thread(target=self._stand_guard, name="send-guard", daemon=True),
        )

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End soon: after the transaction that is running."""
        self._stop.set()
        for thread in self._threads:
            thread.join(SHUTDOWN_S)

    def _stand_guard(self) -> None:
        while not self._stop.wait(GUARD_EVERY_S):
            try:
                _, released = self._guard.look()
            except StorageUnavailable as error:
                log.warning("the send guard failed; trying again later", reason=str(error))
            except Exception as error:
                log.error("the send guard failed", exc_info=error)
            else:
                if released:
                    log.info("held mail goes, as no pause holds it any more", recipients=released)
        self._database.close()

    def _run(self) -> None:
        if not can_give_back_now(self._database):
            log.warning("freed pages stay in the database file; stop, then run `pillarbox purge --rewrite` once")
        pause_s = self._first_after_s
        while not self._stop.wait(pause_s):
            pause_s = EVERY_S if self._tidy_once() else 0.0
        self._database.close()

    def _tidy_once(self) -> bool:
        """Whether nothing more waits now."""
        started = time.monotonic()
        try:
            done, is_partial = self._household.tidy()
        except (StorageUnavailable, OSError) as error:  # the latter from a folder: no more files, read-only, a bad disk
            log.warning("housekeeping failed; trying again later", reason=str(error))
            return True
        except Exception as error:
            log.error("housekeeping failed", exc_info=error)
            return True
        if done:
            log.info("tidied up", seconds=round(time.monotonic() - started, 1), **done)
        return not is_partial


def can_give_back_now(database: Database) -> bool:
    """Whether freed pages can leave the file; no news is good news."""
    try:
        return can_give_back(database)
    except StorageUnavailable:
        return True
