"""Retention: what has outlived its age is removed, in short transactions, so that mail never waits for it.

A delivery that is pending is never touched, nor anything that belongs to it: its message, raw bytes, attempts. Ids are
ordered by time and nothing ends before it began, so all that can be old enough lies below the id of a moment, and is
found by walking along a primary key from its beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from core.clock import DAY_MS
from core.delivery import SEND_KINDS, DeliveryKind
from core.errors import StorageUnavailable
from core.ids import first_id_at
from core.services.gateway_account import GATEWAY_ADDRESS_ID
from core.services.purging import DEFAULT_LIMITS, Purged, PurgeLimits, PurgeWalk, RetentionAges
from core.services.sent_retention import SentRetention
from core.store.blobs import BlobStore
from core.store.db import Database, Row

__all__ = ["DEFAULT_LIMITS", "IDLE_HEALTH_MS", "PurgeLimits", "Purged", "Retention", "RetentionAges", "purge"]

IDLE_HEALTH_MS = DAY_MS
"""How long after its breaker closed a host without mail is remembered as failing."""

# Sent mail that is held is not over before it is cancelled (`core.services.sent_retention`).
_ENDED = f"""d.state <> 'pending' AND coalesce(d.finished_ms, d.created_ms) < ?
AND NOT (d.state = 'quarantined' AND d.kind IN ({", ".join(repr(kind.value) for kind in SEND_KINDS)}))"""
_NOTHING_NEEDS = f"NOT EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = {{owner}} AND NOT ({_ENDED}))"  # noqa: S608

_OLD_STATUSES = f"""
SELECT d.id, CASE WHEN r.message_id IS NULL THEN 0 ELSE m.size END
FROM delivery d LEFT JOIN message m ON m.id = d.message_id LEFT JOIN raw_message r ON r.message_id = m.id
WHERE d.id > ? AND d.id <= ? AND {_ENDED} ORDER BY d.id"""  # noqa: S608 (constants)
_DELETE_STATUSES = f"""
DELETE FROM delivery WHERE id IN (
    SELECT d.id FROM delivery d WHERE d.id IN ({{places}}) AND {_ENDED} ORDER BY d.id {{locking}})
RETURNING message_id"""  # noqa: S608 (constants)
_STRAY_MESSAGES = """
SELECT m.id, m.size FROM message m
WHERE m.id > ? AND m.id <= ? AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = m.id) ORDER BY m.id"""
_BLOBS_OF = "SELECT message_id, blob_key FROM raw_message WHERE message_id IN ({places}) AND blob_key IS NOT NULL"
_DELETE_MESSAGES = """
DELETE FROM message WHERE id IN ({places}) AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = message.id)
RETURNING id"""
_OLD_RAW = f"""
SELECT r.message_id, m.size FROM raw_message r JOIN message m ON m.id = r.message_id
WHERE r.message_id > ? AND r.message_id <= ? AND {_NOTHING_NEEDS.format(owner="r.message_id")}
ORDER BY r.message_id"""  # noqa: S608 (constants)
# A replay locks the raw row too, and an inline mail that comes again its fingerprint. What they made pending before
# this lock is seen by the next statement; what they want after it is locked or gone.
_LOCK_RAW = """
SELECT r.message_id FROM raw_message r WHERE r.message_id IN ({places}) AND NOT EXISTS (
    SELECT 1 FROM delivery d WHERE d.message_id = r.message_id AND d.fingerprint IS NOT NULL
      AND NOT pg_try_advisory_xact_lock(hashtextextended(d.fingerprint, 0)))
