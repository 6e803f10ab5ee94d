"""Scanners that are down, hang, drip or talk nonsense: mail goes on, in time, with a verdict that says so."""

from __future__ import annotations

import resource
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from structlog.testing import capture_logs

from core.config import Settings
from core.errors import ConfigurationError
from core.verdicts import AttachmentScan, ScanStatus, SpamVerdict
from inbound.scanning import MailFacts, Scanners, endpoint
from inbound.scanning.connection import Deadline
from tests.ports import free_port
from tests.raw_server import Handler, running_raw_server

FACTS = MailFacts("127.0.0.1", "helo.test", "from@sender.test", ("one@here.test",))
RAW = b"Subject: x\r\n\r\n" + b"text\r\n" * 1000
PATIENCE_S = 0.4
MARGIN_S = 1.0
"""What a busy machine may take beyond the deadline."""
DRIP_S = 0.02
SETTINGS: dict[str, Callable[[str], Settings]] = {
    "spamd": lambda address: Settings(spamd=address),
    "rspamd": lambda address: Settings(rspamd=f"http://{address}"),
    "clamd": lambda address: Settings(clamd=address),
}
HALVES = {
    "spamd": b"SPAMD/1.1 0 EX_OK\r\nContent-length: 500\r\nSpam: True ; 9.0 / 5.0\r\n\r\nhalf",
    "rspamd": b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"score": 9, "action": "reject"}',
    "clamd": b"1: stream: O",
}
EVERY_SCANNER = pytest.mark.parametrize("scanner", ["spamd", "rspamd", "clamd"])


def ask(scanners: Scanners, raw: bytes = RAW, seconds: float = PATIENCE_S) -> SpamVerdict | AttachmentScan:
    """Ask whichever scanner there is about one message; fails when that takes too long."""
    started = time.monotonic()
    scans = scanners.scan([raw], Deadline(seconds))
    verdict = scans[0] if scans else scanners.score(raw, FACTS, Deadline(seconds))
    assert time.monotonic() - started < max(seconds, 0) + MARGIN_S
    assert verdict is not None
    return verdict


def has_failed(verdict: SpamVerdict | AttachmentScan) -> bool:
    if isinstance(verdict, SpamVerdict):
        assert "127.0.0.1" not in verdict.description  # where scanners are is not the customer's business
        return not verdict.success and verdict.score is None and not verdict.is_spam
    return verdict.status is ScanStatus.FAILED and not verdict.matches and len(verdict.sha256) == 64


def swallow(connection: socket.socket) -> None:
    """Read until the client gives up."""
    while connection.recv(65536):
        pass


def behaviour(name: str, scanner: str) -> Handler:
    """How a server treats each connection."""

    def say(words: bytes) -> Handler:
        def handle(connection: socket.socket, _: int) -> None:
            connection.recv(65536)
            connection.sendall(words)

        return handle

    def drip(connection: socket.socket, _: int) -> None:
        for byte in HALVES[scanner] + b"x" * 10_000:
            connection.sendall(bytes([byte]))
            time.sleep(DRIP_S)

    def talk_on(connection: socket.socket, _: int) -> None:
        connection.sendall(HALVES[scanner].replace(b"500", b"999999999999"))
        while True:
            connection.sendall(b"x" * 65536)

    behaviours: dict[str, Handler] = {
        "hangs": lambda connection, _: swallow(connection),
        "never reads": lambda connection, _: time.sleep(PATIENCE_S + 0.2),
        "closes at once": lambda connection, _: None,
        "says nothing": say(b""),
        "garbage": say(b"\x00\xff\xfe\x80 garbage \r\n\r\n\x00" * 20),
        "another protocol": say(b"220 mx.example ESMTP\r\n"),
        "half an answer": say(HALVES[scanner]),
        "another's answer": say(b"7: stream: OK\0"),
        "drips": drip,
        "never ends": talk_on,
    }
    return behaviours[name]


