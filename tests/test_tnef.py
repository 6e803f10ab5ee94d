"""`winmail.dat` unpacked, and hostile streams that must cost no more than their size."""

from __future__ import annotations

import random
import struct
import time

import compressed_rtf
import pytest
import tnefparse
from hypothesis import given, settings
from hypothesis import strategies as st

from inbound.reading.mapi_properties import MAX_PROPERTIES
from inbound.reading.parse import parse_message
from inbound.reading.parsed import DefectKind, Disposition, ParsedMessage
from inbound.reading.rtf import MAX_GROUPS, read_rtf, unpack_rtf
from inbound.reading.tnef import MAX_ATTRIBUTES, MAX_FILES, MAX_NESTING, MAX_RTF_BYTES, TnefBudget, unpack_tnef
from tests import tnef_builder as build

bounded = settings(max_examples=200, deadline=None, derandomize=True)
HTML_RTF = (
    b"{\\rtf1\\ansi\\ansicpg1252\\fromhtml1 \\deff0{\\fonttbl{\\f0\\fswiss Arial;}{\\f1\\fcharset204 Arial Cyr;}}\r\n"
    b"{\\*\\generator X;}{\\*\\htmltag64 <p>}\\htmlrtf {\\f0\\htmlrtf0 Gr\\'fc\\'dfe \\{1\\} \\u8364 ?\\f1\\'cf"
    b"\\htmlrtf }\\htmlrtf0 {\\*\\htmltag72 </p>}{\\*\\htmltag0 \\par }}"
)


def mail(content: bytes, *, text: bytes | None = b"hi", name: bytes = b"winmail.dat") -> ParsedMessage:
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    if text is not None:
        raw += b"--b\r\n\r\n" + text + b"\r\n"
    raw += b'--b\r\nContent-Type: application/ms-tnef; name="' + name + b'"\r\nContent-Transfer-Encoding: binary\r\n'
    return parse_message(raw + b"\r\n" + content + b"\r\n--b--\r\n")


def test_files_stand_behind_the_original_with_safe_names_types_and_ids() -> None:
    content = build.stream(
        build.code_page(1252),
        build.file(b"../short~1.pdf", b"%PDF", build.unicode(0x3707, "C:\\Übersicht.pdf")),
        build.file(b"pic.png", b"PNG", build.string8(0x370E, b"image/png"), build.string8(0x3712, b"<pic@x>")),
        build.file(b"", b"?"),
    )
    message = mail(content)
    described = [(a.file_name, a.content_type, a.content, a.content_id) for a in message.attachments]
    assert described == [
        ("winmail.dat", "application/ms-tnef", content, None),
        ("Übersicht.pdf", "application/pdf", b"%PDF", None),
        ("pic.png", "image/png", b"PNG", "pic@x"),
        ("attachment.bin", "application/octet-stream", b"?", None),
    ]
    assert message.defects == ()
    assert message.plain == "hi"


@pytest.mark.parametrize(
    ("header", "is_opened"),
    [
        (b"application/vnd.ms-tnef", True),
        (b"application/octet-stream; name=WINMAIL.DAT", True),
        (b"application/octet-stream; name=x", True),
        (b"image/png; name=winmail.dat", False),
    ],
)
def test_a_stream_is_known_by_its_type_name_or_first_bytes(header: bytes, is_opened: bool) -> None:
    content = build.stream(build.file(b"a.txt", b"x"))
    message = parse_message(b"Content-Type: " + header + b"\r\n\r\n" + content)
    assert [a.file_name for a in message.attachments][1:] == (["a.txt"] if is_opened else [])


@pytest.mark.parametrize("text", [None, b"", b" \r\n"])
def test_the_body_is_taken_where_the_mail_has_none(text: bytes | None) -> None:
    properties = build.message_properties(
        build.named_string("x", "y"),
        build.many_numbers(0x1234, [1, 2, 3]),
        build.number(0x3FDE, 65001),
        build.unicode(0x1000, "Grüße"),
        build.binary(0x1013, '<p>Grüße <img src="cid:pic@x">'.encode()),
    )
    picture = build.file(b"pic.png", b"PNG", build.string8(0x3712, b"pic@x"))
    message = mail(build.stream(properties, picture), text=text)
    assert (message.plain, message.html) == ("Grüße", '<p>Grüße <img src="cid:pic@x">')
    assert message.html_charset is not None
    assert message.html_charset.used == "utf-8"
    assert message.attachments[-1].disposition == Disposition.INLINE


