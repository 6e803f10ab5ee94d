"""File names, transfer encodings and the split into parts, where the odd messages do not reach."""

from __future__ import annotations

import base64
import random

import pytest

from inbound.reading.filenames import MAX_NAME_BYTES, FileNames, generated_name, safe_name
from inbound.reading.mime_split import split_message
from inbound.reading.mime_transfer import undo_transfer_encoding
from inbound.reading.parse import parse_message
from inbound.reading.parsed import DefectKind, Disposition


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("Report 2024 (final).pdf", "Report 2024 (final).pdf"),
        ("../../x", "x"),
        ("C:\\Users\\me\\x.doc", "x.doc"),
        ("/etc/", "etc"),
        ("a\x00b\r\n\x1b.txt", "ab.txt"),
        ("e\u0301.txt", "é.txt"),
        ("a\u202efdp.exe", "afdp.exe"),
        ("\ud800x", "x"),
        ("nul", "_nul"),
        ("LPT1.txt", "_LPT1.txt"),
        (".bashrc", "bashrc"),
        ("...", ""),
        ("~root", "root"),
        ("a   b\u00a0c.txt", "a b c.txt"),
        ("👩‍💻.png", "👩‍💻.png"),
    ],
)
def test_safe_names(given: str, safe: str) -> None:
    assert safe_name(given) == safe


def test_long_names_keep_their_extension_and_whole_characters() -> None:
    name = safe_name("ü" * 500 + ".pdf")
    assert name == "ü" * ((MAX_NAME_BYTES - 4) // 2) + ".pdf"


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        ("application/pdf", "attachment.pdf"),
        ("image/jpeg", "image.jpg"),
        ("message/rfc822", "message.eml"),
        ("text/calendar", "invite.ics"),
        ("application/x-never-heard-of", "attachment.bin"),
    ],
)
def test_generated_names(media_type: str, name: str) -> None:
    assert generated_name(media_type) == name


def test_no_two_attachments_share_a_name_however_names_are_chosen() -> None:
    names = FileNames()
    given = ["a.txt", "A.TXT", "a-2.txt", "a.txt", "a-3.txt", None, None, "attachment-2.pdf"]
    handed_out = [names.name(name, "application/pdf") for name in given]
    assert handed_out[:4] == ["a.txt", "A-2.TXT", "a-2-2.txt", "a-3.txt"]
    assert len({name.casefold() for name in handed_out}) == len(given)


@pytest.mark.parametrize(
    ("body", "encoding", "content", "problem"),
    [
        (b"YWJj\r\nZGVm\r\n", "base64", b"abcdef", None),
        (b"YWJj\r\nZGVm", " BASE64 ; x", b"abcdef", None),
        (b"", "base64", b"", None),
        (b"Y\x00WJj" + b"YWJj" * 20, "base64", b"abc" * 21, DefectKind.ENCODING_BROKEN),
        (b"YQ==\r\nYg==", "base64", b"ab", DefectKind.ENCODING_BROKEN),
        (b"YQ== Yg==", "base64", b"a", DefectKind.ENCODING_BROKEN),
        (b"a=\r\nb=\nc=20\r\n", "quoted-printable", b"abc \r\n", None),
        (b"a \t \r\nb  ", "quoted-printable", b"a\r\nb", None),
        (b"a = b =zz =", "quoted-printable", b"a = b =zz ", None),
        (b"a=", "8bit", b"a=", None),
        (b"a=", None, b"a=", None),
        (b"a=", "", b"a=", None),
        (b"x", "x-zip", b"x", DefectKind.ENCODING_UNKNOWN),
        (b"begin 644 a\r\n#86)C\r\n`\r\nend\r\n", "x-uuencode", b"abc", None),
        (b"begin 644 a\n#86)CZ\n \nend", "uuencode", b"abc", None),
        (b"no begin", "uuencode", b"no begin", DefectKind.ENCODING_BROKEN),
    ],
)
def test_transfer_encodings(body: bytes, encoding: str | None, content: bytes, problem: DefectKind | None) -> None:
    undone = undo_transfer_encoding(body, encoding)
    assert (undone.content, undone.problem) == (content, problem)


def test_base64_in_lines_of_any_length_is_exact() -> None:
    chance = random.Random(7)
    content = chance.randbytes(5000)
    encoded = base64.b64encode(content)
    lines = [encoded[at : at + 61] for at in range(0, len(encoded), 61)]
    assert undo_transfer_encoding(b" \t\r\n".join(lines), "base64").content == content


def test_the_line_break_before_a_boundary_is_no_content() -> None:
    raw = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\r\n--b\n\n\n\n--b  \n\n--b--\n"
    root, defects = split_message(raw)
    assert [raw[part.start : part.end] for part in root.children] == [b"one", b"\n", b""]
    assert defects == []


def test_an_outer_boundary_ends_inner_parts() -> None:
    inner = b"Content-Type: multipart/mixed; boundary=i\n\n--i\n\nx\n"
    raw = b"Content-Type: multipart/mixed; boundary=o\n\n--o\n" + inner + b"--o\n\ny\n--o--\n"
    message = parse_message(raw)
    assert message.plain == "x\ny"
    assert [defect.kind for defect in message.defects] == [DefectKind.PART_NOT_CLOSED]


def test_one_boundary_used_on_two_levels_opens_and_closes_both() -> None:
    part = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n"
    message = parse_message(part + part + b"\ninner\n--b--\n--b\n\nouter\n--b--\nepilogue")
    assert (message.plain, message.defects) == ("inner\nouter", ())


def test_inline_is_only_what_the_html_shows() -> None:
    image = b"--b\nContent-Type: image/png\nContent-Disposition: %s\nContent-ID: <%s>\n\nx\n"
    html = b"--b\nContent-Type: text/html\n\n<img src=\"CID:a%40x\"><img src='cid:b'>\n"
    raw = b"Content-Type: multipart/related; boundary=b\n\n" + html + image % (b"attachment", b"a@x")
    raw += image % (b"inline", b"b") + image % (b"inline", b"c") + b"--b--"
    dispositions = [attachment.disposition for attachment in parse_message(raw).attachments]
    assert dispositions == [Disposition.INLINE, Disposition.INLINE, Disposition.ATTACHMENT]


@pytest.mark.parametrize(
    ("written", "handed_on"),
    [
        ("text/<script>", "application/octet-stream"),
        ("../x", "application/octet-stream"),
        ("text/\xff", "application/octet-stream"),
        ("x" * 300 + "/y", "application/octet-stream"),
        ("zip", "application/octet-stream"),
        ("a/b/c d", "application/octet-stream"),
        ("Image/PNG garbage", "image/png"),
    ],
)
def test_only_a_real_type_is_handed_on(written: str, handed_on: str) -> None:
    raw = b"Content-Type: " + written.encode("latin-1") + b"; name=x\nContent-Disposition: attachment\n\nx"
    assert parse_message(raw).attachments[0].content_type == handed_on
