"""Where each part of a message begins and ends (RFC 2046 section 5.1), and nothing of what it means.

One pass over the lines that begin with `--`, with a stack of open boundaries instead of recursion. An outer
boundary ends every inner part that was never closed. Parts are offsets into the raw message: nothing is copied
and nothing decoded, so a part's bytes are exactly those that arrived.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from inbound.reading.headers import MAX_PART_HEADER_BYTES, MAX_ROOT_HEADER_BYTES, split_header
from inbound.reading.mime_params import MediaField, parse_media_field
from inbound.reading.parsed import Defect, DefectKind

MAX_PARTS = 5000
"""Parts told apart in one message; what follows is kept as one last attachment."""
MAX_DEPTH = 50
"""Multiparts inside multiparts; a deeper one is kept whole, as an attachment."""
MAX_DELIMITER_LINES = 500_000
"""Lines beginning with `--` that are looked at; a 25 MB patch has about 100,000."""
MAX_BOUNDARY_BYTES = 500
"""RFC 2046 allows 70; real senders have gone beyond."""

_HEADER_PROBLEMS = {
    DefectKind.HEADER_LINE_BROKEN: "a header holds a line that is no field",
    DefectKind.HEADER_LIMIT: "a header is longer than is read",
}
_HEADER_STOP = re.compile(rb"\n(?:\r?\n|--)")
_TEXT = MediaField("text/plain", {})
_MESSAGE = MediaField("message/rfc822", {})
_UNKNOWN = MediaField("application/octet-stream", {})


@dataclass(slots=True)
class Part:
    """A node of the MIME tree: its header, and the range of its body in the raw message."""

    fields: list[tuple[str, str]]
    media: MediaField
    start: int
    end: int
    content_fields: dict[str, str]
    """Raw value of the first of each `content-…` field, by lower-case name."""
    children: list[Part] = field(default_factory=list)


@dataclass(slots=True)
class _Frame:
    part: Part
    boundary: bytes
    shadowed: int | None
    """Level of the outer frame with the same boundary, which is hidden while this one is open."""


@dataclass(frozen=True, slots=True)
class _Delimiter:
    line_break: int
    """Offset of the line feed before the delimiter line."""
    next_line: int
    level: int
    closes: bool


def split_message(raw: bytes) -> tuple[Part, list[Defect]]:
    """The MIME tree of a whole message and what was wrong with its structure. Never raises."""
    splitter = _Splitter(raw)
    return splitter.run(), splitter.defects


class _Splitter:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._stack: list[_Frame] = []
        self._open: dict[bytes, int] = {}
        self._leaf: Part | None = None
        self._parts = 0
        self._lines = 0
        self.defects: list[Defect] = []
        self._reported: set[DefectKind] = set()

    def run(self) -> Part:
        raw = self._raw
        root = self._begin(0, MAX_ROOT_HEADER_BYTES, _TEXT)
        if not root.fields:
            self._report(DefectKind.NO_HEADERS, "the message has no header")
        position = root.start - 1
        while self._stack:
            found = self._next_delimiter(position)
            if found is None:
                self._end_all()
                break
            self._end_leaf(found.line_break)
            self._close_above(found.level, found.line_break)
            position = found.next_line - 1
            if found.closes:
                self._pop(found.line_break)
            elif found.next_line < len(raw):
                position = self._begin_child(found.next_line)
        if self._leaf is not None:
            self._leaf.end = len(raw)
        return root

    def _begin_child(self, start: int) -> int:
        parent = self._stack[-1].part
        if self._parts >= MAX_PARTS:
            self._report(DefectKind.TOO_MANY_PARTS, f"only the first {MAX_PARTS} parts were told apart")
            self._leaf = Part([], _UNKNOWN, start, start, {})
            parent.children.append(self._leaf)
            return len(self._raw)
        default = _MESSAGE if parent.media.value == "multipart/digest" else _TEXT
        child = self._begin(start, MAX_PART_HEADER_BYTES, default)
        parent.children.append(child)
        return child.start - 1

    def _begin(self, start: int, limit: int, default: MediaField) -> Part:
        """Read a part's header and take it up as a container or as the current leaf."""
        self._parts += 1
        end = self._first_delimiter_in_header(start, limit)
        block = split_header(self._raw, start, end, limit)
        if block.problem:
            self._report(block.problem, _HEADER_PROBLEMS[block.problem])
        part = _part_of(block.fields, block.body_start, default)
        if not (part.media.value.startswith("multipart/") and self._enter(part)):
            self._leaf = part
        return part

    def _enter(self, part: Part) -> bool:
        """Open a multipart; False when it has to stay a leaf."""
        if len(self._stack) >= MAX_DEPTH:
            self._report(DefectKind.TOO_DEEP, f"a multipart deeper than {MAX_DEPTH} levels is kept unopened")
            return False
        boundary = part.media.parameters.get("boundary", "").encode("utf-8", "replace").rstrip()
        if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
            boundary = self._guess_boundary(part.start)
            self._report(DefectKind.BOUNDARY_MISSING, "a multipart names no usable boundary")
        if not boundary:
            part.media = _TEXT
            return False
        self._stack.append(_Frame(part, boundary, self._open.get(boundary)))
        self._open[boundary] = len(self._stack) - 1
        self._leaf = _part_under_second_type(part)
        return True

    def _guess_boundary(self, start: int) -> bytes:
        """The first line of the body that looks like a delimiter."""
        raw = self._raw
        line = start if raw.startswith(b"--", start) else raw.find(b"\n--", start) + 1
        if not line:
            return b""
        return raw[line + 2 : line + 2 + MAX_BOUNDARY_BYTES].partition(b"\n")[0].rstrip()

    def _first_delimiter_in_header(self, start: int, limit: int) -> int:
        """Where an open boundary cuts a header short that begins at `start`; the message's end if none does."""
        raw = self._raw
        if not self._open:
            return len(raw)
        window_end = min(len(raw), start + limit)
        stop = _HEADER_STOP.search(raw, start - 1, window_end)
        while stop and stop[0].endswith(b"-"):
            if self._level_of(stop.start()) is not None:
                return stop.start() + 1
            stop = _HEADER_STOP.search(raw, stop.end(), window_end)
        return len(raw)

    def _next_delimiter(self, position: int) -> _Delimiter | None:
        raw = self._raw
        line_break = raw.find(b"\n--", max(0, position))
        while line_break >= 0:
            self._lines += 1
            if self._lines > MAX_DELIMITER_LINES:
                self._report(DefectKind.TOO_MANY_PARTS, "too many lines look like boundaries")
                return None
            level = self._level_of(line_break)
            if level is not None:
                end = raw.find(b"\n", line_break + 3)
                return _Delimiter(line_break, len(raw) if end < 0 else end + 1, level[0], level[1])
            line_break = raw.find(b"\n--", line_break + 3)
        return None

    def _level_of(self, line_break: int) -> tuple[int, bool] | None:
        """Level of the open multipart this delimiter line belongs to, and whether it closes it.

        The whole line has to match: a prefix would let `--a` end a part on the line `--ab`.
        """
        line = self._raw[line_break + 3 : line_break + 3 + MAX_BOUNDARY_BYTES + 16]
        line = line.partition(b"\n")[0].rstrip(b" \t\r")
        level = self._open.get(line)
        if level is not None:
            return level, False
        if line.endswith(b"--"):
            level = self._open.get(line[:-2])
            if level is not None:
                return level, True
        return None

    def _end_leaf(self, line_break: int) -> None:
        if self._leaf is not None:
            self._leaf.end = self._content_end(self._leaf.start, line_break)
            self._leaf = None

    def _content_end(self, start: int, line_break: int) -> int:
        """The line break before a delimiter belongs to the delimiter (RFC 2046 section 5.1.1)."""
        if line_break > start and self._raw[line_break - 1] == 0x0D:
            line_break -= 1
        return max(start, line_break)

    def _close_above(self, level: int, line_break: int) -> None:
        while len(self._stack) - 1 > level:
            self._report(DefectKind.PART_NOT_CLOSED, "a multipart has no closing boundary")
            self._pop(line_break)

    def _pop(self, line_break: int) -> None:
        frame = self._stack.pop()
        self._end_container(frame.part, self._content_end(frame.part.start, line_break))
        if frame.shadowed is None:
            del self._open[frame.boundary]
        else:
            self._open[frame.boundary] = frame.shadowed

    def _end_all(self) -> None:
        self._report(DefectKind.PART_NOT_CLOSED, "a multipart has no closing boundary")
        if self._leaf is not None:
            self._leaf.end = self._end_before_glued_delimiter(self._leaf.start)
            self._leaf = None
        for frame in self._stack:
            self._end_container(frame.part, len(self._raw))
        self._stack.clear()

    def _end_before_glued_delimiter(self, start: int) -> int:
        """Where the last leaf ends: some senders forget the line break before the very last delimiter."""
        tail_start = max(start, len(self._raw) - MAX_BOUNDARY_BYTES - 16)
        tail = self._raw[tail_start:].rstrip()
        closing = b"--" + self._stack[-1].boundary + b"--"
        return tail_start + len(tail) - len(closing) if tail.endswith(closing) else len(self._raw)

    def _end_container(self, part: Part, end: int) -> None:
        part.end = end
        if not part.children:
            part.media = _TEXT
            self._report(DefectKind.BOUNDARY_UNUSED, "the boundary a multipart names is nowhere in it")

    def _report(self, kind: DefectKind, detail: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self.defects.append(Defect(kind, detail))


def _part_of(fields: list[tuple[str, str]], start: int, default: MediaField) -> Part:
    content_fields: dict[str, str] = {}
    for name, value in fields:
        if name[:8].lower() == "content-":
            content_fields.setdefault(name.lower(), value)
    raw_type = content_fields.get("content-type")
    media = _usable(parse_media_field(raw_type), default) if raw_type else default
    return Part(fields, media, start, start, content_fields)


def _usable(media: MediaField, default: MediaField) -> MediaField:
    """A type that is no `type/subtype` is read as text, or as unknown where a name says it is a file."""
    main, slash, sub = media.value.partition("/")
    if slash and main and sub:
        return media
    if main in ("html", "plain"):
        return MediaField(f"text/{main}", media.parameters)
    is_file = main not in ("", "text") and "name" in media.parameters
    return MediaField(_UNKNOWN.value if is_file else default.value, media.parameters)


def _part_under_second_type(part: Part) -> Part | None:
    """Text that would be lost before the first boundary of a multipart whose header lost its blank line.

    Such a header holds the multipart's Content-Type and, run into it, that of the first part.
    """
    places = [index for index, (name, _) in enumerate(part.fields) if name.lower() == "content-type"]
    if len(places) < 2 or not part.fields[places[1]][1].lower().startswith("text/"):
        return None
    child = _part_of(part.fields[places[1] :], part.start, _TEXT)
    part.children.append(child)
    return child