def test_the_mails_own_body_stays() -> None:
    assert mail(build.stream(build.message_properties(build.unicode(0x1000, "other")))).plain == "hi"


def test_rich_text_made_from_html_gives_the_html_back() -> None:
    rich = build.binary(0x1009, build.rtf_uncompressed(HTML_RTF))
    message = mail(build.stream(build.message_properties(rich)), text=None)
    assert message.html == "<p>Grüße {1} €П</p>\n"
    assert message.defects == ()


def test_rich_text_alone_gives_plain_text() -> None:
    rtf = b"{\\rtf1\\ansi\\ansicpg932{\\colortbl;\\red0;}{\\*\\x y}"
    rtf += b"a\\tab b\\par\\'82\\'a0\\uc1\\u-10179?\\u-8704?{\\pict 00ff}}"
    message = mail(build.stream(build.message_properties(build.binary(0x1009, build.rtf_uncompressed(rtf)))), text=None)
    assert (message.plain, message.html) == ("a\tb\nあ😀", None)


def test_an_old_body_is_read_in_the_streams_code_page() -> None:
    message = mail(build.stream(build.code_page(1251), build.body("Привет".encode("cp1251"))), text=None)
    assert message.plain == "Привет"
    assert message.plain_charset is not None
    assert (message.plain_charset.declared, message.plain_charset.used) == ("cp1251", "windows-1251")


def test_a_message_inside_becomes_an_eml_that_reads_back() -> None:
    inner = build.stream(
        build.message_properties(
            build.unicode(0x0037, "Über\r\nBcc: x@y"),
            build.unicode(0x0C1A, 'Ann "x" <a@b>,'),
            build.unicode(0x0C1F, "ann@example.com"),
            build.unicode(0x0E04, "Bob; Carl"),
            build.unicode(0x1000, "inner ü"),
            build.binary(0x1013, b"<p>inner"),
        ),
        build.file(b"a.bin", bytes(range(256)) * 40),
    )
    outer = mail(build.stream(build.file(b"x", b"", build.embedded(inner)))).attachments[-1]
    assert (outer.file_name, outer.content_type) == ("Über Bcc_ x@y.eml", "message/rfc822")
    assert outer.content.isascii()
    message = parse_message(outer.content)
    assert (message.subject, message.plain, message.html) == ("Über Bcc: x@y", "inner ü", "<p>inner")
    assert [name.lower() for name, _ in message.headers] == ["from", "to", "subject", "mime-version", "content-type"]
    assert dict(message.headers)["From"] == '"Ann \\"x\\" <a@b>," <ann@example.com>'
    assert [(a.file_name, a.content) for a in message.attachments] == [("a.bin", bytes(range(256)) * 40)]
    assert message.defects == ()


def test_messages_inside_messages_end_at_the_limit() -> None:
    content = build.stream(build.file(b"innermost", b"x"))
    for _ in range(MAX_NESTING + 3):
        content = build.stream(build.file(b"x", b"", build.embedded(content)))
    message = mail(content)
    assert _kinds(message) == {DefectKind.TNEF_LIMIT}
    names = []
    while message.attachments:
        names.append(message.attachments[-1].file_name)
        message = parse_message(message.attachments[-1].content)
    assert names[:2] == ["x.eml", "x.eml"]
    assert "innermost" in names


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_a_stream_cut_anywhere_gives_what_came_before(cut: int) -> None:
    whole = build.stream(build.file(b"a.txt", b"first"), build.file(b"b.txt", b"x" * 200))
    message = mail(whole[:cut])
    assert message.attachments[0].content == whole[:cut]
    if cut < len(whole):
        assert all(len(a.content) <= 200 for a in message.attachments[1:])
    if cut > 120:
        assert message.attachments[1].content == b"first"


