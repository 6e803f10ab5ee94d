"""The parts of a message that somebody else wrote, found and replaced without touching the others (RFC 2046).

Only what is replaced changes: all other bytes, delimiters included, stay as they were. Bounded in depth and number;
what lies beyond stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from outbound.composing.raw_fields import RawField

MAX_DEPTH = 20
MAX_PARTS = 1_000
MAX_PART_FIELDS = 20_000
"""Header fields of all parts together."""
DEFAULT_TYPE = "text/plain"
_DIGEST_TYPE = "message/rfc822"

_LINE = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL)
_MEDIA_TYPE = re.compile(r"\s*([^\s;/]+/[^\s;]+)")
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s;"]{1,60})', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part without parts: its fields as they stood, and its body still encoded."""

    fields: tuple[RawField, ...]
    body: bytes
    boundaries: tuple[bytes, ...] = ()
    """Of all multiparts around it: none may appear in a new body."""
    default_type: str = DEFAULT_TYPE

    @property
    def content_type(self) -> str:
        """The whole value of Content-Type, or empty."""
        return _first(self.fields, "content-type")

    @property
    def media_type(self) -> str:
        """`type/subtype` in lower case."""
        found = _MEDIA_TYPE.match(self.content_type)
        return found[1].lower() if found else self.default_type

    @property
    def charset(self) -> str | None:
        """As declared."""
        found = _CHARSET.search(self.content_type)
        return found[1] if found else None

    @property
    def encoding(self) -> str:
        """Content-Transfer-Encoding in lower case."""
        return _first(self.fields, "content-transfer-encoding").lower() or "7bit"

    @property
    def is_attachment(self) -> bool:
        """Whether it asks to be shown as a file."""
        return _first(self.fields, "content-disposition").lower().startswith("attachment")

    def with_body(self, body: bytes, encoding: str, content_type: str | None = None) -> Leaf:
        """The same part with another body; `content_type` replaces its own."""
        replaced = {"content-transfer-encoding"} | ({"content-type"} if content_type else set())
        kept = [one for one in self.fields if one.lowered not in replaced]
        if content_type:
            kept.append(RawField("Content-Type", (f" {content_type}".encode(),)))
        kept.append(RawField("Content-Transfer-Encoding", (f" {encoding}".encode(),)))
        return Leaf(tuple(kept), body, self.boundaries, self.default_type)


Visit = Callable[[Leaf], Leaf]
"""Gives back the leaf it is given, or another in its place."""


Keeps = Callable[[bytes], bool]
"""Whether a text between parts, which nobody is shown, may stay."""


Restate = Callable[[RawField], RawField]
"""Gives back a field of a part, or another in its place."""


See = Callable[[Sequence[RawField]], None]
"""Looks at the fields of a part."""


@dataclass(slots=True)
class _Walk:
    """One pass over a message."""

    visit: Visit
    keeps: Keeps | None = None
    """What to ask of the texts around parts; with it, messages inside the message are looked into."""
    restate: Restate | None = None
    see: See | None = None
    """With it, signed parts are looked into as well: nothing may be changed then."""
    parts: int = 0
    fields: int = 0
    boundaries: list[bytes] = field(default_factory=list)


def replace_leaves(
    fields: Sequence[RawField],
    body: bytes,
    visit: Visit,
    keeps: Keeps | None = None,
    restate: Restate | None = None,
) -> tuple[tuple[RawField, ...], bytes]:
    """Fields and body of a message whose leaves went through `visit`, in order.

    With `keeps`, leaves of messages inside the message too, and the texts around parts only where it says so. The
    fields of all parts, not those of the message itself, go through `restate`.
    """
    return _entity(_Walk(visit, keeps, restate), tuple(fields), body, DEFAULT_TYPE, 0)


def see_entities(fields: Sequence[RawField], body: bytes, see: See) -> None:
    """Show the fields of a message and of everything inside it, signed parts and messages too."""
    _entity(_Walk(lambda leaf: leaf, keeps=lambda _: True, see=see), tuple(fields), body, DEFAULT_TYPE, 0)