ORDER BY r.message_id FOR UPDATE OF r SKIP LOCKED"""
_DELETE_RAW = f"""
DELETE FROM raw_message WHERE message_id IN ({{places}}) AND {_NOTHING_NEEDS.format(owner="raw_message.message_id")}
RETURNING message_id, blob_key"""  # noqa: S608 (constants)
# Should its sender bring it again after all, it is a new mail: the bytes to try again with are gone.
_FORGET_FINGERPRINTS = """
UPDATE delivery SET fingerprint = NULL
WHERE message_id IN ({places}) AND fingerprint IS NOT NULL AND state IN ('deferred', 'rejected')"""
_OLD_FINDINGS = f"""
SELECT m.id, 0 FROM message m
WHERE m.id > ? AND m.id <= ? AND (m.body_text IS NOT NULL OR m.verdicts IS NOT NULL)
  AND {_NOTHING_NEEDS.format(owner="m.id")} ORDER BY m.id"""  # noqa: S608 (constants)
_FORGET_FINDINGS = f"""
UPDATE message SET body_text = NULL, verdicts = NULL WHERE id IN (
    SELECT m.id FROM message m WHERE m.id IN ({{places}}) AND {_NOTHING_NEEDS.format(owner="m.id")}
    ORDER BY m.id {{locking}})
RETURNING id"""  # noqa: S608 (constants)
_OLD_ATTEMPTS = """
SELECT a.id, 0 FROM attempt a JOIN delivery d ON d.id = a.delivery_id
WHERE a.delivery_id > ? AND a.delivery_id <= ? AND a.started_ms < ? AND d.state <> 'pending' ORDER BY a.id"""
_DELETE_ATTEMPTS = """
DELETE FROM attempt WHERE id IN ({places})
  AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.id = attempt.delivery_id AND d.state = 'pending') RETURNING id"""
# An address with custom domains stays: to delete those is to look for them in every delivery.
_OLD_ADDRESSES = """
SELECT a.id FROM address a WHERE a.deleted_ms < ? AND a.id <> ?
  AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.address_id = a.id)
  AND NOT EXISTS (SELECT 1 FROM custom_domain c WHERE c.address_id = a.id) LIMIT ?"""
_DELETE_ADDRESSES = """
DELETE FROM address WHERE id IN ({places})
  AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.address_id = address.id) RETURNING id"""
_FORGET_HOSTS = f"""
DELETE FROM target_health WHERE open_until_ms < ? AND NOT EXISTS (
    SELECT 1 FROM delivery d WHERE d.kind IN ({", ".join(repr(kind.value) for kind in DeliveryKind)})
      AND d.state = 'pending' AND d.target_host = target_health.target_host)
