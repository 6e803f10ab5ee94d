"""THE state machine: one pure function decides what becomes of a delivery after each attempt.

A POST to a target is a delivery; so are an error callback, a bounce, a recipient of a sent mail, and a batch of events
for a webhook. A transport only reports an `Outcome`; `decide` turns it into the next state; schedules and exceptions
are data in a `Policy`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

RESPONSE_EXCERPT_BYTES = 2048
"""How much of a failing answer is kept with the attempt (CloudMailin keeps 2 KB as well)."""


class DeliveryKind(StrEnum):
    """What is being delivered, and so which transport carries it."""

    INBOUND = "inbound"
    """A received mail, POSTed to a URL."""
    FORWARD = "forward"
    """A received mail, sent on to a mailbox. Hosts are far slower than URLs: these are worked on apart."""
    ERROR_CALLBACK = "error_callback"
    """A POST that tells of an attempt that failed (`core.services.notices`)."""
    BOUNCE = "bounce"
    """A DSN of ours, by SMTP, to the sender of a mail that the target rejected."""
    SEND_PRIORITY = "send_priority"
    """A customer's mail to one recipient; so are the next two. A queue for each priority (`core.sending.priority`)."""
    SEND = "send"
    SEND_DIGEST = "send_digest"
    RETURNED = "returned"
    """A mail that came to a return path of ours, to be understood."""
    EVENTS = "events"
    """A POST that tells a webhook what became of sent mail."""


SEND_KINDS = (DeliveryKind.SEND_PRIORITY, DeliveryKind.SEND, DeliveryKind.SEND_DIGEST)
"""Customers' mail on its way out."""
MAIL_KINDS = (DeliveryKind.FORWARD, DeliveryKind.BOUNCE, *SEND_KINDS)
"""What goes by SMTP: statuses are its reply codes, and hosts are slower than URLs."""
RECEIVED_KINDS = (DeliveryKind.INBOUND, DeliveryKind.FORWARD)
"""Received mail on its way to its target: what customers see as incoming statuses."""


class DeliveryState(StrEnum):
    """Where a delivery stands. Only PENDING is ever worked on; the others end it until somebody replays it, releases it
    (QUARANTINED) or, with DEFERRED, its sender comes again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    REJECTED = "rejected"
    EXHAUSTED = "exhausted"
    QUARANTINED = "quarantined"
    """A rule or a check holds it."""
    SUPPRESSED = "suppressed"
    """Never sent: its recipient is on a suppression list."""
    CANCELLED = "cancelled"
    """Taken back before its time had come."""
    DEFERRED = "deferred"
    """The sender of an inline mail was told to come again, and keeps it until then."""


class Verdict(StrEnum):
    """What an attempt says of the future."""

    ACCEPTED = "accepted"
    TEMPORARY = "temporary"
    PERMANENT = "permanent"
    HELD = "held"
    """No attempt was made: a rule or a check says that it must not be, for now."""
    SUPPRESSED = "suppressed"
    """No attempt was made: the recipient has come onto a suppression list."""
    BUSY = "busy"
    """No attempt was made: the host has as many connections of ours as it may have. It is its turn soon."""


UNMADE = (Verdict.HELD, Verdict.SUPPRESSED, Verdict.BUSY)
"""Verdicts without an attempt."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt, as the transport saw it."""

    verdict: Verdict
    status: int
    """The HTTP status; 0 when the target could not be reached or did not answer in time."""
    started_ms: int
    duration_ms: int
    error: str | None = None
    """Why there was no usable answer, in words for the customer; None after any HTTP answer."""
    response: str | None = None
    """The first `RESPONSE_EXCERPT_BYTES` of a failing answer."""
    retry_after_ms: int | None = None
    """What a `Retry-After` header asked for, counted from the end of the attempt."""
    refusal_text: str | None = None
    """What a refusing target wants the sender to read: the beginning of a `text/plain` answer."""
    is_timeout: bool = False
    """Whether the target was asked and the time ran out."""
    is_our_fault: bool = False
    """Whether the target was never asked, because something failed on our side."""


BUSY_PAUSE_MS = 1 * SECOND_MS
"""After `BUSY`, at least; twice that at most, so that a crowd does not come back as one. Claims know the host by then,
and wait for a place."""
OUR_ERROR = "an error of ours; it is in the log (not the target's fault)"
"""What customers are told of an exception of ours: that it was one, and no more."""


def our_fault(started_ms: int, now_ms: int, problem: str = OUR_ERROR) -> Outcome:
    """The outcome of an attempt that failed on our side: to be made again, and nothing against the target."""
    return Outcome(Verdict.TEMPORARY, 0, started_ms, max(0, now_ms - started_ms), problem, is_our_fault=True)


