"""Mail that came to a return path: it is understood, and what it tells becomes events and suppressions."""

from __future__ import annotations

import structlog

from core.clock import SECOND_MS, Clock
from core.config import Settings
from core.delivery import HTTP_POLICY, OUR_ERROR, DeliveryKind, Outcome, Verdict, our_fault
from core.errors import StorageUnavailable
from core.sending import verp
from core.sending.verp import ReturnPaths
from core.services.returned import FinishedReturned, FollowReturned, ReturnedMail, load_returned
from core.services.secrets import shared_secret
from core.store.blobs import BlobStore
from core.store.db import Database
from inbound.returned_mail import classify
from outbound.mx import MxTransport
from workers.engine import Line
from workers.transport import Transport

RETURNED_THREADS = 2
"""To understand a mail is computing only, a few milliseconds."""
UNDERSTANDING_S = 30
"""More than the 2 MiB that are read can take."""
UNDERSTOOD = 250
"""The status of such an attempt, as SMTP has it."""

log = structlog.get_logger("worker")


class ReturnedAttempt:
    """Makes attempts at deliveries of kind `RETURNED`."""

    def __init__(self, database: Database, blobs: BlobStore, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock

    def __call__(self, mail: ReturnedMail) -> FinishedReturned:
        """Understand a mail; never raises."""
        started_ms = self._clock()
        try:
            paths = ReturnPaths(shared_secret(self._database, verp.SECRET_NAME), self._clock)
            returned = classify(self._content(mail), mail.mail_from, mail.recipients, paths)
            outcome = Outcome(Verdict.ACCEPTED, UNDERSTOOD, started_ms, max(0, self._clock() - started_ms))
            return FinishedReturned(mail, outcome, returned=returned)
        except StorageUnavailable as error:
            problem = str(error)
        except Exception:
            log.exception("a returned mail failed", delivery_id=mail.delivery_id)
            problem = OUR_ERROR
        return FinishedReturned(mail, our_fault(started_ms, self._clock(), problem))

    def _content(self, mail: ReturnedMail) -> bytes:
        if mail.body is not None:
            return mail.body
        if mail.blob_key is None:
            raise StorageUnavailable("the returned mail has no content any more")
        return self._blobs.get(mail.blob_key)


def returned_transports(
    settings: Settings, database: Database, blobs: BlobStore, mail: MxTransport, clock: Clock
) -> dict[DeliveryKind, Transport]:
    """The transports of mail that came to return paths. Raises `ConfigurationError`."""
    line = Line(
        ReturnedAttempt(database, blobs, clock),
        HTTP_POLICY,
        load_returned,
        FollowReturned(settings.soft_bounce_limit),
        rings=(DeliveryKind.EVENTS,),
    )
    return {
        DeliveryKind.RETURNED: Transport(line, RETURNED_THREADS, int(UNDERSTANDING_S + blobs.longest_s) * SECOND_MS)
    }
