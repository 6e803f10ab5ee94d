"""Collecting a message: the same bytes come out however the stream was cut, in memory or in a file."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.store.blobs import INLINE_LIMIT
from core.store.spool_place import SPOOL_PREFIX
from inbound.smtp.spool import (
    END_OF_DATA,
    HEAD_BYTES,
    MessageSpool,
    Overflow,
    SpooledMessage,
    remove_abandoned,
)
from tests.smtp_client import stuffed

CRLF = b"\r\n"
NO_LIMIT = 1 << 40
AWKWARD = b".a\r\n..\r\n.\n\r.\r\r\n.\r\nb\r\n\r\n...\r.\n"
PIECES = (b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"x", b"\x00", b"\xff")
BYTES = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)


def test_every_way_to_cut_a_stream_gives_the_same_message(tmp_path: Path) -> None:
    message = AWKWARD + CRLF
    stream = CRLF + stuffed(message)

    for first in range(len(stream) - len(END_OF_DATA) + 1):
        for second in range(first, len(stream) - len(END_OF_DATA) + 1):
            spool = MessageSpool(tmp_path, NO_LIMIT, NO_LIMIT)
            spool.append(stream[:first])
            spool.append(stream[first:second])
            assert _raw(spool.finish(stream[second:])) == message, (first, second)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_stream_in_tiny_pieces_gives_the_same_message(tmp_path: Path, step: int) -> None:
    stream = CRLF + stuffed(AWKWARD + CRLF)
    body, end = stream[: -len(END_OF_DATA)], stream[-len(END_OF_DATA) :]
    spool = MessageSpool(tmp_path, NO_LIMIT, NO_LIMIT)

    for start in range(0, len(body), step):
        spool.append(body[start : start + step])

    assert _raw(spool.finish(end)) == AWKWARD + CRLF


@given(content=BYTES, cuts=st.lists(st.integers(0, 200), max_size=6))
def test_dot_stuffing_round_trips(content: bytes, cuts: list[int]) -> None:
    message = content + CRLF
    stream = CRLF + stuffed(message)
    assert stream.find(END_OF_DATA) == len(stream) - len(END_OF_DATA)  # stuffed, it ends nowhere else
    spool = MessageSpool(Path("/nonexistent"), NO_LIMIT, NO_LIMIT)
    limit = len(stream) - len(END_OF_DATA)
    places = [0, *sorted(min(cut, limit) for cut in cuts)]
    for start, end in itertools.pairwise(places):
        spool.append(stream[start:end])

    done = spool.finish(stream[places[-1] :])

    assert done is not None
    assert (done.raw, done.size, done.md5) == (message, len(message), hashlib.md5(message).hexdigest())


def test_nothing_at_all_is_an_empty_message(tmp_path: Path) -> None:
    done = MessageSpool(tmp_path, NO_LIMIT, NO_LIMIT).finish(END_OF_DATA)

    assert done == SpooledMessage(b"", None, b"", 0, hashlib.md5(b"").hexdigest())


@pytest.mark.parametrize("extra", [-1, 0, 1, HEAD_BYTES, 3 * INLINE_LIMIT])
@pytest.mark.parametrize("block", [1_000, 65_536, 1 << 20])
def test_a_message_moves_to_a_file_when_it_no_longer_fits_into_a_row(tmp_path: Path, extra: int, block: int) -> None:
    message = _lines(INLINE_LIMIT + extra)

    done = _collect(MessageSpool(tmp_path, NO_LIMIT, NO_LIMIT), message, block)

    assert done is not None
    assert (done.path is None) == (extra <= 0)
    assert _raw(done) == message
    assert message.startswith(done.head)
    assert len(done.head) == min(len(message), HEAD_BYTES)
    assert (done.size, done.md5) == (len(message), hashlib.md5(message).hexdigest())
    done.discard()
    done.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [10, 5_000, 2 * INLINE_LIMIT])
def test_a_message_over_the_limit_leaves_nothing_and_the_rest_is_dropped(tmp_path: Path, limit: int) -> None:
    exact = _collect(MessageSpool(tmp_path, limit, NO_LIMIT), _lines(limit), 1_000)
    assert exact is not None
    exact.discard()

    spool = MessageSpool(tmp_path, limit, NO_LIMIT)
    assert _collect(spool, _lines(limit + 1), 1_000) is None
    assert spool.overflow is Overflow.SIZE
    assert list(tmp_path.iterdir()) == []

    spool.append(_lines(limit))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("block", [1, 7, 100, 10_000])
@pytest.mark.parametrize("before", [b"", b"short\r\n", b"x" * 99 + CRLF])
def test_lines_are_measured_over_all_blocks(tmp_path: Path, block: int, before: bytes) -> None:
    longest = b"y" * 99 + CRLF  # its CR counts, its LF ends it
    fits, too_long = MessageSpool(tmp_path, NO_LIMIT, 100), MessageSpool(tmp_path, NO_LIMIT, 100)

    assert _collect(fits, before + longest + before, block) is not None
    assert _collect(too_long, before + b"y" + longest + before, block) is None
    assert too_long.overflow is Overflow.LINE


def test_a_line_without_end_is_too_long_before_it_ends(tmp_path: Path) -> None:
    spool = MessageSpool(tmp_path, NO_LIMIT, 100)

    spool.append(CRLF + b"y" * 60)
    assert spool.overflow is None
    spool.append(b"y" * 60)

    assert spool.overflow is Overflow.LINE


def test_a_folder_that_cannot_be_written_to_is_an_overflow_and_no_error(tmp_path: Path) -> None:
    spool = MessageSpool(tmp_path / "missing", NO_LIMIT, NO_LIMIT)

    assert _collect(spool, _lines(2 * INLINE_LIMIT), 65_536) is None

    assert spool.overflow is Overflow.STORAGE
    assert isinstance(spool.failure, FileNotFoundError)


def test_a_discarded_spool_leaves_no_file(tmp_path: Path) -> None:
    spool = MessageSpool(tmp_path, NO_LIMIT, NO_LIMIT)
    spool.append(CRLF + _lines(2 * INLINE_LIMIT))
    assert len(list(tmp_path.iterdir())) == 1

    spool.discard()
    spool.discard()

    assert list(tmp_path.iterdir()) == []


def test_only_what_would_stay_in_memory_is_small(tmp_path: Path) -> None:
    spool = MessageSpool(tmp_path, NO_LIMIT, NO_LIMIT)
    assert spool.is_small_with(b"x" * 1_000)
    assert not spool.is_small_with(b"x" * (INLINE_LIMIT + 3))

    spool.append(CRLF + _lines(2 * INLINE_LIMIT))

    assert not spool.is_small_with(b"")
    spool.discard()


def test_only_abandoned_messages_are_removed(tmp_path: Path) -> None:
    now = time.time()
    for name, age in ((SPOOL_PREFIX + "old", 61), (SPOOL_PREFIX + "new", 59), ("other", 1_000)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (now - age, now - age))

    remove_abandoned(tmp_path, older_than_s=60, now_s=now)

    assert sorted(path.name for path in tmp_path.iterdir()) == [SPOOL_PREFIX + "new", "other"]


def test_collecting_takes_linear_time(tmp_path: Path) -> None:
    def seconds(size: int) -> float:
        stream = CRLF + stuffed(b"." * 10 + CRLF + b"\r\n.\r" * (size // 4) + CRLF)
        best = float("inf")
        for _ in range(3):
            spool = MessageSpool(tmp_path, NO_LIMIT, NO_LIMIT)
            begun = time.process_time()
            for start in range(0, len(stream) - len(END_OF_DATA), 4_096):
                spool.append(stream[start : start + 4_096])
            best = min(best, time.process_time() - begun)
            spool.discard()
        return best

    assert seconds(4 << 20) / seconds(1 << 20) < 8


def _lines(size: int) -> bytes:
    """Exactly so many bytes of lines, two at least."""
    whole = max(0, size - 80) // 78
    return (b"x" * 76 + CRLF) * whole + b"y" * (size - 78 * whole - 2) + CRLF


def _collect(spool: MessageSpool, message: bytes, block: int) -> SpooledMessage | None:
    stream = CRLF + stuffed(message)
    body = stream[: -len(END_OF_DATA)]
    for start in range(0, len(body), block):
        spool.append(body[start : start + block])
    return spool.finish(END_OF_DATA)


def _raw(message: SpooledMessage | None) -> bytes:
    assert message is not None
    if message.path is not None:
        return message.path.read_bytes()
    assert message.raw is not None
    return message.raw
