"""Parsing never raises and never hands out anything that cannot be sent on, whatever the bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inbound.reading import parse
from inbound.reading.headers import read_summary
from inbound.reading.parse import parse_message
from inbound.reading.parsed import DefectKind
from inbound.reading.replytext import reply_plain, reply_plain_of
from tests.presentable import assert_presentable

SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").glob("*.eml"))]
PIECES = [b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b"--", b"--b", b"--b--", b":", b";", b"=", b'"', b"<", b">"]
PIECES += [b"=?utf-8?q?", b"?=", b"charset=utf-7", b"+2AA-", b"filename*0*=", b"%00", b"\x1b$B", b"\xff\xfe"]
PIECES += [b"Content-Type: multipart/mixed; boundary=b\r\n\r\n", b"Content-Type: message/rfc822\r\n\r\n"]
PIECES += [b"Content-Transfer-Encoding: base64\r\n"]
HTML_PIECES = [
    "<div class=gmail_quote>",
    "<blockquote>",
    "</blockquote>",
    "</div>",
    "<div>",
    "<p>",
    "<br>",
    "<pre>",
    "<!--",
]
HTML_PIECES += [
    "<div id=divRplyFwdMsg>",
    "<div class=yahoo_quoted>",
    "<div class=gmail_attr>",
    "-->",
    "&#99999999;",
    "&amp",
]
HTML_PIECES += ["<script>", "</script>", "On 2024 Ann wrote:", "From: x", '<a b="', "<", ">", " ", "\n", "text"]
REPLY_PIECES = [
    "\n",
    "\r\n",
    "> ",
    "On 6 May 2024 Ann wrote:",
    "From: a@b.c\nSent: 10:11\nTo: b\n",
    "-----Original Message-----",
]
REPLY_PIECES += ["### Reply Above This Line ###", ":", "________________", "text", "\u202b", "：", "-- \n"]
bounded = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@bounded
@given(st.binary(max_size=2000))
def test_random_bytes_give_a_message(raw: bytes) -> None:
    assert_presentable(parse_message(raw))


@bounded
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=60))
def test_pieces_of_mail_in_any_order_give_a_message(pieces: list[bytes]) -> None:
    assert_presentable(parse_message(b"".join(pieces)))


@bounded
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(st.integers(0, 4000), st.integers(0, 40), st.sampled_from(PIECES) | st.binary(max_size=8)), max_size=8
    ),
)
def test_damaged_messages_give_a_message(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    raw = seed
    for position, length, insertion in edits:
        at = position % (len(raw) + 1)
        raw = raw[:at] + insertion + raw[at + length :]
    assert_presentable(parse_message(raw))


@bounded
@given(st.lists(st.sampled_from(HTML_PIECES) | st.text(max_size=10), max_size=60))
def test_pieces_of_html_in_any_order_give_a_reply(pieces: list[str]) -> None:
    raw = b"Content-Type: text/html; charset=utf-8\r\n\r\n" + "".join(pieces).encode("utf-8", "replace")
    reply = reply_plain_of(parse_message(raw))
    assert reply is not None
    reply.encode("utf-8")


@bounded
@given(st.lists(st.sampled_from(REPLY_PIECES) | st.text(max_size=10), max_size=60))
def test_pieces_of_a_reply_in_any_order_give_some_of_it(pieces: list[str]) -> None:
    text = "".join(pieces)
    reply = reply_plain(text)
    assert reply is not None
    lines = {"", *(line.strip() for line in text.replace("\r\n", "\n").split("\n"))}
    assert all(line.strip() in lines for line in reply.split("\n"))


@bounded
@given(st.binary(max_size=1000), st.sampled_from(SEEDS))
def test_summary_agrees_with_the_parsed_message(noise: bytes, seed: bytes) -> None:
    for raw in (noise, seed, noise + seed):
        summary = read_summary(raw)
        message = parse_message(raw)
        senders = [value for name, value in message.headers if name.lower() == "from"]
        assert summary.subject == message.subject or not str(summary.subject).isascii()
        assert summary.message_id == message.message_id or not str(summary.message_id).isascii()
        assert (summary.from_ is None) == (not senders)


def test_an_error_of_our_own_costs_no_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    # The error is planted, because no input is known that makes the parser fail.
    def fail(raw: bytes) -> None:
        raise RecursionError

    monkeypatch.setattr(parse, "split_message", fail)
    message = parse_message(b"Subject: x\r\n\r\nbody")
    assert [defect.kind for defect in message.defects] == [DefectKind.PARSER_FAILED]
    assert message.attachments[0].file_name == "message.eml"
    assert message.attachments[0].content == b"Subject: x\r\n\r\nbody"
