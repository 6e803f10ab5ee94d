"""The rules of accounts: kept, changed, and loaded for those who judge mail by them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import InvalidField, NotFound
from core.rule_conditions import Conditions, read_conditions
from core.rule_reading import PATTERN_CONDITIONS, check_conditions
from core.rules import Rule, RuleAction
from core.services.paging import Page, PageRequest, bad_cursor
from core.store.db import Database, Row

MAX_RULES = 200
"""Of one account."""
MAX_PATTERNS_OF_ACCOUNT = 500
"""Compiled patterns are cached in each process; one account must not push out all others'."""
MAX_POSITION = 1_000_000
MAX_NOTE_LENGTH = 200
RULE_ID_BYTES = 8  # 16 hex digits, as custom domains have

_RULE = "id, address_id, position, action, conditions, note"
_SELECT = f"SELECT {_RULE}, created_ms, updated_ms FROM rule WHERE account_id = ?"  # noqa: S608 (a constant)
_LIST = f"""{_SELECT} AND (CAST(? AS TEXT) IS NULL OR address_id = ?)
AND (position > ? OR (position = ? AND id > ?)) ORDER BY position, id LIMIT ? OFFSET ?"""
_GET = f"{_SELECT} AND id = ?"
_ALL = "SELECT id, position, conditions FROM rule WHERE account_id = ?"
_LOAD = f"SELECT account_id, {_RULE} FROM rule WHERE account_id IN ({{places}}) ORDER BY position, id"  # noqa: S608
_LOCK_ACCOUNT = "SELECT 1 FROM account WHERE id = ? {locking}"
_LIVE_ADDRESS = "SELECT 1 FROM address WHERE id = ? AND account_id = ? AND deleted_ms IS NULL {locking}"
_INSERT = """
INSERT INTO rule (id, account_id, address_id, position, action, conditions, note, created_ms, updated_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_UPDATE = """
UPDATE rule SET address_id = ?, position = ?, action = ?, conditions = ?, note = ?, updated_ms = ? WHERE id = ?"""
_DELETE = "DELETE FROM rule WHERE id = ?"
_CURSOR = re.compile(r"([0-9]{1,7})-([0-9a-f]{16})")
_BEFORE_ALL = (-1, "")

RulesByAccount = Mapping[str, tuple[Rule, ...]]
"""Each account's rules in their order; accounts without any may be left out."""


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """What a customer says of a rule."""

    action: RuleAction
    conditions: Mapping[str, Any]
    """As `core.rule_reading.check_conditions` takes them."""
    address_id: str | None = None
    position: int | None = None
    """None: behind all others, or where it is."""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class RuleRecord:
    """A rule as it stands."""

    rule: Rule
    created_ms: int
    updated_ms: int


def list_rules(database: Database, account_id: str, address_id: str | None, request: PageRequest) -> Page[RuleRecord]:
    """The account's rules in the order they are asked, perhaps only those of one address.

    Raises `InvalidField` for a cursor that is none.
    """
    position, rule_id = _read_cursor(request.cursor)
    parameters = (account_id, address_id, address_id, position, position, rule_id, request.size + 1, request.offset)
    with database.reading():
        rows = database.execute(_LIST, parameters)
    records = [_record(row) for row in rows[: request.size]]
    if len(rows) <= request.size:
        return Page(records, None)
    last = records[-1].rule
    return Page(records, f"{last.position}-{last.rule_id}")


def get_rule(database: Database, account_id: str, rule_id: str) -> RuleRecord:
    """One rule. Raises `NotFound`."""
    with database.reading():
        return _find(database, account_id, rule_id)


def create_rule(database: Database, account_id: str, draft: RuleDraft, now_ms: int) -> RuleRecord:
    """Make a rule; it is in force within seconds. Raises `InvalidField` and `NotFound` (the address)."""
    conditions = check_conditions(draft.conditions)
    with database.transaction():
        others = _lock_others(database, account_id, None)
        _require_room(others, conditions)
        _require_address(database, account_id, draft.address_id)
        position = _last_position(others) if draft.position is None else draft.position
        rule = Rule(secrets.token_hex(RULE_ID_BYTES), draft.address_id, position, draft.action, conditions, draft.note)
        database.execute(_INSERT, (rule.rule_id, account_id, *_columns(rule), now_ms, now_ms))
    return RuleRecord(rule, now_ms, now_ms)


