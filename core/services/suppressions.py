"""The suppression lists of accounts, and of single domains, as sending asks and fills them.

`core.services.suppression_lists` is what customers see of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from core.clock import DAY_MS
from core.ids import new_time_ordered_id
from core.sending.suppression import SuppressionReason, read_reason
from core.store.db import Database, Row, places

SOFT_BOUNCE_SPAN_MS = 3 * DAY_MS
"""At least so long after the first must the last soft bounce in a row be: a mailbox that is full over a weekend, or a
host that is down, must not cost its owners their mail."""
SAME_DOMAIN_NOW = """coalesce(
    (SELECT live.id FROM sending_domain was JOIN sending_domain live
     ON live.account_id = was.account_id AND live.domain = was.domain AND live.deleted_ms IS NULL
     WHERE was.id = {column}), {column})"""
"""SQL: the id of a domain, or what it is now if it was deleted and made again. Who leaves by an old mail means that."""
_FIND = """
SELECT account_id, address, sending_domain_id, reason FROM suppression
WHERE account_id IN ({accounts}) AND address IN ({addresses})"""
_ADD = """
INSERT INTO suppression (id, account_id, sending_domain_id, address, reason, detail, message_id, created_ms)
VALUES {rows} ON CONFLICT (account_id, address, (coalesce(sending_domain_id, ''))) DO NOTHING"""
_COUNT_SOFT = """
INSERT INTO soft_bounce (account_id, address, count, first_ms, last_ms) VALUES {{rows}}
ON CONFLICT (account_id, address) DO UPDATE SET
    count = excluded.count + {before},
    first_ms = CASE WHEN {before} = 0 THEN excluded.first_ms ELSE soft_bounce.first_ms END,
    last_ms = CASE WHEN excluded.last_ms > soft_bounce.last_ms THEN excluded.last_ms ELSE soft_bounce.last_ms END
RETURNING account_id, address, count, last_ms - first_ms"""
# While a notice may yet say that the last delivery was none, its mark is the minus before the count.
_COUNT_REFUSALS = _COUNT_SOFT.format(before="CASE WHEN soft_bounce.count > 0 THEN soft_bounce.count ELSE 0 END")
_COUNT_NOTICES = _COUNT_SOFT.format(before="abs(soft_bounce.count)")
_COUNTED = """
WITH wanted (account_id, address) AS (VALUES {rows})
SELECT s.account_id, s.address, s.count FROM wanted CROSS JOIN soft_bounce s
WHERE s.account_id = wanted.account_id AND s.address = wanted.address"""
_UNLESS_LOCKED = " FOR UPDATE OF s SKIP LOCKED"
_FORGET_SOFT = "DELETE FROM soft_bounce WHERE account_id = ? AND address = ?"
_MARK_DELIVERED = "UPDATE soft_bounce SET count = -count WHERE account_id = ? AND address = ? AND count > 0"


@dataclass(frozen=True, slots=True)
class SendTarget:
    """Who would get mail, from whom."""

    account_id: str
    sending_domain_id: str | None
    address: str
    """As `core.sending.suppression.suppression_key` gives it."""


@dataclass(frozen=True, slots=True)
class NewSuppression:
    """An address that gets no more mail."""

    target: SendTarget
    """Without a domain: from none of the account's."""
    reason: SuppressionReason
    detail: str | None = None
    message_id: str | None = None


def find_suppressed(database: Database, targets: Collection[SendTarget]) -> dict[SendTarget, SuppressionReason]:
    """Those of the targets that are suppressed, by their account's list or their domain's."""
    if not targets:
        return {}
    accounts = sorted({target.account_id for target in targets})
    addresses = sorted({target.address for target in targets})
    statement = _FIND.format(accounts=places(accounts), addresses=places(addresses))
    listed = {
        SendTarget(account_id, domain_id, address): read_reason(reason)
        for account_id, address, domain_id, reason in database.execute(statement, (*accounts, *addresses))
    }
    found = {target: listed.get(_of_account(target)) or listed.get(target) for target in targets}
    return {target: reason for target, reason in found.items() if reason is not None}


def add_suppressions(database: Database, entries: Sequence[NewSuppression], now_ms: int) -> None:
    """Put addresses on lists; those that are on them stay as they are. Inside a transaction."""
    # In the order of their keys: two that add at once must not wait for each other.
    rows = sorted({entry.target: entry for entry in entries}.values(), key=lambda entry: _order(entry.target))
    database.execute_values(
        _ADD,
        [
            (
                new_time_ordered_id(now_ms), entry.target.account_id, entry.target.sending_domain_id,
                entry.target.address, entry.reason, entry.detail, entry.message_id, now_ms,
            )
            for entry in rows
        ],
    )  # fmt: skip


def count_soft_bounces(
    database: Database,
    targets: Sequence[SendTarget],
    limit: int,
    now_ms: int,
    *,
    by_notice: bool = False,
    besides: Sequence[NewSuppression] = (),
) -> list[SendTarget]:
    """Count one mail more for each target that has ended without arriving; gives those that are suppressed for it.

    `by_notice` when its host had taken the mail, and told later. Who is over the limit gets no more mail from any
    domain of the account: whether a mailbox is full does not depend on who writes. `limit` 0 is never. Inside a
    transaction, after `insert_events`; what is to be suppressed `besides` goes in here and not before or after it, as
    everybody locks events, then counts, then lists, each in the order of their keys: no deadlock.
    """
    if limit <= 0 or not targets:
        add_suppressions(database, besides, now_ms)
        return []
    counts = Counter((target.account_id, target.address) for target in targets)
    rows = [(*key, count, now_ms, now_ms) for key, count in sorted(counts.items())]
    over = [
        (account_id, address)
        for account_id, address, count, span_ms in database.execute_values(
            _COUNT_NOTICES if by_notice else _COUNT_REFUSALS, rows
        )
        if count >= limit and span_ms >= SOFT_BOUNCE_SPAN_MS
    ]
    add_suppressions(database, [*(_too_many(account_id, address) for account_id, address in over), *besides], now_ms)
    database.execute_many(_FORGET_SOFT, over)
    suppressed = set(over)
    return [target for target in dict.fromkeys(targets) if (target.account_id, target.address) in suppressed]


def forget_soft_bounces(database: Database, targets: Collection[SendTarget]) -> None:
    """Begin to count anew: a host has taken mail. One look along the key where there is nothing to forget.

    Some hosts take mail for full mailboxes and send notices; so the first delivery only leaves a mark, which such a
    notice takes back, and the second forgets. A row that somebody else is changing is left alone: he and we have no
    order. Inside a transaction.
    """
    keys = sorted({(target.account_id, target.address) for target in targets})
    statement = _COUNTED + (_UNLESS_LOCKED if database.is_postgres else "")
    counted = database.execute_values(statement, keys)
    database.execute_many(_FORGET_SOFT, [(account_id, address) for account_id, address, count in counted if count < 0])
    database.execute_many(
        _MARK_DELIVERED, [(account_id, address) for account_id, address, count in counted if count > 0]
    )


def _too_many(account_id: str, address: str) -> NewSuppression:
    detail = "mail has ended without arriving too often in a row"
    return NewSuppression(SendTarget(account_id, None, address), SuppressionReason.SOFT_BOUNCE, detail)


def _order(target: SendTarget) -> Row:
    return target.account_id, target.address, target.sending_domain_id or ""


def _of_account(target: SendTarget) -> SendTarget:
    return SendTarget(target.account_id, None, target.address)
