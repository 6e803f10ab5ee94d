"""The delivery log of a webhook: what was POSTed, what it answered, and trying again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import orjson

from core.clock import Clock
from core.delivery import DeliveryState
from core.errors import NotFound, NotPossibleNow
from core.ids import first_id_at, new_time_ordered_id
from core.netguard import webhook_place
from core.sending.event_bodies import MessageFacts, batches, event_body
from core.sending.event_samples import sample_event
from core.sending.events import INTERNAL_KINDS, EventKind
from core.services.paging import Page, PageRequest
from core.services.replay import BATCH, MAX_REPLAYS, Replayed
from core.services.statuses import AttemptRecord
from core.services.webhook_fanout import EventBatch, insert_batches
from core.services.webhooks import WebhookRecord, get_webhook
from core.store.db import Database, Row, places

LISTED_STATES = (
    *(DeliveryState.PENDING, DeliveryState.DELIVERED, DeliveryState.REJECTED, DeliveryState.EXHAUSTED),
    DeliveryState.QUARANTINED,
)
"""What can become of a batch."""
SAMPLE_DOMAIN = "example.com"
SAMPLE_TAG = "sample"
_NEWER_THAN_ALL = "g"
_COLUMNS = """
d.id, d.state, d.attempts, d.last_status, d.last_error, d.due_ms, d.lease_token, d.created_ms, d.finished_ms, d.detail,
a.number, a.started_ms, a.duration_ms, a.status, a.error, a.response"""
_FROM = """
FROM delivery d LEFT JOIN attempt a ON a.id = (SELECT max(id) FROM attempt WHERE delivery_id = d.id)
WHERE d.webhook_id = ?"""
_LIST = f"SELECT {_COLUMNS} {_FROM} AND d.id < ? {{which}} ORDER BY d.id DESC LIMIT ? OFFSET ?"
_GET = f"SELECT {_COLUMNS} {_FROM} AND d.id = ?"
_MATCHING = """
SELECT id FROM delivery WHERE webhook_id = ? AND state = ? AND id >= ? AND id < ? ORDER BY id DESC LIMIT ?"""
_UNTAKEN = f"""
SELECT id FROM delivery
WHERE webhook_id = ? AND id > ? AND state IN ('{DeliveryState.QUARANTINED}', '{DeliveryState.PENDING}')
ORDER BY id LIMIT ?"""  # noqa: S608 (constants)
_MAKE_DUE = f"""
UPDATE delivery SET state = '{DeliveryState.PENDING}', cycle_attempts = 0, cycle_started_ms = ?, due_ms = ?,
                    lease_token = NULL, finished_ms = NULL, target_host = ?,
                    last_error = CASE WHEN state = '{DeliveryState.QUARANTINED}' THEN NULL ELSE last_error END
WHERE id IN (SELECT id FROM delivery WHERE id IN ({{places}}) AND (lease_token IS NULL OR due_ms <= ?)
             ORDER BY id {{locking}})
RETURNING id"""  # noqa: S608 (constants)


@dataclass(frozen=True, slots=True)
class EventDelivery:
    """One batch of events for a webhook, and where it stands."""

    delivery_id: str
    """Its `webhook-id`, and the cursor behind it."""
    state: DeliveryState
    attempts: int
    last_status: int | None
    """None before the first attempt has ended, 0 when the webhook could not be reached."""
    last_error: str | None
    due_ms: int
    is_leased: bool
    created_ms: int
    finished_ms: int | None
    body: str
    """JSON, as it is POSTed."""
    last_attempt: AttemptRecord | None

    def is_being_attempted(self, now_ms: int) -> bool:
        """Whether a worker has it in hand."""
        return self.state is DeliveryState.PENDING and self.is_leased and self.due_ms > now_ms


def list_deliveries(
    database: Database, webhook: WebhookRecord, state: DeliveryState | None, request: PageRequest
) -> Page[EventDelivery]:
    """The webhook's batches, newest first, perhaps only those in one state. `request.cursor` is an id."""
    which, parameters = ("AND d.state = ?", (state,)) if state is not None else ("", ())
    start = request.cursor or _NEWER_THAN_ALL
    with database.reading():
        rows = database.execute(
            _LIST.format(which=which), (webhook.webhook_id, start, *parameters, request.size + 1, request.offset)
        )
    found = [_record(row) for row in rows[: request.size]]
    return Page(found, found[-1].delivery_id if len(rows) > request.size else None)


def get_delivery(database: Database, webhook: WebhookRecord, delivery_id: str) -> EventDelivery:
    """One batch. Raises `NotFound`."""
    with database.reading():
        rows = database.execute(_GET, (webhook.webhook_id, delivery_id))
    if not rows:
        raise NotFound(f"this webhook has no delivery {delivery_id}")
    return _record(rows[0])


