"""Replies that carry the words of others: one line, printable, short, and never a second reply."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound.smtp.replies import (
    MAX_LINE_OCTETS,
    MAX_TEXT,
    Reply,
    blocked,
    loop_detected,
    on_the_wire,
    oversize,
    refused_by_callback,
    rejected_by_target,
)
from tests.memory_transport import EHLO, ENVELOPE, MAIL, Receiver, run

WITH_TEXT: dict[Callable[[str], str], str] = {
    oversize: "552 5.3.4 ",
    rejected_by_target: "554 5.7.1 ",
    blocked: "550 5.7.1 ",
    refused_by_callback: "550 5.7.1 ",
    loop_detected: "554 5.4.6 The message is in a loop: ",
}
EVIL = "no\r\n250 2.0.0 Ok\r\n\x00\x1b[31m\x7f\x85\u2028\u202e\ud800 end"


@pytest.mark.parametrize(("reply", "code"), WITH_TEXT.items(), ids=lambda item: getattr(item, "__name__", ""))
def test_the_words_of_others_are_one_line(reply: Callable[[str], str], code: str) -> None:
    assert reply("Not  today,\r\n thanks\t!") == code + "Not today, thanks !"
    assert reply(EVIL) == code + "no 250 2.0.0 Ok [31m end"
    long = reply("word " * 100_000)
    assert len(long) <= len(code) + MAX_TEXT
    assert long.endswith("word...") or long.endswith("...")


@pytest.mark.parametrize("reply", [oversize, rejected_by_target, blocked, refused_by_callback])
@pytest.mark.parametrize("text", [None, "", " \r\n\t", "\x00\x01"])
def test_without_words_there_are_ours(reply: Callable[[str | None], str], text: str | None) -> None:
    assert re.fullmatch(r"[45]\d\d [45]\.\d\.\d \S.{10,}", reply(text))


@given(text=st.text(max_size=2_000), is_utf8=st.booleans())
def test_nothing_that_a_handler_says_is_more_than_one_line(text: str, is_utf8: bool) -> None:
    line = on_the_wire("554 5.7.1 " + text, is_utf8)

    assert line.startswith(b"554 5.7.1 ")
    assert len(line) <= MAX_LINE_OCTETS
    shown = line.decode("utf-8" if is_utf8 else "ascii")
    assert shown.isprintable()


@given(st.text(max_size=3_000))
def test_a_text_of_any_kind_becomes_a_whole_reply(text: str) -> None:
    for reply, code in WITH_TEXT.items():
        assert on_the_wire(reply(text), False).decode("ascii").startswith(code[:10])
        assert reply(text).isprintable()


def test_ordinary_replies_are_sent_as_they_are() -> None:
    for reply in Reply:
        assert on_the_wire(reply, False).decode() == reply


@pytest.mark.parametrize(("option", "shown"), [("", "Zu gro?!"), (" SMTPUTF8", "Zu groß!")])
def test_an_address_with_a_limit_of_its_own_answers_in_its_own_words(option: str, shown: str) -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_MAX_MESSAGE_SIZE="1000")
        receiver.handler.oversize = oversize("Zu groß!\r\n250 Ok")
        peer = receiver.connect()
        await peer.say(EHLO)
        await peer.say(ENVELOPE.replace(b">\r\nRCPT", f">{option}\r\nRCPT".encode()))
        assert peer.codes[-1] == "354"
        assert await peer.say(b"x" * 990 + b"\r\n" + b"y" * 500 + b"\r\n.\r\n") == [f"552 5.3.4 {shown} 250 Ok"]
        assert [reply[:3] for reply in await peer.say(MAIL)] == ["250", "250", "354", "250"]
        assert len(receiver.handler.messages) == 1

    run(walk())


def test_a_size_declared_above_the_limit_is_refused_at_mail() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_MAX_MESSAGE_SIZE="1000")
        peer = receiver.connect()
        await peer.say(EHLO)
        assert await peer.say(b"MAIL FROM:<a@example.com> SIZE=1001\r\n") == [Reply.MESSAGE_TOO_LARGE]
        assert await peer.say(b"MAIL FROM:<a@example.com> SIZE=1000\r\n") == [Reply.SENDER_OK]

    run(walk())


@pytest.mark.parametrize(
    "said", ["554 5.7.1 one\r\n250 2.0.0 two", "250 2.0.0 " + "x" * 5_000, "550 \ud800", "554 5.7.1 \u00fc"]
)
def test_whatever_a_handler_says_is_one_reply(said: str) -> None:
    async def walk() -> None:
        receiver = Receiver()
        receiver.handler.reply = lambda: asyncio.sleep(0, said)
        peer = receiver.connect()
        await peer.say(EHLO)
        replies = await peer.say(MAIL + b"NOOP\r\n")
        assert [reply[:3] for reply in replies] == ["250", "250", "354", said[:3], "250"]
        assert all(reply.isascii() and len(reply) <= MAX_LINE_OCTETS for reply in replies)

    run(walk())


def test_an_error_of_the_handler_is_ours_and_temporary_and_the_session_goes_on() -> None:
    async def fail() -> str:
        raise RuntimeError("secret")

    async def walk() -> None:
        receiver = Receiver()
        receiver.handler.reply = fail
        peer = receiver.connect()
        await peer.say(EHLO)
        assert (await peer.say(MAIL))[-1] == Reply.TRY_LATER
        receiver.handler.reply = None
        assert [reply[:3] for reply in await peer.say(MAIL)] == ["250", "250", "354", "250"]

    run(walk())
