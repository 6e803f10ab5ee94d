"""Content-Type and Content-Disposition with their parameters (RFC 2045 section 5.1, RFC 2183, RFC 2231).

Accepts what mail really holds: missing semicolons, unquoted spaces, RFC 2047 words where RFC 2231 belongs, both
mixed, raw 8-bit names. One scan, so time is linear in the length of the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from inbound.reading.charsets import CharsetDetector, decode
from inbound.reading.headers import decode_eight_bit
from inbound.reading.mime_words import decode_words

MAX_PARAMETERS = 400
"""Parameters read of one field; a long file name in RFC 2231 pieces takes a dozen."""
MAX_VALUE_CHARACTERS = 64 * 1024
"""How much of one field is read."""

_NAME = re.compile(r"[\s;]*+([^\s=;\"]++)\s*+=\s*+")
_NEXT = re.compile(r"[\s;]*+[^\s=;\"]*+\s*+\"?[;\s]?")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"?', re.DOTALL)
_UNQUOTED = re.compile(r"[^;]*+")
_ESCAPE = re.compile(r'\\(["\\])')
_FOLD = re.compile(r"\r?\n[ \t]*")
_TYPE = re.compile(r"\s*+([^\s;/=\"]*+)(?:\s*+/\s*+([^\s;,\"]*+))?")
_NO_DETECTOR = CharsetDetector(budget=0)


@dataclass(frozen=True, slots=True)
class MediaField:
    """A token or `type/subtype` in lower case, and its parameters by lower-case name, decoded."""

    value: str
    parameters: dict[str, str]


def parse_media_field(raw: str) -> MediaField:
    """Read the raw value of a Content-Type or Content-Disposition field. Never raises."""
    text = raw[:MAX_VALUE_CHARACTERS]
    if "\n" in text:
        text = _FOLD.sub(" ", text)
    head = _TYPE.match(text)
    main, sub = (head[1], head[2]) if head else ("", None)
    value = f"{main}/{sub}" if sub else main
    end = head.end() if head else 0
    return MediaField(value.lower(), _decoded(_scan(text, end)) if "=" in text else {})


def _scan(text: str, position: int) -> list[tuple[str, str]]:
    """Parameters in order, names in lower case, quoted values unquoted and not yet decoded."""
    pairs: list[tuple[str, str]] = []
    while position < len(text) and len(pairs) < MAX_PARAMETERS:
        name = _NAME.match(text, position)
        if not name:
            skipped = _NEXT.match(text, position)
            position = skipped.end() if skipped and skipped.end() > position else position + 1
            continue
        value = _QUOTED.match(text, name.end())
        if value:
            pairs.append((name[1].lower(), _ESCAPE.sub(r"\1", value[1])))
        else:
            value = _UNQUOTED.match(text, name.end())
            pairs.append((name[1].lower(), value[0].strip() if value else ""))
        position = value.end() if value else len(text)
    return pairs


def _decoded(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """First of each plain parameter wins; an RFC 2231 form wins over the plain one (RFC 6266 section 4.3)."""
    plain: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[str, bool]]] = {}
    for name, value in pairs:
        base, star, rest = name.partition("*")
        if not star:
            plain.setdefault(name, value)
            continue
        encoded = not rest or rest.endswith("*")
        index = rest.rstrip("*")
        if index and not (index.isascii() and index.isdecimal() and len(index) < 5):
            continue
        pieces.setdefault(base, {}).setdefault(int(index or 0), (value, encoded))
    result = {name: _readable(value) for name, value in plain.items()}
    result.update((base, _join(numbered)) for base, numbered in pieces.items())
    return result


def _join(numbered: dict[int, tuple[str, bool]]) -> str:
    """Put the pieces of one parameter together: bytes first, then one decoding (RFC 2231 sections 3 and 4)."""
    ordered = [numbered[index] for index in sorted(numbered)]
    if not any(encoded for _, encoded in ordered):
        return _readable("".join(value for value, _ in ordered))
    charset: str | None = None
    chunks: list[bytes] = []
    for position, (value, encoded) in enumerate(ordered):
        if encoded and position == 0 and value.count("'") >= 2:
            charset, _, value = value.split("'", 2)
        data = value.encode("utf-8", "surrogateescape")
        chunks.append(unquote_to_bytes(data) if encoded else data)
    text = decode(b"".join(chunks), charset or None, _NO_DETECTOR).text
    return decode_words(text)


def _readable(value: str) -> str:
    value = decode_words(value)
    return value if value.isascii() else decode_eight_bit(value)
