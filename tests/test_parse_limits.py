"""Hostile messages: time grows with size and no faster, memory stays bounded, and the limits are reported."""

from __future__ import annotations

import base64
import time
import tracemalloc
from collections.abc import Callable

import pytest

from inbound.reading.headers import MAX_FIELDS, read_summary
from inbound.reading.mime_split import MAX_DEPTH, MAX_PARTS
from inbound.reading.parse import MAX_DEFECTS, parse_message
from inbound.reading.parsed import DefectKind, ParsedMessage
from inbound.reading.replytext import reply_plain, reply_plain_of
from tests import tnef_builder as tnef

MAX_RATIO = 2.5
"""Time for twice the input over time for once; quadratic work would give 4."""
MEASURABLE_S = 0.004
"""Below this the ratio is noise, and the growth harmless."""
TRIES = 5
ROUNDS = 4
BOMB_SECONDS = 2.0
BOMB_BYTES_PER_BYTE = 8
BIG_BYTES = 35 * 1024 * 1024
"""What many providers let through: 25 MB of files in base64."""
MULTIPART = b'Content-Type: multipart/mixed; boundary="a"\r\n\r\n'
BASE64 = b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n"
PRINTABLE = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
UU = b"Content-Type: image/png\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\n"

TNEF = b"Content-Type: application/ms-tnef\r\n\r\n"
HTML = b"Content-Type: text/html\r\n\r\n"
HTML_UNITS = [
    "<div>",
    "<b>",
    "<p>",
    "<blockquote>",
    "</div>",
    "<div></blockquote>",
    "<div class=gmail_quote><blockquote>a",
]
HTML_UNITS += [
    "<!--",
    "<!",
    "</",
    "<",
    "<a ",
    'x="" ',
    '<a b="',
    "<a b=\"'",
    "<a b=",
    "&#1",
    "&",
    "<script></s",
    "<script></script>",
]
HTML_UNITS += [
    "<pre>\n",
    "<br>&gt; x",
    '<div class="' + "a " * 50 + '">',
    "<br>On 5 May 2024 a@b.c wrote:",
    "<li>",
    "<td>",
]

