"""Hashes of a message's body in canonical form (RFC 6376 section 3.4): one pass each, however many signatures ask."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from core.authentication.canonical import Canonical, canonical_pieces, has_bare_lf, with_crlf


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """Which hash a signature wants."""

    canonical: Canonical
    length: int | None = None
    """Bytes of the canonical body (`l=`); None for all of it."""


class BodyHashes:
    """The SHA-256 hashes of one body that its signatures want.

    A body with bare LF has two readings: as it came, and with CRLF for each (which is how RFC 6376 section 5.3 has it
    signed). A signature may be right about either; both show the same text to people.
    """

    def __init__(self, body: memoryview, wanted: frozenset[BodyLimit]) -> None:
        self._body = body
        self._wanted = wanted
        self._exact: dict[Canonical, dict[int | None, bytes]] = {}
        self._mended: dict[Canonical, dict[int | None, bytes]] = {}

    def matches(self, limit: BodyLimit, expected: bytes) -> bool | None:
        """Whether the body has the expected hash; None when the body is shorter than the signature says."""
        found = self._of(self._exact, limit, is_mended=False)
        if found == expected:
            return True
        if self._has_bare_lf:
            mended = self._of(self._mended, limit, is_mended=True)
            found = expected if mended == expected else found
        return None if found is None else found == expected

    @cached_property
    def _has_bare_lf(self) -> bool:
        return has_bare_lf(bytes(self._body))

    def _of(
        self, known: dict[Canonical, dict[int | None, bytes]], limit: BodyLimit, *, is_mended: bool
    ) -> bytes | None:
        if limit.canonical not in known:
            lengths = {wanted.length for wanted in self._wanted if wanted.canonical is limit.canonical}
            body = memoryview(with_crlf(bytes(self._body))) if is_mended else self._body
            known[limit.canonical] = _hash(body, limit.canonical, lengths)
        return known[limit.canonical].get(limit.length)


def _hash(body: memoryview, canonical: Canonical, lengths: set[int | None]) -> dict[int | None, bytes]:
    """The hash of each wanted beginning; a length beyond the end has none."""
    found: dict[int | None, bytes] = {}
    limits = sorted((length for length in lengths if length is not None), reverse=True)
    hasher = hashlib.sha256()
    position = 0
    for piece in canonical_pieces(body, canonical):
        start = 0
        while limits and limits[-1] <= position + len(piece):
            cut = limits.pop() - position
            hasher.update(piece[start:cut])
            start = cut
            found[position + cut] = hasher.digest()
        hasher.update(piece[start:] if start else piece)
        position += len(piece)
    if limits and limits[-1] == position:
        found[limits.pop()] = hasher.digest()
    found[None] = hasher.digest()
    return found
