"""Recipients who want no more mail, and say so with the token in a mail (RFC 8058, or the page behind it).

They are taken off for the sending domain that wrote to them, or for the whole account where the domain is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from core.addresses import parse_mailbox
from core.errors import NotFound
from core.sending.events import EventDetails, EventKind, NewEvent
from core.sending.suppression import SuppressionReason, read_reason, suppression_key
from core.services.events import insert_events
from core.services.suppressions import SAME_DOMAIN_NOW, NewSuppression, SendTarget, add_suppressions
from core.store.db import Database

MAX_RETURNS = 10
"""So often a recipient may leave and come back by the same mail; then leaving stays. Each time is an event."""

_LOAD = f"""
SELECT d.account_id, {SAME_DOMAIN_NOW.format(column="s.sending_domain_id")}, d.message_id, d.recipients, m.mail_from,
       sd.domain
FROM delivery d JOIN sent_message s ON s.message_id = d.message_id JOIN message m ON m.id = d.message_id
     LEFT JOIN sending_domain sd ON sd.id = s.sending_domain_id
WHERE d.id = ?"""  # noqa: S608 (constants)
_TOLD = f"""
SELECT count(*) FROM event
WHERE message_id = ? AND delivery_id = ? AND kind = '{EventKind.UNSUBSCRIBE}'"""  # noqa: S608 (constants)
_LOCK = "SELECT id FROM delivery WHERE id = ? FOR NO KEY UPDATE"
_REASON = """
SELECT reason FROM suppression WHERE account_id = ? AND address = ? AND coalesce(sending_domain_id, '') = ?"""
_OVERRULE = """
UPDATE suppression SET reason = ?, detail = ?, message_id = ?
WHERE account_id = ? AND address = ? AND coalesce(sending_domain_id, '') = ? AND reason IN (?, ?)"""
_REMOVE = """
DELETE FROM suppression
WHERE account_id = ? AND address = ? AND coalesce(sending_domain_id, '') = ? AND reason = ?"""
_BOUNCES = (SuppressionReason.HARD_BOUNCE, SuppressionReason.SOFT_BOUNCE)
"""What a wish to leave takes the place of: else it would go with the bounce when that is forgiven."""
_WISHES = frozenset({SuppressionReason.UNSUBSCRIBE, SuppressionReason.COMPLAINT})


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a recipient would leave."""

    delivery_id: str
    message_id: str
    target: SendTarget
    recipient: str
    sender: str
    """The domain that writes, in lower-case A-labels; empty when it is not known."""
    reason: SuppressionReason | None
    """Why the recipient gets nothing more already; None when he does."""
    times_left: int
    """How often he has left by this mail, as far as events are kept."""

    @property
    def has_left(self) -> bool:
        """Whether the recipient has said that he wants no more: also where an entry of the customer's stands for it."""
        return self.reason in _WISHES or (self.reason is SuppressionReason.MANUAL and self.times_left > 0)

    @property
    def can_return(self) -> bool:
        """Whether `subscribe_again` has something to take back, and may."""
        return self.reason is SuppressionReason.UNSUBSCRIBE and self.times_left <= MAX_RETURNS

    def after_leaving(self) -> Subscription:
        """As it is once the recipient has left."""
        if self.has_left:
            return self
        is_customers = self.reason is SuppressionReason.MANUAL
        reason = self.reason if is_customers else SuppressionReason.UNSUBSCRIBE
        return replace(self, reason=reason, times_left=self.times_left + 1)


def find_subscription(database: Database, delivery_id: str) -> Subscription:
    """What the recipient of a delivery would leave. Raises `NotFound` when it is not kept any more, and
    `StorageUnavailable`."""
    with database.reading():
        return _load(database, delivery_id)


def unsubscribe(database: Database, delivery_id: str, details: EventDetails, now_ms: int) -> bool:
    """Send no more to the recipient of a delivery; gives whether that is new, and an event of it was written.

    Doing it again does nothing. Whoever calls it rings for `DeliveryKind.EVENTS` when it is new. Raises `NotFound` and
    `StorageUnavailable`.
    """
    if find_subscription(database, delivery_id).has_left:
        return False  # without a write: such a URL may be asked for any number of times
    with database.transaction():
        if database.is_postgres:
            database.execute(_LOCK, (delivery_id,))  # of two at once, one writes the event
        found = _load(database, delivery_id)
        if found.has_left:
            return False
        target = found.target
        event = NewEvent(
            EventKind.UNSUBSCRIBE, target.account_id, target.sending_domain_id, found.message_id, delivery_id,
            found.recipient, now_ms, details,
        )  # fmt: skip
        insert_events(database, [event], now_ms)
        entry = NewSuppression(target, SuppressionReason.UNSUBSCRIBE, details.reason, found.message_id)
        add_suppressions(database, [entry], now_ms)
        overruled = (SuppressionReason.UNSUBSCRIBE, details.reason, found.message_id)
        database.execute(_OVERRULE, (*overruled, *_key(target), *_BOUNCES))
    return True


def subscribe_again(database: Database, delivery_id: str) -> bool:
    """Take back what `unsubscribe` did, and nothing else; gives whether there was something to take back. Whoever has
    come back `MAX_RETURNS` times does so no more.

    Raises `NotFound` and `StorageUnavailable`.
    """
    found = find_subscription(database, delivery_id)
    if not found.can_return:
        return False
    with database.transaction():
        database.execute(_REMOVE, (*_key(found.target), SuppressionReason.UNSUBSCRIBE))
    return True


def _load(database: Database, delivery_id: str) -> Subscription:
    rows = database.execute(_LOAD, (delivery_id,))
    if not rows:
        raise NotFound("the mail that this link came with is not kept any more")
    account_id, domain_id, message_id, recipients, mail_from, domain = rows[0]
    recipient = orjson.loads(recipients)[0]
    target = SendTarget(account_id, domain_id, suppression_key(recipient))
    reasons = database.execute(_REASON, _key(target))
    times_left = database.execute(_TOLD, (message_id, delivery_id))[0][0]
    mailbox = parse_mailbox(mail_from)
    sender = domain or (mailbox.domain if mailbox else "")
    reason = read_reason(reasons[0][0]) if reasons else None
    return Subscription(delivery_id, message_id, target, recipient, sender, reason, times_left)


def _key(target: SendTarget) -> tuple[str, str, str]:
    return target.account_id, target.address, target.sending_domain_id or ""
