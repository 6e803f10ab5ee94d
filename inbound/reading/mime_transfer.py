"""Content-Transfer-Encoding undone (RFC 2045 section 6), byte for byte, and never with an error.

A body that is no valid base64 at all is kept as it stands: bytes that can still be read beat noise.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from itertools import islice

from inbound.reading.parsed import DefectKind

FOREIGN_SHARE = 20
"""A run with more than one foreign character in so many is not base64 but, say, a mailing list's footer."""
MAX_PADDED_RUNS = 400_000
"""Padded runs decoded of one body: some encoders pad every line, and this is 25 MB of such lines."""
_IDENTITY = frozenset({"", "7bit", "8bit", "binary", "7-bit", "8-bit", "7bits", "8bits", "none"})
_WHITE_SPACE = b" \t\r\n"
_BASE64_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64_ALPHABET))
_PADDED_RUN = re.compile(rb"([^=]++)=*+[ \t\r]*+(\n?)")
_SOFT_BREAK_SPACE = re.compile(rb"=[ \t]++(?=\r?\n|\Z)")
_TRAILING_SPACE = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n|\Z)")
MAX_UUENCODED_FILES = 100
"""Looked for in one text."""
_UU_FILE = re.compile(
    rb"^begin [0-7]{3,4} ([^\r\n]{1,255})\r?\n((?:[!-M][ -`]{1,90}[ \t]*+\r?\n)++)(?:[` ]?[ \t]*+\r?\n)?end[ \t]*+\r?$",
    re.MULTILINE,
)
_UU_BEGIN = re.compile(rb"^begin [0-7]{3,4} [^\n]*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Undone:
    """Decoded bytes, and what was wrong with the encoding, if anything."""

    content: bytes
    problem: DefectKind | None = None


@dataclass(frozen=True, slots=True)
class UuencodedFile:
    """A file that stands whole, from `begin` to `end`, inside a text."""

    name: str
    content: bytes


def uuencoded_files(text: bytes) -> list[UuencodedFile]:
    """The uuencoded files inside a text, as mail programs older than MIME sent them. Linear.

    A block counts only when every line of it is well-formed: people also write about uuencode.
    """
    if b"begin " not in text:
        return []
    files: list[UuencodedFile] = []
    for block in islice(_UU_FILE.finditer(text), MAX_UUENCODED_FILES):
        try:
            content = b"".join(_uu_line(line) for line in block[2].split(b"\n"))
        except binascii.Error:
            continue
        files.append(UuencodedFile(block[1].decode("utf-8", "replace"), content))
    return files


def undo_transfer_encoding(body: bytes, declared: str | None) -> Undone:
    """Decode a part's body. `declared` is the raw field value, or None where there was none."""
    if declared is None:
        return Undone(body)
    words = declared.split(";", 1)[0].lower().split()
    encoding = words[0] if words else ""
    if encoding in _IDENTITY:
        return Undone(body)
    if encoding in ("base64", "b", "base-64", "x-base64"):
        return _undo_base64(body)
    if encoding in ("quoted-printable", "quotedprintable", "qp", "q"):
        return Undone(_undo_quoted_printable(body))
    if encoding in ("x-uuencode", "uuencode", "x-uue", "uue"):
        return _undo_uuencode(body)
    return Undone(body, DefectKind.ENCODING_UNKNOWN)


def _undo_base64(body: bytes) -> Undone:
    try:
        return Undone(binascii.a2b_base64(body.translate(None, _WHITE_SPACE), strict_mode=True))
    except binascii.Error:
        return _repair_base64(body)


def _repair_base64(body: bytes) -> Undone:
    """Base64 that is cut short, holds foreign bytes, or consists of several padded runs of whole lines."""
    out: list[bytes] = []
    for run in islice(_PADDED_RUN.finditer(body), MAX_PADDED_RUNS):
        if not _looks_like_base64(run[1]):
            break
        out.append(_decode_run(run[1]))
        if not run[2]:
            break
    return Undone(b"".join(out) if out else body, DefectKind.ENCODING_BROKEN)


def _looks_like_base64(run: bytes) -> bool:
    foreign = len(run.translate(None, _BASE64_ALPHABET + _WHITE_SPACE))
    return foreign * FOREIGN_SHARE <= len(run.translate(None, _WHITE_SPACE))


def _decode_run(run: bytes) -> bytes:
    data = run.translate(None, _NOT_BASE64)
    if len(data) % 4 == 1:
        data = data[:-1]
    return binascii.a2b_base64(data + b"=" * (-len(data) % 4))


def _undo_quoted_printable(body: bytes) -> bytes:
    if b" \n" in body or b" \r\n" in body or b"\t\n" in body or b"\t\r\n" in body or body.endswith((b" ", b"\t")):
        body = _SOFT_BREAK_SPACE.sub(b"=", body)
        body = _TRAILING_SPACE.sub(b"", body)
    return binascii.a2b_qp(body)


def _undo_uuencode(body: bytes) -> Undone:
    begin = _UU_BEGIN.search(body)
    if not begin:
        return Undone(body, DefectKind.ENCODING_BROKEN)
    out: list[bytes] = []
    problem = None
    for line in body[begin.end() :].split(b"\n"):
        if line.strip() == b"end":
            break
        try:
            out.append(_uu_line(line))
        except binascii.Error:
            problem = DefectKind.ENCODING_BROKEN
    return Undone(b"".join(out), problem)


def _uu_line(line: bytes) -> bytes:
    """The bytes of one line. Its first character says how much of it counts: some encoders put a checksum behind."""
    line = line.rstrip(b"\r")
    return binascii.a2b_uu(line[: 1 + (((line[0] - 32) & 63) + 2) // 3 * 4]) if line else b""
