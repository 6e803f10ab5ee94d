"""How deliveries of one kind are made in a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.config import Settings
from workers.engine import Line

AHEAD = 2
"""Mails in flight for each connection that there may be: while one is on its way, the next is read and signed, and the
one before is written down. (Measured with a relay 20 ms away, whose ten connections
carry 167 a second at most: 154, against 141 with one each.)"""


@dataclass(frozen=True, slots=True)
class Transport:
    """How deliveries of one kind are made, and how many at once."""

    line: Line[Any]
    threads: int
    attempt_limit_ms: int
    """The longest an attempt may take: leases are longer."""
    host_concurrency: int | None = None
    """Deliveries in flight to one host at once, over all workers; None for what the settings say."""


def mails_at_once(settings: Settings) -> int:
    """The `host_concurrency` of what goes by SMTP. Where it is too much the host is slow, and
    `core.fairness.Crowds` has it be less."""
    return min(settings.host_concurrency, AHEAD * settings.connections_per_host)
