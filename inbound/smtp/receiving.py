"""The parts of a receiver process, put together as the settings say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from core.clock import Clock
from core.config import Settings
from core.delivery import DeliveryKind, Outcome
from core.services.received import ClaimedDelivery
from core.services.routing_book import StoredAddressBook
from core.store.blobs import open_blobs
from core.store.db import Database
from inbound.attempt import InboundAttempt
from inbound.callbacks import AuthorizationClient
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from inbound.inspection import open_inspector
from inbound.presentation import Presentation
from inbound.smtp.acceptor import Acceptor
from inbound.smtp.book import CachedRoutes
from inbound.smtp.handler import InboundHandler
from inbound.smtp.inline import InlineDelivery
from inbound.smtp.message_gate import MessageGate
from inbound.smtp.recipient_gate import RecipientGate
from inbound.smtp.returns import Returns
from inbound.storing import open_storing


@dataclass(frozen=True, slots=True)
class Receiving:
    """A handler and what works behind it."""

    handler: InboundHandler
    acceptor: Acceptor
    inline: InlineDelivery
    recipient_gate: RecipientGate
    message_gate: MessageGate

    def start(self) -> None:
        """Be ready for mail."""
        self.acceptor.start()

    def stop(self) -> None:
        """Write down what was taken in, and end."""
        self.recipient_gate.stop()
        self.message_gate.stop()
        self.inline.stop()
        self.acceptor.stop()


def open_receiving(
    settings: Settings, database: Database, ring: Callable[[DeliveryKind], None], spool_folder: Path, clock: Clock
) -> Receiving:
    """Put the parts together. Raises `ConfigurationError`."""
    blobs = open_blobs(settings.blob_location)
    session = guarded_session(settings.target_policy, settings.host_concurrency, settings.ca_file or None)
    forwarder = Forwarder(session, DeadlineWatch(), settings.target_timeout, clock)
    inspector = open_inspector(settings, clock)
    presentation = Presentation(settings, open_storing(settings, database, clock))
    inline = InlineDelivery(
        database,
        blobs,
        InboundAttempt(forwarder, _never_forwarded, blobs, inspector, presentation, None, clock),
        clock,
        threads=settings.inline_threads,
        host_concurrency=settings.host_concurrency,
    )
    acceptor = Acceptor(database, blobs, ring)
    gates = (
        RecipientGate(settings, AuthorizationClient(forwarder), inspector.authenticator),
        MessageGate(settings, inspector),
    )
    routes = CachedRoutes(StoredAddressBook(database, clock), settings.domain, clock)
    returns = Returns(settings, database, clock, ThreadPoolExecutor(1, thread_name_prefix="returns"))
    handler = InboundHandler(settings, routes, returns, gates, acceptor, inline, spool_folder, clock)
    return Receiving(handler, acceptor, inline, *gates)


def _never_forwarded(delivery: ClaimedDelivery, raw: bytes) -> Outcome:
    """Only URLs are asked while a sender waits (`Route.is_inline`)."""
    raise AssertionError(f"{delivery.delivery_id} is for a mailbox")
