"""Batches of events in the hands of a worker: what a POST of one needs, and what follows from its outcome.

A webhook that is gone or has failed for a whole schedule is switched off here. What it has not taken by then is held,
and goes out when it is switched on again (`core.services.webhook_deliveries.release_held`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import structlog

from core.delivery import HTTP_POLICY, DeliveryKind, DeliveryState, Progress
from core.ids import first_id_at
from core.services.leases import LeasedDelivery, RecordedAttempt
from core.services.webhooks import DisabledBecause
from core.store.db import Database, Row, places

GONE_STATUS = 410
"""An answer that wants no more, ever (RFC 9110 section 15.5.11, and Standard Webhooks)."""
_LOAD = """
SELECT d.id, d.account_id, d.due_ms, d.attempts, d.cycle_attempts, d.cycle_started_ms, d.target_host, d.detail,
       w.id, w.url, w.secret, CASE WHEN w.previous_secret_until_ms > ? THEN w.previous_secret END, w.is_active,
       w.disabled_because, w.deleted_ms
FROM delivery d JOIN webhook w ON w.id = d.webhook_id WHERE d.id IN ({places}) ORDER BY d.id"""
_LOCK = """
SELECT id, url, is_active, disabled_because, deleted_ms FROM webhook WHERE id IN ({places}) ORDER BY id {locking}"""
_DISABLE = "UPDATE webhook SET is_active = FALSE, disabled_because = ?, updated_ms = ? WHERE id = ?"
_TAKEN_SINCE = """
SELECT 1 FROM delivery WHERE webhook_id = ? AND state = 'delivered' AND finished_ms >= ? AND id >= ?
ORDER BY id DESC LIMIT 1"""
_SETTLE = "UPDATE delivery SET state = ?, last_error = ? WHERE id IN ({places})"
_UNHOLD = f"""
UPDATE delivery SET state = '{DeliveryState.PENDING}', due_ms = ?, finished_ms = NULL, last_error = NULL
WHERE id IN ({{places}})"""  # noqa: S608 (constants)

log = structlog.get_logger("webhooks")


class Standing(Enum):
    """Whether a webhook is to be called."""

    ACTIVE = auto()
    SWITCHED_OFF = auto()
    """By its owner."""
    FAILING = auto()
    GONE = auto()
    DELETED = auto()


NOT_CALLED_BECAUSE: Mapping[Standing, str] = {
    Standing.SWITCHED_OFF: "held: the webhook is switched off",
    Standing.FAILING: "held: the webhook was switched off because it had only failed for days",
    Standing.GONE: "not sent: the webhook has answered 410 (gone)",
    Standing.DELETED: "not sent: the webhook was deleted",
}
"""What is told of batches for webhooks that are not called."""
_HOLDING = (Standing.SWITCHED_OFF, Standing.FAILING)
"""Their batches wait until they are switched on again; those of others end."""
_OFF = {DisabledBecause.GONE: Standing.GONE, DisabledBecause.FAILING: Standing.FAILING}


@dataclass(frozen=True, slots=True)
class EventPost(LeasedDelivery):
    """A batch of events on its way to a webhook."""

    webhook_id: str
    url: str
    secret: str
    previous_secret: str | None
    """Signs as well, while a rotation lasts."""
    standing: Standing
    body: str


@dataclass(frozen=True, slots=True)
class _Webhook:
    """A webhook as it stands under our lock."""

    url: str
    standing: Standing


def load_event_posts(database: Database, leased: Sequence[str], token: str, now_ms: int) -> list[EventPost]:
    """What attempts need of batches that are leased under this token."""
    rows = database.execute(_LOAD.format(places=places(leased)), (now_ms, *leased))
    return [post for row in rows if (post := _readable(row, token)) is not None]


def follow_event_posts(database: Database, recorded: Sequence[RecordedAttempt], now_ms: int) -> None:
    """Switch off webhooks that are gone or only fail, and keep what they have not taken. Inside a transaction.

    What is taken, or simply tried again, asks nothing of the database.
    """
    notable = [(entry, _post_of(entry)) for entry in recorded if entry.counts and _is_notable(entry)]
    if not notable:
        return
    webhooks = _lock(database, {post.webhook_id for _, post in notable})
    for webhook_id, webhook in sorted(webhooks.items()):
        own = [(entry, post) for entry, post in notable if post.webhook_id == webhook_id]
        reason = _reason_to_disable(database, webhook, own)
        if reason is not None:
            database.execute(_DISABLE, (reason, now_ms, webhook_id))
            log.warning("a webhook was switched off", webhook_id=webhook_id, reason=reason.value)
            webhook = _Webhook(webhook.url, _OFF[reason])
        _settle(database, webhook.standing, own, now_ms)


def _is_notable(entry: RecordedAttempt) -> bool:
    return entry.decision.state in (DeliveryState.REJECTED, DeliveryState.EXHAUSTED, DeliveryState.QUARANTINED)


def _reason_to_disable(
    database: Database, webhook: _Webhook, own: Iterable[tuple[RecordedAttempt, EventPost]]
) -> DisabledBecause | None:
    """Answers that another URL has given do not count against the present one."""
    if webhook.standing is not Standing.ACTIVE:
        return None
    asked = [(entry, post) for entry, post in own if post.url == webhook.url]
    if any(entry.attempt.outcome.status == GONE_STATUS for entry, _ in asked):
        return DisabledBecause.GONE
    exhausted = [post for entry, post in asked if entry.decision.state is DeliveryState.EXHAUSTED]
    if exhausted and not _has_taken_any(database, max(exhausted, key=lambda post: post.progress.cycle_started_ms)):
        return DisabledBecause.FAILING
    return None


def _has_taken_any(database: Database, exhausted: EventPost) -> bool:
    """Whether a batch was taken since the attempts at this one began; none that began a whole schedule before."""
    since_ms = exhausted.progress.cycle_started_ms
    oldest = first_id_at(since_ms - HTTP_POLICY.give_up_after_ms)
    return bool(database.execute(_TAKEN_SINCE, (exhausted.webhook_id, since_ms, oldest)))


def _settle(
    database: Database, standing: Standing, own: Sequence[tuple[RecordedAttempt, EventPost]], now_ms: int
) -> None:
    """What was not called goes out after all, stays held, or ends, as its webhook stands by now; what is exhausted
    waits with a webhook that is off."""
    held, exhausted = (_ids_in(own, state) for state in (DeliveryState.QUARANTINED, DeliveryState.EXHAUSTED))
    if standing is Standing.ACTIVE:
        if held:
            database.execute(_UNHOLD.format(places=places(held)), (now_ms, *held))
        return
    is_holding = standing in _HOLDING
    settled = exhausted if is_holding else held
    if settled:
        state = DeliveryState.QUARANTINED if is_holding else DeliveryState.REJECTED
        database.execute(_SETTLE.format(places=places(settled)), (state, NOT_CALLED_BECAUSE[standing], *settled))


def _ids_in(own: Iterable[tuple[RecordedAttempt, EventPost]], state: DeliveryState) -> list[str]:
    return [post.delivery_id for entry, post in own if entry.decision.state is state]


def _lock(database: Database, webhook_ids: Iterable[str]) -> dict[str, _Webhook]:
    """Nobody switches these on or off until the transaction ends."""
    wanted = sorted(webhook_ids)
    locking = "FOR NO KEY UPDATE" if database.is_postgres else ""
    rows = database.execute(_LOCK.format(places=places(wanted), locking=locking), wanted)
    return {
        webhook_id: _Webhook(url, _standing(bool(is_active), because, deleted_ms is not None))
        for webhook_id, url, is_active, because, deleted_ms in rows
    }


def _post_of(entry: RecordedAttempt) -> EventPost:
    delivery = entry.attempt.delivery
    assert isinstance(delivery, EventPost)
    return delivery


def _standing(is_active: bool, disabled_because: str | None, is_deleted: bool) -> Standing:
    if is_deleted:
        return Standing.DELETED
    if is_active:
        return Standing.ACTIVE
    if disabled_because is None:
        return Standing.SWITCHED_OFF
    return _OFF[DisabledBecause(disabled_because)]


def _readable(row: Row, token: str) -> EventPost | None:
    """None for a row that another version has written and this one cannot read: it is left to its lease."""
    try:
        return _post(row, token)
    except (ValueError, TypeError) as error:
        log.error("a batch of another version cannot be read", delivery_id=row[0], reason=str(error))
        return None


def _post(row: Row, token: str) -> EventPost:
    (
        delivery_id, account_id, due_ms, attempts, cycle_attempts, cycle_started_ms, target_host, body, webhook_id, url,
        secret, previous_secret, is_active, disabled_because, deleted_ms,
    ) = row  # fmt: skip
    return EventPost(
        delivery_id=delivery_id,
        kind=DeliveryKind.EVENTS,
        account_id=account_id,
        lease_token=token,
        lease_end_ms=due_ms,
        attempt_number=attempts,
        progress=Progress(cycle_attempts, cycle_started_ms),
        target_host=target_host,
        webhook_id=webhook_id,
        url=url,
        secret=secret,
        previous_secret=previous_secret,
        standing=_standing(bool(is_active), disabled_because, deleted_ms is not None),
        body=body,
    )
