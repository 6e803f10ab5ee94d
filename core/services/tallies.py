"""How many events of each kind every hour has had, by account and domain: what health and limits go by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from core.clock import HOUR_MS
from core.sending.events import NewEvent
from core.store.db import Database

_COUNT = """
INSERT INTO send_tally (account_id, sending_domain_id, hour_ms, kind, count) VALUES {rows}
ON CONFLICT (account_id, sending_domain_id, hour_ms, kind) DO UPDATE SET count = send_tally.count + excluded.count"""


def count_events(database: Database, events: Sequence[NewEvent]) -> None:
    """Add events to the counts, but those of test mode. Inside a transaction."""
    counts = Counter(
        (event.account_id, event.sending_domain_id or "", event.at_ms - event.at_ms % HOUR_MS, event.kind)
        for event in events
        if not event.details.is_test
    )
    # In the order of their keys: two that count at once must not wait for each other.
    database.execute_values(_COUNT, [(*key, count) for key, count in sorted(counts.items())])
