"""Making and deleting sending domains, and changing how they send."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import peewee

from core.errors import InvalidField
from core.ids import new_domain_id
from core.sending.domain_schedule import FIRST_CHECK_MS
from core.sending.key_rotation import KeyState
from core.sending.send_settings import settings_json
from core.sending.send_settings_check import changed_settings
from core.sending.sending_domains import KeyAlgorithm, KeyPair, new_key, selector_for, sending_domain
from core.services.sending_domain_records import (
    SendingDomainRecord,
    find_domain,
    lock_domain,
    locking,
    save_state,
)
from core.store.db import Database

MAX_DOMAINS = 500
"""Of one account: each is looked up in the DNS every day."""
_LOCK_ACCOUNT = "SELECT 1 FROM account WHERE id = ? {locking}"
_COUNT = "SELECT count(*) FROM sending_domain WHERE account_id = ? AND deleted_ms IS NULL"
_TAKEN = "SELECT id FROM sending_domain WHERE account_id = ? AND domain = ? AND deleted_ms IS NULL"
_INSERT = "INSERT INTO sending_domain (id, account_id, domain, next_check_ms, created_ms) VALUES (?, ?, ?, ?, ?)"
_INSERT_KEY = """
INSERT INTO domain_key (sending_domain_id, selector, algorithm, state, since_ms, private_pem, public_record)
VALUES (?, ?, ?, ?, ?, ?, ?)"""
_LAST_DELETED = """
SELECT id FROM sending_domain WHERE account_id = ? AND domain = ? AND deleted_ms IS NOT NULL
ORDER BY deleted_ms DESC LIMIT 1"""
_TAKE_OVER = (
    """UPDATE sending_domain SET (paused_ms, paused_because) =
        (SELECT o.paused_ms, o.paused_because FROM sending_domain o WHERE o.id = ?) WHERE id = ?""",
    "UPDATE suppression SET sending_domain_id = ? WHERE sending_domain_id = ?",
    "UPDATE send_tally SET sending_domain_id = ? WHERE sending_domain_id = ?",
)
_REPOINT_WEBHOOKS = "UPDATE webhook SET domains = replace(domains, ?, ?) WHERE account_id = ?"
"""Ids of domains stand quoted in a JSON list."""
_DELETE = "UPDATE sending_domain SET deleted_ms = ? WHERE id = ?"
_SET = "UPDATE sending_domain SET settings = ? WHERE id = ?"


def create_domain(
    database: Database, account_id: str, name: str, others: Collection[KeyAlgorithm], now_ms: int
) -> SendingDomainRecord:
    """Begin to send from a domain: with an RSA key, and one of each of the `others`. Raises `InvalidField`.

    Keys take long to make, so that they are made before the transaction; what could change meanwhile is looked at again
    within it.
    """
    domain = sending_domain(name)
    with database.reading():
        _require_room(database, account_id, domain)
    pairs = [new_key(algorithm) for algorithm in (KeyAlgorithm.RSA, *sorted(set(others) - {KeyAlgorithm.RSA}))]
    domain_id = new_domain_id()
    try:
        with database.transaction():
            database.execute(_LOCK_ACCOUNT.format(locking=locking(database)), (account_id,))
            _require_room(database, account_id, domain)
            database.execute(_INSERT, (domain_id, account_id, domain, now_ms + FIRST_CHECK_MS, now_ms))
            _take_over(database, account_id, domain, domain_id)
            for pair in pairs:
                insert_key(database, domain_id, selector_for(pair.public_record, now_ms), pair, now_ms)
            return find_domain(database, account_id, domain_id)
    except peewee.IntegrityError as error:  # another request was faster; the unique index decides
        raise _taken(domain) from error


def _take_over(database: Database, account_id: str, domain: str, domain_id: str) -> None:
    """What protects others goes on for a domain that was deleted and made again: its pause, its counts, and who wants
    no more mail from it; and webhooks that want its events get them."""
    for (before_id,) in database.execute(_LAST_DELETED, (account_id, domain)):
        pause, *moves = _TAKE_OVER
        database.execute(pause, (before_id, domain_id))
        for statement in moves:
            database.execute(statement, (domain_id, before_id))
        database.execute(_REPOINT_WEBHOOKS, (f'"{before_id}"', f'"{domain_id}"', account_id))


def insert_key(database: Database, domain_id: str, selector: str, pair: KeyPair, now_ms: int) -> None:
    """Keep a new key, which waits for its record. Inside a transaction."""
    values = (domain_id, selector, pair.algorithm, KeyState.PENDING, now_ms, pair.private_pem, pair.public_record)
    database.execute(_INSERT_KEY, values)


def delete_domain(database: Database, account_id: str, domain_id: str, now_ms: int) -> SendingDomainRecord:
    """Send no more from a domain; what was accepted is still sent, and signed. Raises `NotFound`."""
    with database.transaction():
        record = lock_domain(database, account_id, domain_id)
        database.execute(_DELETE, (now_ms, domain_id))
        return record


def update_settings(
    database: Database,
    account_id: str,
    domain_id: str,
    changes: Mapping[str, Any],
    source_addresses: tuple[str, ...],
    now_ms: int,
) -> SendingDomainRecord:
    """Merge changes into the settings (`core.sending.send_settings_check`). Raises `InvalidField` and `NotFound`."""
    with database.transaction():
        record = lock_domain(database, account_id, domain_id)
        settings = changed_settings(record.settings, changes, record.domain, source_addresses)
        database.execute(_SET, (settings_json(settings), domain_id))
        if settings.tracking_host != record.settings.tracking_host:
            report = replace(record.state.report, tracking=None)
            state = replace(record.state, tracking_verified=False, report=report)
            save_state(database, record, state, record.checked_ms, now_ms)
        return find_domain(database, account_id, domain_id)


def _require_room(database: Database, account_id: str, domain: str) -> None:
    if database.execute(_TAKEN, (account_id, domain)):
        raise _taken(domain)
    if database.execute(_COUNT, (account_id,))[0][0] >= MAX_DOMAINS:
        raise InvalidField("domain", f"this account has {MAX_DOMAINS} sending domains, the most; delete one first")


def _taken(domain: str) -> InvalidField:
    return InvalidField("domain", f"{domain} is a sending domain of this account already; use that one")
