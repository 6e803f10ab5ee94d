"""One attempt at a received mail: read, inspect, judge, store, render, send. Whatever goes wrong is an `Outcome`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import structlog

from core.address_settings import AddressSettings
from core.clock import SECOND_MS, Clock
from core.delivery import OUR_ERROR, DeliveryKind, Outcome, Verdict, our_fault
from core.errors import StorageUnavailable
from core.netguard import is_mailbox
from core.object_stores import StoreFailed
from core.rules import JudgedAction, Judgement
from core.services.leases import FinishedAttempt
from core.services.received import ClaimedDelivery, FinishedMail
from core.store.blobs import INLINE_LIMIT, BlobStore
from core.verdicts import Verdicts
from inbound.bounce import Bouncer
from inbound.forward import Forwarder, Post
from inbound.inspection import Case, Inspector, Reader
from inbound.payloads import RenderOptions, render
from inbound.presentation import Presentation
from inbound.reading.parse import parse_message

SEARCHED_TEXT_LENGTH = 2_000
"""Characters of the text kept to search in."""
MEMORY_BUDGET = 256 * 1024 * 1024
"""Bytes that large messages may take in a worker at once, all their copies counted."""
COPIES = 4
"""Raw, decoded, encoded and payload: about what one message takes at its peak."""
MAILING_BUDGET = 128 * 1024 * 1024
"""The same for mail on its way to mailboxes."""
MAILING_COPIES = 3

log = structlog.get_logger("worker")


class MemoryBudget:
    """Makes large messages wait for each other, so that many at once do not exhaust the memory."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int, patience_s: float | None = None) -> Iterator[None]:
        """Hold `size` bytes, or all of the budget when that is less. Raises `StorageUnavailable` when they do not
        come free in time."""
        held = min(size, self._total)
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= held, patience_s):
                raise StorageUnavailable("too many large messages are being worked on at this moment")
            self._free -= held
        try:
            yield
        finally:
            with self._changed:
                self._free += held
                self._changed.notify_all()


ForwardMail = Callable[[ClaimedDelivery, bytes], Outcome]
"""Hands a raw message on to the mailbox that is the delivery's target."""


@dataclass(frozen=True, slots=True)
class _Findings:
    """A delivery with all that is known of it before it is sent."""

    delivery: ClaimedDelivery
    """With verdicts and flags in its envelope, and its judgement."""
    raw: bytes
    message: Reader
    verdicts: Verdicts | None
    """Set when the checks were made this time."""
    judgement: Judgement | None
    """Set when rules and checks were asked this time."""
    text: str | None
    """The beginning of the message's text, to search in, when it was read this time."""


