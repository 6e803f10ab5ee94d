"""One attempt at an inbound delivery: read, parse, render, POST. Whatever goes wrong becomes an `Outcome`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import structlog

from core.clock import Clock
from core.delivery import Outcome, Verdict
from core.errors import StorageUnavailable
from core.services.claims import ClaimedDelivery
from core.services.recording import FinishedAttempt
from core.store.blobs import INLINE_LIMIT, BlobStore
from inbound.forward import Forwarder, Post
from inbound.parse import parse_message
from inbound.payloads import Payload, render

SEARCHED_TEXT_LENGTH = 2_000
"""Characters of the text kept to search in."""
MEMORY_BUDGET = 256 * 1024 * 1024
"""Bytes that large messages may take in a worker at once, all their copies counted."""
COPIES = 4
"""Raw, decoded, encoded and payload: about what one message takes at its peak."""

log = structlog.get_logger("worker")


class MemoryBudget:
    """Makes large messages wait for each other, so that many at once do not exhaust the memory."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, or all of the budget when that is less."""
        held = min(size, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= held)
            self._free -= held
        try:
            yield
        finally:
            with self._changed:
                self._free += held
                self._changed.notify_all()


class InboundAttempt:
    """Makes attempts, from any thread."""

    def __init__(self, forwarder: Forwarder, blobs: BlobStore, clock: Clock) -> None:
        self._forwarder = forwarder
        self._blobs = blobs
        self._clock = clock
        self._budget = MemoryBudget(MEMORY_BUDGET)

    def __call__(self, delivery: ClaimedDelivery) -> FinishedAttempt:
        """Make the attempt; never raises."""
        started_ms = self._clock()
        try:
            if delivery.size <= INLINE_LIMIT:
                return self._attempt(delivery)
            with self._budget.hold(delivery.size * COPIES):
                return self._attempt(delivery)
        except StorageUnavailable:
            problem = "the stored message could not be read at that moment (not the target's fault)"
        except Exception:
            log.exception("attempt failed", delivery_id=delivery.delivery_id)
            problem = "an error of ours; it is in the log (not the target's fault)"
        duration_ms = max(0, self._clock() - started_ms)
        outcome = Outcome(Verdict.TEMPORARY, 0, started_ms, duration_ms, problem, is_our_fault=True)
        return FinishedAttempt(delivery, outcome, None)

    def _attempt(self, delivery: ClaimedDelivery) -> FinishedAttempt:
        raw = delivery.body if delivery.body is not None else self._read_blob(delivery)
        payload, text = _payload(delivery, raw)
        outcome = self._forwarder.send(
            Post(
                delivery_id=delivery.delivery_id,
                attempt_number=delivery.attempt_number,
                target=delivery.target,
                secret=delivery.secret,
                content_type=payload.content_type,
                body=payload.body,
            )
        )
        return FinishedAttempt(delivery, outcome, text)

    def _read_blob(self, delivery: ClaimedDelivery) -> bytes:
        if delivery.blob_key is None:
            raise StorageUnavailable("the message has neither body nor blob")
        return self._blobs.get(delivery.blob_key)


def _payload(delivery: ClaimedDelivery, raw: bytes) -> tuple[Payload, str | None]:
    """The payload, and the text to search in when this is the first attempt."""
    message = lru_cache(maxsize=1)(lambda: parse_message(raw))
    payload = render(delivery.target_format, raw, message, delivery.envelope)
    text = message().plain if delivery.attempt_number == 1 else None
    return payload, text[:SEARCHED_TEXT_LENGTH] if text else None
