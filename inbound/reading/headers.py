"""Header blocks: from bytes to names and readable values (RFC 5322 section 2.2, RFC 2047), and nothing deeper.

Splitting never decodes: a field's value is kept as it stood, its 8-bit bytes as surrogate escapes, until someone
asks for it. Everything is linear in the size of the block, and the block is bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from inbound.reading.charsets import CharsetDetector, decode
from inbound.reading.mime_words import decode_address_words, decode_words
from inbound.reading.parsed import DefectKind

MAX_ROOT_HEADER_BYTES = 1024 * 1024
"""Of the message's own header; relays and scanners make real ones of 100 KB."""
MAX_PART_HEADER_BYTES = 64 * 1024
"""Of a MIME part's header."""
MAX_FIELDS = 2000
"""Fields kept of one header block."""
SUMMARY_BYTES = 64 * 1024
"""How far `read_summary` looks."""

_FIELD = re.compile(r"([!-9;-~\udc80-\udcff]++)[ \t]*+:[ \t]*+([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)")
_FIELD_START = re.compile(r"[!-9;-~]++[ \t]*+:")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_MBOX_LINE = re.compile(r">?From (?![ \t]*:)")
_FOLD = re.compile(r"\r?\n[ \t]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ESCAPED_RUN = re.compile(r"[\udc80-\udcff][\x00-\x7f\udc80-\udcff]*+")
_ANGLE_ID = re.compile(r"<\s*([^<>\s]+)\s*>")
_ADDRESS_FIELDS = frozenset(
    {"from", "to", "cc", "bcc", "reply-to", "sender", "return-path", "delivered-to", "x-original-to"}
    | {"resent-from", "resent-to", "resent-cc", "resent-bcc", "resent-sender"}
)
_NO_DETECTOR = CharsetDetector(budget=0)


@dataclass(frozen=True, slots=True)
class HeaderBlock:
    """A split header: fields as they stood, and where the body begins."""

    fields: list[tuple[str, str]]
    """Name and raw value: folds, encoded words and surrogate-escaped 8-bit bytes still in it."""
    body_start: int
    """Offset into the bytes given to `split_header`."""
    problem: DefectKind | None

    def first(self, name: str) -> str | None:
        """The raw value of the first field called `name` (lower case), or None."""
        for field, value in self.fields:
            if len(field) == len(name) and field.lower() == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class HeaderSummary:
    """What a list of messages shows of one."""

    subject: str | None
    message_id: str | None
    """Without angle brackets."""
    from_: str | None


def read_summary(raw_prefix: bytes) -> HeaderSummary:
    """Read the three fields people search by from the first 64 KiB of a message. Total and cheap."""
    block = split_header(raw_prefix, 0, min(len(raw_prefix), SUMMARY_BYTES), SUMMARY_BYTES)
    found: dict[str, str] = {}
    for name, value in block.fields:
        lowered = name.lower()
        if lowered in ("subject", "message-id", "from") and lowered not in found:
            found[lowered] = readable(lowered, value)
    return HeaderSummary(
        subject=found.get("subject"),
        message_id=bare_id(found.get("message-id")),
        from_=found.get("from"),
    )


def split_header(raw: bytes, start: int, end: int, limit: int) -> HeaderBlock:
    """Split the header block at the beginning of `raw[start:end]`, keeping no more than `limit` bytes of it.

    The block ends at a blank line, or before a line that is no field, which then begins the body. One such line
    that stands between two fields is taken for a badly folded continuation instead.
    """
    window_end = min(end, start + limit)
    if raw.startswith((b"\n", b"\r\n"), start, end):
        return HeaderBlock([], raw.index(b"\n", start) + 1, None)
    blank = _BLANK_LINE.search(raw, start, window_end)
    block_end = blank.start() + 1 if blank else window_end
    text = raw[start:block_end].decode("ascii", "surrogateescape")
    fields, consumed, broken = _split_fields(text)
    problem = DefectKind.HEADER_LINE_BROKEN if broken else None
    if consumed < len(text):
        if len(fields) >= MAX_FIELDS:
            return HeaderBlock(fields, _end_of_header(raw, start, end), DefectKind.HEADER_LIMIT)
        return HeaderBlock(fields, start + consumed, DefectKind.HEADER_LINE_BROKEN)
    if blank:
        return HeaderBlock(fields, blank.end(), problem)
    if window_end < end:
        return HeaderBlock(fields, _end_of_header(raw, window_end - 2, end), DefectKind.HEADER_LIMIT)
    return HeaderBlock(fields, window_end, problem)


def _end_of_header(raw: bytes, start: int, end: int) -> int:
    found = _BLANK_LINE.search(raw, start, end)
    return found.end() if found else end


def _split_fields(text: str) -> tuple[list[tuple[str, str]], int, bool]:
    """Fields, how many characters they took, and whether a line had to be taken for a continuation."""
    fields: list[tuple[str, str]] = []
    position = _skip_mbox_line(text)
    broken = False
    while position < len(text) and len(fields) < MAX_FIELDS:
        match = _FIELD.match(text, position)
        if match:
            fields.append((match[1], match[2]))
            position = match.end()
            continue
        line_end = text.find("\n", position) + 1
        is_stray = bool(fields) and line_end and not text.startswith("--", position)
        if not is_stray or not _FIELD_START.match(text, line_end):
            return fields, position, broken
        name, value = fields[-1]
        fields[-1] = (name, f"{value}\n {text[position : line_end - 1]}")
        broken = True
        position = line_end
    return fields, position, broken


def _skip_mbox_line(text: str) -> int:
    """Where the fields begin behind the line that mbox files put first. `From : a@b` is a field, by RFC 5322's obsolete
    syntax, and must not be hidden by taking it for such a line."""
    return text.find("\n") + 1 if _MBOX_LINE.match(text) else 0


def readable(lowered_name: str, value: str, hint: str | None = None) -> str:
    """The value of a field for people: unfolded, decoded, one line, valid Unicode.

    `hint` is a charset to try for raw 8-bit bytes that are not UTF-8 (the charset of the body, usually).
    """
    if "\n" in value:
        value = _FOLD.sub(" ", value)
    value = value.strip(" \t\r")
    if "=?" in value:
        value = decode_address_words(value) if lowered_name in _ADDRESS_FIELDS else decode_words(value)
    if not value.isascii():
        value = decode_eight_bit(value, hint)
    return value if value.isprintable() else _CONTROL.sub(_printable, value)


def decode_eight_bit(value: str, hint: str | None = None) -> str:
    """Read a value's surrogate-escaped bytes: as UTF-8 (RFC 6532), as the hinted charset, or as windows-1252.

    Comes after the encoded words, whose own 8-bit bytes (illegal, and common) are in the word's charset.
    """
    return _ESCAPED_RUN.sub(
        lambda run: decode(run[0].encode("ascii", "surrogateescape"), None, _NO_DETECTOR, hint).text, value
    )


def _printable(control: re.Match[str]) -> str:
    return " " if control[0] in "\r\n\x0b\x0c" else ""


def bare_id(value: str | None) -> str | None:
    """A Message-ID or Content-ID without its angle brackets (RFC 5322 section 3.6.4); None when it is empty."""
    if not value:
        return None
    found = _ANGLE_ID.search(value)
    return found[1] if found else (value.strip("<> \t") or None)
