"""Answers that are given again: a request that comes twice with one idempotency key is carried out once.

The key is kept in the transaction that carries the request out, so a crash between the two cannot be.
(draft-ietf-httpapi-idempotency-key-header)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.clock import DAY_MS
from core.errors import PillarboxError, StorageUnavailable
from core.store.db import Database, Row

_Key = tuple[str, str]
"""The username of a credential, and what its client calls a request."""
KEPT_MS = DAY_MS
MAX_KEY_LENGTH = 255
_KEEP = """
INSERT INTO idempotency (username, key, request_sha256, message_id, response, created_ms) VALUES {rows}
ON CONFLICT (username, key) DO NOTHING RETURNING username, key"""
_FIND = "SELECT request_sha256, message_id, response FROM idempotency WHERE username = ? AND key = ? AND created_ms > ?"
_FORGET_THIS = "DELETE FROM idempotency WHERE username = ? AND key = ? AND created_ms <= ?"
_TRIES = 3
"""A key that is found may be purged before its answer is read, and is then free."""


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


def keep_answers(
    database: Database, claims: Sequence[tuple[IdempotencyClaim, str]], now_ms: int
) -> list[AlreadyAnswered | None]:
    """Keep the answers of claims with the ids of their messages; for each that comes too late, what to say instead.

    Inside the transaction that makes them true, before it locks anything else: it may wait here for others that hand
    in the same keys, and all take theirs in one order. Of two claims with one key the first is kept.
    """
    first: dict[_Key, tuple[IdempotencyClaim, str]] = {}
    for claim, message_id in claims:
        first.setdefault((claim.username, claim.key), (claim, message_id))
    rows = [
        (*key, claim.request_sha256, message_id, claim.response, now_ms)
        for key, (claim, message_id) in sorted(first.items())
    ]
    known = _known_before(database, rows, now_ms)
    owners = {key: KeptAnswer(claim.request_sha256, message_id, claim.response) for key, (claim, message_id) in
              first.items()} | known  # fmt: skip
    answers = [(message_id, owners[claim.username, claim.key]) for claim, message_id in claims]
    return [None if kept.message_id == message_id else AlreadyAnswered(kept) for message_id, kept in answers]


def _known_before(database: Database, rows: Sequence[Row], now_ms: int) -> dict[_Key, KeptAnswer]:
    """Insert rows; gives what there is of those whose key is taken."""
    known: dict[_Key, KeptAnswer] = {}
    for _ in range(_TRIES):
        kept = set(database.execute_values(_KEEP, rows))
        rows = [row for row in rows if row[:2] not in kept]
        for username, key, *_ in rows:
            found = find_answer(database, username, key, now_ms)
            if found is not None:
                known[username, key] = found
        rows = [row for row in rows if row[:2] not in known]
        if not rows:
            return known
        database.execute_many(_FORGET_THIS, [(username, key, now_ms - KEPT_MS) for username, key, *_ in rows])
    raise StorageUnavailable("an idempotency key comes and goes")
