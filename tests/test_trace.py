"""Loops and automatic mail, as the header tells of them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.loop_mark import FORWARDED_HEADER, forwarded_mark
from inbound.reading.trace import find_loop, is_automatic

HOST = "mx.pillarbox.test"
HOP = b"Received: from a.example by b.example with ESMTP id 1;\r\n\tMon, 1 Jan 2026 00:00:00 +0000\r\n"
BODY = b"\r\n" + HOP * 100 + b"Auto-Submitted: auto-replied\r\n"


def mark(address_id: str, host: str = HOST) -> bytes:
    """A field as our forwarding adds it."""
    return f"{FORWARDED_HEADER}: {forwarded_mark(address_id, host)}\r\n".encode()


def test_more_hops_than_allowed_are_a_loop_and_as_many_are_not() -> None:
    assert find_loop(HOP * 50 + b"Subject: x\r\n" + BODY, HOST, 50) is None
    assert find_loop(HOP * 51 + b"Subject: x\r\n" + BODY, HOST, 50) == "it has passed 51 hosts, more than 50"
    assert find_loop(HOP.replace(b"Received", b"rEcEiVeD  ") * 4, HOST, 3) is not None
    assert find_loop(HOP.replace(b"\r\n", b"\n") * 4 + b"\n" + HOP, HOST, 3) is not None
    assert find_loop(b"X-Received: x\r\nReceived-SPF: x\r\nSubject:\r\n Received: folded\r\n" * 99, HOST, 3) is None


def test_the_same_mark_of_ours_twice_is_a_loop() -> None:
    once = mark("one") + HOP + mark("two") + mark("one", "mx.other.example") * 5

    assert find_loop(once + BODY, HOST, 50) is None
    assert find_loop(mark("ONE").upper() + once + BODY, HOST.upper(), 50) == "it has been forwarded from here before"


def test_a_mark_of_the_address_it_is_for_is_a_loop_at_once() -> None:
    head = mark("one") + mark("two", "mx.other.example") + BODY

    assert find_loop(head, HOST, 50, ["three", "one"]) == "it has been forwarded for this address before"
    assert find_loop(head, HOST, 50, ["two", "three"]) is None


@pytest.mark.parametrize(
    "field",
    [
        "Auto-Submitted: auto-replied", "auto-submitted:auto-generated; x=y", "Auto-Submitted: auto-notified (x)",
        "Auto-Submitted:\r\n auto-replied", "Precedence: bulk", "precedence: JUNK", "Precedence: list",
        "List-Id: <a.example>", "LIST-UNSUBSCRIBE: <mailto:a@b.example>", "X-Auto-Response-Suppress: All",
        "X-Auto-Response-Suppress: DR, OOF",
    ],
)  # fmt: skip
def test_what_programs_send_is_automatic(field: str) -> None:
    assert is_automatic(f"From: a@b.example\r\n{field}\r\n\r\nbody".encode())
    assert not is_automatic(f"From: a@b.example\r\n\r\n{field}\r\n".encode())


@pytest.mark.parametrize(
    "field",
    [
        "Auto-Submitted: no", "Auto-Submitted: NO (a person)", "Auto-Submitted: no; x=y", "Auto-Submitted:",
        "Precedence: first-class", "Listen: x", "List-Id:", "X-Auto-Response-Suppress: None", "X-Precedence: bulk",
    ],
)  # fmt: skip
def test_what_people_send_is_not(field: str) -> None:
    assert not is_automatic(f"From: a@b.example\r\n{field}\r\n\r\nbody".encode())


@given(st.lists(st.sampled_from([HOP, mark("a"), b"\r\n", b"\n", b"\r", b" ", b":", b"\x00\xff", b"List-Id: x\r\n"])))
def test_any_bytes_can_be_judged(pieces: list[bytes]) -> None:
    head = b"".join(pieces)

    assert find_loop(head, HOST, 3) is None or HOP in head or mark("a") in head
    assert isinstance(is_automatic(head), bool)


@pytest.mark.parametrize("piece", [HOP, b"Received:\r\n", b"Received: " + b"x" * 50, b" \r\n", b"a:\r\n \r\n", b"\t"])
def test_judging_takes_linear_time(piece: bytes) -> None:
    def seconds(size: int) -> float:
        head = (piece * (size // len(piece) + 1))[:size]
        best = float("inf")
        for _ in range(3):
            begun = time.process_time()
            find_loop(head, HOST, 50, ["one"])
            is_automatic(head)
            best = min(best, time.process_time() - begun)
        return best

    seconds(1_000)
    assert seconds(256_000) < 12 * max(seconds(64_000), 0.000_2)
