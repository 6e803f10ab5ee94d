"""Retention of what belongs to sent mail beside its messages: events, hits, batches for webhooks, keys, counts, limits.

Raw bytes, attempts and statuses of sent mail go with all others (`core.services.retention`). What is pending keeps its
events; what is held keeps everything, and is cancelled after `HELD_DAYS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from core.clock import DAY_MS
from core.delivery import SEND_KINDS, DeliveryState
from core.ids import first_id_at
from core.services.held_sends import cancel_forgotten
from core.services.idempotency import KEPT_MS
from core.services.purging import Ids, Purged, PurgeWalk, RetentionAges
from core.store.db import Database, Row, places

HELD_DAYS = 30
"""After which held mail is cancelled: nobody will release it, or want it, any more."""
COUNTS_DAYS = 60
"""Of hourly counts, and of soft bounces without a new one. Health looks back a week, ramps ten days."""
RATES_MS = 2 * DAY_MS
"""Longer than any slice of a limit, and than events matter for an automatic pause."""
LEFT_MS = DAY_MS
"""How long ago webhooks and domains must have been deleted: whatever was at work with them has ended."""

_FORGOTTEN = f"nobody released it within {HELD_DAYS} days"
_HELD = f"""
SELECT d.id, 0 FROM delivery d
WHERE d.id > ? AND d.id <= ? AND d.state = '{DeliveryState.QUARANTINED}'
  AND d.kind IN ({", ".join(repr(kind.value) for kind in SEND_KINDS)}) ORDER BY d.id"""  # noqa: S608 (constants)
_IS_OVER = f"""NOT EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = event.message_id
                  AND d.state IN ('{DeliveryState.PENDING}', '{DeliveryState.QUARANTINED}'))"""  # noqa: S608 (constants)
_OLD_EVENTS = f"""
SELECT event.id, 0 FROM event
WHERE event.id > ? AND event.id <= ? AND event.at_ms < ? AND {_IS_OVER} ORDER BY event.id"""  # noqa: S608
_DELETE_EVENTS = f"DELETE FROM event WHERE id IN ({{places}}) AND {_IS_OVER} RETURNING id"  # noqa: S608
_OLDEST_HITS = "SELECT id, at_ms FROM tracking_hit ORDER BY id LIMIT ?"
_DELETE_HITS = "DELETE FROM tracking_hit WHERE id IN ({places}) RETURNING id"
_WEBHOOKS = "SELECT id FROM webhook ORDER BY id"
_ENDED = "d.state <> 'pending' AND coalesce(d.finished_ms, d.created_ms) < ?"
_OLD_POSTS = f"""
SELECT d.id FROM delivery d WHERE d.webhook_id = ? AND d.id < ? AND {_ENDED} ORDER BY d.id LIMIT ?"""  # noqa: S608
_DELETE_POSTS = f"""
DELETE FROM delivery WHERE id IN (
    SELECT d.id FROM delivery d WHERE d.id IN ({{places}}) AND {_ENDED} ORDER BY d.id {{locking}}) RETURNING id"""  # noqa: S608
_OLD_KEYS = "SELECT username, key FROM idempotency WHERE created_ms <= ? ORDER BY created_ms LIMIT ?"
_DELETE_KEYS = """
DELETE FROM idempotency WHERE (username, key) IN (VALUES {rows}) AND created_ms <= %d RETURNING key"""
_OLD_COUNTS = "SELECT account_id, sending_domain_id, hour_ms, kind FROM send_tally WHERE hour_ms < ? LIMIT ?"
_DELETE_COUNTS = """
DELETE FROM send_tally WHERE (account_id, sending_domain_id, hour_ms, kind) IN (VALUES {rows}) RETURNING kind"""
_OLD_SOFT_BOUNCES = "SELECT account_id, address FROM soft_bounce WHERE last_ms < ? LIMIT ?"
_DELETE_SOFT_BOUNCES = """
DELETE FROM soft_bounce WHERE (account_id, address) IN (VALUES {rows}) AND last_ms < %d RETURNING address"""
_OLD_RATES = "SELECT scope FROM send_rate WHERE next_ms < ? LIMIT ?"
_DELETE_RATES = "DELETE FROM send_rate WHERE scope IN (VALUES {rows}) AND next_ms < %d RETURNING scope"
_LEFT_WEBHOOKS = """
DELETE FROM webhook WHERE deleted_ms < ? AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.webhook_id = webhook.id)
RETURNING id"""
_LEFT_DOMAINS = """
DELETE FROM sending_domain WHERE deleted_ms < ?
  AND NOT EXISTS (SELECT 1 FROM sent_message s WHERE s.sending_domain_id = sending_domain.id)
  AND NOT EXISTS (SELECT 1 FROM suppression u WHERE u.sending_domain_id = sending_domain.id) RETURNING id"""
"""Who wants no more mail from a domain wants none either when it is made again."""


class SentRetention:
    """Purges one database; `Retention` calls it and says what it did."""

    def __init__(self, database: Database, walk: PurgeWalk, ages: RetentionAges) -> None:
        self._database = database
        self._walk = walk
        self._ages = ages
        self._locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""

    def run(self, purged: Purged, now_ms: int) -> None:
        """What is looked for each time. Raises `StorageUnavailable`."""
        if self._ages.events_days:
            before_ms = now_ms - self._ages.events_days * DAY_MS
            self._purge_events(purged, before_ms)
            purged.hits += self._walk.repeat(lambda: self._delete_hits(before_ms))
        if self._ages.attempts_days:
            purged.event_posts += self._purge_posts(now_ms - self._ages.attempts_days * DAY_MS)
        answered_ms = now_ms - KEPT_MS
        purged.idempotency_keys += self._delete(_OLD_KEYS, _DELETE_KEYS % answered_ms, answered_ms)

    def begin_again(self, purged: Purged, now_ms: int) -> None:
        """What is looked for once a day. Raises `StorageUnavailable`."""
        self._cancel_held(purged, now_ms)
        counted_ms, rated_ms, left_ms = now_ms - COUNTS_DAYS * DAY_MS, now_ms - RATES_MS, now_ms - LEFT_MS
        purged.counts_of_events += self._delete(_OLD_COUNTS, _DELETE_COUNTS, counted_ms)
        purged.soft_bounces += self._delete(_OLD_SOFT_BOUNCES, _DELETE_SOFT_BOUNCES % counted_ms, counted_ms)
        purged.rates += self._delete(_OLD_RATES, _DELETE_RATES % rated_ms, rated_ms)
        with self._database.transaction():
            purged.webhooks += len(self._database.execute(_LEFT_WEBHOOKS, (left_ms,)))
        with self._database.transaction():
            purged.sending_domains += len(self._database.execute(_LEFT_DOMAINS, (left_ms,)))

    def _purge_events(self, purged: Purged, before_ms: int) -> None:
        def delete(ids: Ids) -> None:
            with self._database.transaction():
                purged.events += len(self._database.execute(_DELETE_EVENTS.format(places=places(ids)), ids))

        self._walk.along("event", "id", first_id_at(before_ms), (_OLD_EVENTS, (before_ms,)), delete)

    def _delete_hits(self, before_ms: int) -> int:
        """Of the oldest, those that are old enough: numbers rise with time."""
        with self._database.reading():
            rows = self._database.execute(_OLDEST_HITS, (self._walk.limits.rows,))
        old = [hit_id for hit_id, at_ms in rows if at_ms < before_ms]
        if not old:
            return 0
        with self._database.transaction():
            return len(self._database.execute(_DELETE_HITS.format(places=places(old)), old))

    def _purge_posts(self, before_ms: int) -> int:
        with self._database.reading():
            webhooks = [row[0] for row in self._database.execute(_WEBHOOKS)]
        return sum(self._walk.repeat(partial(self._delete_posts, webhook, before_ms)) for webhook in webhooks)

    def _delete_posts(self, webhook_id: str, before_ms: int) -> int:
        asked = (webhook_id, first_id_at(before_ms), before_ms, self._walk.limits.rows)
        with self._database.reading():
            ids = [row[0] for row in self._database.execute(_OLD_POSTS, asked)]
        if not ids:
            return 0
        statement = _DELETE_POSTS.format(places=places(ids), locking=self._locking)
        with self._database.transaction():
            return len(self._database.execute(statement, (*ids, before_ms)))

    def _cancel_held(self, purged: Purged, now_ms: int) -> None:
        before_ms = now_ms - HELD_DAYS * DAY_MS

        def cancel(ids: Ids) -> None:
            with self._database.transaction():
                purged.cancelled += cancel_forgotten(self._database, ids, before_ms, _FORGOTTEN, now_ms)

        self._walk.along("delivery", "id", first_id_at(before_ms), (_HELD, ()), cancel)

    def _delete(self, find: str, delete: str, before_ms: int) -> int:
        """Rows that are found by one statement, deleted by their keys in another, as often as there are any."""

        def once() -> int:
            with self._database.reading():
                rows: Sequence[Row] = self._database.execute(find, (before_ms, self._walk.limits.rows))
            if not rows:
                return 0
            with self._database.transaction():
                return len(self._database.execute_values(delete, rows))

        return self._walk.repeat(once)
