"""Whole messages that customers hand over: checked, completed, made safe, and otherwise left alone."""

from __future__ import annotations

import email
import email.policy
import re
from contextlib import suppress
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidField
from core.sending.priority import Priority
from inbound.reading.parse import parse_message
from outbound.composing.compose import ComposeOptions, compose
from outbound.composing.control_headers import Control, take_control_headers, take_draft_control
from outbound.composing.drafts import MessageDraft
from outbound.composing.list_unsubscribe import (
    fields_with_list_unsubscribe,
    list_unsubscribe_headers,
    with_list_unsubscribe,
)
from outbound.composing.mailboxes import read_mailboxes
from outbound.composing.raw_fields import join_message, normalise_line_ends, split_message
from outbound.composing.raw_message import PreparedRaw, RawOptions, prepare_raw
from outbound.composing.recoding import rewrite_html

OPTIONS = RawOptions("0199f3a2-1111-7abc-8def-0123456789ab", 1_795_211_355_000, "mx.example.net")
HEAD = b"From: A <a@example.com>\r\nTo: b@example.org\r\nDate: 1 Jan 2026 09:00 GMT\r\nMessage-ID: <1@example.com>\r\n"
BOUNDARY = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b b"\r\n\r\n'
fragments = st.sampled_from(
    [
        *(b"From: a@example.com", b"To: b@example.org", b"Subject: s", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"="),
        *(b"x" * 1200, b"\xc3\xbc", b"\xff", b"\0", b"--q", b"--q--", b"Content-Type: ", b"message/rfc822"),
        *(b"Content-Type: multipart/mixed; boundary=q", b"Content-Transfer-Encoding: base64"),
        b"Content-Transfer-Encoding: quoted-printable",
    ]
)


def prepared(raw: bytes) -> PreparedRaw:
    return prepare_raw(raw, OPTIONS)


def from_request(raw: bytes, **given_fields: object) -> bytes:
    fields = {"from_": "a@example.com", "to": ("b@example.org",), "raw": raw, **given_fields}
    options = ComposeOptions(OPTIONS.message_id, OPTIONS.now_ms, OPTIONS.hostname)
    return compose(MessageDraft(**fields), options).content  # type: ignore[arg-type]


def test_what_is_fit_to_go_stays_byte_for_byte() -> None:
    raw = HEAD + b"Subject:  odd   blanks \r\nx-own:a\r\n\tb\r\n\r\n.\r\nFrom x\r\n" + b"x" * 998 + b"\r\n"
    result = prepared(raw)
    assert result.content == raw
    assert (result.message_id, result.from_.address, result.needs_smtputf8) == ("1@example.com", "a@example.com", False)
    assert from_request(raw) == raw


def test_line_ends_bcc_date_and_id_are_put_right() -> None:
    raw = b"From: a@example.com\nBcc: secret@example.org,\n more@example.org\nReturn-Path: <x>\nSubject: s\n\nHi\rthere"
    assert prepared(raw).content == (
        b"From: a@example.com\r\nSubject: s\r\nDate: Fri, 20 Nov 2026 21:49:15 +0000\r\n"
        b"Message-ID: <0199f3a2-1111-7abc-8def-0123456789ab@mx.example.net>\r\n\r\nHi\r\nthere\r\n"
    )


AUTHOR = b"From: a@example.com\r\n"
NEW_ID = "0199f3a2-1111-7abc-8def-0123456789ab@mx.example.net"


@pytest.mark.parametrize(
    ("given", "message_id"),
    [
        (b"<1@x>", "1@x"),
        (b"1@x", "1@x"),
        (b" < 1@x > (c)", "1@x"),
        (b"", NEW_ID),
        (b"1 2@x", NEW_ID),
        (b"<>", NEW_ID),
        ("ü@x".encode(), NEW_ID),
        (b"x" * 950, NEW_ID),
    ],
)
def test_an_id_that_nobody_can_read_is_written_anew(given: bytes, message_id: str) -> None:
    """Large providers refuse mail without a valid one (RFC 6409 section 8.3)."""
    result = prepared(AUTHOR + b"Date: 1 Jan 2026 09:00 GMT\r\nMessage-ID:" + given + b"\r\n\r\nHi")
    assert result.message_id == message_id
    assert re.findall(rb"(?im)^message-id: *<? *([^ >]+)", result.content) == [message_id.encode()]


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        (b"Thu, 1 Jan 2026 09:00:00 +0100 (CET)", True),
        (b"1 Jan 26 09:00 GMT", True),
        (b"2026-01-01T09:00:00Z", False),
        (b"today", False),
        (b"", False),
        (b"0" * 900, False),
    ],
)
def test_a_date_that_nobody_can_read_is_written_anew(given: bytes, is_kept: bool) -> None:
    content = prepared(AUTHOR + b"Date: " + given + b"\r\n\r\nHi").content
    assert re.findall(rb"(?m)^Date: (.*)\r$", content) == [given if is_kept else b"Fri, 20 Nov 2026 21:49:15 +0000"]


