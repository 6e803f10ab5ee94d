"""Sending domains are looked at again from time to time; their keys grow old.

The DNS is asked in threads of their own, some domains at once: one whose name servers are silent takes twelve seconds.
What they find is recorded by the caller's thread, the only one that touches the database.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence

import structlog

from core.clock import Clock
from core.config import Settings
from core.dns_lookup import open_lookup
from core.sending.domain_inspection import DomainInspector, domain_inspector
from core.services.sending_domain_checks import Inspection, inspect, record_inspection, take_due
from core.services.sending_domain_keys import age_keys, forget_keys
from core.services.sending_domain_records import SendingDomainRecord
from core.store.db import Database

AT_ONCE = 8
"""Domains that are asked about at the same time."""
BATCH = 64
"""Domains that are taken at a time; those left over when the run must end come again in some minutes."""
RUN_S = 60.0
"""After so long a run begins nothing new: other housekeeping waits for it."""
KEYS_A_RUN = 200
"""Domains whose keys grow old in one run."""
STOP_CHECK_S = 0.25

log = structlog.get_logger("domain_checks")


class DomainChecks:
    """Verifies domains whose time has come, and moves keys on whose time is over."""

    def __init__(
        self, settings: Settings, database: Database, clock: Clock, stop: threading.Event, run_s: float = RUN_S
    ) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._stop = stop
        self._run_s = run_s

    def run(self, now_ms: int) -> int:
        """Do what is due; how many domains were looked at. Raises `StorageUnavailable`."""
        age_keys(self._database, now_ms, KEYS_A_RUN)
        forget_keys(self._database, now_ms, KEYS_A_RUN)
        deadline = time.monotonic() + self._run_s
        looked_at = 0
        while not self._stop.is_set() and time.monotonic() < deadline:
            due = take_due(self._database, now_ms, BATCH)
            if not due:
                break
            looked_at += self._look_at(due, deadline)
        return looked_at

    def _look_at(self, due: Sequence[SendingDomainRecord], deadline: float) -> int:
        inspector = domain_inspector(open_lookup(self._settings, self._clock), self._settings, self._clock)
        over = threading.Event()
        try:
            looked_at = 0
            for inspection in _Party(inspector, due, self._clock, over).results(self._stop):
                self._record(inspection)
                looked_at += 1
                if time.monotonic() >= deadline:
                    over.set()
            return looked_at
        finally:
            over.set()

    def _record(self, inspection: Inspection) -> None:
        change = record_inspection(self._database, inspection, self._clock())
        if change is not None and change.before.dkim_verified != change.after.dkim_verified:
            domain = inspection.record
            what = "a sending domain is verified" if change.after.dkim_verified else "a sending domain has lost its key"
            log.info(what, domain=domain.domain, domain_id=domain.domain_id, account_id=domain.account_id)


class _Party:
    """Threads that ask about domains, each the next one as soon as it is free."""

    def __init__(
        self, inspector: DomainInspector, due: Sequence[SendingDomainRecord], clock: Clock, over: threading.Event
    ) -> None:
        self._inspector = inspector
        self._clock = clock
        self._over = over
        self._waiting: queue.SimpleQueue[SendingDomainRecord] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Inspection | None] = queue.SimpleQueue()
        for record in due:
            self._waiting.put(record)
        self._threads = [
            threading.Thread(target=self._ask, name="domain-check", daemon=True) for _ in range(min(AT_ONCE, len(due)))
        ]

    def results(self, stop: threading.Event) -> Iterator[Inspection]:
        """What they find, as it comes; ends early, with questions still open, when asked to stop."""
        for thread in self._threads:
            thread.start()
        working = len(self._threads)
        while working and not stop.is_set():
            try:
                inspection = self._done.get(timeout=STOP_CHECK_S)
            except queue.Empty:
                continue
            if inspection is None:
                working -= 1
            else:
                yield inspection

    def _ask(self) -> None:
        try:
            while not self._over.is_set():
                record = self._waiting.get_nowait()
                try:
                    self._done.put(inspect(self._inspector, record, self._clock))
                except Exception:
                    log.error("a domain could not be looked at", domain_id=record.domain_id, exc_info=True)
        except queue.Empty:
            return
        finally:
            self._done.put(None)
