"""Collecting one message while DATA runs: in memory while small, in a file when it grows.

Undoes dot-stuffing (RFC 5321 section 4.5.2) and keeps every other byte as it came, bare CR and LF included: they
are content. Only `<CRLF>.<CRLF>` ends a message (`inbound.smtp.session`), so nothing hidden behind another line ending
can become a second one (SMTP smuggling, CVE-2023-51764).
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO, cast

from core.errors import StorageUnavailable
from core.store.blobs import INLINE_LIMIT
from core.store.spool_place import SPOOL_PREFIX

END_OF_DATA = b"\r\n.\r\n"
HEAD_BYTES = 64 * 1024
"""How much of the beginning is kept at hand to read the headers from."""
_CRLF = b"\r\n"
_STUFFED_DOT = b"\r\n."


class Overflow(Enum):
    """Why a message is not kept; its remaining bytes are read and dropped."""

    SIZE = auto()
    LINE = auto()
    STORAGE = auto()
    """The disk did not take it; see `MessageSpool.failure`."""


@dataclass(frozen=True, slots=True)
class SpooledMessage:
    """A complete message: either `raw` or `path` is set."""

    raw: bytes | None
    path: Path | None
    head: bytes
    size: int
    md5: str

    def read(self) -> bytes:
        """The whole message. Raises `StorageUnavailable`."""
        if self.raw is not None:
            return self.raw
        try:
            return self.path.read_bytes()  # type: ignore[union-attr] # one of the two is set
        except OSError as error:
            raise StorageUnavailable("a message cannot be read now") from error

    def discard(self) -> None:
        """Remove the file, if there is one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class MessageSpool:
    """Takes the bytes after 354, beginning with the CRLF that ended the DATA command itself.

    That CRLF is part of the terminator of an empty message, and makes the first line like any other.
    """

    def __init__(self, folder: Path, max_size: int, max_line: int) -> None:
        self.overflow: Overflow | None = None
        self.failure: OSError | None = None
        self.is_discarded = False
        self._folder = folder
        self._max_size = max_size
        self._max_line = max_line
        self._carry = b""
        self._chunks: list[bytes] = []
        self._head = b""
        self._file: BinaryIO | None = None
        self._size = -len(_CRLF)  # the CRLF of DATA is not part of the message
        self._line = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def is_small_with(self, data: bytes) -> bool:
        """Whether taking `data` stays in memory, so that it may be done on the event loop."""
        return self._file is None and self._size + len(data) < INLINE_LIMIT

    def append(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        data = self._carry + data
        held = self._undecided_tail(data)
        self._carry = data[len(data) - held :]
        self._keep(data[: len(data) - held])

    def finish(self, data: bytes) -> SpooledMessage | None:
        """Take the last bytes, the terminator included; None when the message overflowed."""
        content = self._carry + data.removesuffix(END_OF_DATA) + _CRLF
        self._keep(content)
        if self.overflow is not None:
            return None
        return self._file_result() if self._file is not None else self._memory_result()

    def discard(self) -> None:
        """Forget everything."""
        self.is_discarded = True
        self._chunks.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing flushes once more, and may fail once more
                self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
            self._file = None

    def _keep(self, data: bytes) -> None:
        if self.overflow is not None or not data:
            return
        self._measure_lines(data)
        data = data.replace(_STUFFED_DOT, _CRLF)
        if self._size < 0:  # an undecided CRLF is held back whole, so it arrives here in one piece
            data = data[len(_CRLF) :]
            self._size = 0
        self._size += len(data)
        if self._size > self._max_size:
            self.overflow = Overflow.SIZE
        if self.overflow is not None:
            self.discard()
            return
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._md5.update(data)
        try:
            if self._file is not None:
                self._file.write(data)
                return
            self._chunks.append(data)
            if self._size > INLINE_LIMIT:
                self._move_to_file()
        except OSError as error:
            self._fail(error)

    def _move_to_file(self) -> None:
        file = tempfile.NamedTemporaryFile(dir=self._folder, prefix=SPOOL_PREFIX, delete=False)  # noqa: SIM115
        self._file = cast(BinaryIO, file)
        collected = b"".join(self._chunks)
        self._head = collected[:HEAD_BYTES]
        self._chunks.clear()
        self._file.write(collected)

    def _fail(self, error: OSError) -> None:
        self.overflow = Overflow.STORAGE
        self.failure = error
        self.discard()

    def _measure_lines(self, data: bytes) -> None:
        first = data.find(b"\n")
        if first < 0:
            self._line += len(data)
            longest = self._line
        else:
            longest = self._line + first
            self._line = len(data) - data.rfind(b"\n") - 1
            if len(data) > self._max_line:
                longest = max(longest, max(map(len, data.split(b"\n"))))
        if longest > self._max_line:
            self.overflow = Overflow.LINE

    def _memory_result(self) -> SpooledMessage:
        raw = b"".join(self._chunks)
        return SpooledMessage(raw, None, raw[:HEAD_BYTES], len(raw), self._md5.hexdigest())

    def _file_result(self) -> SpooledMessage | None:
        file = self._file
        assert file is not None
        try:
            file.close()
        except OSError as error:
            self._fail(error)
            return None
        return SpooledMessage(None, Path(file.name), self._head, self._size, self._md5.hexdigest())

    @staticmethod
    def _undecided_tail(data: bytes) -> int:
        """How many bytes at the end may still be the beginning of `<CRLF>.`."""
        if data.endswith(_CRLF):
            return 2
        return 1 if data.endswith(b"\r") else 0


def remove_abandoned(folder: Path, older_than_s: float, now_s: float) -> None:
    """Remove what a killed receiver left behind: files nobody has written to for longer than a message may take."""
    for path in folder.glob(f"{SPOOL_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if now_s - path.stat().st_mtime > older_than_s:
                path.unlink()