def test_texts_without_a_blank_to_fold_at_become_encoded_words() -> None:
    json = b'{"category":["' + b"x" * 1_200 + b'"]}'
    content = prepared(HEAD + b"Subject: " + json + b"\r\nX-SMTPAPI: " + json + b"\r\n\r\nHi").content
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert message["subject"] == message["x-smtpapi"] == json.decode()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no header"),
        (b"\r\nHi", "no header"),
        (b"Subject: x\r\n\r\nHi", "names 0"),
        (b"From: a@example.com, b@example.com\r\n\r\nHi", "names 2"),
        (b"From: a@example.com\r\nFrom: b@example.com\r\n\r\nHi", "From twice"),
        (b"From: a@example.com\r\nSubject: a\r\nsubject : b\r\n\r\nHi", "Subject twice"),
        (b"From: a@example.com\r\nno header\r\n\r\nHi", "line 2 is no header field"),
        (b" From: a@example.com\r\n\r\nHi", "line 1 is no header field"),
        (b"From: a@example.com\r\nX: a\0b\r\n\r\nHi", "X holds a control character"),
        (b"From: a@example.com\r\nSubject: \xff\r\n\r\nHi", "Subject holds bytes that are no UTF-8"),
        (b"From: nobody\r\n\r\nHi", "its header From 'nobody' is no address"),
        (b"From: a@bank.example <b@example.com>\r\n\r\nHi", "double quotes"),
        (b"From: a@example.com\r\nX: " + b"x" * 1000 + b"\r\n\r\nHi", "fold it"),
        (b"X: a\r\n" * 1001 + b"From: a@example.com\r\n\r\n", "more than 1000"),
        (b"X: a\r\n" * 100_000, "more than 262,144 bytes"),
        (HEAD + b"Content-Transfer-Encoding: x-uuencode\r\n\r\n" + b"x" * 999, "a line of more than 998"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(InvalidField) as caught:
        prepared(raw)
    assert caught.value.field == "raw"
    assert words in caught.value.problem


def test_the_request_must_name_whom_the_message_names() -> None:
    raw = b"From: A <A@Example.com>\r\nTo: Team: b@example.org, c@example.org;\r\nCc: d@example.org\r\n\r\nHi\r\n"
    right = {"to": ("c@example.org, B <b@EXAMPLE.org>",), "cc": ("d@example.org",)}
    assert b"To: Team: b@example.org" in from_request(raw, **right)
    for wrong, words in (
        ({"from_": "x@example.com"}, "From must name the same addresses as from; a@example.com is only in the message"),
        ({"to": ("b@example.org",)}, "To must name the same addresses as to; c@example.org is only in the message"),
        ({"cc": ()}, "Cc must name"),
        ({"cc": ("d@example.org", "e@example.org")}, "e@example.org is not in the message"),
    ):
        with pytest.raises(InvalidField, match="raw: ") as caught:
            from_request(raw, **{**right, **wrong})
        assert words in caught.value.problem


def test_the_subject_of_the_request_wins() -> None:
    written = parse_message(from_request(HEAD + b"Subject: old\r\n\r\nHi\r\n", subject="Grüße"))
    assert [value for name, value in written.headers if name == "Subject"] == ["Grüße"]


def test_headers_beyond_ascii_become_encoded_words() -> None:
    raw = 'From: Jürgen <a@exämple.com>\r\nTo: "Ä, b" <b@example.org>\r\nSubject: Grüße\r\nX-Own: ü\r\n\r\nHi\r\n'
    result = prepared(raw.encode())
    assert result.content.isascii()
    assert not result.needs_smtputf8
    message = email.message_from_bytes(result.content, policy=email.policy.default)
    assert message["from"].addresses[0].display_name == "Jürgen"
    assert message["from"].addresses[0].addr_spec == "a@xn--exmple-cua.com"
    assert message["to"].addresses[0].display_name == "Ä, b"
    assert (message["subject"], message["x-own"]) == ("Grüße", "ü")
    assert prepared("From: ü@example.com\r\n\r\nHi".encode()).needs_smtputf8


def test_bodies_in_eight_bits_or_long_lines_are_encoded_anew() -> None:
    base64 = b"Content-Transfer-Encoding: base64\r\n\r\n" + b"QUJD" * 400
    parts = [
        b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe",
        b"Content-Type: text/html\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<p>" + b"x" * 2000,
        b'Content-Type: application/x; name="a"\r\n' + base64,
        b"Content-Type: text/plain\r\n\r\nfit",
        b"Content-Type: message/rfc822\r\n\r\nFrom: i@example.com\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        b"\xc3\xbc",
    ]
    body = "préambule".encode() + b"".join(b"\r\n--b b\r\n" + part for part in parts) + b"\r\n--b b--\r\n\xff"
    content = prepared(HEAD + BOUNDARY + body).content
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert b"\r\n--b b\r\n" + parts[3] + b"\r\n" in content
    message = email.message_from_bytes(content, policy=email.policy.default)
    texts = [part.get_content() for part in message.walk() if part.get_content_type() == "text/plain"]
    assert [text.strip() for text in texts] == ["Grüße", "fit", "ü"]
    (binary,) = [part for part in message.walk() if part.get_content_type() == "application/x"]
    assert binary.get_payload(decode=True) == b"ABC" * 400


def test_a_body_without_mime_headers_gets_them() -> None:
    content = prepared(HEAD + b"\r\nGr\xc3\xbc\xc3\x9fe\r\n").content
    assert b"Content-Type: text/plain; charset=utf-8\r\n" in content
    assert b"MIME-Version: 1.0\r\n" in content
    assert parse_message(content).plain is not None
    assert "Grüße" in (parse_message(content).plain or "")
    assert b"charset=unknown-8bit" in prepared(HEAD + b"\r\nGr\xfc\xdfe\r\n").content


def test_signed_parts_stay_as_they_are() -> None:
    raw = HEAD + b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\n\xc3\xbc\r\n--s--\r\n"
    assert prepared(raw).content == raw


def test_a_soft_break_makes_no_delimiter() -> None:
    line = b"x" * 75 + b"--b b" + b"y" * 1000
    content = prepared(HEAD + BOUNDARY + b"--b b\r\n\r\n" + line + b"\r\n--b b--\r\n").content
    assert content.count(b"\r\n--b b") == 2
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()] == [line]


