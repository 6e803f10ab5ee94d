"""Hashes of a message's body in canonical form (RFC 6376 section 3.4): one pass each, however many signatures ask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from inbound.authentication.header_fields import CRLF, has_bare_lf, single_spaced, with_crlf

BLOCK_BYTES = 256 * 1024
"""How much of a body is brought into canonical form at once."""


class Canonical(StrEnum):
    """How much rewriting on the way a signature forgives."""

    SIMPLE = "simple"
    RELAXED = "relaxed"


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


def canonical_pieces(body: memoryview, canonical: Canonical) -> Iterator[bytes]:
    """The canonical body, piece by piece: no empty lines at its end, and a CRLF behind its last line.

    An empty body is CRLF in simple form and nothing in relaxed form.
    """
    held = 0
    is_empty = True
    for block in _blocks(body):
        data = _relaxed(block) if canonical is Canonical.RELAXED else block
        kept = _without_final_crlfs(data)
        if kept:
            if held:
                yield CRLF * held
            yield data[:kept]
            held = 0
            is_empty = False
        held += (len(data) - kept) // len(CRLF)
    if not is_empty or canonical is Canonical.SIMPLE:
        yield CRLF


def _blocks(body: memoryview) -> Iterator[bytes]:
    """The body in pieces that end where a line ends, so that white space before a line end is never torn from it."""
    pending: list[bytes] = []
    for start in range(0, len(body), BLOCK_BYTES):
        block = bytes(body[start : start + BLOCK_BYTES])
        cut = block.rfind(CRLF) + len(CRLF)
        if cut < len(CRLF):
            pending.append(block)
            continue
        yield b"".join([*pending, block[:cut]])
        pending = [block[cut:]]
    rest = b"".join(pending)
    if rest:
        yield rest


def _relaxed(block: bytes) -> bytes:
    """White space runs become one space, and none stays before a line end."""
    return single_spaced(block).replace(b" \r\n", CRLF).removesuffix(b" ")


def _without_final_crlfs(data: bytes) -> int:
    """How many bytes there are before the line ends at the end."""
    tail = len(data.rstrip(CRLF))
    end = data[tail:]
    broken = max(end.rfind(b"\r\r"), end.rfind(b"\n\n")) + 1  # from here on CR and LF alternate
    if not end.endswith(b"\n"):
        return len(data)
    return tail + broken + (1 if end[broken : broken + 1] == b"\n" else 0)