class InboundAttempt:
    """Makes attempts, from any thread."""

    def __init__(
        self,
        forwarder: Forwarder,
        forward_mail: ForwardMail,
        blobs: BlobStore,
        inspector: Inspector,
        presentation: Presentation,
        bouncer: Bouncer | None,
        clock: Clock,
    ) -> None:
        self._forwarder = forwarder
        self._forward_mail = forward_mail
        self._blobs = blobs
        self._inspector = inspector
        self._presentation = presentation
        self._bouncer = bouncer
        self._clock = clock
        self._budget = MemoryBudget(MEMORY_BUDGET)
        self._mailing_budget = MemoryBudget(MAILING_BUDGET)

    def limit_ms(self, timeout_s: float, settings: AddressSettings, size: int) -> int:
        """The longest that an attempt may take whose target has so many seconds."""
        reading_s = self._blobs.longest_s if size > INLINE_LIMIT else 0
        preparing_s = self._inspector.longest_s + self._presentation.longest_s(settings)
        return int((timeout_s + reading_s + preparing_s) * SECOND_MS)

    def __call__(self, delivery: ClaimedDelivery, timeout_s: float | None = None) -> FinishedAttempt:
        """Make the attempt; never raises. `timeout_s` is for the target, None for what the settings say."""
        started_ms = self._clock()
        try:
            with self._memory_for(delivery):
                if self._clock() > delivery.lease_end_ms:
                    raise StorageUnavailable("the attempt had to wait for too long")
                found = self._find_out(delivery)
                return self._finished(found, self._deliver(found, timeout_s, started_ms))
        except Exception as error:  # noqa: BLE001 (logged there)
            return FinishedAttempt(delivery, self._failure(delivery, error, started_ms))

    def _memory_for(self, delivery: ClaimedDelivery) -> AbstractContextManager[None]:
        """Mail to mailboxes has a budget of its own: its hosts may hang for minutes."""
        if delivery.size <= INLINE_LIMIT:
            return nullcontext()
        patience_s = max(0.0, (delivery.lease_end_ms - self._clock()) / SECOND_MS)
        if delivery.kind is DeliveryKind.FORWARD:
            return self._mailing_budget.hold(delivery.size * MAILING_COPIES, patience_s)
        return self._budget.hold(delivery.size * COPIES, patience_s)

    def _deliver(self, found: _Findings, timeout_s: float | None, started_ms: int) -> Outcome:
        """Whatever goes wrong from here on, what was found out is kept."""
        delivery = found.delivery
        judgement = delivery.judgement
        try:
            if judgement is not None and judgement.action is not JudgedAction.ACCEPT and not delivery.is_released:
                return Outcome(Verdict.HELD, 0, self._clock(), 0, judgement.reason)
            if is_mailbox(delivery.target) != (delivery.kind is DeliveryKind.FORWARD):
                raise StorageUnavailable("the target has changed at this moment")
            if is_mailbox(delivery.target):
                return self._forward_mail(delivery, self._presentation.traced(delivery, found.raw))
            return self._post(found, timeout_s)
        except Exception as error:  # noqa: BLE001 (logged there)
            return self._failure(delivery, error, started_ms)

    def _find_out(self, delivery: ClaimedDelivery) -> _Findings:
        """Make the checks and ask the rules, unless that was done before."""
        raw = delivery.body if delivery.body is not None else self._read_blob(delivery)
        message = lru_cache(maxsize=1)(lambda: parse_message(raw))
        verdicts = None if delivery.is_checked else self._inspector.inspect(raw, message, delivery.envelope)
        if verdicts is not None:
            delivery = replace(delivery, envelope=replace(delivery.envelope, verdicts=verdicts))
        judgement = None
        if delivery.judgement is None and (delivery.rules or delivery.is_checked or verdicts is not None):
            case = Case(delivery.envelope, delivery.size, message, delivery.rules, delivery.settings)
            judgement = self._inspector.judge(case).after_acceptance()
        known = judgement or delivery.judgement
        flags = known.flags if known is not None else ()
        envelope = replace(delivery.envelope, flags=flags) if flags else delivery.envelope
        text = message().plain if delivery.attempt_number == 1 or verdicts is not None else None
        return _Findings(
            delivery=replace(delivery, envelope=envelope, judgement=known),
            raw=raw,
            message=message,
            verdicts=verdicts,
            judgement=judgement,
            text=text[:SEARCHED_TEXT_LENGTH] if text else None,
        )

    def _post(self, found: _Findings, timeout_s: float | None) -> Outcome:
        delivery = found.delivery
        shown = self._presentation.present(delivery, found.raw, found.message)
        options = RenderOptions(delivery.delivery_id, delivery.secret, delivery.settings.raw_in_payload)
        payload = render(delivery.target_format, found.raw, shown.message, shown.envelope, options)
        return self._forwarder.send(
            Post(
                delivery_id=delivery.delivery_id,
                attempt_number=delivery.attempt_number,
                target=delivery.target,
                secret=delivery.secret,
                previous_secret=delivery.previous_secret,
                content_type=payload.content_type,
                body=payload.body,
                timeout_s=timeout_s,
            )
        )

    def _failure(self, delivery: ClaimedDelivery, error: Exception, started_ms: int) -> Outcome:
        """The target was not asked, or we do not know: not its fault."""
        if isinstance(error, StoreFailed):
            problem = str(error)  # a customer's own store: the text is for him
        elif isinstance(error, StorageUnavailable):
            log.warning("attempt put off", delivery_id=delivery.delivery_id, reason=str(error))
            problem = f"{error} (not the target's fault)"
        else:
            log.error("attempt failed", delivery_id=delivery.delivery_id, exc_info=error)
            problem = OUR_ERROR
        return our_fault(started_ms, self._clock(), problem)

    def _read_blob(self, delivery: ClaimedDelivery) -> bytes:
        if delivery.blob_key is None:
            raise StorageUnavailable("the message has neither body nor blob")
        return self._blobs.get(delivery.blob_key)

    def _finished(self, found: _Findings, outcome: Outcome) -> FinishedAttempt:
        return FinishedMail(
            delivery=found.delivery,
            outcome=outcome,
            body_text=found.text,
            verdicts=found.verdicts,
            judgement=found.judgement,
            bounce=self._bounce(found, outcome),
        )

    def _bounce(self, found: _Findings, outcome: Outcome) -> bytes | None:
        """An error here must not turn what the target has said into something else."""
        if self._bouncer is None or outcome.verdict is not Verdict.PERMANENT:
            return None
        try:
            return self._bouncer.compose(found.delivery, found.raw, outcome)
        except Exception:
            log.exception("no bounce could be composed", delivery_id=found.delivery.delivery_id)
            return None