@given(st.lists(fragments, max_size=25).map(b"".join))
def test_whatever_comes_is_refused_or_safe(noise: bytes) -> None:
    for raw in (noise, HEAD + noise, HEAD + b"Content-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n" + noise):
        try:
            content = prepared(raw).content
        except InvalidField:
            continue
        assert content == normalise_line_ends(content)
        assert max(map(len, content.split(b"\r\n"))) <= 998
        message = email.message_from_bytes(content)
        assert len(message.get_all("from", [])) == 1
        assert prepared(content).content == content


def test_control_headers_may_be_encoded_words() -> None:
    """As mail libraries write what is beyond ASCII; a comma within separates all the same."""
    tags = b"x-cloudmta-tags: =?utf-8?q?caf=C3=A9=2C_th=C3=A9?=,\r\n =?utf-8?b?w7w=?=\r\n"
    assert take_control_headers(HEAD + tags + b"\r\nHi")[1] == Control(tags=("café", "thé", "ü"))
    with pytest.raises(InvalidField, match="control character"):
        take_control_headers(HEAD + b"x-cloudmta-tags: =?utf-8?q?a=0D=0Ab?=\r\n\r\nHi")
    with pytest.raises(InvalidField, match="longer than"):  # not decoded: that takes quadratic time
        take_control_headers(HEAD + b"x-cloudmta-tags: " + b"=?a?q?" * 40_000 + b"\r\n\r\nHi")


