"""What every request of one application shares: settings, database, clock, bell, blobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from flask import current_app, g

from core.clock import Clock
from core.config import Settings
from core.delivery import DeliveryKind
from core.mx_check import MxCheck
from core.store.blobs import BlobStore
from core.store.db import Database

EXTENSION = "pillarbox"
log = structlog.get_logger("web")


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the core that the API speaks to."""

    settings: Settings
    database: Database
    blobs: BlobStore
    mx_check: MxCheck | None
    clock: Clock
    bell: Callable[[DeliveryKind], None]

    def ring(self, kind: DeliveryKind) -> None:
        """Tell the workers that something is due; to be called after the commit.

        A bell that fails costs latency, never the request: workers look for due deliveries by themselves.
        """
        try:
            self.bell(kind)
        except Exception:
            log.warning("the doorbell failed", kind=kind.value, exc_info=True)


def context() -> Context:
    """The context of the application that serves this request."""
    found: Context = current_app.extensions[EXTENSION]
    return found


def account_id() -> str:
    """The account that this request has authenticated as."""
    authenticated: str = g.account_id
    return authenticated
