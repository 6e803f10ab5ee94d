"""A receiver process: listens, serves sessions, and stops without losing what is in flight."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import uvloop

from core.clock import system_clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.store.db import Database
from inbound.smtp.certificate import tls_context
from inbound.smtp.connections import Connections
from inbound.smtp.handler import InboundHandler
from inbound.smtp.listening import Entrance, make_spool_folder, serve_until_signalled
from inbound.smtp.receiving import open_receiving
from inbound.smtp.session import InboundSession, SessionParts

log = structlog.get_logger("receiver")


def serve(settings: Settings, database: Database, ring: Callable[[DeliveryKind], None]) -> None:
    """Run until SIGTERM or SIGINT. `ring` is called after each commit and must not block or raise."""
    receiving = open_receiving(settings, database, ring, make_spool_folder(settings), system_clock)
    receiving.start()
    try:
        uvloop.run(_serve_until_signalled(settings, receiving.handler))
    finally:
        receiving.stop()


async def _serve_until_signalled(settings: Settings, handler: InboundHandler) -> None:
    connections = Connections(settings)
    shared = SessionParts(handler, connections, settings, tls_context(settings))
    entrance = Entrance("PILLARBOX_SMTP", settings.smtp, lambda: InboundSession(shared))
    await serve_until_signalled(
        [entrance],
        connections,
        lambda: log.info("receiving mail", address=str(settings.smtp), hostname=settings.mx_hostname),
    )