def test_control_headers_are_read_and_removed() -> None:
    raw = b"X-CloudMTA-Class: Priority\nFrom: a@example.com\nx-cloudmta-tags: a, b,\n ,c\nx-cloudmta-layout: frame\n"
    content, control = take_control_headers(raw + b"x-cloudmta-new: 1\nSubject: s\n\nx-cloudmta-tags: body\n")
    assert content == b"From: a@example.com\r\nSubject: s\r\n\r\nx-cloudmta-tags: body\r\n"
    assert control == Control(Priority.PRIORITY, ("a", "b", "c"), "frame")
    assert take_control_headers(b"From: a@example.com\r\n\r\n")[1] == Control()
    with pytest.raises(InvalidField, match="x-cloudmta-class: must be one of standard, priority, digest"):
        take_control_headers(b"From: a@example.com\r\nx-cloudmta-class: fast\r\n\r\n")
    draft = MessageDraft("a@example.com", ("b@example.com",), headers=(("X-CloudMTA-Layout", "frame"), ("X-A", "b")))
    left, control = take_draft_control(draft)
    assert (left.headers, control.layout) == ((("X-A", "b"),), "frame")


def test_html_of_a_whole_message_can_be_changed() -> None:
    parts = b"--b b\r\nContent-Type: text/plain\r\n\r\n<b>\r\n--b b\r\nContent-Type: text/html; charset=iso-8859-1\r\n"
    parts += b"Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>Gr=FC=DFe\r\n--b b--\r\n"
    fields, body = split_message(HEAD + BOUNDARY + parts)
    content = join_message(*rewrite_html(fields, body, lambda html: f"{html} – 😃"))
    assert "<p>Grüße – 😃" in (parse_message(content).html or "")
    assert (parse_message(content).plain or "").strip() == "<b>"
    assert join_message(*rewrite_html(*split_message(HEAD + b"\r\n<b>\r\n"), str.upper)) == HEAD + b"\r\n<b>\r\n"


def test_one_click_unsubscribing() -> None:
    url = "https://mail.example.com/u/" + "x" * 700
    headers = list_unsubscribe_headers(url, "mailto:leave@example.com")
    assert headers[0] == ("List-Unsubscribe", f"<{url}>, <mailto:leave@example.com>")
    assert headers[1] == ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
    draft = with_list_unsubscribe(MessageDraft("a@example.com", ("b@example.com",), plain="x"), url)
    assert with_list_unsubscribe(draft, "https://other.example") == draft
    options = ComposeOptions(OPTIONS.message_id, OPTIONS.now_ms, OPTIONS.hostname)
    content = compose(draft, options).content
    assert f"List-Unsubscribe: <{url}>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n".encode() in content
    fields, body = split_message(HEAD + b"\r\nHi")
    assert f"\r\nList-Unsubscribe: <{url}>\r\n".encode() in join_message(
        fields_with_list_unsubscribe(fields, url), body
    )
    for bad in ("http://example.com/", "https://example.com/a b", "https://x>,<https://y", "https://x\r\nBcc: y", "x"):
        with pytest.raises(InvalidField, match="unsubscribe_url"):
            list_unsubscribe_headers(bad)


@pytest.mark.parametrize("unit", ['"\\', "(", "a@b.example,", "<", '"" ', "(a)", "\\", ":;", "=?utf-8?q?a?= ", "a. "])
def test_hostile_address_lists_take_linear_time(unit: str) -> None:
    def seconds(count: int) -> float:
        best = 9.9
        for _ in range(3):
            start = thread_time()
            with suppress(InvalidField):
                read_mailboxes("to", unit * (count // len(unit)) + " <a@example.com>", in_header=True)
            best = min(best, thread_time() - start)
        return best

    assert seconds(60_000) < 10 * seconds(15_000) + 0.05


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b"--b b\r\n" * n,
        lambda n: b"--b b\r\n\r\n\xff\r\n" * n,
        lambda n: b"\xff" + b"--b b\r\nContent-Type: multipart/x; boundary=c\r\n\r\n--c\r\n" * n,
        lambda n: b"--b b\r\n\r\n" + b"=" * 50 * n + b"\xff",
        lambda n: b"\r" * n + b"\xff",
    ],
)
def test_hostile_bodies_take_linear_time(make: object) -> None:
    def seconds(count: int) -> float:
        raw = HEAD + BOUNDARY + make(count)  # type: ignore[operator]
        best = 9.9
        for _ in range(3):
            start = thread_time()
            prepared(raw)
            best = min(best, thread_time() - start)
        return best

    assert seconds(40_000) < 10 * seconds(10_000) + 0.05
