"""Retention: what has outlived its age is removed, in short transactions, so that mail never waits for it.

A delivery that is pending is never touched, nor anything that belongs to it: its message, raw bytes, attempts. Ids are
ordered by time and nothing ends before it began, so all that can be old enough lies below the id of a moment, and is
found by walking along a primary key from its beginning.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import structlog

from core.clock import DAY_MS
from core.config import Settings
from core.delivery import DeliveryKind
from core.errors import StorageUnavailable
from core.ids import first_id_at
from core.services.gateway_account import GATEWAY_ADDRESS_ID
from core.store.blobs import BlobStore
from core.store.db import Database, Row

IDLE_HEALTH_MS = DAY_MS
"""How long after its breaker closed a host without mail is remembered as failing."""

_ENDED = "d.state <> 'pending' AND coalesce(d.finished_ms, d.created_ms) < ?"
_NOTHING_NEEDS = f"NOT EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = {{owner}} AND NOT ({_ENDED}))"  # noqa: S608
_WINDOW_END = "SELECT {key} FROM {table} WHERE {key} > ? AND {key} < ? ORDER BY {key} LIMIT 1 OFFSET ?"

_OLD_STATUSES = f"""
SELECT d.id, CASE WHEN r.message_id IS NULL THEN 0 ELSE m.size END
FROM delivery d JOIN message m ON m.id = d.message_id LEFT JOIN raw_message r ON r.message_id = m.id
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


@dataclass(frozen=True, slots=True)
class RetentionAges:
    """Days after which things go; 0 keeps them for ever."""

    raw_days: int = 0
    """Raw messages, counted from the end of their last delivery."""
    parsed_days: int = 0
    """What was read from a message, counted likewise."""
    attempts_days: int = 0
    """Attempts, counted from each one's beginning."""
    statuses_days: int = 0
    """Deliveries, counted from their end; with the last one of a message go message, raw bytes and attempts."""

    @classmethod
    def of(cls, settings: Settings) -> RetentionAges:
        """The ages that are set."""
        return cls(
            settings.keep_raw_days, settings.keep_parsed_days, settings.keep_attempts_days, settings.keep_statuses_days
        )


@dataclass(frozen=True, slots=True)
class PurgeLimits:
    """How much is done at once. Measured, see docs/operations.md."""

    rows: int = 500
    """Of one transaction."""
    bytes: int = 4 * 1024 * 1024
    """Of raw messages, in one transaction (one message may be larger)."""
    window: int = 2_000
    """Rows that one reading statement looks at."""
    transactions: int = 400
    """Of each sort in one run; then the others have their turn."""
    pause_s: float = 0.02
    """After each transaction at least; else as long as that took, so that whoever waits gets his turn."""


DEFAULT_LIMITS = PurgeLimits()


@dataclass(slots=True)
class Purged:
    """What a run removed."""

    statuses: int = 0
    messages: int = 0
    raw: int = 0
    """Raw messages purged at their own age, not with their message."""
    findings: int = 0
    """Messages whose text and verdicts were forgotten."""
    attempts: int = 0
    """Attempts purged at their own age, not with their delivery."""
    addresses: int = 0
    """That had been deleted, and whose last status is gone."""
    hosts: int = 0
    """Forgotten to be failing."""
    blobs: int = 0
    is_partial: bool = field(default=False, compare=False)
    """Whether there is more to do now."""

    @property
    def counts(self) -> dict[str, int]:
        """What there is to tell: all that is not nothing."""
        counted = ((entry.name, getattr(self, entry.name)) for entry in fields(self) if entry.name != "is_partial")
        return {name: count for name, count in counted if count}


_Candidates = list[tuple[str | int, int]]
"""Ids, each with the bytes that go with it."""


