"""What signatures see of a message: the same fields that people are shown, and bodies in canonical form."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.authentication import canonical
from core.authentication.canonical import Canonical, canonical_pieces
from inbound.authentication.body_hash import BodyHashes, BodyLimit
from inbound.authentication.header_fields import view_message
from inbound.reading.headers import MAX_FIELDS, MAX_ROOT_HEADER_BYTES, split_header

FIELD_LINES = [b"From: a@b.example", b"A: b", b" folded", b"\tfolded", b"A :b", b"\xe9: x", b"A:\r"]
ODD_LINES = [b"", b" ", b"no field", b"--x", b"From x", b">From x", b"A", b":"]
LINES = st.lists(st.sampled_from([*FIELD_LINES, *ODD_LINES]), max_size=12)


@given(LINES, st.sampled_from([b"\r\n", b"\n"]), st.booleans())
@example([b"A: b"] * (MAX_FIELDS + 5) + [b"", b"body"], b"\r\n", True)
@example([b"A: " + b"x" * MAX_ROOT_HEADER_BYTES, b"B: c", b"", b"body"], b"\r\n", True)
def test_the_fields_are_those_that_the_parser_shows(lines: list[bytes], line_end: bytes, is_ended: bool) -> None:
    raw = line_end.join(lines) + (line_end if is_ended else b"")
    shown = split_header(raw, 0, len(raw), MAX_ROOT_HEADER_BYTES)
    seen = view_message(raw)
    assert [field.name.decode("latin-1") for field in seen.fields] == [name.lower() for name, _ in latin(shown.fields)]
    assert bytes(seen.body) == raw[shown.body_start :]


def latin(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.encode("ascii", "surrogateescape").decode("latin-1"), value) for name, value in fields]


@given(st.binary(max_size=200))
def test_any_bytes_are_split_as_the_parser_splits_them(raw: bytes) -> None:
    shown = split_header(raw, 0, len(raw), MAX_ROOT_HEADER_BYTES)
    seen = view_message(raw)
    assert len(seen.fields) == len(shown.fields)
    assert bytes(seen.body) == raw[shown.body_start :]


def test_fields_keep_every_byte_and_lose_bare_line_feeds() -> None:
    view = view_message(b"A : b \t\n c\r\nB:d\n\nbody\n")
    assert [field.raw for field in view.fields] == [b"A : b \t\r\n c\r\n", b"B:d\r\n"]
    assert [field.relaxed for field in view.fields] == [b"a:b c\r\n", b"b:d\r\n"]
    assert bytes(view.body) == b"body\n"


BODIES = st.lists(st.sampled_from([b"a", b" ", b"\t", b"\r\n", b"\r", b"\n", b"b c", b"\r\n\r\n", b" \r\n"])).map(
    b"".join
)


@given(BODIES, st.sampled_from(Canonical), st.integers(1, 9))
def test_pieces_make_the_canonical_body_wherever_they_are_cut(body: bytes, form: Canonical, block: int) -> None:
    whole = b"".join(canonical_pieces(memoryview(body), form))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canonical, "BLOCK_BYTES", block)
        assert b"".join(canonical_pieces(memoryview(body), form)) == whole
    assert whole == plainly(body, form)


def plainly(body: bytes, form: Canonical) -> bytes:
    """RFC 6376 section 3.4.3 and 3.4.4, word by word."""
    if form is Canonical.RELAXED:
        body = re.sub(rb"[ \t]+(\r\n|\Z)", rb"\1", body)
        body = re.sub(rb"[ \t]+", b" ", body)
    while body.endswith(b"\r\n"):
        body = body[:-2]
    return body + b"\r\n" if body or form is Canonical.SIMPLE else b""


@given(BODIES, st.lists(st.integers(0, 40), max_size=5), st.sampled_from(Canonical))
def test_all_wanted_lengths_are_hashed_in_one_pass(body: bytes, lengths: list[int], form: Canonical) -> None:
    limits = [BodyLimit(form, length) for length in [*lengths, None]]
    hashes = BodyHashes(memoryview(body), frozenset(limits))
    canonical = plainly(body, form)
    for limit in limits:
        is_there = limit.length is None or limit.length <= len(canonical)
        expected = hashlib.sha256(canonical[: limit.length]).digest()
        if is_there:
            assert hashes.matches(limit, expected) is True
        elif body.count(b"\n") == body.count(b"\r\n"):
            assert hashes.matches(limit, expected) is None
