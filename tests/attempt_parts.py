"""An `InboundAttempt` with real parts and no checks switched on, for tests of what it does."""

from __future__ import annotations

from pathlib import Path

from core.clock import Clock
from core.config import load_settings
from core.delivery import Outcome
from core.services.received import ClaimedDelivery
from core.store.blobs import BlobStore
from core.store.db import Database
from inbound.attempt import ForwardMail, InboundAttempt
from inbound.bounce import Bouncer
from inbound.forward import Forwarder
from inbound.inspection import open_inspector
from inbound.presentation import Presentation
from inbound.storing import open_storing


def never_forwards(delivery: ClaimedDelivery, raw: bytes) -> Outcome:
    """For tests without mailboxes."""
    raise AssertionError(f"{delivery.delivery_id} is not for a mailbox")


def make_attempt(
    folder: Path,
    database: Database,
    forwarder: Forwarder,
    blobs: BlobStore,
    clock: Clock,
    forward_mail: ForwardMail = never_forwards,
    **environment: str,
) -> InboundAttempt:
    """Put the parts together."""
    settings = load_settings({"PILLARBOX_DATA": str(folder / "data"), **environment})
    presentation = Presentation(settings, open_storing(settings, database, clock))
    inspector = open_inspector(settings, clock)
    return InboundAttempt(forwarder, forward_mail, blobs, inspector, presentation, Bouncer(settings, clock), clock)