def update_rule(
    database: Database,
    account_id: str,
    rule_id: str,
    draft: RuleDraft,
    now_ms: int,
    kept: Collection[str] = (),
) -> RuleRecord:
    """Replace a rule, but for the fields named in `kept` (`address_id`, `note`); without a position it stays where it
    is. Raises `InvalidField` and `NotFound`."""
    conditions = check_conditions(draft.conditions)
    with database.transaction():
        others = _lock_others(database, account_id, rule_id)
        before = _find(database, account_id, rule_id)
        _require_room(others, conditions)
        rule = Rule(
            rule_id=rule_id,
            address_id=before.rule.address_id if "address_id" in kept else draft.address_id,
            position=before.rule.position if draft.position is None else draft.position,
            action=draft.action,
            conditions=conditions,
            note=before.rule.note if "note" in kept else draft.note,
        )
        _require_address(database, account_id, rule.address_id)
        database.execute(_UPDATE, (*_columns(rule), now_ms, rule_id))
    return RuleRecord(rule, before.created_ms, now_ms)


def delete_rule(database: Database, account_id: str, rule_id: str) -> RuleRecord:
    """Take a rule away. Raises `NotFound`."""
    with database.transaction():
        record = _find(database, account_id, rule_id)
        database.execute(_DELETE, (rule_id,))
    return record


def load_rules(database: Database, account_ids: Iterable[str]) -> RulesByAccount:
    """The rules of accounts.

    One query along an index; conditions that were read before are not read again. To be called inside
    `Database.reading` or a transaction.
    """
    wanted = sorted(set(account_ids))
    if not wanted:
        return {}
    found: dict[str, list[Rule]] = {}
    for account_id, *row in database.execute(_LOAD.format(places=", ".join("?" * len(wanted))), wanted):
        found.setdefault(account_id, []).append(_rule(*row))
    return {account_id: tuple(rules) for account_id, rules in found.items()}


def rules_for(loaded: RulesByAccount, account_id: str, address_id: str) -> tuple[Rule, ...]:
    """Those by which mail to one address is judged, in their order."""
    rules = loaded.get(account_id, ())
    return tuple(rule for rule in rules if rule.address_id is None or rule.address_id == address_id)


@dataclass(frozen=True, slots=True)
class _Other:
    """Another rule of the account, as the limits see it."""

    position: int
    patterns: int


def _lock_others(database: Database, account_id: str, rule_id: str | None) -> list[_Other]:
    """The account's other rules; nobody else makes or changes one until the transaction ends."""
    database.execute(_LOCK_ACCOUNT.format(locking=_locking(database)), (account_id,))
    rows = database.execute(_ALL, (account_id,))
    return [
        _Other(position, _count_patterns(read_conditions(text)))
        for found_id, position, text in rows
        if found_id != rule_id
    ]


def _require_room(others: list[_Other], conditions: Conditions) -> None:
    if len(others) >= MAX_RULES:
        raise InvalidField(
            "rules", f"there are {MAX_RULES} already, the most of one account; put several values into one condition"
        )
    if _count_patterns(conditions) + sum(other.patterns for other in others) > MAX_PATTERNS_OF_ACCOUNT:
        raise InvalidField(
            "conditions",
            f"with them all rules together would have more than {MAX_PATTERNS_OF_ACCOUNT} patterns; name senders and "
            "domains outright where possible",
        )


def _count_patterns(conditions: Conditions) -> int:
    return sum(len(getattr(conditions, name)) for name in PATTERN_CONDITIONS)


def _last_position(others: list[_Other]) -> int:
    return min(max((other.position for other in others), default=0) + 1, MAX_POSITION)


def _require_address(database: Database, account_id: str, address_id: str | None) -> None:
    """Locked, lest it be deleted with its rules before this one is there."""
    if address_id is None:
        return
    if not database.execute(_LIVE_ADDRESS.format(locking=_locking(database)), (address_id, account_id)):
        raise NotFound(f"this account has no address {address_id}")


def _locking(database: Database) -> str:
    return "FOR NO KEY UPDATE" if database.is_postgres else ""


def _read_cursor(cursor: str | None) -> tuple[int, str]:
    if cursor is None:
        return _BEFORE_ALL
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise bad_cursor()
    return int(match[1]), match[2]


def _find(database: Database, account_id: str, rule_id: str) -> RuleRecord:
    rows = database.execute(_GET, (account_id, rule_id))
    if not rows:
        raise NotFound(f"this account has no rule {rule_id}")
    return _record(rows[0])


def _columns(rule: Rule) -> tuple[Any, ...]:
    return rule.address_id, rule.position, rule.action.value, rule.conditions.to_json(), rule.note


def _record(row: Row) -> RuleRecord:
    *columns, created_ms, updated_ms = row
    return RuleRecord(_rule(*columns), created_ms, updated_ms)


def _rule(rule_id: str, address_id: str | None, position: int, action: str, text: str, note: str | None) -> Rule:
    return Rule(rule_id, address_id, position, RuleAction(action), read_conditions(text), note)
