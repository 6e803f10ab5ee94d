"""Which transport carries which kind of delivery: where the receiving and the sending edge meet."""

from __future__ import annotations

from collections.abc import Callable

from core.clock import SECOND_MS, Clock
from core.config import Settings
from core.delivery import HTTP_POLICY, DeliveryKind, Policy
from core.fairness import MachineOf, unknown_machine
from core.services.leases import FinishedAttempt
from core.services.notices import follow_received
from core.services.received import ClaimedDelivery, load_received
from core.store.blobs import BlobStore, open_blobs
from core.store.db import Database
from inbound.attempt import InboundAttempt
from inbound.bounce import Bouncer
from inbound.callbacks import ErrorCallbackAttempt
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from inbound.inspection import open_inspector
from inbound.presentation import Presentation
from inbound.storing import open_storing
from outbound.mx import MxTransport
from outbound.policy import SMTP_POLICY
from outbound.timing import Timeouts
from workers.engine import Line
from workers.event_posts import event_transports
from workers.mailing import BounceAttempt, Mailing, open_transport
from workers.returned import returned_transports
from workers.sending import send_transports
from workers.transport import Transport, mails_at_once

FORWARD_THREADS = 16
"""Mails on their way to mailboxes at once in each worker."""
NOTICE_THREADS = 8
"""Error callbacks, and bounces, in flight at once in each worker: they are few, and must not crowd out mail."""
STORES = 2
"""An attempt may upload to two: attachments to one, the whole message to another."""


def open_transports(settings: Settings, database: Database, clock: Clock) -> dict[DeliveryKind, Transport]:
    """The transports of a worker. Raises `ConfigurationError`."""
    session = guarded_session(settings.target_policy, settings.host_concurrency, settings.ca_file or None)
    forwarder = Forwarder(session, DeadlineWatch(), settings.target_timeout, clock)
    mail = open_transport(settings, clock)
    blobs = open_blobs(settings.blob_location)
    attempt, preparing_s = _received(settings, database, blobs, forwarder, mail, clock)
    posting_ms = settings.target_timeout * SECOND_MS
    mailing_ms = int(Timeouts().total_s * SECOND_MS)
    preparing_ms = int(preparing_s * SECOND_MS)
    at_machines = mail.machines.machine_of
    mails = mails_at_once(settings)
    return {
        DeliveryKind.INBOUND: Transport(
            _line(attempt, HTTP_POLICY), settings.worker_threads, posting_ms + preparing_ms
        ),
        DeliveryKind.FORWARD: Transport(
            _line(attempt, SMTP_POLICY, at_machines), FORWARD_THREADS, mailing_ms + preparing_ms, mails
        ),
        DeliveryKind.ERROR_CALLBACK: Transport(
            _line(ErrorCallbackAttempt(forwarder, clock), HTTP_POLICY), NOTICE_THREADS, posting_ms
        ),
        DeliveryKind.BOUNCE: Transport(
            _line(BounceAttempt(mail, blobs, settings.mx_hostname, clock), SMTP_POLICY, at_machines),
            NOTICE_THREADS,
            mailing_ms,
            mails,
        ),
        **send_transports(settings, database, blobs, mail, clock),
        **returned_transports(settings, database, blobs, mail, clock),
        **event_transports(settings, database, blobs, mail, clock),
    }


def _line(
    attempt: Callable[[ClaimedDelivery], FinishedAttempt], policy: Policy, machine_of: MachineOf = unknown_machine
) -> Line[ClaimedDelivery]:
    """Of received mail, and of what follows from it."""
    return Line(attempt, policy, load_received, follow_received, machine_of=machine_of)


def _received(
    settings: Settings,
    database: Database,
    blobs: BlobStore,
    forwarder: Forwarder,
    mail: MxTransport,
    clock: Clock,
) -> tuple[InboundAttempt, float]:
    """What delivers received mail, and how many seconds it may need before the target is asked."""
    inspector = open_inspector(settings, clock)
    storing = open_storing(settings, database, clock)
    attempt = InboundAttempt(
        forwarder,
        Mailing(settings, database, mail, clock).forward,
        blobs,
        inspector,
        Presentation(settings, storing),
        Bouncer(settings, clock),
        clock,
    )
    return attempt, blobs.longest_s + inspector.longest_s + STORES * storing.longest_s