@bounded
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_give_a_message(noise: bytes, is_stream: bool) -> None:
    unpack_tnef(build.stream(noise) if is_stream else noise, TnefBudget(), with_body=True)
    unpack_tnef(build.stream(build.message_properties(noise)), TnefBudget(), with_body=True)
    read_rtf(noise)
    read_rtf(b"{\\rtf1\\fromhtml1" + noise)
    unpack_rtf(struct.pack("<IIII", 0, 1000, 0x75465A4C, 0) + noise, 1000)


@bounded
@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=5)), max_size=6))
def test_a_damaged_stream_gives_a_message(seed: int, edits: list[tuple[int, bytes]]) -> None:
    inner = build.stream(build.message_properties(build.unicode(0x37, "s")), build.file(b"i", b"y"))
    content = bytearray(
        build.stream(
            build.message_properties(
                build.binary(0x1009, build.rtf_uncompressed(HTML_RTF)), build.number(0x3FDE, seed)
            ),
            build.file(b"a", b"x" * 20, build.unicode(0x3707, "n"), build.embedded(inner)),
        )
    )
    for at, new in edits:
        content[at % len(content) : at % len(content) + len(new)] = new
    for attachment in mail(bytes(content), text=None).attachments:
        attachment.file_name.encode()
        attachment.content_type.encode("ascii")


@bounded
@given(st.binary(max_size=5000), st.integers(1, 12))
def test_compressed_rich_text_is_unpacked_as_another_library_packs_it(piece: bytes, times: int) -> None:
    rtf = piece * times
    packed = compressed_rtf.compress(rtf, compressed=True)
    unpacked = unpack_rtf(packed, 10 * len(rtf) + 1)
    assert (unpacked.rtf, unpacked.is_whole) == (rtf, True)
    assert unpack_rtf(packed, len(rtf) // 2).rtf == rtf[: len(rtf) // 2]


def test_another_library_reads_the_same_files() -> None:
    chance = random.Random(3)
    files = [(f"file {n}.bin", chance.randbytes(chance.randrange(5000))) for n in range(20)]
    content = build.stream(build.code_page(1252), *(build.file(name.encode(), data) for name, data in files))
    ours = [(a.file_name, a.content) for a in mail(content).attachments[1:]]
    assert ours == files
    assert ours == [(a.name, bytes(a.data)) for a in tnefparse.TNEF(content).attachments]


def test_more_of_anything_than_the_limits_is_left_and_reported() -> None:
    empty_files = build.stream(*[build.attribute(2, 0x00069002, b"")] * (MAX_FILES + 10))
    message = mail(empty_files)
    assert len(message.attachments) == 1 + MAX_FILES
    assert _kinds(message) == {DefectKind.TNEF_LIMIT}
    assert _kinds(mail(build.stream(*[build.attribute(1, 0x8004, b"")] * (MAX_ATTRIBUTES + 1)))) == {
        DefectKind.TNEF_LIMIT
    }
    properties = build.message_properties(*[build.number(0x1234, 1)] * (MAX_PROPERTIES + 1))
    assert _kinds(mail(build.stream(properties))) == {DefectKind.TNEF_BROKEN}


def test_a_decompression_bomb_stops_at_the_limit() -> None:
    rich = build.binary(0x1009, build.rtf_bomb(200_000))
    started = time.process_time()
    message = mail(build.stream(build.message_properties(rich)), text=None)
    assert time.process_time() - started < 2
    assert DefectKind.TNEF_LIMIT in _kinds(message)
    assert len(message.plain or "") <= MAX_RTF_BYTES


def test_many_streams_share_one_budget() -> None:
    part = b"--b\r\nContent-Type: application/ms-tnef\r\n\r\n" + build.stream(
        build.message_properties(build.binary(0x1009, build.rtf_bomb(2000))), *[build.file(b"x", b"y")] * 50
    )
    message = parse_message(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + (part + b"\r\n") * 100)
    assert len(message.attachments) == 100 + MAX_FILES
    assert DefectKind.TNEF_LIMIT in _kinds(message)


def test_groups_in_groups_end_at_the_limit() -> None:
    deep = read_rtf(b"{\\rtf1 " + b"{" * (MAX_GROUPS * 3) + b"x" + b"}" * (MAX_GROUPS * 3) + b"y}")
    assert deep.text == "xy"


def _kinds(message: ParsedMessage) -> set[DefectKind]:
    return {defect.kind for defect in message.defects}
