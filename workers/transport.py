"""How deliveries of one kind are made in a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workers.engine import Line


@dataclass(frozen=True, slots=True)
class Transport:
    """How deliveries of one kind are made, and how many at once."""

    line: Line[Any]
    threads: int
    attempt_limit_ms: int
    """The longest an attempt may take: leases are longer."""
    host_concurrency: int | None = None
    """Deliveries in flight to one host at once, over all workers; None for what the settings say."""
