"""Header blocks, encoded words and parameters, piece by piece."""

from __future__ import annotations

import pytest

from inbound.reading.headers import bare_id, read_summary, readable, split_header
from inbound.reading.mime_params import parse_media_field
from inbound.reading.mime_words import decode_words
from inbound.reading.parsed import DefectKind


def test_summary_has_what_a_list_of_messages_shows() -> None:
    raw = b"To: x\r\nSUBJECT: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nfrom: Ann\r\n <a@b.c>\r\nMessage-Id: <1@b.c>\r\n\r\n"
    summary = read_summary(raw)
    assert (summary.subject, summary.from_, summary.message_id) == ("Grüße", "Ann <a@b.c>", "1@b.c")


def test_summary_of_a_message_without_these_fields_is_empty() -> None:
    summary = read_summary(b"To: x\r\n\r\nSubject: in the body\r\n")
    assert (summary.subject, summary.from_, summary.message_id) == (None, None, None)


def test_summary_takes_the_first_of_several_fields() -> None:
    assert read_summary(b"Subject: one\r\nSubject: two\r\n\r\n").subject == "one"


def test_fields_keep_their_order_names_and_repetitions() -> None:
    block = split_header(b"B: 1\r\na: 2\r\nB:3\r\n\r\nbody", 0, 100, 100)
    assert block.fields == [("B", "1\r"), ("a", "2\r"), ("B", "3\r")]
    assert block.body_start == 19


@pytest.mark.parametrize(
    ("raw", "fields", "body", "problem"),
    [
        (b"A: b\n\nbody", 1, b"body", None),
        (b"A: b", 1, b"", None),
        (b"\r\nbody", 0, b"body", None),
        (b"A: b\nnot a field\nbody", 1, b"not a field\nbody", DefectKind.HEADER_LINE_BROKEN),
        (b"A: b\nbroken\nC: d\n\nbody", 2, b"body", DefectKind.HEADER_LINE_BROKEN),
        (b"A: b\n--boundary\nC: d\n\nbody", 1, b"--boundary\nC: d\n\nbody", DefectKind.HEADER_LINE_BROKEN),
        (b"no header at all", 0, b"no header at all", DefectKind.HEADER_LINE_BROKEN),
        (b"A : b\n c\n\td\n\nbody", 1, b"body", None),
    ],
)
def test_where_a_header_ends(raw: bytes, fields: int, body: bytes, problem: DefectKind | None) -> None:
    block = split_header(raw, 0, len(raw), 1000)
    assert (len(block.fields), raw[block.body_start :], block.problem) == (fields, body, problem)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("=?utf-8?Q?a_b?=", "a b"),
        ("=?UTF-8?b?w7w=?= =?UTF-8?b?w7w=?=", "üü"),
        ("=?utf-8?B?w7w?=", "ü"),
        ("=?utf-8*en?Q?=C3=BC?=", "ü"),
        ("x =?utf-8?Q?a?= y", "x a y"),
        ("=?x-unknown?Q?=FC?=", "ü"),
        ("=?utf-8?Q?=FC?=", "ü"),
        ("=?utf-8?X?a?=", "=?utf-8?X?a?="),
        ("=?utf-8?Q?a", "=?utf-8?Q?a"),
        ("=?utf-7?Q?+2AA-?=", "\ufffd"),
        ("=?iso-2022-jp?B?GyRCJDMbKEI=?=", "こ"),
        ("=?utf-8?Q??=", ""),
    ],
)
def test_encoded_words(written: str, read: str) -> None:
    assert decode_words(written) == read


def test_control_characters_never_survive_in_a_value() -> None:
    assert readable("subject", "a\x00b =?utf-8?q?=0D=0AX:=1B?= \x7f") == "ab   X: "


@pytest.mark.parametrize(
    ("written", "value", "parameters"),
    [
        ("Text/HTML; Charset=UTF-8", "text/html", {"charset": "UTF-8"}),
        ("text/plain charset=utf-8", "text/plain", {"charset": "utf-8"}),
        ("text/plain (comment); charset=x (y)", "text/plain", {"charset": "x (y)"}),
        ('a/b; x="q\\"\\\\uo;te"; y=2', "a/b", {"x": 'q"\\uo;te', "y": "2"}),
        ("a/b; x=first; x=second", "a/b", {"x": "first"}),
        ("a/b; x*=utf-8'en'%C3%BC; x=plain", "a/b", {"x": "ü"}),
        ("a/b; x*1=b; x*0=a; x*10=d; x*2=c", "a/b", {"x": "abcd"}),
        ("a/b; x*0*=utf-8''%C3; x*1*=%BC", "a/b", {"x": "ü"}),
        ("a/b; x*nonsense=1; y=2", "a/b", {"y": "2"}),
        ('a/b; x="open', "a/b", {"x": "open"}),
        ("; x=1", "", {"x": "1"}),
        ("", "", {}),
    ],
)
def test_parameters(written: str, value: str, parameters: dict[str, str]) -> None:
    media = parse_media_field(written)
    assert (media.value, media.parameters) == (value, parameters)


@pytest.mark.parametrize(
    ("written", "bare"), [("<a@b>", "a@b"), (" < a@b > ", "a@b"), ("a@b", "a@b"), ("x <a@b> y", "a@b"), ("<>", None)]
)
def test_ids_lose_their_brackets(written: str, bare: str | None) -> None:
    assert bare_id(written) == bare
