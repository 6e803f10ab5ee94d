"""A real SMTP server on loopback that does what a script says at every step: answer, refuse, hang up, stall, flood."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO

from tests.raw_server import Certificate

STALL_S = 30.0
"""How long a stalling peer holds out; clients in tests give up long before."""
DRIP_S = 0.05
CONTENT_BLOCK = 65_536
FLOOD_LINES = 100_000


class Trick(Enum):
    """What a peer may do instead of answering."""

    HANG_UP = "closes the connection"
    RESET = "closes it with a reset"
    STALL = "says nothing until the client goes"
    DRIP = "sends a byte now and then, never a whole reply"
    FLOOD = "sends a reply of endless lines"
    LONG_LINE = "sends a line without end"


Answer = str | bytes | Trick
"""Text gets a CRLF; bytes go as they are."""


@dataclass
class Script:
    """The behaviour of a peer. A list is gone through, its last entry stays."""

    greeting: Answer | list[Answer] = "220 mx.test ESMTP"
    features: tuple[str, ...] = ("PIPELINING", "SIZE 50000000", "8BITMIME")
    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    """By verb (`EHLO`, `MAIL`, …), or by verb and argument (`RCPT TO:<a@b.test>`); `.` is the end of content."""
    handshake: bool = True
    """Whether the TLS handshake after STARTTLS is done; else the connection is closed in its place."""
    injected: bytes = b""
    """Sent in clear right after the answer to STARTTLS."""
    content_pause_s: float = 0.0
    """How long it sleeps after each `CONTENT_BLOCK` of content that it takes."""
    content_limit: int | None = None
    """After so many bytes of content it answers with `answers["."]` and hangs up."""

    def pick(self, verb: str, line: str) -> Answer | None:
        """The answer to a command that is not the usual one."""
        for key in (line, verb):
            if key in self.answers:
                return _next(self.answers, key)
        return None


@dataclass
class Taken:
    """A message that the peer has answered."""

    mail_from: str
    recipients: list[str]
    content: bytes
    """As it came over the wire, stuffing undone, without the final dot."""
    wire: bytes
    is_tls: bool


class Peer:
    """A running peer and what it has seen."""

    def __init__(self, script: Script, certificate: Certificate | ssl.SSLContext | None) -> None:
        self.script = script
        self.port = 0
        self.lines: list[str] = []
        """Every command line, and `<connected>` for each connection."""
        self.taken: list[Taken] = []
        self.is_stopped = threading.Event()
        self.last: socket.socket | None = None
        """The connection made last."""
        self._tls = None if certificate is None else _tls_context(certificate)

    @property
    def connections(self) -> int:
        """How many there were."""
        return self.lines.count("<connected>")

    def say(self, text: bytes) -> None:
        """Say something unasked on the last connection."""
        assert self.last is not None
        self.last.sendall(text)

    def verbs(self) -> list[str]:
        """The verbs of all commands, in order."""
        return [line.partition(" ")[0] for line in self.lines if not line.startswith("<")]

    def serve(self, connection: socket.socket) -> None:
        """One connection."""
        self.lines.append("<connected>")
        self.last = connection
        with suppress(OSError, _Over):
            _Session(self, connection).run(self._tls)


class _Over(Exception):
    """The session ends."""


class _Session:
    def __init__(self, peer: Peer, connection: socket.socket) -> None:
        self._peer = peer
        self._script = peer.script
        self._socket = connection
        self._reader: BinaryIO = connection.makefile("rb")
        self._sender = ""
        self._recipients: list[str] = []
        self._is_tls = False

    def run(self, tls: ssl.SSLContext | None) -> None:
        greeting = self._script.greeting
        self._give(_next_of(greeting))
        while line := self._reader.readline(65536):
            text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
            self._peer.lines.append(text)
            self._obey(text, tls)

    def _obey(self, line: str, tls: ssl.SSLContext | None) -> None:
        verb = line.partition(" ")[0].upper()
        answer = self._script.pick(verb, line)
        if verb == "DATA" and (answer is None or str(answer).startswith("354")):
            self._take_content(answer or "354 go on")
        elif verb == "STARTTLS" and answer is None and tls is not None:
            self._start_tls(tls)
        elif answer is not None:
            self._give(answer)
            if verb == "RCPT" and str(answer).startswith("2"):
                self._recipients.append(line)
        else:
            self._usual(verb, line)

    def _usual(self, verb: str, line: str) -> None:
        if verb == "EHLO":
            self._give(_multiline(("mx.test", *self._script.features)))
        elif verb == "QUIT":
            self._give("221 2.0.0 bye")
            raise _Over
        elif verb in ("HELO", "MAIL", "RCPT", "RSET", "NOOP"):
            if verb == "MAIL":
                self._sender, self._recipients = line, []
            if verb == "RCPT":
                self._recipients.append(line)
            self._give("250 2.1.0 ok")
        else:
            self._give("502 5.5.2 what?")

    def _take_content(self, go_on: Answer) -> None:
        self._give(go_on)
        lines = []
        size = 0
        while (line := self._reader.readline()) not in (b".\r\n", b""):
            lines.append(line)
            if (size + len(line)) // CONTENT_BLOCK > size // CONTENT_BLOCK:
                self._peer.is_stopped.wait(self._script.content_pause_s)
            size += len(line)
            if self._script.content_limit is not None and size > self._script.content_limit:
                self._give(self._script.pick(".", ".") or Trick.HANG_UP)
                raise _Over
        if not line:
            raise _Over
        wire = b"".join(lines)
        content = b"".join(one[1:] if one.startswith(b".") else one for one in lines)
        self._peer.taken.append(Taken(self._sender, self._recipients, content, wire, self._is_tls))
        self._give(self._script.pick(".", ".") or "250 2.0.0 queued")

    def _start_tls(self, tls: ssl.SSLContext) -> None:
        self._socket.sendall(b"220 2.0.0 go on\r\n" + self._script.injected)
        if not self._script.handshake:
            raise _Over
        self._reader.close()
        self._socket = tls.wrap_socket(self._socket, server_side=True)
        self._reader = self._socket.makefile("rb")
        self._is_tls = True

    def _give(self, answer: Answer) -> None:
        if isinstance(answer, Trick):
            self._play(answer)
            raise _Over
        self._socket.sendall(answer if isinstance(answer, bytes) else answer.encode() + b"\r\n")
        if str(answer).startswith("421"):
            raise _Over

    def _play(self, trick: Trick) -> None:
        if trick is Trick.RESET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        elif trick is Trick.STALL:
            self._peer.is_stopped.wait(STALL_S)
        elif trick is Trick.DRIP:
            end = time.monotonic() + STALL_S
            while time.monotonic() < end and not self._peer.is_stopped.wait(DRIP_S):
                self._socket.sendall(b"2")
        elif trick is Trick.FLOOD:
            for _ in range(FLOOD_LINES):
                self._socket.sendall(b"250-more\r\n")
        elif trick is Trick.LONG_LINE:
            for _ in range(FLOOD_LINES):
                self._socket.sendall(b"250 " + b"x" * 1000)


@contextmanager
def running_peer(
    script: Script,
    certificate: Certificate | ssl.SSLContext | None = None,
    address: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[Peer]:
    """Serve each connection in a thread; with a certificate, STARTTLS works (name it among the features).

    All mail hosts have one port: another peer is at the same port of another address, such as 127.0.0.2.
    """
    with socket.create_server((address, port), backlog=64) as listener:
        peer = Peer(script, certificate)
        peer.port = listener.getsockname()[1]
        thread = threading.Thread(target=_accept, args=(listener, peer), daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            peer.is_stopped.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _accept(listener: socket.socket, peer: Peer) -> None:
    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(STALL_S)
            peer.serve(connection)

    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


def _next(answers: dict[str, Answer | list[Answer]], key: str) -> Answer:
    return _next_of(answers[key])


def _next_of(answer: Answer | list[Answer]) -> Answer:
    if not isinstance(answer, list):
        return answer
    return answer.pop(0) if len(answer) > 1 else answer[0]


def _multiline(lines: tuple[str, ...]) -> str:
    return "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])


def _tls_context(certificate: Certificate | ssl.SSLContext) -> ssl.SSLContext:
    if isinstance(certificate, ssl.SSLContext):
        return certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key_path)
    return context
