"""Mail that came to a return path: it is understood, and what it tells becomes events and suppressions."""

from __future__ import annotations

from core.clock import Clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.store.blobs import BlobStore
from core.store.db import Database
from outbound.mx import MxTransport
from workers.transport import Transport


def returned_transports(
    settings: Settings, database: Database, blobs: BlobStore, mail: MxTransport, clock: Clock
) -> dict[DeliveryKind, Transport]:
    """The transports of mail that came to return paths. Raises `ConfigurationError`."""
    return {}