def _entity(
    walk: _Walk, fields: tuple[RawField, ...], body: bytes, default_type: str, depth: int
) -> tuple[tuple[RawField, ...], bytes]:
    walk.parts += 1
    if depth > MAX_DEPTH or walk.parts > MAX_PARTS:
        return fields, body
    if walk.see is not None:
        walk.see(fields)
    if walk.restate is not None and depth:
        fields = tuple(map(walk.restate, fields))
    leaf = Leaf(fields, body, tuple(walk.boundaries), default_type)
    if leaf.media_type.startswith("multipart/"):
        # whatever is changed in a signed part breaks its signature
        is_left_alone = leaf.media_type == "multipart/signed" and walk.see is None
        return fields, body if is_left_alone else _multipart(walk, leaf, depth)
    if leaf.media_type == "message/rfc822":
        return fields, _part(walk, body, DEFAULT_TYPE, depth + 1) if walk.keeps else body
    if leaf.media_type.startswith("message/"):
        return fields, body
    new = walk.visit(leaf)
    return new.fields, new.body


def _multipart(walk: _Walk, leaf: Leaf, depth: int) -> bytes:
    found = _BOUNDARY.search(leaf.content_type)
    if found is None:
        return leaf.body
    boundary = (found[1] or found[2]).rstrip().encode()
    text = b"\r\n" + leaf.body
    marks = re.finditer(rb"\r\n--%s(--)?[ \t]*(?=\r\n|\Z)" % re.escape(boundary), text)
    default_type = _DIGEST_TYPE if leaf.media_type == "multipart/digest" else DEFAULT_TYPE
    mark = next(marks, None)
    if mark is None:
        return leaf.body
    walk.boundaries.append(boundary)
    out: list[bytes] = []
    position = 0
    while mark is not None:
        if position or walk.keeps is None or walk.keeps(text[: mark.start()]):
            out.append(text[position : mark.start()])
        out.append(mark[0])
        position = mark.end()
        if mark[1]:
            break
        if walk.parts >= MAX_PARTS:  # the parts that follow stay as they are
            out.append(text[position:])
            position = len(text)
            break
        following = next(marks, None)
        end = following.start() if following else len(text)
        start = min(mark.end() + 2, end)
        out += [text[mark.end() : start], _part(walk, text[start:end], default_type, depth + 1)]
        position = end
        mark = following
    walk.boundaries.pop()
    is_kept = walk.keeps is None or walk.keeps(text[position:])
    return b"".join([*out, text[position:] if is_kept else b"\r\n"])[2:]


def _part(walk: _Walk, part: bytes, default_type: str, depth: int) -> bytes:
    """A part with its header. One whose header is broken, or beyond the limit, stays as it is."""
    if part.startswith(b"\r\n"):
        head, body = b"", part[2:]
    else:
        head, _, body = part.partition(b"\r\n\r\n")
    has_room = walk.fields + head.count(b"\r\n") < MAX_PART_FIELDS
    fields = _lenient_fields(head, skips_others=walk.see is not None) if has_room else None
    if fields is None:
        return part
    walk.fields += len(fields)
    new_fields, new_body = _entity(walk, fields, body, default_type, depth)
    if new_fields == fields and new_body == body:
        return part
    return b"".join([*(one.written for one in new_fields), b"\r\n", new_body])


def _lenient_fields(head: bytes, skips_others: bool) -> tuple[RawField, ...] | None:
    """None where a line is no field, unless such lines are to be skipped, as most readers do."""
    found: list[tuple[str, list[bytes]]] = []
    for line in head.split(b"\r\n") if head else []:
        start = _LINE.fullmatch(line)
        if line[:1] in (b" ", b"\t") and found:
            found[-1][1].append(line)
        elif start is None:
            if not skips_others:
                return None
        else:
            found.append((start[1].decode("ascii"), [start[2]]))
    return tuple(RawField(name, tuple(lines)) for name, lines in found)


def _first(fields: Sequence[RawField], lowered: str) -> str:
    return next((one.value.decode("utf-8", "replace") for one in fields if one.lowered == lowered), "")
