"""Writing events down: with the counts that health and limits go by, and the deliveries that tell webhooks of them.

All in the transaction of whatever they tell of, so that none is lost and none is told of what did not happen.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.sending.events import NewEvent
from core.services.tallies import count_events
from core.services.webhook_fanout import tell_webhooks
from core.store.db import Database

_INSERT = """
INSERT INTO event (id, account_id, sending_domain_id, message_id, delivery_id, kind, recipient, at_ms, details)
VALUES {rows}"""


def insert_events(database: Database, events: Sequence[NewEvent], now_ms: int) -> bool:
    """Write events and what follows from them; whether a webhook is to be told. Inside a transaction.

    Then those who call it ring for `DeliveryKind.EVENTS` after the commit, or leave it to the scheduler's next second.
    """
    if not events:
        return False
    rows = [
        (
            event.event_id, event.account_id, event.sending_domain_id, event.message_id, event.delivery_id, event.kind,
            event.recipient, event.at_ms, event.details.to_json(),
        )
        for event in events
    ]  # fmt: skip
    database.execute_values(_INSERT, rows)
    has_told = tell_webhooks(database, events, now_ms)
    # Last: on PostgreSQL all who count for an account wait for each other from here to the commit.
    count_events(database, events)
    return has_told
