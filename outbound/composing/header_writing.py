"""Header fields as they are written: one field each call, folded, ASCII (RFC 5322 section 2.2.3, RFC 2047).

What holds an encoded word holds nothing else, so that a value is read exactly as it was given: words are joined by
readers, and no blank between two of them can be lost. Nothing here takes a line end from its caller into a field:
callers check with `check_line` first, and `write_fold` refuses what they forgot.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence

from core.errors import InvalidField

SOFT_LINE = 76
"""Octets to a line where a break can be had (RFC 2047 section 2; below the 78 of RFC 5322 section 2.1.1)."""
MAX_LINE = 998
"""RFC 5322 section 2.1.1."""
MAX_TOKEN = 880
"""Of characters without a break: with the longest name it still fits into `MAX_LINE`."""
MAX_NAME = 76
MAX_WORD = 75
"""RFC 2047 section 2: of an encoded word with its marks."""
MAX_BLANKS = 20
"""A longer run of blanks is encoded: a line must not be blank, and should not look so."""

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Controls, line ends beyond ASCII that some software splits at, and halves of characters (lone surrogates)."""
_NOT_ASCII_TEXT = re.compile("[^ -~]")
_PIECE = re.compile(" *[^ ]+")
_WORD_START = "=?utf-8?{}?"
_WORD_MARKS = len("=?utf-8?q??=")
_LEAST_FIRST_WORD = 32
"""A first line with less room than this for an encoded word stays empty behind the colon."""
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
"""RFC 2047 section 5 (3): the most that is safe in a phrase, used everywhere."""


def check_line(field: str, text: str, max_length: int) -> str:
    """Give back text that may stand in one line. Raises `InvalidField`, which says what is wrong and where."""
    if len(text) > max_length:
        raise InvalidField(field, f"is longer than {max_length} characters")
    found = UNPRINTABLE.search(text)
    if found is None:
        return text
    if "\ud800" <= found[0] <= "\udfff":
        raise InvalidField(field, f"holds half of a character (U+{ord(found[0]):04X}) at position {found.start() + 1}")
    raise InvalidField(
        field,
        f"holds a control character (U+{ord(found[0]):04X}) at position {found.start() + 1}; a header is one line, "
        "so take line ends and the like out",
    )


def unstructured_field(name: str, text: str) -> bytes:
    """A field of plain text, such as Subject; beyond ASCII, or beyond what can be folded, as encoded words."""
    if is_plain(text):
        return write_fold(name, _PIECE.findall(text))
    return write_fold(name, spaced(encoded_words(text, SOFT_LINE - len(name) - 2)))


def structured_field(name: str, text: str) -> bytes:
    """A field whose syntax encoded words would break: ASCII, folded at single blanks."""
    return write_fold(name, _PIECE.findall(text))


def is_plain(text: str) -> bool:
    """Whether text can stand in a header as it is, and is read again exactly so."""
    return (
        not _NOT_ASCII_TEXT.search(text)
        and "=?" not in text
        and text.strip() == text
        and " " * (MAX_BLANKS + 1) not in text
        and max(map(len, text.split(" "))) <= MAX_TOKEN
    )


def is_structured(text: str) -> bool:
    """Whether text can be a structured field: as `is_plain`, but encoded words in it are the caller's business."""
    return is_plain(text.replace("=?", ""))


def write_fold(name: str, pieces: Iterable[str]) -> bytes:
    """The whole field with its CRLF. Each piece stays whole; all but the first begin with the blank to fold at."""
    line = f"{name}:"
    lines: list[str] = []
    is_first = True
    for piece in pieces:
        text = f" {piece}" if is_first else piece
        is_late = not is_first or piece.startswith("=?")
        if is_late and len(line) + len(text) > SOFT_LINE:
            lines.append(line)
            line = ""
        line += text
        is_first = False
    written = "\r\n".join([*lines, line])
    if "\n" in "".join(lines) + line or "\r" in "".join(lines) + line:
        raise ValueError("a header field was given a line end")
    return written.encode() + b"\r\n"


def spaced(pieces: Sequence[str]) -> list[str]:
    """Pieces with a blank before each but the first."""
    return [piece if index == 0 else f" {piece}" for index, piece in enumerate(pieces)]


def encoded_words(text: str, first_room: int = MAX_WORD) -> list[str]:
    """Text as encoded words in UTF-8, no character split between two; quoted or base64, whichever is shorter.

    `first_room` is what the first may take, being in the line with the field's name.
    """
    data = text.encode()
    quoted_length = sum(1 if byte in _Q_SAFE or byte == 0x20 else 3 for byte in data)
    is_quoted = quoted_length <= (len(data) + 2) // 3 * 4
    room = min(first_room, MAX_WORD) if first_room >= _LEAST_FIRST_WORD else MAX_WORD
    words: list[str] = []
    chunk = bytearray()
    used = 0
    for character in text:
        encoded = character.encode()
        cost = sum(map(_quoted_cost, encoded)) if is_quoted else len(encoded)
        if used + cost > _capacity(room, is_quoted):
            words.append(_word(bytes(chunk), is_quoted))
            chunk.clear()
            used = 0
            room = MAX_WORD
        chunk += encoded
        used += cost
    return [*words, _word(bytes(chunk), is_quoted)]


def _capacity(room: int, is_quoted: bool) -> int:
    """Characters of Q, or bytes for B, that a word of that length takes."""
    inside = room - _WORD_MARKS
    return inside if is_quoted else inside // 4 * 3


def _quoted_cost(byte: int) -> int:
    return 1 if byte in _Q_SAFE or byte == 0x20 else 3


def _word(data: bytes, is_quoted: bool) -> str:
    if not is_quoted:
        return f"{_WORD_START.format('b')}{b64encode(data).decode()}?="
    inside = "".join("_" if byte == 0x20 else chr(byte) if byte in _Q_SAFE else f"={byte:02X}" for byte in data)
    return f"{_WORD_START.format('q')}{inside}?="
