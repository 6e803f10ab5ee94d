"""Which charset a short text without a label is in, judged by the characters it would consist of.

Statistical detectors need a few dozen words. Mail has subjects and answers of one: there the letters themselves tell
more, because the wrong charset turns common letters into rare ones, small letters into capitals in mid-word, and
words into mixtures of scripts. Each candidate gets a mark for each byte; a clear winner is taken, else nobody.
"""

from __future__ import annotations

from inbound.reading import charset_letters as letters

MAX_SAMPLE_BYTES = 384
"""Looked at; enough for a paragraph, and half a millisecond."""
MIN_MARK = 0.55
"""The least mark a byte on average for a candidate to be believed; a text of common letters has about one."""
MIN_LEAD = 0.25
"""By which the winner must be ahead."""
MIN_DIFFERENT = 2
"""Non-ASCII bytes that differ; one that is repeated is a sign or a lone accent."""
LATIN = "latin"
"""The answer for Western and Central European text, which letters alone cannot tell apart."""

_COMMON, _USUAL, _SELDOM, _ODD, _WRONG = 1.5, 0.9, 0.1, -1.0, -2.5


def _alphabet(*scripts: tuple[str, ...]) -> dict[str, float]:
    marks: dict[str, float] = {}
    for script in scripts:
        for mark, characters in zip((_COMMON, _USUAL, _SELDOM), script, strict=True):
            for character in characters:
                marks[character] = mark
                if character.upper() != character and len(character.upper()) == 1:
                    marks.setdefault(character.upper(), mark - 0.3)
    return marks


def _signs(*groups: str) -> dict[str, float]:
    """East Asian characters: two bytes each, so marks count twice."""
    marks = dict.fromkeys("、。，！？：（）「」・ー～『』；　《》“”…", 2 * _USUAL)
    for group in groups:
        marks |= dict.fromkeys(group, 2 * _COMMON)
    return marks


_JAPANESE = _signs(letters.HIRAGANA, letters.KATAKANA, letters.KANJI)
_CANDIDATES: tuple[tuple[str, str, dict[str, float], bool], ...] = (
    ("windows-1251", "cp1251", _alphabet(letters.CYRILLIC), False),
    ("koi8-r", "koi8_r", _alphabet(letters.CYRILLIC), False),
    ("koi8-u", "koi8_u", _alphabet(letters.CYRILLIC), False),
    ("windows-1253", "cp1253", _alphabet(letters.GREEK), False),
    ("windows-1255", "cp1255", _alphabet(letters.HEBREW), False),
    ("windows-1256", "cp1256", _alphabet(letters.ARABIC), False),
    ("windows-874", "cp874", _alphabet(letters.THAI), False),
    ("shift_jis", "cp932", _JAPANESE, True),
    ("euc-jp", "euc_jp", _JAPANESE, True),
    ("gb18030", "gb18030", _signs(letters.HANZI_SIMPLE), True),
    ("big5", "cp950", _signs(letters.HANZI_TRADITIONAL), True),
    ("euc-kr", "cp949", _signs(letters.HANGUL), True),
)
_LATIN_MARKS = dict.fromkeys(letters.LATIN, _USUAL) | dict.fromkeys(letters.LATIN_SIGNS, _SELDOM)
_FINAL_ONLY = frozenset("םןךףץς")
_BESIDE_LETTERS = frozenset("№«»„“”–—…€’")


def by_letters(sample: bytes) -> str | None:
    """The IANA name of the one charset in which the sample looks like language, `LATIN`, or None where none leads."""
    sample = _cut(sample)
    found = [byte for byte in sample if byte > 0x7F]
    high = len(found)
    if len(set(found)) < MIN_DIFFERENT:
        return LATIN if found else None
    marks = [(_mark(sample, codec, table, is_wide) / high, name) for name, codec, table, is_wide in _CANDIDATES]
    marks.append((_latin_mark(sample) / high, LATIN))
    marks.sort(key=lambda found: -found[0])
    (best, name), (second, _) = marks[0], _first_other(marks)
    return name if best >= MIN_MARK and best - second >= MIN_LEAD else None


def _first_other(marks: list[tuple[float, str]]) -> tuple[float, str]:
    """The best of another alphabet: koi8-u reads Russian as koi8-r does, and the first of equals wins."""
    family = marks[0][1].rpartition("-")[0] if marks[0][1].startswith("koi8") else None
    return next(mark for mark in marks[1:] if not family or not mark[1].startswith(family))


def _cut(sample: bytes) -> bytes:
    if len(sample) <= MAX_SAMPLE_BYTES:
        return sample
    end = sample.rfind(b" ", 0, MAX_SAMPLE_BYTES)
    return sample[: end if end > 0 else MAX_SAMPLE_BYTES]


def _mark(sample: bytes, codec: str, table: dict[str, float], is_wide: bool) -> float:
    try:
        text = sample.decode(codec)
    except UnicodeDecodeError as error:
        if error.end < len(sample) - 1 or error.start < MAX_SAMPLE_BYTES - 4:
            return _WRONG * len(sample)
        text = sample[: error.start].decode(codec)
    return _mark_signs(text, table) if is_wide else _mark_letters(text, table)


def _mark_signs(text: str, table: dict[str, float]) -> float:
    return sum(table.get(character, 2 * _ODD) for character in text if character > "\x7f")


def _mark_letters(text: str, table: dict[str, float]) -> float:
    total = 0.0
    previous = " "
    for character in text:
        if character > "\x7f":
            total += table.get(character, _ODD) + _beside(previous, character)
        elif character.isalpha() and previous > "\x7f" and previous.isalpha():
            total += _WRONG  # no word has letters of two alphabets
        previous = character
    return total


def _beside(previous: str, character: str) -> float:
    """What the character before says: capitals in mid-word, Latin letters and final forms do not go there."""
    if not character.isalpha():
        return 0.0 if character in _BESIDE_LETTERS or not previous.isalpha() else _ODD / 2
    if previous.isascii() and previous.isalpha():
        return _WRONG
    if previous in _FINAL_ONLY:
        return _WRONG
    return _WRONG if previous.islower() and character.isupper() else 0.0


def _latin_mark(sample: bytes) -> float:
    """Windows-1252: accented letters belong among plain ones, and seldom follow each other."""
    total = 0.0
    previous = " "
    for character in sample.decode("cp1252", "replace"):
        if character > "\x7f":
            total += _LATIN_MARKS.get(character, _ODD)
            if character.isalpha() and previous.isascii() and previous.isalpha():
                total += _USUAL
            elif character.isalpha() and previous > "\x7f" and previous.isalpha():
                total += _ODD
            if previous.islower() and character.isupper():
                total += _WRONG
        previous = character
    return total
