"""Inline delivery: the target is asked while the sender waits, and its answer becomes the sender's.

The mail is stored before the target is asked, as any other: a receiver that dies meanwhile leaves a delivery whose
lease runs out, and which a worker then takes for queued mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import structlog

from core.address_settings import AddressSettings, OnDeadline
from core.clock import Clock
from core.delivery import HTTP_POLICY, INLINE_POLICY, Outcome, Policy, Verdict
from core.errors import StorageUnavailable
from core.netguard import target_host
from core.routing import Route
from core.services.acceptance import DUE, AcceptedMail, drop_unless_stored
from core.services.arrivals import Arrival, ArrivalKind, arrive
from core.services.claims import INLINE_LEASE_PREFIX, LEASE_GRACE_MS
from core.services.leases import FinishedAttempt
from core.services.recording import record
from core.store.blobs import BlobStore
from core.store.db import Database
from inbound.attempt import InboundAttempt
from inbound.smtp.replies import Reply, accepted, rejected_by_target
from inbound.smtp.spool import SpooledMessage

TOKEN_BYTES = 14
HOST_SHARE = 0.25
"""Of the places, that one host may hold: a host that hangs must leave places for the others."""
_T = TypeVar("_T")

log = structlog.get_logger("receiver")


class InlineDelivery:
    """Makes the attempts of a receiver process."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        attempt: InboundAttempt,
        clock: Clock,
        *,
        threads: int,
        host_concurrency: int,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._attempt = attempt
        self._clock = clock
        self._threads = threads
        self._host_limit = max(1, min(host_concurrency, int(threads * HOST_SHARE)))
        self._busy: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inline")
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="inline-clerk")
        """The only thread that writes: a connection for each attempt would be too many."""

    async def deliver(self, mail: AcceptedMail, message: SpooledMessage) -> str:
        """The reply to a mail for one inline address. Raises `StorageUnavailable`."""
        route = mail.recipients[0][1]
        host = target_host(route.target)
        if self._busy.total() >= self._threads or self._busy[host] >= self._host_limit:
            return Reply.TARGET_BUSY
        self._busy[host] += 1
        try:
            return await self._store_and_attempt(mail, message, route)
        finally:
            self._busy[host] -= 1
            if not self._busy[host]:
                del self._busy[host]

    def stop(self) -> None:
        """Record what is finished; attempts still in flight are left to their leases."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._clerk.shutdown(wait=True)

    async def _store_and_attempt(self, mail: AcceptedMail, message: SpooledMessage, route: Route) -> str:
        path = message.path
        if path is not None:
            await _in(self._pool, lambda: self._blobs.put_file(mail.message_id, path))
        try:
            arrival = await _in(self._clerk, lambda: self._arrive(mail, route))
        except BaseException:
            if path is not None:
                await _in(self._pool, lambda: self._drop_blob(mail))
            raise
        reply = await self._reply_to(arrival, route.settings)
        if path is not None and not arrival.is_stored_now:
            await _in(self._pool, lambda: self._drop_blob(mail))
        return reply

    async def _reply_to(self, arrival: Arrival, settings: AddressSettings) -> str:
        if arrival.kind is ArrivalKind.IN_PROGRESS:
            return Reply.IN_PROGRESS
        if arrival.kind is ArrivalKind.TAKEN:
            log.info("came again", message_id=arrival.message_id)
            return accepted(arrival.message_id)
        return await self._attempt_and_record(arrival, settings)

    def _arrive(self, mail: AcceptedMail, route: Route) -> Arrival:
        """The lease begins here, where the mail is stored: it may have waited for the blob store or for its turn."""
        now_ms = self._clock()
        settings = route.settings
        limit_ms = self._attempt.limit_ms(settings.inline_deadline_s, settings, mail.size)
        plan = replace(
            mail.plans.get(route.delivery_key, DUE),
            duplicate_window_ms=settings.duplicate_window_ms,
            lease_token=f"{INLINE_LEASE_PREFIX}{secrets.token_hex(TOKEN_BYTES)}",
            lease_end_ms=now_ms + limit_ms + LEASE_GRACE_MS,
        )
        return arrive(self._database, replace(mail, plans={route.delivery_key: plan}), now_ms)

    def _drop_blob(self, mail: AcceptedMail) -> None:
        """Never fails: housekeeping finds what stays behind."""
        with contextlib.suppress(StorageUnavailable):
            drop_unless_stored(self._database, self._blobs, mail.message_id)
        self._database.close()  # the connection of a thread that rarely needs one

    async def _attempt_and_record(self, arrival: Arrival, settings: AddressSettings) -> str:
        claimed = arrival.claimed
        assert claimed is not None  # of an arrival to attempt
        finished = await _in(self._pool, lambda: self._attempt(claimed, settings.inline_deadline_s))
        policy = _policy(finished.outcome, settings)
        try:
            await _in(self._clerk, lambda: self._record(finished, policy))
        except StorageUnavailable as error:
            # What the target said stands; when the lease runs out the mail is posted once more, under the same id.
            log.error("an inline attempt was not recorded", reason=repr(error.__cause__ or error))
        return _reply(finished.outcome, arrival.message_id, policy)

    def _record(self, finished: FinishedAttempt, policy: Policy) -> None:
        with self._database.transaction():
            record(self._database, [finished], policy, self._clock())


def _policy(outcome: Outcome, settings: AddressSettings) -> Policy:
    """Who tries again: the sender, unless the time ran out and the address wants such mail queued."""
    is_queued = outcome.is_timeout and settings.inline_on_deadline is OnDeadline.QUEUE
    return HTTP_POLICY if is_queued else INLINE_POLICY


def _reply(outcome: Outcome, message_id: str, policy: Policy) -> str:
    if outcome.verdict in (Verdict.ACCEPTED, Verdict.HELD) or policy is HTTP_POLICY:
        return accepted(message_id)
    if outcome.verdict is Verdict.PERMANENT:
        return rejected_by_target(outcome.refusal_text or "")
    return Reply.TRY_LATER if outcome.is_our_fault else Reply.TARGET_DELAYED


async def _in(pool: ThreadPoolExecutor, call: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(pool, call)
