"""The suppression lists of accounts, and of single domains."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from core.ids import new_time_ordered_id
from core.sending.suppression import SuppressionReason
from core.store.db import Database, places

_FIND = """
SELECT account_id, address, sending_domain_id, reason FROM suppression
WHERE account_id IN ({accounts}) AND address IN ({addresses})"""
_ADD = """
INSERT INTO suppression (id, account_id, sending_domain_id, address, reason, detail, message_id, created_ms)
VALUES {rows} ON CONFLICT (account_id, address, (coalesce(sending_domain_id, ''))) DO NOTHING"""


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
        SendTarget(account_id, domain_id, address): SuppressionReason(reason)
        for account_id, address, domain_id, reason in database.execute(statement, (*accounts, *addresses))
    }
    found = {target: listed.get(_of_account(target)) or listed.get(target) for target in targets}
    return {target: reason for target, reason in found.items() if reason is not None}


def add_suppressions(database: Database, entries: Sequence[NewSuppression], now_ms: int) -> None:
    """Put addresses on lists; those that are on them stay as they are. Inside a transaction."""
    rows = sorted({entry.target: entry for entry in entries}.values(), key=lambda entry: entry.target.address)
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


def _of_account(target: SendTarget) -> SendTarget:
    return SendTarget(target.account_id, None, target.address)
