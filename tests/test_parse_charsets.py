"""Reading bytes under true, false, odd and missing labels."""

from __future__ import annotations

import encodings
import encodings.aliases

import pytest

from inbound.reading.charsets import DETECTIONS_PER_MESSAGE, CharsetDetector, canonical, decode
from inbound.reading.parsed import DefectKind


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("UTF8", "utf-8"),
        ("  utf-8 ", "utf-8"),
        ("ISO_8859-1:1987", "windows-1252"),
        ("latin1", "windows-1252"),
        ("cp-850", "ibm850"),
        ("Windows-1251", "windows-1251"),
        ("x-cp1250", "windows-1250"),
        ("1252", "windows-1252"),
        ("ks_c_5601-1987", "euc-kr"),
        ("gb2312", "gb18030"),
        ("x-sjis", "shift_jis"),
        ("ISO-8859-8-I", "iso-8859-8"),
        ("unknown-8bit", None),
        ("rot13", None),
        ("zlib", None),
        ("unicode_escape", None),
        ("", None),
        (None, None),
    ],
)
def test_labels(label: str | None, name: str | None) -> None:
    assert canonical(label) == name


def test_a_strange_label_never_reaches_the_codec_registry() -> None:
    # The registry imports modules by the label's name and remembers every miss for ever.
    for number in range(100):
        decode(b"\xff", f"hostile-{number}", CharsetDetector())
    assert not [name for name in encodings._cache if "hostile" in name]  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", sorted({*encodings.aliases.aliases.values(), "nonsense"}))
def test_any_label_over_any_bytes_gives_valid_unicode(codec: str) -> None:
    data = bytes(range(256)) * 2 + b"+2AA- =?"
    decode(data, codec, CharsetDetector()).text.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "codec", "used"),
    [
        ("Привет, как дела? Это письмо написано по-русски.", "koi8_r", "koi8-r"),
        ("Привет, как дела? Это письмо написано по-русски.", "cp1251", "windows-1251"),
        ("Zażółć gęślą jaźń, dziękuję bardzo", "cp1250", "windows-1250"),
        ("Ça va très bien, merci, à bientôt", "cp1252", "windows-1252"),
        ("こんにちは、世界。元気ですか", "cp932", "shift_jis"),
        ("你好，世界，今天天氣很好", "cp950", "big5"),
        ("Grüße", "cp1252", "windows-1252"),
        ("Grüße", "utf_8", "utf-8"),
        ("Grüße", "utf_8_sig", "utf-8"),
    ],
)
def test_unlabelled_text_is_recognised(text: str, codec: str, used: str) -> None:
    decoded = decode(text.encode(codec), None, CharsetDetector())
    assert (decoded.text, decoded.used) == (text, used)


def test_one_stray_byte_in_english_is_no_chinese() -> None:
    decoded = decode(b"plain English with one \xfeTo stray byte, " * 1, "us-ascii", CharsetDetector())
    assert decoded.text == "plain English with one þTo stray byte, "


@pytest.mark.parametrize(
    ("data", "label", "text", "problem"),
    [
        (b"plain", "x-unknown", "plain", DefectKind.CHARSET_UNKNOWN),
        ("Grüße".encode(), "x-unknown", "Grüße", DefectKind.CHARSET_UNKNOWN),
        ("Grüße".encode(), "us-ascii", "Grüße", DefectKind.CHARSET_WRONG),
        ("Ã¼".encode("latin-1"), "iso-8859-1", "Ã¼", None),
        ("Grüße, süß".encode(), "iso-8859-1", "Grüße, süß", DefectKind.CHARSET_WRONG),
        ("х".encode() * 8 + b"\xd1", "utf-8", "х" * 8 + "\ufffd", DefectKind.CHARACTERS_REPLACED),
        (b"\x81\x8d", "iso-8859-1", "\x81\x8d", None),
        ("\ufeffa".encode("utf-16-le"), "utf-16", "a", None),
        ("\ufeffa".encode("utf-16-le"), "utf-16le", "a", None),
        (b"+2AA-x", "utf-7", "\ufffdx", None),
        (b"\x1b$B$3\x1b(B", "iso-2022-jp", "こ", None),
        (b"\x1b$B-!\x1b(B", "iso-2022-jp", "①", None),
        (b"\x1b(I1\x1b(B", "iso-2022-jp", "ｱ", None),
        ("①".encode("cp932"), "shift_jis", "①", None),
        ("한".encode("cp949"), "ks_c_5601-1987", "한", None),
    ],
)
def test_declared_charsets(data: bytes, label: str, text: str, problem: DefectKind | None) -> None:
    decoded = decode(data, label, CharsetDetector())
    assert (decoded.text, decoded.problem) == (text, problem)


def test_detection_has_a_budget_and_ends_in_windows_1252() -> None:
    detector = CharsetDetector()
    data = "Привет, как дела? Это письмо написано по-русски.".encode("koi8_r")
    used = [decode(data, None, detector).used for _ in range(DETECTIONS_PER_MESSAGE + 1)]
    assert used == ["koi8-r"] * DETECTIONS_PER_MESSAGE + ["windows-1252"]
