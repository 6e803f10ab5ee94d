"""Rich text as Outlook sends it: unpacked ([MS-OXRTFCP]), and read as the HTML or plain text it was made from.

Compressed RTF grows at most eightfold, and no further than the caller allows. The text is read in one pass of a
regular expression ([MS-OXRTFEX] for HTML inside RTF), with a bounded stack of groups; nothing recurses.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace

from inbound.reading.charsets import CharsetDetector, canonical, decode, valid_text

MAX_GROUPS = 500
"""Groups inside groups; the text of deeper ones belongs to the last that counted."""

_HEADER = struct.Struct("<IIII")
_COMPRESSED = 0x75465A4C
_UNCOMPRESSED = 0x414C454D
_WINDOW = 4096
_PRELOADED = (
    b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor "
    b"MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par "
    b"\\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx"
)
"""What the window holds before the first byte ([MS-OXRTFCP] section 2.1.2.1)."""

_TOKEN = re.compile(
    rb"\\'(?P<hex>[0-9A-Fa-f]{2})|\\(?P<word>[A-Za-z]{1,32})(?P<number>-?[0-9]{1,9})? ?"
    rb"|\\(?P<symbol>.)|(?P<group>[{}])|(?P<text>[^\\{}\r\n]++)|[\r\n]++|\\",
    re.DOTALL,
)
_NOT_TEXT = frozenset(
    {b"fonttbl", b"colortbl", b"stylesheet", b"info", b"pict", b"object", b"header", b"footer", b"headerl", b"headerr"}
    | {b"headerf", b"footerl", b"footerr", b"footerf", b"themedata", b"colorschememapping", b"listtable"}
    | {b"listoverridetable", b"datastore", b"xmlnstbl", b"fldinst", b"pntext", b"bkmkstart", b"bkmkend"}
)
"""Destinations that hold no words of the writer."""
_CHARACTERS = {
    b"tab": "\t",
    b"lquote": "\u2018",
    b"rquote": "\u2019",
    b"ldblquote": "\u201c",
    b"rdblquote": "\u201d",
    b"bullet": "\u2022",
    b"endash": "\u2013",
    b"emdash": "\u2014",
    b"emspace": "\u2003",
    b"enspace": "\u2002",
    b"cell": "\t",
}
_LINE_ENDS = frozenset({b"par", b"line", b"sect", b"page", b"row"})
_CODE_PAGES = {128: 932, 129: 949, 130: 1361, 134: 936, 136: 950, 161: 1253, 162: 1254, 163: 1258, 177: 1255}
_CODE_PAGES |= {178: 1256, 186: 1257, 204: 1251, 222: 874, 238: 1250, 77: 10000}
"""Windows code page of a font's character set (RTF 1.9.1, \\fcharset)."""
_MULTI_BYTE = frozenset({932, 936, 949, 950, 1361})
_NO_DETECTOR = CharsetDetector(budget=0)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Rich text after unpacking."""

    rtf: bytes
    is_whole: bool
    """False where it is damaged or reached the limit."""


@dataclass(frozen=True, slots=True)
class RichText:
    """What a rich text says: HTML when it was made from HTML, else plain text with LF line ends."""

    text: str
    is_html: bool
    charset: str
    """IANA name of the charset most of it is in."""


def unpack_rtf(data: bytes, limit: int) -> Unpacked:
    """Undo the compression, giving no more than `limit` bytes. Never raises."""
    if len(data) < _HEADER.size:
        return Unpacked(b"", is_whole=False)
    _, size, kind, _ = _HEADER.unpack_from(data)
    if kind == _UNCOMPRESSED:
        rtf = data[_HEADER.size : _HEADER.size + min(size, limit)]
        return Unpacked(rtf, len(rtf) == size)
    if kind != _COMPRESSED:
        return Unpacked(b"", is_whole=False)
    rtf = _decompress(data, min(size, limit))
    return Unpacked(rtf, len(rtf) == size)


def _decompress(data: bytes, limit: int) -> bytes:
    """LZFu: a control byte says of eight tokens which are literals and which are copies from the window."""
    out = bytearray(_PRELOADED)
    end = len(_PRELOADED) + limit
    position = _HEADER.size
    while position < len(data) and len(out) < end:
        control = data[position]
        position += 1
        if not control:
            out += data[position : position + 8]
            position += 8
            continue
        for bit in range(8):
            if not control >> bit & 1:
                out += data[position : position + 1]
                position += 1
                continue
            if position + 1 >= len(data):
                return bytes(out[len(_PRELOADED) : end])
            reference = data[position] << 8 | data[position + 1]
            position += 2
            distance = (len(out) - (reference >> 4)) % _WINDOW
            if not distance:  # a copy from where the next byte goes is the mark of the end
                return bytes(out[len(_PRELOADED) : end])
            if not _copy(out, distance, (reference & 15) + 2):
                return bytes(out[len(_PRELOADED) : end])
    return bytes(out[len(_PRELOADED) : end])


def _copy(out: bytearray, distance: int, length: int) -> bool:
    """Repeat what stands `distance` back; False when the window was never filled there."""
    start = len(out) - distance
    if start < 0:
        return False
    piece = out[start : start + length]
    if len(piece) < length:
        piece = (piece * (length // distance + 1))[:length]
    out += piece
    return True


def read_rtf(rtf: bytes) -> RichText:
    """The words of a rich text. Total and linear: any bytes give a text."""
    return _Reading().read(rtf)


@dataclass(frozen=True, slots=True)
class _Group:
    """What a group inherits and may change for itself."""

    is_hidden: bool = False
    is_html_tag: bool = False
    """Inside `\\*\\htmltag`: HTML as it stood."""
    is_replaced: bool = False
    """Between `\\htmlrtf` and `\\htmlrtf0`: the RTF rendering of HTML that stands beside it."""
    in_font_table: bool = False
    font: int = -1
    skipped_after_unicode: int = 1


class _Reading:
    def __init__(self) -> None:
        self._out: list[str] = []
        self._bytes: list[bytes] = []
        self._bytes_page = 0
        self._default_page = 1252
        self._font_pages: dict[int, int] = {}
        self._defined_font = -1
        self._groups = [_Group()]
        self._too_deep = 0
        self._skip = 0
        self._is_html = False
        self._is_starred = False

    def read(self, rtf: bytes) -> RichText:
        for token in _TOKEN.finditer(rtf):
            if token["text"] is not None:
                self._add_bytes(self._without_skipped(token["text"]))
            elif token["word"] is not None:
                number = token["number"]
                self._word(token["word"], int(number) if number else None)
                self._is_starred = False
            elif token["hex"] is not None:
                self._add_bytes(self._without_skipped(bytes([int(token["hex"], 16)])))
            elif token["group"] is not None:
                self._open() if token["group"] == b"{" else self._close()
            elif token["symbol"] is not None:
                self._symbol(token["symbol"])
        self._flush()
        charset = canonical(f"cp{self._default_page}") or "windows-1252"
        return RichText(valid_text("".join(self._out)), self._is_html, charset)

    def _open(self) -> None:
        self._skip = 0
        if len(self._groups) >= MAX_GROUPS:
            self._too_deep += 1
        else:
            self._groups.append(self._groups[-1])

    def _close(self) -> None:
        self._skip = 0
        if self._too_deep:
            self._too_deep -= 1
        elif len(self._groups) > 1:
            self._groups.pop()

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._is_starred = True
        elif symbol in b"{}\\":
            self._add_bytes(self._without_skipped(symbol))
        elif symbol == b"~":
            self._add_text("\u00a0")
        elif symbol == b"_":
            self._add_text("\u2011")
        elif symbol in b"\r\n":
            self._add_text("\n")

    def _word(self, word: bytes, number: int | None) -> None:
        group = self._groups[-1]
        if self._is_starred or word in _NOT_TEXT:
            self._destination(word)
        elif word == b"u" and number is not None:
            self._skip = group.skipped_after_unicode
            self._add_text(chr(number % 0x10000))
        elif word == b"htmlrtf":
            self._groups[-1] = replace(group, is_replaced=number != 0)
        elif word == b"f" and number is not None:
            self._defined_font = number
            self._groups[-1] = replace(group, font=number)
        elif word == b"uc" and number is not None:
            self._groups[-1] = replace(group, skipped_after_unicode=min(max(number, 0), 8))
        elif word == b"plain":
            self._groups[-1] = replace(group, font=-1)
        elif word in _CHARACTERS:
            self._add_text(_CHARACTERS[word])
        elif word in _LINE_ENDS:
            self._add_text("\n")
        else:
            self._setting(word, number)

    def _setting(self, word: bytes, number: int | None) -> None:
        """Words that say something about the whole text."""
        if word == b"fromhtml":
            self._is_html = number == 1
        elif word == b"ansicpg" and number:
            self._default_page = number
        elif word == b"fcharset" and number in _CODE_PAGES and self._groups[-1].in_font_table:
            self._font_pages[self._defined_font] = _CODE_PAGES[number]

    def _destination(self, word: bytes) -> None:
        is_html_tag = word == b"htmltag" and self._is_html
        self._groups[-1] = replace(
            self._groups[-1],
            is_hidden=self._groups[-1].is_hidden or not is_html_tag,
            is_html_tag=is_html_tag,
            is_replaced=self._groups[-1].is_replaced and not is_html_tag,
            in_font_table=self._groups[-1].in_font_table or word == b"fonttbl",
        )

    def _is_silent(self) -> bool:
        group = self._groups[-1]
        return group.is_hidden or (self._is_html and group.is_replaced)

    def _without_skipped(self, data: bytes) -> bytes:
        """Without the bytes that stand in for a Unicode character to readers that know none."""
        if not self._skip:
            return data
        left = data[self._skip :]
        self._skip = max(0, self._skip - len(data))
        return left

    def _add_text(self, text: str) -> None:
        if not self._is_silent():
            self._flush()
            self._out.append(text)

    def _add_bytes(self, data: bytes) -> None:
        if not data or self._is_silent():
            return
        page = self._page()
        if self._bytes and page != self._bytes_page:
            self._flush()
        self._bytes_page = page
        self._bytes.append(data)

    def _page(self) -> int:
        group = self._groups[-1]
        page = self._default_page if group.is_html_tag else self._font_pages.get(group.font, self._default_page)
        # A double-byte page of the whole text also holds for fonts that name a single-byte set of their own.
        return self._default_page if self._default_page in _MULTI_BYTE and page not in _MULTI_BYTE else page

    def _flush(self) -> None:
        if self._bytes:
            self._out.append(decode(b"".join(self._bytes), f"cp{self._bytes_page}", _NO_DETECTOR).text)
            self._bytes.clear()
