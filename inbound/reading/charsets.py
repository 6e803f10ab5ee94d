"""From bytes to text, whatever the message says its charset is (demand: never an error, never a lone surrogate).

The order of trust: a declared charset that decodes; UTF-8 where the bytes are valid UTF-8; a detector on a
bounded sample; windows-1252 with replacement. Labels are looked up in a table built once: a hostile label never
reaches Python's codec registry, which would search the disk for it and remember every miss.
"""

from __future__ import annotations

import encodings.aliases
import re
from dataclasses import dataclass

import charset_normalizer

from inbound.reading import charset_evidence
from inbound.reading.charset_evidence import LATIN
from inbound.reading.parsed import DefectKind

SAMPLE_BYTES = 4096
"""How much text the detector sees: the words with non-ASCII bytes from the first 64 KiB that hold any."""
DETECTIONS_PER_MESSAGE = 8
"""The detector costs about a millisecond: a message of thousands of mislabelled parts gets it this often."""
CLEAR_UTF8_BYTES = 4
"""So many non-ASCII bytes that all form valid UTF-8 outweigh a label of the Latin-1 family."""
SHORT_SAMPLE_BYTES = 64
"""Under this length the detector guesses; a text with few non-ASCII bytes is then read as windows-1252."""
MIN_EVIDENCE_BYTES = 4
"""Fewer non-ASCII bytes tell nothing; the text is then read as windows-1252."""
MIN_LETTERS = 3
"""Of so many non-ASCII bytes the letters they would be are looked at."""
_FALLBACK = "windows-1252"

# IANA name -> the codecs tried in turn, widest compatible superset first, as browsers do (WHATWG Encoding).
_FAMILIES: dict[str, tuple[str, ...]] = {
    "us-ascii": ("ascii",),
    "utf-8": ("utf_8",),
    "utf-7": ("utf_7",),
    "utf-16": ("utf_16",),
    "utf-16le": ("utf_16_le",),
    "utf-16be": ("utf_16_be",),
    "utf-32": ("utf_32",),
    "utf-32le": ("utf_32_le",),
    "utf-32be": ("utf_32_be",),
    "windows-1252": ("cp1252", "latin_1"),
    "windows-1254": ("cp1254", "iso8859_9"),
    "windows-874": ("cp874", "tis_620"),
    "shift_jis": ("cp932", "shift_jis_2004"),
    "euc-jp": ("euc_jp", "euc_jis_2004"),
    "iso-2022-jp": ("iso2022_jp", "iso2022_jp_ext"),
    "iso-2022-kr": ("iso2022_kr",),
    "euc-kr": ("cp949",),
    "johab": ("johab",),
    "big5": ("cp950", "big5hkscs"),
    "gb18030": ("gb18030",),
    "hz-gb-2312": ("hz",),
    "koi8-r": ("koi8_r",),
    "koi8-u": ("koi8_u",),
    "macintosh": ("mac_roman",),
    "x-mac-cyrillic": ("mac_cyrillic",),
    "hp-roman8": ("hp_roman8",),
}
_FAMILIES |= {f"iso-8859-{n}": (f"iso8859_{n}",) for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)}
_FAMILIES |= {f"windows-{n}": (f"cp{n}",) for n in (1250, 1251, 1253, 1255, 1256, 1257, 1258)}
_FAMILIES |= {
    f"ibm{n}": (f"cp{n}",) for n in (437, 737, 775, 850, 852, 855, 857, 858, 860, 861, 862, 863, 864, 865, 866, 869)
}

_MORE_LABELS = {
    "us-ascii": "cp20127 ascii ansix341968 646 7bit",
    "utf-8": "cp65001 utf8 unicode11utf8 xunicode20utf8 utf8mb4 unicode unicodeutf8",
    "utf-7": "unicode11utf7",
    "windows-1252": "cp28591 iso88591 iso885911987 latin1 latin l1 88591 ansi cp819 ibm819 xansi western winlatin1",
    "windows-1254": "iso88599 iso885991989 latin5 l5",
    "windows-874": "iso885911 tis620 dos874 xwindows874",
    "shift_jis": "shiftjis sjis xsjis mskanji windows31j cp932 ms932 csshiftjis",
    "euc-jp": "cp51932 cp20932 eucjp xeucjp xeuc ujis",
    "utf-16le": "cp1200",
    "iso-2022-jp": "iso2022jp jis csiso2022jp iso2022jp1 iso2022jp2 iso2022jp3 cp50220 cp50221 cp50222",
    "iso-2022-kr": "iso2022kr csiso2022kr",
    "euc-kr": "cp51949 euckr ksc5601 ksc56011987 ksc56011989 ksx1001 uhc cp949 ms949 windows949 xwindows949 korean",
    "big5": "big5 cnbig5 xxbig5 big5eten big5hkscs cp950 ms950",
    "gb18030": "gb18030 gbk gb2312 gb231280 xgbk cp936 ms936 windows936 euccn xeuccn chinese csgb2312 cngb"
    " cp54936 cp20936 cp51936",
    "hz-gb-2312": "hz hzgb2312",
    "koi8-r": "cp20866 koi8 koi8r koi cskoi8r",
    "koi8-u": "cp21866 koi8u koi8ru",
    "macintosh": "cp10000 mac macroman xmacroman",
    "iso-8859-8": "iso88598i iso88598e hebrew visual",
    "iso-8859-7": "greek ecma118",
    "iso-8859-6": "arabic iso88596i iso88596e",
    "iso-8859-5": "cyrillic",
    "ibm866": "866 csibm866",
}

