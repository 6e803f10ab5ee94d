"""ClamAV's clamd, asked by its own protocol (clamd(8), COMMANDS): INSTREAM for each content, all in one session."""

from __future__ import annotations

import re
import struct
from types import TracebackType

from inbound.scanning.connection import Connection, Deadline
from inbound.scanning.endpoint import Endpoint
from inbound.scanning.failures import Declined, NoAnswer, ScannerFailure
from inbound.scanning.verdict_text import to_symbols

CHUNK_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 4 * 1024
MAX_REASON_CHARACTERS = 200

_ANSWER = re.compile(r"(\d{1,9}): (?:stream: )?(?:(OK)|(\S.*) FOUND|(.*?)\.? ERROR)", re.DOTALL)
_END_OF_STREAM = struct.pack(">I", 0)


class Clamd:
    """One clamd."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def ping(self, deadline: Deadline) -> None:
        """Raises `ScannerFailure` unless it is alive."""
        with self._endpoint.open(deadline) as connection:
            connection.send(b"zPING\0")
            if connection.receive_until(b"\0", MAX_ANSWER_BYTES) != b"PONG":
                raise NoAnswer("no clamd answers there")

    def session(self, deadline: Deadline) -> ClamdSession:
        """To scan several contents."""
        return ClamdSession(self._endpoint, deadline)


class ClamdSession:
    """Scans one content after the other. Connects when the first one comes, and anew after a failure."""

    def __init__(self, endpoint: Endpoint, deadline: Deadline) -> None:
        self.deadline = deadline
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._asked = 0

    def __enter__(self) -> ClamdSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disconnect()

    def scan(self, content: bytes) -> tuple[str, ...]:
        """The names of signatures that match; empty when it is clean. Raises `ScannerFailure`."""
        try:
            connection = self._connection or self._connect()
            self._asked += 1
            self._stream(connection, content)
            return _read_answer(connection.receive_until(b"\0", MAX_ANSWER_BYTES), self._asked)
        except ScannerFailure:
            self._disconnect()
            raise

    def _connect(self) -> Connection:
        self._connection = self._endpoint.open(self.deadline)
        self._asked = 0
        self._connection.send(b"zIDSESSION\0")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _stream(self, connection: Connection, content: bytes) -> None:
        view = memoryview(content)
        try:
            connection.send(b"zINSTREAM\0")
            for start in range(0, len(content), CHUNK_BYTES):
                chunk = view[start : start + CHUNK_BYTES]
                connection.send(struct.pack(">I", len(chunk)))
                connection.send(chunk)
            connection.send(_END_OF_STREAM)
        except NoAnswer as failure:
            self._read_objection(connection, failure)

    def _read_objection(self, connection: Connection, failure: NoAnswer) -> None:
        """A clamd that has had enough says why and hangs up without reading on."""
        try:
            answer = connection.receive_until(b"\0", MAX_ANSWER_BYTES)
        except NoAnswer:
            raise failure from None
        _read_answer(answer, self._asked)
        raise failure


def _read_answer(answer: bytes, number: int) -> tuple[str, ...]:
    found = _ANSWER.fullmatch(answer.decode("utf-8", "replace"))
    if found is None or int(found[1]) != number:
        raise NoAnswer(f"this is no answer of clamd: {answer[:80]!r}")
    if found[4] is not None:
        raise Declined(f"clamd says {found[4][:MAX_REASON_CHARACTERS]}")
    return to_symbols([found[3]]) if found[3] is not None else ()
