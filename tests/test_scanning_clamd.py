"""Virus scans by a real clamd that knows one signature."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from core.config import Settings
from core.verdicts import AttachmentScan, ScanStatus
from inbound.scanning import Scanners
from inbound.scanning.availability import REST_S
from inbound.scanning.connection import Deadline
from tests.scanner_servers import EICAR, FOUND_AS, STREAM_LIMIT, ScannerServer, running_clamd

OK, FOUND, FAILED = ScanStatus.OK, ScanStatus.FOUND, ScanStatus.FAILED


@pytest.fixture(scope="module")
def clamd() -> Iterator[ScannerServer]:
    with running_clamd() as running:
        yield running


@pytest.fixture
def scanners(clamd: ScannerServer) -> Scanners:
    return Scanners(Settings(clamd=clamd.address))


def statuses(scanners: Scanners, *contents: bytes) -> list[ScanStatus]:
    scans = scanners.scan(contents)
    assert scans is not None
    return [scan.status for scan in scans]


def test_a_virus_is_named(scanners: Scanners) -> None:
    assert scanners.scan([EICAR]) == (
        AttachmentScan(FOUND, hashlib.md5(EICAR).hexdigest(), hashlib.sha256(EICAR).hexdigest(), (FOUND_AS,)),
    )


def test_a_clean_content_has_its_digests(scanners: Scanners) -> None:
    assert scanners.scan([b"clean"]) == (
        AttachmentScan(OK, hashlib.md5(b"clean").hexdigest(), hashlib.sha256(b"clean").hexdigest()),
    )


def test_verdicts_stand_in_the_order_of_the_contents(scanners: Scanners) -> None:
    assert statuses(scanners, b"one", b"before" + EICAR, b"", b"two" * 100_000, EICAR) == [OK, FOUND, OK, OK, FOUND]


def test_no_attachments(scanners: Scanners) -> None:
    assert scanners.scan([]) == ()


def test_a_virus_at_the_end_of_a_large_content(scanners: Scanners) -> None:
    assert statuses(scanners, os.urandom(10_000_000) + EICAR) == [FOUND]


def test_over_the_unix_socket(clamd: ScannerServer) -> None:
    assert statuses(Scanners(Settings(clamd=str(clamd.socket_path))), EICAR, b"clean") == [FOUND, OK]


@pytest.mark.parametrize("is_local", [False, True], ids=["port", "socket"])
def test_a_content_beyond_clamds_limit_fails_alone(clamd: ScannerServer, is_local: bool) -> None:
    scanners = Scanners(Settings(clamd=str(clamd.socket_path) if is_local else clamd.address))
    large = bytes(STREAM_LIMIT + 6_000_000)
    with capture_logs() as logged:
        assert statuses(scanners, b"one", large, EICAR, large + b"x", b"two") == [OK, FAILED, FOUND, FAILED, OK]
    assert [(line["event"], line["reason"]) for line in logged] == [
        ("scanner declines", "clamd says INSTREAM size limit exceeded")
    ]


def test_a_content_of_clamds_limit(scanners: Scanners) -> None:
    assert statuses(scanners, bytes(STREAM_LIMIT - len(EICAR)) + EICAR) == [FOUND]


def test_equal_contents_are_scanned_once(scanners: Scanners, clamd: ScannerServer) -> None:
    before = clamd.log().count(f"{FOUND_AS} FOUND")
    assert statuses(scanners, *[EICAR] * 500) == [FOUND] * 500
    assert clamd.log().count(f"{FOUND_AS} FOUND") == before + 1


def test_many_contents(scanners: Scanners) -> None:
    contents = [b"%d" % number + (EICAR if number % 7 == 0 else b"") for number in range(300)]
    started = time.monotonic()
    assert statuses(scanners, *contents) == [FOUND if number % 7 == 0 else OK for number in range(300)]
    assert time.monotonic() - started < 6  # waiting for an acknowledgement each time takes 13


def test_from_many_threads(scanners: Scanners) -> None:
    def scan(number: int) -> list[ScanStatus]:
        return statuses(scanners, b"%d" % number, b"%d" % number + EICAR, bytes(number * 1000))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(scan, range(200))) == [[OK, FOUND, OK]] * 200


def test_a_clamd_that_hangs_and_comes_back() -> None:
    now = [0.0]
    with running_clamd() as clamd:
        scanners = Scanners(Settings(clamd=clamd.address), clock=lambda: now[0])
        os.kill(clamd.process.pid, signal.SIGSTOP)
        try:
            with capture_logs() as logged:
                hanging = scanners.scan([b"one"], Deadline(0.3))
                refused = scanners.scan([b"two", b"three"], Deadline(1.5))  # a ping is given a second
                started = time.monotonic()
                skipped = scanners.scan([b"four"])
                assert time.monotonic() - started < 0.9  # a ping would wait a second
        finally:
            os.kill(clamd.process.pid, signal.SIGCONT)
        for scans in (hanging, refused, skipped):
            assert scans is not None
            assert {scan.status for scan in scans} == {FAILED}
        assert [line["event"] for line in logged] == ["scanner does not answer"]
        assert statuses(scanners, b"still left alone") == [FAILED]
        now[0] += REST_S
        with capture_logs() as logged:
            assert statuses(scanners, EICAR, b"clean") == [FOUND, OK]
        assert [(line["event"], line["missed"]) for line in logged] == [("scanner answers again", 4)]