_NOT_ASCII_SAFE = frozenset(
    {"utf-7", "utf-16", "utf-16le", "utf-16be", "utf-32", "utf-32le", "utf-32be"}
    | {"iso-2022-jp", "iso-2022-kr", "hz-gb-2312"}
)
"""Charsets in which pure ASCII bytes may mean something else."""
_LATIN_FAMILY = frozenset({"windows-1252", "windows-1254", "iso-8859-15", "windows-1250", "iso-8859-2"})
_DETECTABLE = {
    "cp932": "shift_jis",
    "euc_jp": "euc-jp",
    "gb18030": "gb18030",
    "big5": "big5",
    "cp949": "euc-kr",
    "cp1252": "windows-1252",
    "cp1251": "windows-1251",
    "koi8_r": "koi8-r",
    "cp1250": "windows-1250",
    "cp1253": "windows-1253",
    "cp1255": "windows-1255",
    "cp1256": "windows-1256",
    "cp1254": "windows-1254",
    "cp874": "windows-874",
}
_LATIN_CODECS = ["cp1252", "cp1250", "cp1254"]
"""What a text can be in whose foreign words are mostly ASCII letters."""
_WORD = re.compile(rb"[^\s<>]++")
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_NOT_LABEL = re.compile(r"[^a-z0-9]+")
_ISO2022_ESCAPE = re.compile(rb"\x1b(\$[@B]|\([BJI])")
_HIGH_BYTES = bytes(range(0x80, 0x100))
_SET_HIGH_BIT = bytes(byte | 0x80 for byte in range(256))


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text, the charset it was read in (IANA name), and what was wrong with the declaration, if anything."""

    text: str
    used: str
    problem: DefectKind | None = None


class CharsetDetector:
    """Guesses a charset from a sample; one per message, because its budget is the message's."""

    def __init__(self, budget: int = DETECTIONS_PER_MESSAGE) -> None:
        self._budget = budget

    def detect(self, data: bytes) -> str | None:
        """The likely IANA charset of text that is neither ASCII nor UTF-8, or None."""
        if self._budget <= 0:
            return None
        self._budget -= 1
        sample = _foreign_words(data)
        high = _count_high(sample)
        by_letters = charset_evidence.by_letters(sample) if high >= MIN_LETTERS else None
        if by_letters is not None:
            if by_letters != LATIN:
                return by_letters
            is_clear = len(sample) >= SHORT_SAMPLE_BYTES or high * 3 >= len(sample)
            return _detect_latin(sample) if is_clear and high >= MIN_EVIDENCE_BYTES else _FALLBACK
        if high < MIN_EVIDENCE_BYTES or (len(sample) < SHORT_SAMPLE_BYTES and high * 3 < len(sample)):
            return _FALLBACK
        if high * 3 < len(sample):
            return _detect_latin(sample)
        best = charset_normalizer.from_bytes(sample, cp_isolation=list(_DETECTABLE)).best()
        return _DETECTABLE.get(best.encoding) if best else None


def _detect_latin(sample: bytes) -> str | None:
    matches = list(charset_normalizer.from_bytes(sample, cp_isolation=_LATIN_CODECS))
    if not matches:
        return None
    best = min(matches, key=_rank)
    return _FALLBACK if _is_western(best) else _DETECTABLE.get(best.encoding)


def _rank(match: charset_normalizer.CharsetMatch) -> tuple[float, float, bool]:
    """Least disorder, most language; between equals the commonest charset of mail."""
    return match.chaos, -match.coherence, not _is_western(match)


def _is_western(match: charset_normalizer.CharsetMatch) -> bool:
    return "cp1252" in match.could_be_from_charset


def canonical(label: str | None) -> str | None:
    """The IANA name for a declared label (`cp-850`, `ISO_8859-1`, `"utf8"`), or None when it is not known."""
    if not label:
        return None
    known = _LABELS.get(label)
    if known is not None:
        return known
    return _LABELS.get(_NOT_LABEL.sub("", label[:64].lower()))