HOSTILE: dict[str, tuple[Callable[[int], bytes], int]] = {
    "parameters": (lambda n: b"Content-Type: a/b; " + b"x=y; " * n + b"\r\n\r\n", 8000),
    "parameter pieces": (
        lambda n: b"Content-Type: a/b; " + b"; ".join(b"x*%d*=%%41" % i for i in range(n)) + b"\r\n\r\n",
        4000,
    ),
    "spaces in parameters": (lambda n: b"Content-Type: a/b; " + b" " * n + b"x" * n + b" " * n + b"\r\n\r\n", 20_000),
    "open quotes in parameters": (lambda n: b"Content-Type: a/b; " + b'x="' * n + b"\r\n\r\n", 20_000),
    "phrases": (lambda n: b"To: " + b"a b, " * n + b"\r\n\r\n", 100_000),
    "comments": (lambda n: b"To: " + b"(" * n + b")" * n + b"\r\n\r\n", 200_000),
    "groups": (lambda n: b"To: " + b"a:;" * n + b"\r\n\r\n", 150_000),
    "encoded words": (lambda n: b"Subject: " + b"=?utf-8?q?a?= " * n + b"\r\n\r\n", 20_000),
    "encoded words in addresses": (lambda n: b"To: " + b'=?utf-8?q?a=2C?= "' * n + b"\r\n\r\n", 10_000),
    "broken encoded words": (lambda n: b"Subject: " + b"=?utf-8?q?a" * n + b"\r\n\r\n", 20_000),
    "angle brackets": (lambda n: b"Message-ID: " + b"< " * n + b"\r\n\r\n", 100_000),
    "folds": (lambda n: b"Subject: " + b"a\r\n " * n + b"\r\n\r\n", 50_000),
    "fields": (lambda n: b"A: b\r\n" * n + b"\r\n", 40_000),
    "lines that are no fields": (lambda n: b"A: b\r\nx\r\n" * n + b"\r\n", 40_000),
    "parts": (lambda n: MULTIPART + b"--a\r\nA: b\r\n\r\nx\r\n" * n, 1500),
    "parts without end of header": (lambda n: MULTIPART + b"--a\r\nA: b\r\n" * n, 1500),
    "named parts": (lambda n: MULTIPART + b"--a\r\nContent-Type: a/b; name=x\r\n\r\nx\r\n" * n, 1500),
    "lines like boundaries": (lambda n: MULTIPART + b"\n--" * n, 60_000),
    "nested multiparts": (
        lambda n: b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(n)),
        20_000,
    ),
    "nested messages": (lambda n: b"Content-Type: message/rfc822\r\n\r\n" * n, 200_000),
    "base64 in padded lines": (lambda n: BASE64 + b"QQ==\r\n" * n, 40_000),
    "base64 of padding": (lambda n: BASE64 + b"=" * n, 1_000_000),
    "spaces in quoted-printable": (lambda n: PRINTABLE + b" " * n + b"x \r\n", 500_000),
    "soft breaks": (lambda n: PRINTABLE + b"= " * n + b" \r\n", 200_000),
    "uuencoded lines": (lambda n: UU + b"begin 644 x\n" + b"#86)C\n" * n, 40_000),
    "escape sequences": (
        lambda n: b"Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n" + b"\x1b$B\x2d\x21\x1b(B" * n,
        20_000,
    ),
    "uuencoded beginnings": (lambda n: b"A: b\r\n\r\n" + b"begin 644 x\n" * n, 100_000),
    "uuencoded files without end": (lambda n: b"A: b\r\n\r\n" + b"begin 644 x\n#86)C\n" * n, 100_000),
    "calendar lines": (lambda n: b"Content-Type: text/calendar\r\n\r\n" + b"METHOD:" * n, 200_000),
    "unlabelled text": (lambda n: b"Content-Type: text/plain\r\n\r\n" + b"\xcf\xf0 \xe8\xe2 " * n, 200_000),
    "winmail attributes": (lambda n: TNEF + tnef.stream(*[tnef.attribute(1, 0x8004, b"")] * n), 10_000),
    "winmail files": (lambda n: TNEF + tnef.stream(*[tnef.attribute(2, 0x9002, b"")] * n), 10_000),
    "winmail properties": (
        lambda n: TNEF + tnef.stream(tnef.message_properties(*[tnef.number(0x1234, 1)] * n)),
        2500,
    ),
    "winmail values": (lambda n: TNEF + tnef.stream(tnef.message_properties(tnef.many_numbers(5, [1] * n))), 10_000),
    "rich text compressed": (lambda n: TNEF + _rich(tnef.rtf_bomb(n)), 3000),
    "rich text groups": (lambda n: TNEF + _rich(tnef.rtf_uncompressed(b"{\\rtf1" + b"{" * n + b"}" * n)), 60_000),
    "rich text words": (lambda n: TNEF + _rich(tnef.rtf_uncompressed(b"\\f1\\uc2\\u99 x" * n)), 6000),
    "meta elements": (lambda n: b"Content-Type: text/html\r\n\r\n" + b"<meta " * n + b"\xff", 200_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_twice_the_hostile_input_takes_about_twice_the_time(name: str) -> None:
    build, size = HOSTILE[name]
    assert _ratio(parse_message, build(size), build(2 * size)) < MAX_RATIO


@pytest.mark.parametrize(
    "line", ["On 5 May 2024 a@b.c wrote\n", "From: a@b.c\n", "> x\ny:\n", "On " * 30 + ":\n", "-----\n", "\n", ">"]
)
def test_reply_text_takes_linear_time(line: str) -> None:
    size = 60_000
    text = "x\n" + line * (2 * size // len(line))
    assert _ratio(reply_plain, text[:size], text[: 2 * size]) < MAX_RATIO


@pytest.mark.parametrize("unit", HTML_UNITS)
def test_a_reply_in_html_takes_linear_time(unit: str) -> None:
    size = 50_000
    pages = [HTML + b"x" + unit.encode() * (times * size // len(unit)) for times in (1, 2)]
    assert _ratio(lambda raw: reply_plain_of(parse_message(raw)), *pages) < MAX_RATIO


def _rich(packed: bytes) -> bytes:
    return tnef.stream(tnef.message_properties(tnef.binary(0x1009, packed)))


def _wrapped(content: bytes) -> bytes:
    encoded = base64.b64encode(content)
    return b"\r\n".join(encoded[at : at + 76] for at in range(0, len(encoded), 76))


BIG: dict[str, Callable[[], bytes]] = {
    "attachment": lambda: BASE64 + _wrapped(bytes(BIG_BYTES * 54 // 76)),
    "winmail": lambda: (
        TNEF[:-2]
        + b"Content-Transfer-Encoding: base64\r\n\r\n"
        + _wrapped(tnef.stream(tnef.file(b"x", bytes(BIG_BYTES * 54 // 76))))
    ),
    "text": lambda: b"Content-Type: text/plain\r\n\r\n" + "Привет, мир.\r\n".encode("koi8-r") * (BIG_BYTES // 14),
    "html": lambda: HTML + b"<div><b>x</b>" * (BIG_BYTES // 13),
    "html with pictures": lambda: HTML + b'<img src="data:image/png;base64,' + b"A" * BIG_BYTES + b'"><p>x',
    "quoted-printable": lambda: PRINTABLE + b"Gr=C3=BC=C3=9Fe =\r\n" * (BIG_BYTES // 19),
    "uuencoded": lambda: (
        b"A: b\r\n\r\nbegin 644 x\r\n" + (b"M" + b"!" * 60 + b"\r\n") * (BIG_BYTES // 63) + b"`\r\nend"
    ),
    "quotations": lambda: b"A: b\r\n\r\n" + b"> quoted\r\nOn 2024 Ann wrote:\r\n" * (BIG_BYTES // 30),
}


@pytest.mark.parametrize("name", BIG)
def test_mail_of_35_mib_is_read_in_bounded_time_and_memory(name: str) -> None:
    raw = BIG[name]()
    assert len(raw) > 0.97 * BIG_BYTES
    message = _bounded(raw)
    started = time.process_time()
    reply_plain_of(message)
    assert time.process_time() - started < BOMB_SECONDS


def test_summary_reads_no_more_than_its_limit() -> None:
    small = b"Subject: x\r\n" + b"A: b\r\n" * 20_000
    assert _ratio(read_summary, small, small * 20) < MAX_RATIO
    assert read_summary(small * 20).subject == "x"


@pytest.mark.parametrize("header", [b"\r\n", b"Content-Type: application/pdf; name=x.pdf\r\n\r\n", b""])
def test_a_million_empty_parts_are_bounded_and_reported(header: bytes) -> None:
    raw = MULTIPART + (b"--a\r\n" + header) * 1_000_000
    message = _bounded(raw)
    assert DefectKind.TOO_MANY_PARTS in _kinds(message)
    assert len(message.attachments) <= MAX_PARTS
    assert len(message.attachments[-1].content) > len(raw) // 2


def test_messages_in_winmail_in_messages_are_bounded_and_reported() -> None:
    content = tnef.stream(tnef.file(b"x", bytes(5_000_000)))
    for _ in range(8):
        content = tnef.stream(tnef.file(b"x", b"", tnef.embedded(content)))
    assert _kinds(_bounded(TNEF + content)) == {DefectKind.TNEF_LIMIT}


@pytest.mark.parametrize(
    "unit", [tnef.attribute(1, 0x8004, b""), tnef.attribute(2, 0x9002, b""), tnef.file(b"x", b"y")]
)
def test_a_million_attributes_are_bounded_and_reported(unit: bytes) -> None:
    message = _bounded(TNEF + tnef.stream(unit * (10_000_000 // len(unit))))
    assert _kinds(message) == {DefectKind.TNEF_LIMIT}


def test_a_rich_text_bomb_is_bounded_and_reported() -> None:
    message = _bounded(TNEF + _rich(tnef.rtf_bomb(100_000)))
    assert _kinds(message) == {DefectKind.TNEF_LIMIT}


def test_ten_thousand_levels_are_bounded_and_reported() -> None:
    levels = (b"Content-Type: multipart/alternative; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(10_000))
    message = _bounded(b"".join(levels) + b"\r\ntext")
    assert DefectKind.TOO_DEEP in _kinds(message)
    assert [attachment.content_type for attachment in message.attachments] == ["multipart/alternative"]
    assert message.attachments[0].content.endswith(b"text")


def test_a_deep_but_possible_message_is_read_to_its_bottom() -> None:
    depth = MAX_DEPTH - 1
    opening = (b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(depth))
    closing = (b"\r\n--b%d--" % i for i in reversed(range(depth)))
    message = parse_message(b"".join(opening) + b"\r\ntext" + b"".join(closing))
    assert (message.plain, message.defects) == ("text", ())


def test_fields_beyond_the_limit_are_left_out_and_the_body_still_found() -> None:
    message = parse_message(b"A: b\r\n" * (MAX_FIELDS + 5) + b"\r\nbody")
    assert len(message.headers) == MAX_FIELDS
    assert message.plain == "body"
    assert _kinds(message) == {DefectKind.HEADER_LIMIT}


def test_an_endless_header_is_cut_and_the_body_still_found() -> None:
    message = parse_message(b"Subject: x\r\nLong: " + b"a" * 3_000_000 + b"\r\n\r\nbody")
    assert (message.subject, message.plain) == ("x", "body")
    assert _kinds(message) == {DefectKind.HEADER_LIMIT}


def test_defects_are_counted_but_not_without_end() -> None:
    parts = (b"--a\r\nContent-Type: text/plain; charset=x%d\r\n\r\nx\r\n" % i for i in range(500))
    assert len(parse_message(MULTIPART + b"".join(parts)).defects) == MAX_DEFECTS


def _bounded(raw: bytes) -> ParsedMessage:
    tracemalloc.start()
    started = time.process_time()
    message = parse_message(raw)
    seconds = time.process_time() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < BOMB_SECONDS
    assert peak < BOMB_BYTES_PER_BYTE * len(raw) + 50_000_000
    return message


def _ratio(function: Callable[..., object], once: object, twice: object) -> float:
    """CPU time for `twice` over that for `once`; 0 where both are too short to tell.

    A shared machine slows down for moments: the tries alternate, the least time counts, and a ratio that is too
    high is measured again. Quadratic work stays near 4 however often it is measured.
    """
    ratio = MAX_RATIO
    for _ in range(ROUNDS):
        pairs = [(_seconds(function, once), _seconds(function, twice)) for _ in range(TRIES)]
        short, long = (min(times) for times in zip(*pairs, strict=True))
        ratio = long / short if long > MEASURABLE_S else 0.0
        if ratio < MAX_RATIO:
            break
    return ratio


def _seconds(function: Callable[..., object], value: object) -> float:
    started = time.process_time()
    function(value)
    return time.process_time() - started


def _kinds(message: ParsedMessage) -> set[DefectKind]:
    return {defect.kind for defect in message.defects}
