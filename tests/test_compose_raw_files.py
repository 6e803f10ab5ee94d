"""Files in messages that come whole: names in ASCII, no forbidden type, no number that takes memory."""

from __future__ import annotations

import email.policy
import tracemalloc

import pytest

from core.errors import InvalidField
from outbound.composing.compose import ComposeOptions, compose
from outbound.composing.drafts import DraftLimits, MessageDraft
from outbound.composing.message_tree import MAX_PARTS
from outbound.composing.mime_parameters import read_parameters
from outbound.composing.raw_message import PreparedRaw, RawOptions, prepare_raw

OPTIONS = RawOptions("0199f3a2-1111-7abc-8def-0123456789ab", 1_795_211_355_000, "mx.example.net")
HEAD = b"From: a@example.com\r\nTo: b@example.org\r\nMIME-Version: 1.0\r\n"
NAME = 'Übersicht; "alt" 1.pdf'
QUOTED = NAME.replace('"', '\\"')
FILE = f"""Content-Type: application/pdf; name="{QUOTED}"
Content-Disposition: attachment; size=3; filename="{QUOTED}"
Content-Description: Übersicht
Content-Transfer-Encoding: base64

AAAA
""".replace("\n", "\r\n").encode()


def prepared(raw: bytes) -> PreparedRaw:
    return prepare_raw(raw, OPTIONS)


def around(*parts: bytes, media_type: str = "multipart/mixed") -> bytes:
    """Parts as one part."""
    inside = b"".join(b"--%d\r\n%s\r\n" % (len(part), part) for part in parts)
    boundary = b"%d" % len(parts[0])
    return (
        f'Content-Type: {media_type}; boundary="{boundary.decode()}"\r\n\r\n'.encode()
        + inside
        + b"--"
        + boundary
        + b"--\r\n"
    )


@pytest.mark.parametrize("entity", [FILE, around(FILE), around(b"Content-Type: message/rfc822\r\n\r\n" + around(FILE))])
def test_names_in_plain_utf8_become_ascii(entity: bytes) -> None:
    """Else a host without SMTPUTF8 would be refused the mail, or one without 8BITMIME would break the signature."""
    result = prepared(HEAD + entity)
    assert result.content.isascii()
    assert not result.needs_smtputf8
    message = email.message_from_bytes(result.content, policy=email.policy.default)
    (found,) = [part for part in message.walk() if part.get_content_type() == "application/pdf"]
    assert found.get_filename() == NAME
    assert found["content-description"] == "Übersicht"
    assert found.get_payload(decode=True) == b"\0\0\0"
    assert b"; size=3;" in result.content.replace(b"\r\n", b"")
    assert prepared(result.content).content == result.content


def test_a_name_that_is_there_by_the_standard_too_is_written_once() -> None:
    both = "Content-Disposition: attachment; filename=\"ü\"; filename*=utf-8''%C3%BC\r\n\r\nx".encode()
    assert b"attachment;\r\n filename*=utf-8''%C3%BC\r\n" in prepared(HEAD + both).content


def test_fields_of_parts_in_unknown_charsets_and_of_signed_parts_stay() -> None:
    latin = b'Content-Disposition: attachment; filename="\xfc"\r\n\r\nx'
    assert latin in prepared(HEAD + around(latin)).content
    signed = around(FILE, media_type="multipart/signed")
    assert prepared(HEAD + signed).content.endswith(signed.partition(b"\r\n")[2])