@EVERY_SCANNER
@pytest.mark.parametrize(
    "name",
    [
        "hangs",
        "never reads",
        "closes at once",
        "says nothing",
        "garbage",
        "another protocol",
        "half an answer",
        "another's answer",
        "drips",
        "never ends",
    ],
)
def test_a_scanner_that(scanner: str, name: str) -> None:
    with running_raw_server(behaviour(name, scanner)) as port:
        assert has_failed(ask(Scanners(SETTINGS[scanner](f"127.0.0.1:{port}"))))


@EVERY_SCANNER
def test_a_large_message_for_a_scanner_that_never_reads(scanner: str) -> None:
    with running_raw_server(behaviour("never reads", scanner)) as port:
        assert has_failed(ask(Scanners(SETTINGS[scanner](f"127.0.0.1:{port}")), RAW * 80))


@pytest.mark.parametrize(
    ("scanner", "beginning"),
    [
        *HALVES.items(),
        ("rspamd", b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"),
        ("rspamd", b"HTTP/1.0 200 OK\r\n\r\n"),
        ("rspamd", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"),
        ("rspamd", b"HTTP/1.1 200 OK\r\nX-Long: "),
        ("spamd", b"SPAMD/1.1 0 EX_OK\r\nX-Long: "),
    ],
)
def test_an_endless_answer_takes_little_memory(scanner: str, beginning: bytes) -> None:
    def talk_on(connection: socket.socket, _: int) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(b"x" * 65536)

    with running_raw_server(talk_on) as port:
        scanners = Scanners(SETTINGS[scanner](f"127.0.0.1:{port}"))
        tracemalloc.start()
        try:
            assert has_failed(ask(scanners, seconds=3))
            assert tracemalloc.get_traced_memory()[1] < 6_000_000
        finally:
            tracemalloc.stop()


@EVERY_SCANNER
def test_a_host_that_takes_no_connection(scanner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left alone for a while, unless it only had the last moment of a message's time."""
    monkeypatch.setattr(endpoint, "CONNECT_TIMEOUT_S", 0.3)
    with full_listener() as port, capture_logs() as logged:
        scanners = Scanners(SETTINGS[scanner](f"127.0.0.1:{port}"))
        assert has_failed(ask(scanners, seconds=0.1))
        assert logged == []
        assert has_failed(ask(scanners, seconds=10))
        assert [line["reason"] for line in logged] == [f"cannot connect to 127.0.0.1:{port}: timed out"]
        started = time.monotonic()
        assert has_failed(ask(scanners, seconds=10))
        assert time.monotonic() - started < 0.25


@contextmanager
def full_listener() -> Iterator[int]:
    """A port whose backlog is full, so that connecting to it hangs, as with a host that is gone."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@EVERY_SCANNER
def test_nobody_listens(scanner: str) -> None:
    assert has_failed(ask(Scanners(SETTINGS[scanner](f"127.0.0.1:{free_port()}"))))


@pytest.mark.parametrize("scanner", ["spamd", "clamd"])
def test_no_such_socket(scanner: str) -> None:
    assert has_failed(ask(Scanners(SETTINGS[scanner]("/nonexistent/scanner.sock"))))


@EVERY_SCANNER
def test_a_host_without_an_address(scanner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the system's look-up, which knows no deadline, never ends."""
    end = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *arguments: object, **options: object) -> object:
        if options.get("flags") != socket.AI_NUMERICHOST:
            end.wait(10)
        return real(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        assert has_failed(ask(Scanners(SETTINGS[scanner]("scanner.invalid:783"))))
    finally:
        end.set()


@EVERY_SCANNER
def test_no_file_descriptor_is_left(scanner: str) -> None:
    with running_raw_server(answering(scanner)) as port:
        scanners = Scanners(SETTINGS[scanner](f"127.0.0.1:{port}"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            verdict = ask(scanners, b"x")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert has_failed(verdict)


@pytest.mark.parametrize("scanner", ["spamd", "rspamd"])
def test_facts_that_are_no_text(scanner: str) -> None:
    facts = MailFacts("\udcff", "\udc80\x00", "a\udc80@\u2028b", ("\udc80",) * 3)
    with running_raw_server(answering(scanner)) as port:
        verdict = Scanners(SETTINGS[scanner](f"127.0.0.1:{port}")).score(b"x", facts, Deadline(5))
    assert verdict is not None
    assert verdict.success


@EVERY_SCANNER
def test_a_deadline_that_is_over(scanner: str) -> None:
    with running_raw_server(behaviour("hangs", scanner)) as port:
        assert has_failed(ask(Scanners(SETTINGS[scanner](f"127.0.0.1:{port}")), seconds=-1))


@EVERY_SCANNER
def test_a_host_with_two_addresses_is_asked_at_the_one_that_answers(scanner: str) -> None:
    """`localhost` may be ::1 first, where nothing listens."""
    with running_raw_server(answering(scanner)) as port:
        assert not has_failed(ask(Scanners(SETTINGS[scanner](f"localhost:{port}")), b"x", seconds=5))


def answering(scanner: str) -> Handler:
    """A server that finds nothing in anything."""
    answers = {
        "spamd": b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; 0.0 / 5.0\r\n\r\n",
        "rspamd": b'HTTP/1.0 200 OK\r\n\r\n{"score": 0, "action": "no action"}',
        "clamd": b"1: stream: OK\0",
    }

    def handle(connection: socket.socket, _: int) -> None:
        heard = b""
        while not heard.endswith((b"x", b"\0\0\0\0")):
            heard += connection.recv(65536)
        connection.sendall(answers[scanner])

    return handle


def test_all_of_one_message_shares_its_time() -> None:
    with running_raw_server(behaviour("hangs", "clamd")) as clamd, running_raw_server(answering("spamd")) as spamd:
        scanners = Scanners(Settings(spamd=f"127.0.0.1:{spamd}", clamd=f"127.0.0.1:{clamd}"))
        started = time.monotonic()
        deadline = Deadline(PATIENCE_S)
        scans = scanners.scan([b"%d" % number for number in range(50)], deadline)
        verdict = scanners.score(b"x", FACTS, deadline)
    assert time.monotonic() - started < PATIENCE_S + MARGIN_S
    assert scans is not None
    assert all(has_failed(scan) for scan in scans)
    assert verdict is not None
    assert has_failed(verdict)


def test_without_scanners_nothing_is_claimed() -> None:
    scanners = Scanners(Settings())
    assert not scanners.scores
    assert not scanners.scans_attachments
    assert scanners.score(RAW, FACTS) is None
    assert scanners.scan([RAW]) is None


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        (Settings(spamd="783"), "PILLARBOX_SPAMD"),
        (Settings(spamd="localhost"), "PILLARBOX_SPAMD"),
        (Settings(spamd="host:99999"), "PILLARBOX_SPAMD"),
        (Settings(spamd="spamd.sock"), "PILLARBOX_SPAMD"),
        (Settings(spamd="/" + "long" * 50), "PILLARBOX_SPAMD"),
        (Settings(clamd="unix:/run/clamd.sock"), "PILLARBOX_CLAMD"),
        (Settings(clamd=":3310"), "PILLARBOX_CLAMD"),
        (Settings(rspamd="localhost:11333"), "PILLARBOX_RSPAMD"),
        (Settings(rspamd="http://"), "PILLARBOX_RSPAMD"),
        (Settings(rspamd="http://h:0"), "PILLARBOX_RSPAMD"),
        (Settings(rspamd="http://h:port"), "PILLARBOX_RSPAMD"),
        (Settings(rspamd="http://user:secret@h"), "PILLARBOX_RSPAMD"),
        (Settings(rspamd="http://h/a b"), "PILLARBOX_RSPAMD"),
        (Settings(rspamd="http://h/a\r\nX: y"), "PILLARBOX_RSPAMD"),
        (Settings(rspamd="http://[::1"), "PILLARBOX_RSPAMD"),
        (Settings(rspamd="ftp://h"), "PILLARBOX_RSPAMD"),
    ],
)
def test_settings_that_cannot_be_used(settings: Settings, variable: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{variable}: .+(`|;)"):
        Scanners(settings)
