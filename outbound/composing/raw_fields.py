"""The header of a message that somebody else wrote: split into fields strictly, so that nobody behind us reads another.

Line ends are normalised first. A line that is neither a field nor the continuation of one is refused: some readers
would end the header there and take the rest for the body.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import InvalidField

MAX_HEADER_BYTES = 256 * 1024
MAX_FIELDS = 1_000

_LINE_END = re.compile(rb"\r\n|\r|\n")
_START = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class RawField:
    """One header field."""

    name: str
    lines: tuple[bytes, ...]
    """What follows the colon: the first line, then the continuations with their blanks; no line ends."""

    @property
    def lowered(self) -> str:
        """The name in lower case."""
        return self.name.lower()

    @property
    def value(self) -> bytes:
        """Unfolded, without blanks at both ends, tabs as blanks."""
        return b"".join(self.lines).replace(b"\t", b" ").strip()

    @property
    def written(self) -> bytes:
        """The field with its CRLF."""
        return f"{self.name}:".encode() + b"\r\n".join(self.lines) + b"\r\n"

    @property
    def text(self) -> str:
        """The value as text. Raises `InvalidField` where it is no UTF-8."""
        try:
            return self.value.decode()
        except UnicodeDecodeError as error:
            problem = f"its header {self.name} holds bytes that are no UTF-8; write them as encoded words (RFC 2047)"
            raise InvalidField("raw", problem) from error


def field_of(written: bytes) -> RawField:
    """A field that we have written ourselves."""
    name, _, rest = written.removesuffix(b"\r\n").partition(b":")
    return RawField(name.decode("ascii"), tuple(rest.split(b"\r\n")))


def normalise_line_ends(raw: bytes) -> bytes:
    """With CRLF only: a bare CR or LF would let the next host see another message than we do (CVE-2023-51764)."""
    pairs = raw.count(b"\r\n")
    if pairs == raw.count(b"\n") and pairs == raw.count(b"\r"):
        return raw
    return _LINE_END.sub(b"\r\n", raw)


def split_message(raw: bytes) -> tuple[list[RawField], bytes]:
    """Fields and body of a message with CRLF line ends. Raises `InvalidField`, field `raw`."""
    if raw.startswith(b"\r\n") or not raw:
        raise InvalidField("raw", "has no header; begin with lines like From: user@example.com")
    end = raw.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES)
    if end < 0 and len(raw) > MAX_HEADER_BYTES:
        raise InvalidField("raw", f"has a header of more than {MAX_HEADER_BYTES:,} bytes, or no blank line behind it")
    head, body = (raw[:end], raw[end + 4 :]) if end >= 0 else (raw.removesuffix(b"\r\n"), b"")
    return _fields(head), body


def join_message(fields: Sequence[RawField], body: bytes) -> bytes:
    """The message again; a body that does not end in a line end gets one."""
    end = b"" if not body or body.endswith(b"\r\n") else b"\r\n"
    return b"".join((*(one.written for one in fields), b"\r\n", body, end))


def _fields(head: bytes) -> list[RawField]:
    found: list[tuple[str, list[bytes]]] = []
    for number, line in enumerate(head.split(b"\r\n"), 1):
        if line[:1] in (b" ", b"\t") and found:
            if line.strip():  # some readers take a blank continuation for the end of the header
                found[-1][1].append(line)
            continue
        start = _START.fullmatch(line)
        if start is None:
            raise InvalidField("raw", f"line {number} is no header field; headers look like Name: value")
        found.append((start[1].decode("ascii"), [start[2]]))
    if len(found) > MAX_FIELDS:
        raise InvalidField("raw", f"has more than {MAX_FIELDS} header fields")
    for name, lines in found:
        if any(_CONTROL.search(line) for line in lines):
            raise InvalidField("raw", f"its header {name} holds a control character; take it out")
    return [RawField(name, tuple(lines)) for name, lines in found]
