"""What comes from other hosts, and what goes to them: replies put together within bounds, content made safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.delivery import RESPONSE_EXCERPT_BYTES, Verdict
from outbound.replies import MAX_LINE_BYTES, MAX_LINES, MalformedReply, Reply, ReplyReader
from outbound.wire import stuffed, with_crlf


def read(data: bytes) -> Reply | None:
    reader = ReplyReader()
    reader.feed(data)
    return reader.next_reply()


@pytest.mark.parametrize(
    ("data", "code", "lines"),
    [
        (b"250 ok\r\n", 250, ("ok",)),
        (b"250\r\n", 250, ("",)),
        (b"250 ok\n", 250, ("ok",)),
        (b"250-a\r\n250-b\r\n250 c\r\n", 250, ("a", "b", "c")),
        (b"250-a\r\n550 c\r\n", 550, ("a", "c")),
        (b"354 \xff\x00\x1b[31m\r\n", 354, ("\ufffd\ufffd\ufffd[31m",)),
    ],
)
def test_a_reply_is_put_together(data: bytes, code: int, lines: tuple[str, ...]) -> None:
    assert read(data) == Reply(code, lines)


def test_a_reply_may_come_in_any_pieces_and_what_follows_stays() -> None:
    reader = ReplyReader()
    found = []
    for byte in b"250-a\r\n250 b\r\n354 go\r\n":
        reader.feed(bytes([byte]))
        if (reply := reader.next_reply()) is not None:
            found.append(reply)
    assert found == [Reply(250, ("a", "b")), Reply(354, ("go",))]
    assert not reader.has_unread


@pytest.mark.parametrize(
    "data", [b"hello\r\n", b"\r\n", b"99 x\r\n", b"150 x\r\n", b"650 x\r\n", b"250+x\r\n", b"2500 x\r\n"]
)
def test_what_is_no_reply_is_an_error(data: bytes) -> None:
    with pytest.raises(MalformedReply):
        read(data)


def test_a_line_without_end_is_an_error_before_it_ends() -> None:
    assert read(b"250 " + b"x" * (MAX_LINE_BYTES - 10)) is None
    with pytest.raises(MalformedReply, match="longer"):
        read(b"250 " + b"x" * MAX_LINE_BYTES)
    with pytest.raises(MalformedReply, match="longer"):
        read(b"250 " + b"x" * MAX_LINE_BYTES + b"\r\n")


def test_a_reply_of_too_many_lines_is_an_error() -> None:
    assert read(b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n") is not None
    with pytest.raises(MalformedReply, match="lines"):
        read(b"250-x\r\n" * (MAX_LINES + 1))


@pytest.mark.parametrize(
    ("reply", "verdict", "enhanced"),
    [
        (Reply(250, ("2.6.0 queued",)), Verdict.ACCEPTED, "2.6.0"),
        (Reply(450, ("4.2.0 greylisted",)), Verdict.TEMPORARY, "4.2.0"),
        (Reply(550, ("5.1.1 unknown",)), Verdict.PERMANENT, "5.1.1"),
        (Reply(550, ("no such user",)), Verdict.PERMANENT, "5.0.0"),
        (Reply(550, ("4.1.1 muddled",)), Verdict.PERMANENT, "5.0.0"),
        (Reply(550, ("5.1.1234 muddled",)), Verdict.PERMANENT, "5.0.0"),
        (Reply(354, ("go on",)), Verdict.TEMPORARY, "4.5.0"),
    ],
)
def test_what_a_reply_means(reply: Reply, verdict: Verdict, enhanced: str) -> None:
    judgement = reply.judge()
    assert (judgement.verdict, judgement.enhanced, judgement.code) == (verdict, enhanced, reply.code)


def test_the_text_kept_is_short() -> None:
    reply = read(b"".join(b"550-%s\r\n" % (b"y" * 1000) for _ in range(50)) + b"550 end\r\n")
    assert reply is not None
    assert len(reply.text) == RESPONSE_EXCERPT_BYTES


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", b""),
        (b"a", b"a\r\n"),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\nb", b"a\r\nb\r\n"),
        (b"a\rb\r", b"a\r\nb\r\n"),
        (b"a\r\r\nb", b"a\r\n\r\nb\r\n"),
        (b"a\n\r\nb", b"a\r\n\r\nb\r\n"),
        (b"a\n\rb", b"a\r\n\r\nb\r\n"),
        (b"x\n.\nMAIL FROM:<a@b>", b"x\r\n.\r\nMAIL FROM:<a@b>\r\n"),
    ],
)
def test_every_line_ends_with_crlf(content: bytes, lines: bytes) -> None:
    assert with_crlf(content) == lines


def test_dots_are_doubled_at_the_beginning_of_lines_only() -> None:
    assert stuffed(b".\r\na.b\r\n..c\r\n.\r\n") == b"..\r\na.b\r\n...c\r\n..\r\n.\r\n"
    assert stuffed(b"") == b".\r\n"


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"x", b"\r\n", b"\xc3"])).map(b"".join))
def test_no_mix_of_line_ends_and_dots_ends_content_early(content: bytes) -> None:
    wire = stuffed(with_crlf(content))
    assert wire.count(b"\r\n") == wire.count(b"\r") == wire.count(b"\n")
    assert wire == b".\r\n" or wire.endswith(b"\r\n.\r\n")
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3