NAMED = [
    'Content-Disposition: attachment; filename="x.exe"',
    "Content-Disposition: attachment; FILENAME = x.EXE ; size=1",
    "Content-Type: application/octet-stream;\r\n\tname=x.exe",
    "Content-Type: application/pdf; name=x.pdf\r\nContent-Disposition: inline; filename=x.exe",
    'Content-Disposition: attachment; filename="x.exe. "',
    'Content-Disposition: attachment; filename="x.exe',
    'Content-Disposition: attachment; filename="x\\.exe"',
    "Content-Disposition: attachment; filename*=utf-8''x%2Eexe",
    'Content-Disposition: attachment; filename*1=e; filename*0="x.ex"',
    "Content-Disposition: attachment; filename*0*=utf-8''x; filename*1*=%2Eexe",
    'Content-Disposition: attachment; filename="=?utf-8?b?eC5leGU=?="',
    "Content-Disposition: attachment; filename==?utf-8?q?x=2Eexe?=",
    'Content-Disposition: attachment; filename="C:\\\\x\\\\x.exe"',
    'Content-Disposition: attachment; filename="C:\\x.exe"',
    "Content-Disposition: attachment; filename=/x:y/x.exe:z",
]


@pytest.mark.parametrize("named", NAMED)
def test_programs_are_refused_however_they_are_named(named: str) -> None:
    part = f"{named}\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n".encode()
    signed = around(part, media_type="multipart/signed")
    broken = around(b"no field\r\n" + part)
    for entity in (part, around(part), around(b"Content-Type: message/rfc822\r\n\r\n" + around(part)), signed, broken):
        with pytest.raises(
            InvalidField, match=r"^raw: holds the file .*, which is of a forbidden type \(\.exe\); progr"
        ):
            prepared(HEAD + entity)


@pytest.mark.parametrize(
    "named", ["attachment; filename=exe", 'attachment; filename="x.exe.zip"', 'attachment; note="; filename=x.exe"']
)
def test_what_only_looks_like_a_program_passes(named: str) -> None:
    prepared(HEAD + f"Content-Disposition: {named}\r\n\r\nThe file x.exe is not here.\r\n".encode())


def test_the_limits_of_the_request_say_what_is_forbidden() -> None:
    raw = HEAD + b"Content-Disposition: attachment; filename=x.exe\r\n\r\nx"
    draft = MessageDraft(from_="a@example.com", to=("b@example.org",), raw=raw)
    limits = DraftLimits(forbidden_extensions=frozenset())
    options = ComposeOptions(OPTIONS.message_id, OPTIONS.now_ms, OPTIONS.hostname, limits)
    assert b"x.exe" in compose(draft, options).content


def test_parameters_are_read_in_order() -> None:
    found = read_parameters('x/y; a=b ;C="d\\"e;f" ; g = h; bad; i*0*=utf-8\'\'j; k="open')
    assert [(one.name, one.value) for one in found] == [
        ("a", "b"),
        ("c", 'd"e;f'),
        ("g", "h"),
        ("i*0*", "utf-8''j"),
        ("k", "open"),
    ]


def test_parts_beyond_the_limit_stay_as_they_are_and_take_no_memory() -> None:
    """2 MB of delimiters took 240 MB."""
    many = b"--q\r\n" * 400_000
    raw = HEAD + b"Content-Type: multipart/mixed; boundary=q\r\n\r\n" + many + b"\xc3\xbc\r\n--q--\r\n\xc3\xbc\r\n"
    tracemalloc.start()
    try:
        content = prepared(raw).content
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert content.endswith(b"--q\r\n" * (400_000 - MAX_PARTS) + b"\xc3\xbc\r\n--q--\r\n\xc3\xbc\r\n")
    assert peak < 50_000_000


def test_a_part_with_an_endless_header_takes_no_memory() -> None:
    raw = HEAD + b"Content-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n" + b"a:\r\n" * 500_000 + b"\xff"
    tracemalloc.start()
    try:
        assert prepared(raw).content.endswith(b"a:\r\n\xff\r\n")
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_a_broken_part_does_not_use_up_what_others_may_have() -> None:
    broken = b"--q\r\n" + b"no field\r\n" * 15_000
    raw = HEAD + b"Content-Type: multipart/mixed; boundary=q\r\n\r\n" + broken * 2 + b"--q\r\n" + FILE + b"--q--\r\n"
    assert prepared(raw).content.isascii()