@dataclass(frozen=True, slots=True)
class Policy:
    """When to try again and when to stop."""

    schedule_ms: tuple[int, ...]
    """The pause after the first, second, … failed attempt of a cycle; after the last one it is over."""
    give_up_after_ms: int
    """No attempt is planned later than this after the cycle began, whatever `Retry-After` says."""
    jitter: float
    """Each pause is lengthened by up to this share of itself, so that a crowd does not come back as one."""
    max_retry_after_ms: int
    """A `Retry-After` beyond this is cut to it: a target must not park mail for a year."""
    temporary_statuses: frozenset[int] = field(default_factory=frozenset)
    """4xx statuses that mean "later", not "never"."""
    is_retried_by_sender: bool = False
    """Whether the sender still has the mail, and is the one to try again."""


HTTP_POLICY = Policy(
    schedule_ms=(
        *(10 * SECOND_MS, 30 * SECOND_MS, 2 * MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, 30 * MINUTE_MS),
        *(1 * HOUR_MS, 2 * HOUR_MS, 4 * HOUR_MS, 6 * HOUR_MS, 8 * HOUR_MS, 10 * HOUR_MS, 12 * HOUR_MS),
        *(12 * HOUR_MS, 9 * HOUR_MS),
    ),
    give_up_after_ms=3 * DAY_MS,
    jitter=0.1,
    max_retry_after_ms=12 * HOUR_MS,
    temporary_statuses=frozenset({408, 425, 429}),
)
"""65 to 71.4 hours of pauses, by jitter, so that the last attempt falls within the three days. Standard Webhooks
recommends some 75 hours, SendGrid keeps three days. 408, 425 and 429 say "not now" (RFC 9110 section 15.5.9,
RFC 8470, RFC 6585)."""


INLINE_POLICY = Policy(
    schedule_ms=(),
    give_up_after_ms=0,
    jitter=0.0,
    max_retry_after_ms=0,
    temporary_statuses=HTTP_POLICY.temporary_statuses,
    is_retried_by_sender=True,
)
"""The sender waits for the target's answer, and has a retry schedule of its own."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What `decide` needs to know of a delivery, the attempt just made included."""

    attempts_in_cycle: int
    """Attempts since it was accepted or last replayed, at least 1."""
    cycle_started_ms: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The next state, and when to try again if that is PENDING."""

    state: DeliveryState
    due_ms: int | None = None


def http_verdict(status: int, policy: Policy = HTTP_POLICY) -> Verdict:
    """What a target's answer means: 2xx accepts, 4xx rejects for good, everything else is tried again.

    A redirect that was not followed (too many, or one that would drop the POST) is a target's misconfiguration
    that its owner can mend, so it counts as temporary. Status 0 is "no answer".
    """
    if 200 <= status < 300:
        return Verdict.ACCEPTED
    if 400 <= status < 500 and status not in policy.temporary_statuses:
        return Verdict.PERMANENT
    return Verdict.TEMPORARY


def decide(progress: Progress, outcome: Outcome, policy: Policy, now_ms: int, chance: float) -> Decision:
    """Choose what follows an attempt.

    `chance` is a number in [0, 1) that places the next attempt within the jitter: passed in, so that the function
    stays pure.
    """
    if outcome.verdict is Verdict.ACCEPTED:
        return Decision(DeliveryState.DELIVERED)
    if outcome.verdict is Verdict.PERMANENT:
        return Decision(DeliveryState.REJECTED)
    if outcome.verdict is Verdict.HELD:
        return Decision(DeliveryState.QUARANTINED)
    if outcome.verdict is Verdict.SUPPRESSED:
        return Decision(DeliveryState.SUPPRESSED)
    if policy.is_retried_by_sender:
        return Decision(DeliveryState.DEFERRED)
    if outcome.verdict is Verdict.BUSY:  # however long it goes on: what has not been tried is not given up
        return Decision(DeliveryState.PENDING, now_ms + int(BUSY_PAUSE_MS * (1 + chance)))
    return _postpone(progress, outcome, policy, now_ms, chance)


def _postpone(progress: Progress, outcome: Outcome, policy: Policy, now_ms: int, chance: float) -> Decision:
    if progress.attempts_in_cycle > len(policy.schedule_ms):
        return Decision(DeliveryState.EXHAUSTED)
    pause_ms = policy.schedule_ms[progress.attempts_in_cycle - 1]
    due_ms = now_ms + pause_ms + int(pause_ms * policy.jitter * chance)
    if outcome.retry_after_ms is not None:
        due_ms = max(due_ms, now_ms + min(outcome.retry_after_ms, policy.max_retry_after_ms))
    if due_ms > progress.cycle_started_ms + policy.give_up_after_ms:
        return Decision(DeliveryState.EXHAUSTED)
    return Decision(DeliveryState.PENDING, due_ms)
