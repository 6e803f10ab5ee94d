"""Keys of sending domains: added, given up, grown old."""

from __future__ import annotations

from core.clock import DAY_MS
from core.errors import NotFound, NotPossibleNow
from core.sending.domain_judgement import with_keys
from core.sending.domain_schedule import FIRST_CHECK_MS
from core.sending.key_rotation import (
    OVERLAP_MS,
    KeyPending,
    KeyState,
    as_time_passes,
    published_keys,
    with_new,
    withdrawn,
)
from core.sending.sending_domains import KeyAlgorithm, new_key, selector_for
from core.services.sending_domain_changes import insert_key
from core.services.sending_domain_records import (
    SendingDomainRecord,
    find_domain,
    get_domain,
    load_domains,
    lock_domain,
    save_state,
)
from core.store.db import Database

MAX_PUBLISHED_KEYS = 6
"""Of one domain: one that signs and one that waits, of both kinds, and two more whose time is not over."""
MAX_RETIRED_KEYS = 20
"""Older ones are forgotten altogether."""
FORGOTTEN_AFTER_MS = 30 * DAY_MS
"""Private keys of a deleted domain are kept for what was accepted before; for longer where some of it still waits:
for its `send_at`, a limit, or the end of a pause."""
_SCHEDULE = "UPDATE sending_domain SET next_check_ms = ? WHERE id = ?"
_DROP_KEY = "DELETE FROM domain_key WHERE sending_domain_id = ? AND selector = ?"
_OLD = """
SELECT DISTINCT sending_domain_id FROM domain_key WHERE state = ? AND since_ms <= ?
ORDER BY sending_domain_id LIMIT ?"""
_OF_DELETED = """
SELECT DISTINCT k.sending_domain_id FROM domain_key k JOIN sending_domain d ON d.id = k.sending_domain_id
WHERE k.state <> ? AND d.deleted_ms <= ? AND NOT EXISTS (
    SELECT 1 FROM sent_message s JOIN delivery y ON y.message_id = s.message_id
    WHERE s.sending_domain_id = d.id AND y.state IN ('pending', 'quarantined'))
ORDER BY k.sending_domain_id LIMIT ?"""


def add_key(
    database: Database, account_id: str, domain_id: str, algorithm: KeyAlgorithm, now_ms: int
) -> SendingDomainRecord:
    """A new key, which takes over when its record is seen. Raises `NotFound` and `NotPossibleNow`.

    As in `create_domain`, the key is made before the transaction.
    """
    before = get_domain(database, account_id, domain_id)
    _require_possible(before, "", algorithm, now_ms)
    pair = new_key(algorithm)
    selector = selector_for(pair.public_record, now_ms)
    with database.transaction():
        record = lock_domain(database, account_id, domain_id)
        _require_possible(record, selector, algorithm, now_ms)
        _drop_oldest(database, record)
        insert_key(database, domain_id, selector, pair, now_ms)
        database.execute(_SCHEDULE, (now_ms + FIRST_CHECK_MS, domain_id))
        return find_domain(database, account_id, domain_id)


def withdraw_key(
    database: Database, account_id: str, domain_id: str, selector: str, now_ms: int
) -> SendingDomainRecord:
    """Use a key no more, from this moment, and forget its private half. Raises `NotFound`."""
    with database.transaction():
        record = lock_domain(database, account_id, domain_id)
        if selector not in record.public_records:
            raise NotFound(f"{record.domain} has no key with the selector {selector}")
        state = with_keys(record.state, withdrawn(record.state.keys, selector, now_ms))
        save_state(database, record, state, record.checked_ms, record.next_check_ms)
        return find_domain(database, account_id, domain_id)


def age_keys(database: Database, now_ms: int, limit: int) -> int:
    """Retire keys whose overlap is over, of at most so many domains; how many domains there were."""
    with database.reading():
        rows = database.execute(_OLD, (KeyState.RETIRING, now_ms - OVERLAP_MS, limit))
    for (domain_id,) in rows:
        with database.transaction():
            for record in load_domains(database, [domain_id], is_locking=True):
                state = with_keys(record.state, as_time_passes(record.state.keys, now_ms))
                save_state(database, record, state, record.checked_ms, record.next_check_ms)
    return len(rows)


def forget_keys(database: Database, now_ms: int, limit: int) -> int:
    """Retire all keys of domains that were deleted long ago, of at most so many; how many domains there were."""
    with database.reading():
        rows = database.execute(_OF_DELETED, (KeyState.RETIRED, now_ms - FORGOTTEN_AFTER_MS, limit))
    for (domain_id,) in rows:
        with database.transaction():
            for record in load_domains(database, [domain_id], is_locking=True):
                keys = record.state.keys
                for key in record.state.keys:
                    keys = withdrawn(keys, key.selector, now_ms)
                save_state(database, record, with_keys(record.state, keys), record.checked_ms, record.next_check_ms)
    return len(rows)


def _require_possible(record: SendingDomainRecord, selector: str, algorithm: KeyAlgorithm, now_ms: int) -> None:
    try:
        with_new(record.state.keys, selector, algorithm, now_ms)
    except KeyPending as error:
        raise NotPossibleNow(str(error)) from error
    if len(published_keys(record.state.keys)) >= MAX_PUBLISHED_KEYS:
        raise NotPossibleNow(
            f"{record.domain} has {MAX_PUBLISHED_KEYS} keys whose records must be in the DNS, the most; wait until the "
            "oldest has retired, or withdraw it"
        )
    if selector in record.public_records:
        raise NotPossibleNow("the new key has the selector of another by accident; try again")


def _drop_oldest(database: Database, record: SendingDomainRecord) -> None:
    """Make room for one more that will retire some day."""
    retired = [key for key in record.state.keys if key.state is KeyState.RETIRED and key is not record.principal]
    for key in retired[: max(0, len(retired) - MAX_RETIRED_KEYS + 1)]:
        database.execute(_DROP_KEY, (record.domain_id, key.selector))
