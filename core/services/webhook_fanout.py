"""Deliveries that tell webhooks of events: one for each webhook and batch, made with the events."""

from __future__ import annotations

from collections.abc import Sequence

from core.sending.events import NewEvent
from core.store.db import Database


def tell_webhooks(database: Database, events: Sequence[NewEvent], now_ms: int) -> None:
    """Insert a delivery of kind `EVENTS` for each webhook that wants some of them. Inside a transaction."""
