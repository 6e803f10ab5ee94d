"""A message as signatures see it: header fields with every byte, and where the body begins.

The same lines are fields here and in `inbound.reading.headers.split_header`, so that what is verified is what people
are shown (a test holds this); but here nothing is decoded or trimmed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from core.authentication.canonical import CRLF, relaxed_field, with_crlf
from inbound.reading.headers import MAX_FIELDS, MAX_ROOT_HEADER_BYTES

_FIELD = re.compile(rb"([!-9;-~\x80-\xff]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)")
_FIELD_START = re.compile(rb"[!-9;-~]++[ \t]*+:")
_BLANK_LINE = re.compile(rb"\n\r?\n")
MBOX_LINE = re.compile(rb">?From (?![ \t]*:)[^\n]*\n?")
"""What a mailbox file puts above a message; `From : a@b.example` is a field, if an old one."""


@dataclass(frozen=True)
class HeaderField:
    """One field; canonical forms are computed once, however many signatures cover it."""

    name: bytes
    """Lower-case."""
    raw: bytes
    """The whole field with its line ends; a bare LF has become CRLF (RFC 6376 section 5.3)."""

    @cached_property
    def value(self) -> bytes:
        """What follows the colon, folds included, without the last line end."""
        return self.raw.partition(b":")[2].removesuffix(CRLF)

    @cached_property
    def relaxed(self) -> bytes:
        """In "relaxed" canonical form (RFC 6376 section 3.4.2), with CRLF."""
        return relaxed_field(self.name, self.value)


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message, split once for all checks."""

    fields: tuple[HeaderField, ...]
    body: memoryview = field(repr=False)

    def named(self, name: bytes) -> list[HeaderField]:
        """The fields of one name (lower-case), in message order."""
        return [found for found in self.fields if found.name == name]


def view_message(raw: bytes) -> MessageView:
    """Split a message. Total: what is no header is body."""
    if raw.startswith((b"\n", b"\r\n")):
        return MessageView((), memoryview(raw)[raw.index(b"\n") + 1 :])
    window_end = min(len(raw), MAX_ROOT_HEADER_BYTES)
    blank = _BLANK_LINE.search(raw, 0, window_end)
    block = raw[: blank.start() + 1 if blank else window_end]
    fields, consumed = _split_fields(block)
    if consumed < len(block):
        body_start = consumed if len(fields) < MAX_FIELDS else _end_of_header(raw, 0)
    elif blank:
        body_start = blank.end()
    else:
        body_start = _end_of_header(raw, window_end - 2) if window_end < len(raw) else len(raw)
    return MessageView(tuple(fields), memoryview(raw)[body_start:])


def _split_fields(block: bytes) -> tuple[list[HeaderField], int]:
    """Fields, and how many bytes they took. A line that is none belongs to the field before, if a field follows."""
    spans: list[tuple[bytes, int, int]] = []
    mbox = MBOX_LINE.match(block)
    position = mbox.end() if mbox and mbox[0].endswith(b"\n") else 0
    while position < len(block) and len(spans) < MAX_FIELDS:
        match = _FIELD.match(block, position)
        if match:
            spans.append((match[1].lower(), position, match.end()))
            position = match.end()
            continue
        line_end = block.find(b"\n", position) + 1
        is_stray = bool(spans) and line_end and not block.startswith(b"--", position)
        if not is_stray or not _FIELD_START.match(block, line_end):
            break
        spans[-1] = (spans[-1][0], spans[-1][1], line_end)
        position = line_end
    return [HeaderField(name, _ended(with_crlf(block[start:end]))) for name, start, end in spans], position


def _ended(data: bytes) -> bytes:
    return data if data.endswith(CRLF) else data + CRLF


def _end_of_header(raw: bytes, start: int) -> int:
    found = _BLANK_LINE.search(raw, start)
    return found.end() if found else len(raw)
