"""Mail that workers send: forwarded to mailboxes that are targets, and bounces."""

from __future__ import annotations

import structlog

from core.clock import Clock
from core.config import Settings
from core.delivery import OUR_ERROR, Outcome, our_fault
from core.errors import StorageUnavailable
from core.loop_mark import forwarded_mark
from core.mailto import parse_mailto
from core.services.leases import FinishedAttempt
from core.services.received import ClaimedDelivery
from core.services.secrets import shared_secret
from core.srs import SECRET_NAME, SrsRewriter
from core.store.blobs import BlobStore
from core.store.db import Database
from outbound.forward_mail import Forward, MailForwarder, received_lines
from outbound.mail import OutgoingMail
from outbound.mx import MxTransport, mx_transport_for
from outbound.pool import ConnectionPool, PoolLimits

log = structlog.get_logger("worker")


class Mailing:
    """Forwards mail to the mailboxes that are targets, from any thread."""

    def __init__(self, settings: Settings, database: Database, transport: MxTransport, clock: Clock) -> None:
        self._settings = settings
        self._database = database
        self._transport = transport
        self._clock = clock

    def forward(self, delivery: ClaimedDelivery, content: bytes) -> Outcome:
        """Send a message on as it has been prepared. Raises `StorageUnavailable` (the secret of senders' rewriting)."""
        srs = SrsRewriter(shared_secret(self._database, SECRET_NAME), self._settings.domain, self._clock)
        forwarder = MailForwarder(self._transport, srs, self._settings.mx_hostname, self._clock)
        result = forwarder.send(
            Forward(
                delivery_id=delivery.delivery_id,
                envelope=delivery.envelope,
                target=parse_mailto("target", delivery.target),
                mark=forwarded_mark(delivery.address_id, self._settings.mx_hostname),
                content=content,
            )
        )
        return result.outcome


class BounceAttempt:
    """Makes attempts at deliveries of kind `BOUNCE`: mail with the null sender to one recipient."""

    def __init__(self, transport: MxTransport, blobs: BlobStore, our_name: str, clock: Clock) -> None:
        self._transport = transport
        self._blobs = blobs
        self._our_name = our_name
        self._clock = clock

    def __call__(self, delivery: ClaimedDelivery) -> FinishedAttempt:
        """Make the attempt; never raises."""
        started_ms = self._clock()
        try:
            mail = OutgoingMail("", delivery.envelope.recipients, self._content(delivery))
            return FinishedAttempt(delivery, self._transport.deliver(mail)[0].outcome)
        except StorageUnavailable as error:
            problem = str(error)
        except Exception:
            log.exception("bounce failed", delivery_id=delivery.delivery_id)
            problem = OUR_ERROR
        return FinishedAttempt(delivery, our_fault(started_ms, self._clock(), problem))

    def _content(self, delivery: ClaimedDelivery) -> bytes:
        """Our own DSNs as they are; a bounce that came in from elsewhere with its trace, so that loops show."""
        body = delivery.body
        if body is None:
            if delivery.blob_key is None:
                raise StorageUnavailable("the bounce has no content any more")
            body = self._blobs.get(delivery.blob_key)
        if not delivery.envelope.remote_ip:
            return body
        trace = received_lines(delivery.envelope, self._our_name, delivery.delivery_id)
        return "".join(f"{line}\r\n" for line in trace).encode() + body


def open_transport(settings: Settings, clock: Clock) -> MxTransport:
    """The way out, with its kept connections. Raises `ConfigurationError`."""
    kept = ConnectionPool(PoolLimits(per_place=settings.connections_per_host))
    return mx_transport_for(settings, clock, kept, dnssec=settings.dnssec)
