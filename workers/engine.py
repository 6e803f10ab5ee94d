"""The engine of a worker process: one clerk owns the database, a bounded pool does the I/O.

The clerk records what is finished and claims what is due, many at a time. Attempts outlive
the RQ job that woke the clerk, so one slow answer never keeps a job, and with it the next ring, waiting.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Generic

import structlog

from core.clock import Clock
from core.delivery import DeliveryKind, Policy, Verdict, our_fault
from core.errors import StorageUnavailable
from core.fairness import Crowds, MachineOf, unknown_machine
from core.ids import new_worker_id
from core.services.claims import Claim, ClaimRequest, claim, give_back, has_due, lease_token
from core.services.leases import FinishedAttempt, Follow, Leased, Loader
from core.services.recording import record
from core.store.db import Database

BATCH_PAUSE_S = 0.005
"""Under load the clerk waits this long between transactions, so that each carries many deliveries."""
STORAGE_PAUSE_S = 0.5
"""How long the clerk waits for a database that fails before it tries again."""
LOOK_PAUSE_S = 0.1
"""After a look behind the window that found nothing, before the next that nobody has rung for: it costs several times
what a claim does, and a relay, or a large mail host, is behind all that is due for hours. (It was half the work.)"""
PROVEN_HOSTS = 10_000

Ring = Callable[[DeliveryKind], None]
"""Tells those who deliver this kind that something is due. Neither blocks nor fails."""

log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class Line(Generic[Leased]):
    """How deliveries of one kind are made."""

    attempt: Callable[[Leased], FinishedAttempt]
    """Makes one; should not raise."""
    policy: Policy
    load: Loader[Leased]
    follow: Follow
    rings: tuple[DeliveryKind, ...] = ()
    """What `follow` makes due besides."""
    machine_of: MachineOf = unknown_machine
    """Which machine is behind a target host: places are counted by it too."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much a worker does at once."""

    kind: DeliveryKind
    threads: int
    host_concurrency: int
    attempt_limit_ms: int
    worker_id: str = field(default_factory=new_worker_id)