RETURNING target_host"""  # noqa: S608 (constants)

log = structlog.get_logger("retention")


class Retention:
    """Purges one database, and has `SentRetention` do so; remembers between runs how far it got in forgetting
    findings."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        ages: RetentionAges,
        limits: PurgeLimits = DEFAULT_LIMITS,
        stop: threading.Event | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._ages = ages
        self._stop = stop or threading.Event()
        self._walk = PurgeWalk(database, limits, self._stop)
        self._sent = SentRetention(database, self._walk, ages)
        self._locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""
        self._findings_from = ""
        self._purged = Purged()

    def run(self, now_ms: int) -> Purged:
        """Purge until everything is done, each sort had its transactions, or it is stopped.

        Raises `StorageUnavailable`; what was committed by then stays so.
        """
        self._purged = Purged()
        self._walk.is_partial = False
        ages = self._ages
        for days, purge in (
            (ages.statuses_days, self._purge_statuses),
            (ages.raw_days, self._purge_raw),
            (ages.parsed_days, self._forget_findings),
            (ages.attempts_days, self._purge_attempts),
        ):
            if days and not self._stop.is_set():
                purge(now_ms - days * DAY_MS)
        self._sent.run(self._purged, now_ms)
        self._purged.is_partial = self._walk.is_partial
        return self._purged

    def begin_again(self, now_ms: int) -> Purged:
        """What is rare, to be called once a day: the next run looks at all messages for findings, and leftovers go.

        Raises `StorageUnavailable`.
        """
        self._findings_from = ""
        purged = Purged()
        with self._database.transaction():
            purged.hosts = len(self._database.execute(_FORGET_HOSTS, (now_ms - IDLE_HEALTH_MS,)))
        if self._ages.statuses_days:
            purged.addresses = self._delete_addresses(now_ms - self._ages.statuses_days * DAY_MS)
        self._sent.begin_again(purged, now_ms)
        return purged

    def _delete_addresses(self, before_ms: int) -> int:
        with self._database.reading():
            rows = self._database.execute(_OLD_ADDRESSES, (before_ms, GATEWAY_ADDRESS_ID, self._walk.limits.rows))
        if not rows:
            return 0
        with self._database.transaction():
            statement = _DELETE_ADDRESSES.format(places=_places(rows))
            return len(self._database.execute(statement, [row[0] for row in rows]))

    def _purge_statuses(self, before_ms: int) -> None:
        boundary = first_id_at(before_ms)

        def delete(ids: Sequence[str | int]) -> None:
            statement = _DELETE_STATUSES.format(places=_places(ids), locking=self._locking)
            with self._database.transaction():
                deleted = self._database.execute(statement, (*ids, before_ms))
                keys = self._delete_messages(
                    sorted({message_id for (message_id,) in deleted if message_id is not None})
                )
            self._purged.statuses += len(deleted)
            self._delete_blobs(keys)

        def delete_strays(ids: Sequence[str | int]) -> None:
            with self._database.transaction():
                keys = self._delete_messages(ids)
            self._delete_blobs(keys)

        self._walk.along("delivery", "id", boundary, (_OLD_STATUSES, (before_ms,)), delete)
        self._walk.along("message", "id", boundary, (_STRAY_MESSAGES, ()), delete_strays)

    def _delete_messages(self, ids: Sequence[str | int]) -> list[str]:
        """Those that have no delivery any more; gives the keys of their blobs. Inside a transaction."""
        if not ids:
            return []
        keys = self._database.execute(_BLOBS_OF.format(places=_places(ids)), ids)
        deleted = {row[0] for row in self._database.execute(_DELETE_MESSAGES.format(places=_places(ids)), ids)}
        self._purged.messages += len(deleted)
        return [key for message_id, key in keys if message_id in deleted]

    def _purge_raw(self, before_ms: int) -> None:
        def delete(ids: Sequence[str | int]) -> None:
            with self._database.transaction():
                if self._database.is_postgres:
                    ids = [row[0] for row in self._database.execute(_LOCK_RAW.format(places=_places(ids)), ids)]
                statement = _DELETE_RAW.format(places=_places(ids))
                deleted = self._database.execute(statement, (*ids, before_ms)) if ids else []
                if deleted:
                    places = _places(deleted)
                    self._database.execute(_FORGET_FINGERPRINTS.format(places=places), [row[0] for row in deleted])
            self._purged.raw += len(deleted)
            self._delete_blobs([key for _, key in deleted if key is not None])

        found = (_OLD_RAW, (before_ms,))
        self._walk.along("raw_message", "message_id", first_id_at(before_ms), found, delete)

    def _forget_findings(self, before_ms: int) -> None:
        def forget(ids: Sequence[str | int]) -> None:
            statement = _FORGET_FINDINGS.format(places=_places(ids), locking=self._locking)
            with self._database.transaction():
                self._purged.findings += len(self._database.execute(statement, (*ids, before_ms)))

        found = (_OLD_FINDINGS, (before_ms,))
        boundary = first_id_at(before_ms)
        self._findings_from = self._walk.along("message", "id", boundary, found, forget, self._findings_from)

    def _purge_attempts(self, before_ms: int) -> None:
        def delete(ids: Sequence[str | int]) -> None:
            with self._database.transaction():
                deleted = self._database.execute(_DELETE_ATTEMPTS.format(places=_places(ids)), ids)
            self._purged.attempts += len(deleted)

        self._walk.along("attempt", "delivery_id", first_id_at(before_ms), (_OLD_ATTEMPTS, (before_ms,)), delete)

    def _delete_blobs(self, keys: Sequence[str]) -> None:
        """After the commit. What cannot be deleted now, nobody knows of any more: the sweep finds it."""
        for key in keys:
            try:
                self._blobs.delete(key)
            except StorageUnavailable as error:
                log.warning("a blob stays for the sweep", key=key, reason=str(error))
            else:
                self._purged.blobs += 1


def purge(
    database: Database, blobs: BlobStore, ages: RetentionAges, now_ms: int, limits: PurgeLimits = DEFAULT_LIMITS
) -> Purged:
    """Purge once, from the beginning. Raises `StorageUnavailable`."""
    return Retention(database, blobs, ages, limits).run(now_ms)


def _places(values: Sequence[Row | str | int]) -> str:
    return ", ".join("?" for _ in values)
