"""Answers that are given again: a request that comes twice with one idempotency key is carried out once.

The key is kept in the transaction that carries the request out, so a crash between the two cannot be.
(draft-ietf-httpapi-idempotency-key-header)
"""

from __future__ import annotations

from dataclasses import dataclass

from core.clock import DAY_MS
from core.errors import PillarboxError
from core.store.db import Database

KEPT_MS = DAY_MS
MAX_KEY_LENGTH = 255
_KEEP = """
INSERT INTO idempotency (username, key, request_sha256, message_id, response, created_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (username, key) DO NOTHING RETURNING key"""
_FIND = "SELECT request_sha256, message_id, response FROM idempotency WHERE username = ? AND key = ? AND created_ms > ?"
_FORGET_THIS = "DELETE FROM idempotency WHERE username = ? AND key = ? AND created_ms <= ?"


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A key of a client's, with the answer that is to be kept for it."""

    username: str
    key: str
    request_sha256: str
    """Of all that the request says, in hex: the same key with another request is a mistake."""
    response: str
    """JSON."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered before."""

    request_sha256: str
    message_id: str
    response: str


class AlreadyAnswered(PillarboxError):
    """The key was used before; what it was answered with is to be answered again, if the request is the same."""

    def __init__(self, kept: KeptAnswer) -> None:
        super().__init__("this idempotency key was used before")
        self.kept = kept


def find_answer(database: Database, username: str, key: str, now_ms: int) -> KeptAnswer | None:
    """What a key was answered with within the last `KEPT_MS`."""
    rows = database.execute(_FIND, (username, key, now_ms - KEPT_MS))
    return KeptAnswer(*rows[0]) if rows else None


def keep_answer(database: Database, claim: IdempotencyClaim, message_id: str, now_ms: int) -> None:
    """Keep an answer. Inside the transaction that makes it true. Raises `AlreadyAnswered`."""
    database.execute(_FORGET_THIS, (claim.username, claim.key, now_ms - KEPT_MS))
    values = (claim.username, claim.key, claim.request_sha256, message_id, claim.response, now_ms)
    if not database.execute(_KEEP, values):
        kept = find_answer(database, claim.username, claim.key, now_ms)
        assert kept is not None  # by the unique key, in one transaction
        raise AlreadyAnswered(kept)