def send_samples(database: Database, account_id: str, webhook_id: str, now_ms: int) -> str:
    """POST one event of each kind that the webhook wants, marked as a test; gives the id of the delivery.

    Raises `NotFound` and `NotPossibleNow`.
    """
    webhook = get_webhook(database, account_id, webhook_id)
    _require_active(webhook)
    draft = webhook.draft
    kinds = draft.kinds or [kind for kind in EventKind if kind not in INTERNAL_KINDS]
    tag = draft.tags[0] if draft.tags else SAMPLE_TAG
    facts = MessageFacts(f"sample@{SAMPLE_DOMAIN}", SAMPLE_DOMAIN, tags=orjson.dumps([tag]).decode())
    bodies = [event_body(sample_event(kind, account_id, now_ms), facts, is_sample=True) for kind in kinds]
    (body,) = batches(bodies)
    batch = EventBatch(new_time_ordered_id(now_ms), account_id, webhook_id, draft.url, body)
    with database.transaction():
        insert_batches(database, [batch], now_ms)
    return batch.delivery_id


def retry_one(database: Database, webhook: WebhookRecord, delivery_id: str, now_ms: int) -> EventDelivery:
    """Make one batch due now, in a new cycle of attempts. Raises `NotFound` and `NotPossibleNow`."""
    _require_active(webhook)
    get_delivery(database, webhook, delivery_id)
    if not _make_due(database, webhook, [delivery_id], now_ms):
        raise NotPossibleNow(f"{delivery_id} is being POSTed at this moment; see what comes of it, then try again")
    return get_delivery(database, webhook, delivery_id)


def retry_matching(
    database: Database, webhook: WebhookRecord, state: DeliveryState, since_ms: int, cursor: str | None, clock: Clock
) -> Replayed:
    """Make all batches in a state that were made since a moment due now, newest first, up to `MAX_REPLAYS`.

    Raises `NotPossibleNow`.
    """
    _require_active(webhook)
    oldest, newest = first_id_at(since_ms), cursor or _NEWER_THAN_ALL
    with database.reading():
        rows = database.execute(_MATCHING, (webhook.webhook_id, state, oldest, newest, MAX_REPLAYS + 1))
    ids = [row[0] for row in rows[:MAX_REPLAYS]]
    retried = sum(_make_due(database, webhook, batch, clock()) for batch in _portions(ids))
    return Replayed(retried, len(ids) - retried, ids[-1] if len(rows) > MAX_REPLAYS else None)


def release_held(database: Database, webhook: WebhookRecord, clock: Clock) -> int:
    """Make due now what a webhook that was switched on again has not taken; gives how many.

    In portions, oldest first, so that nobody waits long. Should that be cut short, `retry_matching` has the rest.
    """
    released = 0
    after = ""
    while True:
        with database.reading():
            ids = [row[0] for row in database.execute(_UNTAKEN, (webhook.webhook_id, after, BATCH))]
        if not ids:
            return released
        released += _make_due(database, webhook, ids, clock())
        after = ids[-1]


def _require_active(webhook: WebhookRecord) -> None:
    if not webhook.draft.is_active:
        raise NotPossibleNow(
            f"{webhook.webhook_id} is switched off; switch it on first, which also releases what it holds"
        )


def _make_due(database: Database, webhook: WebhookRecord, ids: Sequence[str], now_ms: int) -> int:
    """How many of these became due; rows that a worker is claiming or recording right now are passed over."""
    locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""
    statement = _MAKE_DUE.format(places=places(ids), locking=locking)
    with database.transaction():
        place = webhook_place(webhook.draft.url, webhook.webhook_id)
        return len(database.execute(statement, (now_ms, now_ms, place, *ids, now_ms)))


def _portions(ids: Sequence[str]) -> Iterator[list[str]]:
    waiting = iter(ids)
    while portion := list(islice(waiting, BATCH)):
        yield portion


def _record(row: Row) -> EventDelivery:
    (
        delivery_id, state, attempts, last_status, last_error, due_ms, lease_token, created_ms, finished_ms, body,
        *attempt,
    ) = row  # fmt: skip
    return EventDelivery(
        delivery_id=delivery_id,
        state=DeliveryState(state),
        attempts=attempts,
        last_status=last_status,
        last_error=last_error,
        due_ms=due_ms,
        is_leased=lease_token is not None,
        created_ms=created_ms,
        finished_ms=finished_ms,
        body=body,
        last_attempt=None if attempt[0] is None else AttemptRecord(*attempt),
    )
