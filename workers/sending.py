"""Mail that customers send: one attempt for one recipient."""

from __future__ import annotations

from core.clock import Clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.store.blobs import BlobStore
from core.store.db import Database
from outbound.mx import MxTransport
from workers.transport import Transport


def send_transports(
    settings: Settings, database: Database, blobs: BlobStore, mail: MxTransport, clock: Clock
) -> dict[DeliveryKind, Transport]:
    """The transports of mail that customers send, one for each priority. Raises `ConfigurationError`."""
    return {}
