"""Taking sent messages back: what no worker has begun to deliver is cancelled, and its event tells of it."""

from __future__ import annotations

import orjson

from core.delivery import SEND_KINDS, DeliveryState
from core.errors import NotPossibleNow
from core.sending.events import EventKind, NewEvent
from core.services.events import insert_events
from core.services.sent_messages import SentRecord, SentScope, get_sent
from core.store.db import Database

CANCELLED_BECAUSE = "taken back before it was sent"
# A row that a worker is claiming right now is waited for, and left alone when it was claimed.
_CANCEL = f"""
UPDATE delivery SET state = '{DeliveryState.CANCELLED}', finished_ms = ?, last_error = ?
WHERE id IN (SELECT id FROM delivery WHERE message_id = ? AND attempts = 0 AND lease_token IS NULL
             AND state IN ('{DeliveryState.PENDING}', '{DeliveryState.QUARANTINED}')
             AND kind IN ({", ".join(repr(kind.value) for kind in SEND_KINDS)}) ORDER BY id {{locking}})
RETURNING id, recipients"""  # noqa: S608 (constants)


def cancel_message(database: Database, scope: SentScope, message_id: str, now_ms: int) -> SentRecord:
    """Cancel a message for all recipients whose delivery has not begun; gives how it stands then.

    Raises `NotFound`, and `NotPossibleNow` when there is no such recipient.
    """
    record = get_sent(database, scope, message_id)
    statement = _CANCEL.format(locking="FOR UPDATE" if database.is_postgres else "")
    with database.transaction():
        rows = database.execute(statement, (now_ms, CANCELLED_BECAUSE, message_id))
        events = [
            NewEvent(
                EventKind.CANCELLED, scope.account_id, record.sending_domain_id, message_id, delivery_id,
                orjson.loads(recipients)[0], now_ms,
            )
            for delivery_id, recipients in sorted(rows)
        ]  # fmt: skip
        insert_events(database, events, now_ms)
    if not rows:
        raise NotPossibleNow(f"{message_id} cannot be taken back: its delivery has begun, or is over")
    return get_sent(database, scope, message_id)
