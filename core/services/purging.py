"""What purges have in common: ages, counts, and walking along a primary key in short transactions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

from core.config import Settings
from core.store.db import Database

_WINDOW_END = "SELECT {key} FROM {table} WHERE {key} > ? AND {key} < ? ORDER BY {key} LIMIT 1 OFFSET ?"

Ids = Sequence[str | int]
_Candidates = list[tuple[str | int, int]]
"""Ids, each with the bytes that go with it."""


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
    events_days: int = 0
    """Events of sent mail and hits on what is tracked, counted from when they happened."""

    @classmethod
    def of(cls, settings: Settings) -> RetentionAges:
        """The ages that are set."""
        return cls(
            settings.keep_raw_days,
            settings.keep_parsed_days,
            settings.keep_attempts_days,
            settings.keep_statuses_days,
            settings.keep_events_days,
        )


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
    events: int = 0
    hits: int = 0
    """On pixels and links."""
    event_posts: int = 0
    """Batches of events for webhooks, purged at the age of attempts."""
    idempotency_keys: int = 0
    cancelled: int = 0
    """Recipients whose mail was held for too long."""
    counts_of_events: int = 0
    """Rows of hourly counts."""
    soft_bounces: int = 0
    rates: int = 0
    """Slices of limits that are over."""
    webhooks: int = 0
    """That had been deleted, and whose last batch is gone."""
    sending_domains: int = 0
    """That had been deleted, and whose last sent message is gone."""
    is_partial: bool = field(default=False, compare=False)
    """Whether there is more to do now."""

    @property
    def counts(self) -> dict[str, int]:
        """What there is to tell: all that is not nothing."""
        counted = ((entry.name, getattr(self, entry.name)) for entry in fields(self) if entry.name != "is_partial")
        return {name: count for name, count in counted if count}


class PurgeWalk:
    """Does what is to be done in portions, with pauses, until it is told to stop."""

    def __init__(self, database: Database, limits: PurgeLimits, stop: threading.Event) -> None:
        self._database = database
        self.limits = limits
        self.stop = stop
        self.is_partial = False
        """Whether anything was left for the next time; whoever walks resets it."""

    def along(
        self,
        table: str,
        key: str,
        boundary: str,
        found: tuple[str, tuple[int, ...]],
        purge: Callable[[Ids], None],
        start: str = "",
    ) -> str:
        """Walk from `start` to the boundary and purge what the statement `found` selects; gives how far that led."""
        statement, parameters = found
        done = 0
        reached = start
        for after, upto in self._windows(table, key, start, boundary):
            with self._database.reading():
                candidates = [(row[0], row[1]) for row in self._database.execute(statement, (after, upto, *parameters))]
            for ids in _portions(candidates, self.limits):
                if self.stop.is_set() or done == self.limits.transactions:
                    self.is_partial = True
                    return reached
                started = time.monotonic()
                purge(ids)
                self._leave(started)
                done += 1
            reached = upto
        return reached

    def repeat(self, purge: Callable[[], int]) -> int:
        """Call it until it removes less than a transaction may hold; what it has removed, together."""
        total = 0
        for _ in range(self.limits.transactions):
            if self.stop.is_set():
                break
            started = time.monotonic()
            removed = purge()
            total += removed
            if removed < self.limits.rows:
                return total
            self._leave(started)
        self.is_partial = True
        return total

    def _leave(self, started: float) -> None:
        """The database to others, for as long as it was taken."""
        self.stop.wait(max(self.limits.pause_s, time.monotonic() - started))

    def _windows(self, table: str, key: str, start: str, boundary: str) -> Iterator[tuple[str, str]]:
        """Keys from (exclusive) and to (inclusive), each time as many rows as one statement may look at."""
        statement = _WINDOW_END.format(table=table, key=key)
        after = start
        while after < boundary:
            with self._database.reading():
                rows = self._database.execute(statement, (after, boundary, self.limits.window - 1))
            upto = str(rows[0][0]) if rows else boundary
            yield after, upto
            after = upto


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