def decode(data: bytes, declared: str | None, detector: CharsetDetector, hint: str | None = None) -> Decoded:
    """Read `data` as text. Total: any bytes under any label give valid Unicode without lone surrogates.

    `hint` is a second label (an HTML meta element, the body's charset for a header) tried before detection.
    """
    name = canonical(declared)
    problem = DefectKind.CHARSET_UNKNOWN if declared and name is None else None
    if name not in _NOT_ASCII_SAFE and data.isascii():
        return Decoded(data.decode("ascii"), name or "us-ascii", problem)
    if name is not None and name != "us-ascii":
        if name in _LATIN_FAMILY and _is_clearly_utf8(data):
            return Decoded(data.decode("utf-8").lstrip("\ufeff"), "utf-8", DefectKind.CHARSET_WRONG)
        text = _strict(data, name)
        if text is not None:
            return Decoded(text, name)
    return _guess(data, name, declared, detector, hint)


def _guess(data: bytes, name: str | None, declared: str | None, detector: CharsetDetector, hint: str | None) -> Decoded:
    wrong = DefectKind.CHARSET_WRONG if name else DefectKind.CHARSET_UNKNOWN
    text = _strict(data, "utf-8")
    if text is not None:
        return Decoded(text, "utf-8", wrong if declared else None)
    if name is not None and name != "us-ascii":
        text = data.decode(_FAMILIES[name][0], "replace")
        if text.count("\ufffd") * 8 <= _count_high(data):
            return Decoded(valid_text(text), name, DefectKind.CHARACTERS_REPLACED)
    for candidate in (canonical(hint), detector.detect(data)):
        text = _strict(data, candidate) if candidate else None
        if text is not None and candidate:
            return Decoded(text, candidate, wrong)
    text = _strict(data, _FALLBACK)
    return Decoded(text if text is not None else "", _FALLBACK, wrong)


def _strict(data: bytes, name: str) -> str | None:
    """Decode with each codec of the family in turn; None when all refuse."""
    for codec in _FAMILIES[name]:
        try:
            return valid_text(data.decode(codec))
        except UnicodeError:
            continue
    return _iso2022_jp_with_vendor_rows(data) if name == "iso-2022-jp" else None


def _iso2022_jp_with_vendor_rows(data: bytes) -> str | None:
    """ISO-2022-JP whose two-byte runs hold NEC row 13 (circled digits and such), which Python's codec refuses.

    A two-byte run with the high bit set is EUC; `euc_jis_2004` knows row 13 (RFC 1468 for the escapes).
    """
    pieces = _ISO2022_ESCAPE.split(data)
    out = [pieces[0].decode("ascii", "replace")]
    for escape, run in zip(pieces[1::2], pieces[2::2], strict=True):
        if escape.startswith(b"$"):
            out.append(run.translate(_SET_HIGH_BIT).decode("euc_jis_2004", "replace"))
        elif escape == b"(I":
            out.append(run.translate(_SET_HIGH_BIT).decode("cp932", "replace"))
        else:
            out.append(run.decode("ascii", "replace"))
    text = "".join(out)
    return text if text.count("\ufffd") * 8 <= len(text) else None


def valid_text(text: str) -> str:
    """Without a leading byte order mark, and without the lone surrogates that the UTF-7 codec lets through."""
    if text.startswith("\ufeff"):
        text = text[1:]
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _is_clearly_utf8(data: bytes) -> bool:
    if _count_high(data) < CLEAR_UTF8_BYTES:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _count_high(data: bytes) -> int:
    return len(data) - len(data.translate(None, _HIGH_BYTES))


def _foreign_words(data: bytes) -> bytes:
    """The words of a text that hold non-ASCII bytes: markup and English around them would mislead the detector."""
    first = _HIGH_BYTE.search(data)
    start = max(0, first.start() - SAMPLE_BYTES) if first else 0
    words = _WORD.findall(data, start, start + 16 * SAMPLE_BYTES)
    return b" ".join(word for word in words if not word.isascii())[:SAMPLE_BYTES]


def _build_labels() -> dict[str, str]:
    by_codec = {codec: name for name, codecs in _FAMILIES.items() for codec in codecs[:1]}
    labels = {
        _NOT_LABEL.sub("", alias): by_codec[codec]
        for alias, codec in encodings.aliases.aliases.items()
        if codec in by_codec
    }
    for name in _FAMILIES:
        labels[_NOT_LABEL.sub("", name)] = name
        number = re.fullmatch(r"(?:windows-|ibm)(\d+)", name)
        if number:
            for prefix in ("windows", "win", "cp", "xcp", "ibm", "dos", "csibm", "ms", ""):
                labels[prefix + number[1]] = name
    for name, more in _MORE_LABELS.items():
        labels |= dict.fromkeys(more.split(), name)
    # The spellings nearly every message uses, so that they need no normalising.
    common = ("utf-8", "UTF-8", "us-ascii", "US-ASCII", "iso-8859-1", "ISO-8859-1", "windows-1252")
    return labels | {label: labels[_NOT_LABEL.sub("", label.lower())] for label in common}


_LABELS = _build_labels()