class Engine(Generic[Leased]):
    """Claims, attempts and records deliveries of one kind."""

    def __init__(
        self, database: Database, line: Line[Leased], limits: EngineLimits, clock: Clock, ring: Ring | None = None
    ) -> None:
        """Without `ring`, what the line makes due besides waits for the scheduler's next second."""
        self._ring = ring
        self._database = database
        self._line = line
        self._limits = limits
        self._clock = clock
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="attempt")
        lock = threading.Lock()
        self._clerk_due = threading.Condition(lock)
        self._settled = threading.Condition(lock)
        self._is_idle = False
        self._finished: deque[FinishedAttempt] = deque()
        self._in_flight = 0
        self._hosts_in_flight: Counter[str] = Counter()
        """The clerk's own."""
        self._crowds = Crowds()
        self._claims = 0
        self._is_in_outage = False
        self._lost_token = ""
        """Of a claim that failed: the database may have gone between the lease and what is read after it."""
        self._is_wanted = False
        self._wishes = 0
        self._is_blocked = False
        self._looked_to = ""
        self._look_again = 0.0
        self._is_stopping = False
        self.has_failed = False
        self._proven_hosts: OrderedDict[str, None] = OrderedDict()
        self._clerk = threading.Thread(target=self._run, name="clerk", daemon=True)

    def start(self) -> None:
        """Begin; nothing is claimed before `drain`."""
        self._clerk.start()

    def drain(self, limit_s: float) -> bool:
        """Have everything due claimed; returns whether that is done, else time ran out or the engine stops."""
        with self._settled:
            self._is_wanted = True
            self._wishes += 1
            self._clerk_due.notify()
            self._settled.wait_for(lambda: not self._is_wanted or self._is_stopping, limit_s)
            return not self._is_wanted

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._is_stopping

    def stop_claiming(self) -> None:
        """Take nothing new. Safe to call from a signal handler of the thread that drains."""
        self._is_stopping = True
        threading.Thread(target=self._notify, daemon=True).start()

    def stop(self, grace_s: float) -> int:
        """Wait for what is in flight, record it, and end; returns how many attempts were abandoned.

        Those come due again when their leases run out. A claim that was lost counts as one.
        """
        self.stop_claiming()
        self._clerk.join(grace_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return self._in_flight + bool(self._lost_token)

    def _notify(self) -> None:
        with self._settled:
            self._clerk_due.notify()
            self._settled.notify_all()

    # --- the clerk ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._take_turns()
        except Exception:
            log.exception("the clerk failed; this worker ends and its leases run out")
            self.has_failed = True
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            self._database.close()

    def _take_turns(self) -> None:
        last_turn = 0.0
        while True:
            self._wait_for_work(last_turn)
            if self._is_stopping and self._in_flight == 0 and not self._finished:
                return
            last_turn = time.monotonic()
            self._take_turn()

    def _wait_for_work(self, last_turn: float) -> None:
        """Until there is something to do; under load a little longer, so that there is more of it."""
        with self._clerk_due:
            self._is_idle = True
            self._clerk_due.wait_for(self._has_work)
            self._is_idle = False
            pause = last_turn + BATCH_PAUSE_S - time.monotonic()
            if pause > 0 and not self._is_stopping:
                self._clerk_due.wait_for(self._is_starving, pause)

    def _has_work(self) -> bool:
        return bool(self._finished) or self._wants_to_claim() or (self._is_stopping and self._in_flight == 0)

    def _wants_to_claim(self) -> bool:
        return self._is_wanted and not self._is_stopping and self._in_flight < self._limits.threads

    def _is_starving(self) -> bool:
        """Whether nothing is left to do but claim: then a pause would only be delay."""
        return self._is_stopping or (self._is_wanted and self._in_flight == len(self._finished))

    def _take_turn(self) -> None:
        """Record, then claim: two short transactions, so that writers elsewhere never wait for the planning between."""
        wishes = self._wishes
        now_ms = self._clock()
        try:
            had_finished = self._record_finished(now_ms)
            claimed = self._claim(had_finished, now_ms)
        except StorageUnavailable as error:
            if not self._is_in_outage:  # said once: it may last for hours
                log.error("the database fails; trying again", kind=self._limits.kind, reason=repr(error.__cause__))
            self._is_in_outage = True
            time.sleep(STORAGE_PAUSE_S)
            return
        self._is_in_outage = False
        if claimed is not None:
            self._account(claimed, wishes)
            for delivery in claimed.deliveries:
                self._pool.submit(self._work, delivery)

    def _record_finished(self, now_ms: int) -> bool:
        """Write down what is finished, if anything; only then it is no longer in flight."""
        finished = list(self._finished)
        if not finished:
            return False
        try:
            with self._database.transaction():
                self._write_down(finished, now_ms)
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("a batch could not be recorded; recording one by one", attempts=len(finished))
            self._record_one_by_one(finished, now_ms)
        self._note_crowds(finished, now_ms)
        self._forget(finished)
        self._ring_for_what_follows(now_ms)
        return True

    def _ring_for_what_follows(self, now_ms: int) -> None:
        """After the commit. Looked up first: what follows is rare, and a claim in vain costs several times as much."""
        if self._ring is None:
            return
        for kind in self._line.rings:
            if has_due(self._database, kind, now_ms):
                self._ring(kind)

    def _claim(self, had_finished: bool, now_ms: int) -> Claim[Leased] | None:
        """Claim what fits beside what is in flight, if anybody asked, or something waits for a host to be free."""
        free = self._limits.threads - self._in_flight
        has_reason = self._is_wanted or (self._is_blocked and had_finished)
        if self._is_stopping or free <= 0 or not has_reason:
            return None
        self._give_back_what_was_lost(now_ms)
        request = self._claim_request(free, now_ms)
        self._lost_token = request.lease_token
        claimed = claim(self._database, request, self._line.load, now_ms)
        self._lost_token = ""
        if claimed.looked_in_vain:
            self._look_again = time.monotonic() + LOOK_PAUSE_S
        return claimed

    def _give_back_what_was_lost(self, now_ms: int) -> None:
        """Nobody has it in hand; else it would wait for the end of its lease."""
        if self._lost_token:
            with self._database.transaction():
                give_back(self._database, self._limits.kind, self._lost_token, now_ms)
            self._lost_token = ""

    def _record_one_by_one(self, finished: list[FinishedAttempt], now_ms: int) -> None:
        """An attempt whose delivery was deleted meanwhile must not hold up the records of the others."""
        for entry in finished:
            try:
                with self._database.transaction():
                    self._write_down([entry], now_ms)
            except StorageUnavailable:
                raise
            except Exception:
                log.exception("an attempt could not be recorded", delivery_id=entry.delivery.delivery_id)
                self._record_barely(entry, now_ms)

    def _record_barely(self, entry: FinishedAttempt, now_ms: int) -> None:
        """The outcome alone, without a word of what was said or found: else the same attempt is made for ever."""
        outcome = replace(entry.outcome, error=None, response=None, refusal_text=None)
        try:
            with self._database.transaction():
                self._write_down([FinishedAttempt(entry.delivery, outcome)], now_ms)
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("it is left to its lease", delivery_id=entry.delivery.delivery_id)

    def _write_down(self, finished: list[FinishedAttempt], now_ms: int) -> None:
        record(self._database, finished, self._line.policy, now_ms, self._line.follow)

    def _claim_request(self, free: int, now_ms: int) -> ClaimRequest:
        self._claims += 1
        return ClaimRequest(
            kind=self._limits.kind,
            lease_token=lease_token(self._limits.worker_id, self._claims),
            free_places=free,
            pool_size=self._limits.threads,
            host_concurrency=self._limits.host_concurrency,
            proven_hosts=self._proven_hosts.keys(),
            attempt_limit_ms=self._limits.attempt_limit_ms,
            machine_of=self._line.machine_of,
            crowds=self._crowds.limits(now_ms),
            look_behind=self._looked_to,
            looks_behind=self._is_wanted or time.monotonic() >= self._look_again,
        )

    def _note_crowds(self, finished: list[FinishedAttempt], now_ms: int) -> None:
        """Where some have found no connection free, and how many have found one."""
        busy = Counter(
            self._line.machine_of(entry.delivery.target_host)
            for entry in finished
            if entry.outcome.verdict is Verdict.BUSY
        )
        for machine, turned_away in busy.items():
            if machine is not None:
                hosts = (host for host in self._hosts_in_flight if self._line.machine_of(host) == machine)
                here = sum(self._hosts_in_flight[host] for host in hosts)
                self._crowds.note(machine, here - turned_away, now_ms)

    def _forget(self, finished: list[FinishedAttempt]) -> None:
        self._hosts_in_flight -= Counter(entry.delivery.target_host for entry in finished)
        for entry in finished:
            if entry.outcome.verdict is Verdict.ACCEPTED:
                host = entry.delivery.target_host
                self._remember_proven(host)
                self._remember_proven(self._line.machine_of(host) or host)
        with self._settled:
            for _ in finished:
                self._finished.popleft()
            self._in_flight -= len(finished)

    def _account(self, claimed: Claim[Leased], wishes: int) -> None:
        self._hosts_in_flight.update(delivery.target_host for delivery in claimed.deliveries)
        with self._settled:
            self._in_flight += len(claimed.deliveries)
            self._is_blocked = claimed.is_blocked
            self._looked_to = claimed.looked_to
            # A wish made while the claim ran may be for mail that the claim did not see.
            self._is_wanted = claimed.is_partial or self._wishes > wishes
            if not self._is_wanted:
                self._settled.notify_all()

    def _remember_proven(self, host: str) -> None:
        self._proven_hosts[host] = None
        self._proven_hosts.move_to_end(host)
        if len(self._proven_hosts) > PROVEN_HOSTS:
            self._proven_hosts.popitem(last=False)

    # --- the pool -------------------------------------------------------------------------------------------------

    def _work(self, delivery: Leased) -> None:
        started_ms = self._clock()
        try:
            finished = self._line.attempt(delivery)
        except Exception:
            log.exception("an attempt raised", delivery_id=delivery.delivery_id)
            finished = FinishedAttempt(delivery, our_fault(started_ms, self._clock()))
        with self._clerk_due:
            self._finished.append(finished)
            if self._is_idle or self._is_starving():  # a clerk that pauses to gather more is left alone
                self._clerk_due.notify()
