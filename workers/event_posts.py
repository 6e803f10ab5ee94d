"""Events on their way to webhooks: signed POSTs through the guarded client, tried again for three days."""

from __future__ import annotations

from dataclasses import replace

from core.clock import SECOND_MS, Clock
from core.config import Settings
from core.delivery import HTTP_POLICY, DeliveryKind, Outcome, Verdict
from core.services.event_posts import (
    GONE_STATUS,
    NOT_CALLED_BECAUSE,
    EventPost,
    follow_event_posts,
    load_event_posts,
)
from core.services.leases import FinishedAttempt
from core.store.blobs import BlobStore
from core.store.db import Database
from inbound.forward import Forwarder, Post
from inbound.guarded_http import DeadlineWatch, guarded_session
from outbound.mx import MxTransport
from workers.engine import Line
from workers.transport import Transport

EVENT_THREADS = 16
"""Batches in flight at once in each worker."""
CONTENT_TYPE = "application/json"


class EventPostAttempt:
    """Makes attempts at deliveries of kind `EVENTS`, from any thread."""

    def __init__(self, forwarder: Forwarder, clock: Clock) -> None:
        self._forwarder = forwarder
        self._clock = clock

    def __call__(self, delivery: EventPost) -> FinishedAttempt:
        """POST the batch to where its webhook is now; without an attempt where that is not to be called."""
        reason = NOT_CALLED_BECAUSE.get(delivery.standing)
        if reason is not None:
            return FinishedAttempt(delivery, Outcome(Verdict.HELD, 0, self._clock(), 0, reason))
        return FinishedAttempt(delivery, _patient(self._forwarder.send(_to_post(delivery))))


def event_transports(
    settings: Settings, database: Database, blobs: BlobStore, mail: MxTransport, clock: Clock
) -> dict[DeliveryKind, Transport]:
    """The transports of batches of events. Raises `ConfigurationError`."""
    session = guarded_session(settings.target_policy, settings.host_concurrency, settings.ca_file or None)
    forwarder = Forwarder(session, DeadlineWatch(), settings.target_timeout, clock)
    line = Line(EventPostAttempt(forwarder, clock), HTTP_POLICY, load_event_posts, follow_event_posts)
    return {DeliveryKind.EVENTS: Transport(line, EVENT_THREADS, settings.target_timeout * SECOND_MS)}


def _to_post(delivery: EventPost) -> Post:
    return Post(
        delivery_id=delivery.delivery_id,
        attempt_number=delivery.attempt_number,
        target=delivery.url,
        secret=delivery.secret,
        previous_secret=delivery.previous_secret,
        content_type=CONTENT_TYPE,
        body=delivery.body.encode(),
    )


def _patient(outcome: Outcome) -> Outcome:
    """A 404 or 401 of an hour of bad deployment must not lose events, so only 410 is an end (as Standard Webhooks has
    it). A mail that a target refuses is another matter: its sender can be told."""
    if outcome.verdict is Verdict.PERMANENT and outcome.status != GONE_STATUS:
        return replace(outcome, verdict=Verdict.TEMPORARY, refusal_text=None)
    return outcome
