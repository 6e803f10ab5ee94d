"""Hostile and large messages: time grows with size and no faster, and memory stays bounded."""

from __future__ import annotations

import base64
import hashlib
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from core.config import Settings
from inbound.authentication import Authenticator, ClientFacts, from_domain, with_trace, without_forged
from inbound.authentication.results_reader import read_results
from tests.authentication_support import CLIENT_IP, NOW_MS, SIGNER, Signing, lookup_at, publish, sign
from tests.authentication_zones import ZoneServer, running_zones
from tests.test_parse_limits import MAX_RATIO, _ratio

HERE = "mx.pillarbox.test"
CLIENT = ClientFacts(CLIENT_IP, "h.example", f"alice@{SIGNER}")
LARGEST = 35 * 1024 * 1024
LARGEST_S = 3.0
EMPTY_HASH = base64.b64encode(hashlib.sha256(b"").digest())
DKIM = b"DKIM-Signature: v=1; a=rsa-sha256; c=%s; d=signer.example; s=s1; h=from%s; bh=%s; b=AAAA%s\r\n"


@pytest.fixture(scope="module")
def zones() -> Iterator[ZoneServer]:
    with running_zones() as server:
        publish(server)
        yield server


@pytest.fixture(scope="module")
def check(zones: ZoneServer) -> Callable[[bytes], object]:
    authenticator = Authenticator(Settings(), lookup_at(zones), lambda: NOW_MS)
    return lambda raw: authenticator.check(raw, CLIENT)


def signature(form: bytes = b"relaxed/relaxed", names: bytes = b"", more: bytes = b"") -> bytes:
    return DKIM % (form, names, EMPTY_HASH, more)


def body(text: bytes) -> bytes:
    return signature() + signature(b"simple/simple") + b"From: a@signer.example\r\n\r\n" + text


def arc_sets(count: int, filling: bytes) -> bytes:
    return b"".join(
        b"ARC-Seal: i=%d; cv=%s; a=rsa-sha256; d=signer.example; s=s1; x=%s; b=AAAA\r\n"
        b"ARC-Message-Signature: i=%d; a=rsa-sha256; d=signer.example; s=s1; h=from; bh=%s; b=AAAA; x=%s\r\n"
        b"ARC-Authentication-Results: i=%d; x.example; none %s\r\n"
        % (number, b"pass" if number > 1 else b"none", filling, number, EMPTY_HASH, filling, number, filling)
        for number in range(1, count + 1)
    )


HOSTILE: dict[str, tuple[Callable[[int], bytes], int]] = {
    "fields": (lambda n: signature() * 10 + b"A: b\r\n" * n + b"\r\n", 900),
    "covered fields": (
        lambda n: signature(names=b":x" * n) * 10 + b"From: a@signer.example\r\n" + b"X: y\r\n" * 1500 + b"\r\n",
        20_000,
    ),
    "long fields": (
        lambda n: signature(names=b":x") * 10 + b"From: a@b.example\r\nX: " + b"a \t" * n + b"\r\n\r\n",
        50_000,
    ),
    "folds": (lambda n: signature(names=b":x") * 10 + b"X: " + b"a\r\n " * n + b"\r\n\r\n", 50_000),
    "tags": (lambda n: b"DKIM-Signature: " + b"a=b;" * n + b"\r\n\r\n", 100_000),
    "signatures": (lambda n: signature() * n + b"\r\n", 400),
    "semicolons": (lambda n: b"DKIM-Signature: " + b";" * n + b"\r\n\r\n", 400_000),
    "base64": (lambda n: signature(more=b"A" * n) + b"From: a@b.example\r\n\r\n", 400_000),
    "spaces": (lambda n: body(b" " * n + b"x\r\n"), 500_000),
    "tabs and spaces": (lambda n: body(b" \t" * n + b"\r\n"), 300_000),
    "spaces at line ends": (lambda n: body(b"x \r\n" * n), 200_000),
    "empty lines": (lambda n: body(b"\r\n" * n + b"x"), 1_000_000),
    "empty lines at the end": (lambda n: body(b"x" + b"\r\n" * n), 1_000_000),
    "carriage returns": (lambda n: body(b"\r" * n + b"\n"), 500_000),
    "line feeds": (lambda n: body(b"\n" * n), 200_000),
    "line feeds and empty lines": (lambda n: body(b"\n\r\n" * n), 60_000),
    "one long line": (lambda n: body(b"x" * n), 1_000_000),
    "authors": (lambda n: b"From: " + b"a@b.example, " * n + b"\r\n\r\n", 2_000),
    "comments in From": (lambda n: b"From: " + b"(" * n + b")" * n + b" a@b.example\r\n\r\n", 15_000),
    "sets": (lambda n: arc_sets(25, b"y" * n) + b"From: a@b.example\r\n\r\n", 5_000),
    "received": (lambda n: b"Received: from x (y [192.0.2.1]) by z\r\n" * n + b"\r\n", 900),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_twice_the_hostile_input_takes_about_twice_the_time(check: Callable[[bytes], object], name: str) -> None:
    build, size = HOSTILE[name]
    assert _ratio(check, build(size), build(2 * size)) < MAX_RATIO
    assert _ratio(check, build(2 * size), build(4 * size)) < MAX_RATIO


@pytest.mark.parametrize("count", [10, 20])
def test_seals_take_linear_time_in_their_number(check: Callable[[bytes], object], count: int) -> None:
    few, many = (arc_sets(number, b"y" * 5_000) + b"From: a@b.example\r\n\r\n" for number in (count, 2 * count))
    assert _ratio(check, few, many) < MAX_RATIO


VALUES = ["(", ")", '"', "\\", "a=b ", ";", '"a";', "=?utf-8?q?a?= ", "a", " "]


@pytest.mark.parametrize("piece", VALUES)
def test_foreign_results_are_read_in_linear_time(piece: str) -> None:
    size = 30_000 // len(piece)
    once, twice = piece * size, piece * 2 * size
    assert _ratio(read_results, once, twice) < MAX_RATIO
    assert _ratio(lambda value: without_forged([("Authentication-Results", value)], HERE), once, twice) < MAX_RATIO
    assert _ratio(lambda value: from_domain([value]), once, twice) < MAX_RATIO


@pytest.mark.parametrize(
    "line",
    [b"A: b\r\n", b"Authentication-Results: x\r\n", b"Authentication-Results: (" + b"\r\n ", b"\r", b"authentication-"],
)
def test_a_trace_is_added_in_linear_time(line: bytes) -> None:
    size = 150_000 // len(line)
    assert _ratio(lambda raw: with_trace(raw, "x", None, HERE), line * size, line * 2 * size) < MAX_RATIO


@pytest.mark.parametrize("line", [b"A" * 76 + b"\r\n", b"lorem ipsum  dolor\tsit amet \r\n", b"\r\n", b"x \n"])
@pytest.mark.parametrize("form", [b"simple", b"relaxed"])
def test_the_largest_message_is_checked_in_seconds_and_bounded_memory(
    check: Callable[[bytes], object], line: bytes, form: bytes
) -> None:
    text = line * (LARGEST // len(line))
    raw = sign(b"From: a@signer.example\r\n\r\nx\r\n", Signing(form=(b"relaxed", form))) + text
    begun = time.process_time()
    check(raw)
    assert time.process_time() - begun < LARGEST_S
    tracemalloc.start()
    check(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * len(raw)