class Retention:
    """Purges one database; remembers between runs how far it got in forgetting findings."""

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
        self._limits = limits
        self._stop = stop or threading.Event()
        self._locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""
        self._findings_from = ""
        self._purged = Purged()

    def run(self, now_ms: int) -> Purged:
        """Purge until everything is done, each sort had its transactions, or it is stopped.

        Raises `StorageUnavailable`; what was committed by then stays so.
        """
        self._purged = Purged()
        ages = self._ages
        for days, purge in (
            (ages.statuses_days, self._purge_statuses),
            (ages.raw_days, self._purge_raw),
            (ages.parsed_days, self._forget_findings),
            (ages.attempts_days, self._purge_attempts),
        ):
            if days and not self._stop.is_set():
                purge(now_ms - days * DAY_MS)
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
        return purged

    def _delete_addresses(self, before_ms: int) -> int:
        with self._database.reading():
            rows = self._database.execute(_OLD_ADDRESSES, (before_ms, GATEWAY_ADDRESS_ID, self._limits.rows))
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
                keys = self._delete_messages(sorted({message_id for (message_id,) in deleted}))
            self._purged.statuses += len(deleted)
            self._delete_blobs(keys)

        def delete_strays(ids: Sequence[str | int]) -> None:
            with self._database.transaction():
                keys = self._delete_messages(ids)
            self._delete_blobs(keys)

        self._purge_along("delivery", "id", boundary, (_OLD_STATUSES, (before_ms,)), delete)
        self._purge_along("message", "id", boundary, (_STRAY_MESSAGES, ()), delete_strays)

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
        self._purge_along("raw_message", "message_id", first_id_at(before_ms), found, delete)

    def _forget_findings(self, before_ms: int) -> None:
        def forget(ids: Sequence[str | int]) -> None:
            statement = _FORGET_FINDINGS.format(places=_places(ids), locking=self._locking)
            with self._database.transaction():
                self._purged.findings += len(self._database.execute(statement, (*ids, before_ms)))

        found = (_OLD_FINDINGS, (before_ms,))
        boundary = first_id_at(before_ms)
        self._findings_from = self._purge_along("message", "id", boundary, found, forget, self._findings_from)

    def _purge_attempts(self, before_ms: int) -> None:
        def delete(ids: Sequence[str | int]) -> None:
            with self._database.transaction():
                deleted = self._database.execute(_DELETE_ATTEMPTS.format(places=_places(ids)), ids)
            self._purged.attempts += len(deleted)

        self._purge_along("attempt", "delivery_id", first_id_at(before_ms), (_OLD_ATTEMPTS, (before_ms,)), delete)

    def _purge_along(
        self,
        table: str,
        key: str,
        boundary: str,
        found: tuple[str, tuple[int, ...]],
        purge: Callable[[Sequence[str | int]], None],
        start: str = "",
    ) -> str:
        """Walk from `start` to the boundary and purge what the statement `found` selects; gives how far that led."""
        statement, parameters = found
        done = 0
        reached = start
        for after, upto in self._windows(table, key, start, boundary):
            with self._database.reading():
                candidates = [(row[0], row[1]) for row in self._database.execute(statement, (after, upto, *parameters))]
            for ids in _portions(candidates, self._limits):
                if self._stop.is_set() or done == self._limits.transactions:
                    self._purged.is_partial = True
                    return reached
                self._pace(purge, ids)
                done += 1
            reached = upto
        return reached

    def _windows(self, table: str, key: str, start: str, boundary: str) -> Iterator[tuple[str, str]]:
        """Keys from (exclusive) and to (inclusive), each time as many rows as one statement may look at."""
        statement = _WINDOW_END.format(table=table, key=key)
        after = start
        while after < boundary:
            with self._database.reading():
                rows = self._database.execute(statement, (after, boundary, self._limits.window - 1))
            upto = str(rows[0][0]) if rows else boundary
            yield after, upto
            after = upto

    def _pace(self, purge: Callable[[Sequence[str | int]], None], ids: Sequence[str | int]) -> None:
        started = time.monotonic()
        purge(ids)
        self._stop.wait(max(self._limits.pause_s, time.monotonic() - started))

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


def _portions(candidates: _Candidates, limits: PurgeLimits) -> Iterator[list[str | int]]:
    """As many ids at a time as one transaction may hold."""
    portion: list[str | int] = []
    size = 0
    for entry, entry_size in candidates:
        if portion and (len(portion) == limits.rows or size + entry_size > limits.bytes):
            yield portion
            portion, size = [], 0
        portion.append(entry)
        size += entry_size
    if portion:
        yield portion


def _places(values: Sequence[Row | str | int]) -> str:
    return ", ".join("?" for _ in values)
