"""SMTP smuggling (CVE-2023-51764, CVE-2024-27305): what looks like an end of data to others is no end to us.

Each message here holds, behind some mix of CR, LF and dot, a whole second transaction. Another server on the way may
have taken that mix for content; if we took it for the end, a stranger could send mail in its name.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import pytest

from tests.gateway import Gateway, running_gateway
from tests.smtp_client import RawClient, connected, new_mailbox, stored, stuffed

LINE_ENDS = (
    b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\r\n\x00", b"\x00\r\n", b" \r\n",
    b"\r\x00\n", b"\x00", b"\x0b\r\n", b"\x85", b"\xe2\x80\xa8", b"\r\n\r", b"\n\n",
)  # fmt: skip
SMUGGLED = [
    (before, after)
    for before, after in itertools.product(LINE_ENDS, LINE_ENDS)
    if b"\r\n.\r\n" not in before + b"." + after  # where that stands, every server sees the end
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("smuggling"), "smtp", PILLARBOX_TARPIT_MS="0") as started:
        yield started


@pytest.mark.parametrize(("before", "after"), SMUGGLED, ids=lambda mix: mix.hex())
def test_a_dot_between_other_line_ends_neither_ends_a_message_nor_begins_a_second(
    gateway: Gateway, before: bytes, after: bytes
) -> None:
    mailbox, victim = new_mailbox(gateway), new_mailbox(gateway)
    hidden = f"MAIL FROM:<forged@example.com>\r\nRCPT TO:<{victim}>\r\nDATA\r\nSubject: forged\r\n\r\nforged\r\n"
    wire = b"Subject: outer\r\n\r\nouter" + before + b"." + after + hidden.encode()
    with connected(gateway) as client:
        client.begin_data(mailbox)
        client.send(wire + b".\r\n")
        assert client.reply().startswith("250 2.0.0 ")
        assert client.ask("NOOP").startswith("250 2.0.0 ")

    (mail,) = stored(gateway, mailbox)
    expected = wire.replace(b"\r\n.", b"\r\n")  # the dot of a line is undoubled wherever a CRLF stands before it
    assert mail.raw == expected
    assert mail.md5 == hashlib.md5(expected).hexdigest()
    assert stored(gateway, victim) == []


@pytest.mark.parametrize("start", [b".\n", b".\r", b".\r\r\n", b"\n.\r\n", b"\r.\r\n", b"\n.\n", b"..\r\n"])
def test_the_first_line_of_a_message_is_no_exception(gateway: Gateway, start: bytes) -> None:
    mailbox = new_mailbox(gateway)
    with connected(gateway) as client:
        client.begin_data(mailbox)
        client.send(start + b"RSET\r\nand more\r\n.\r\n")
        assert client.reply().startswith("250 2.0.0 ")
        assert client.ask("NOOP").startswith("250 2.0.0 ")

    (mail,) = stored(gateway, mailbox)
    assert mail.raw == start.removeprefix(b".") + b"RSET\r\nand more\r\n"


@pytest.mark.parametrize("cut", range(1, 5))
def test_an_end_of_data_cut_anywhere_is_the_end(gateway: Gateway, cut: int) -> None:
    mailbox = new_mailbox(gateway)
    end = b"\r\n.\r\n"
    with connected(gateway) as client:
        client.begin_data(mailbox)
        client.send(b"whole" + end[:cut])
        _wait_until_read(gateway)
        client.send(end[cut:] + b"NOOP\r\n")
        assert client.reply().startswith("250 2.0.0 Ok: queued")
        assert client.reply().startswith("250 2.0.0 ")

    assert [mail.raw for mail in stored(gateway, mailbox)] == [b"whole\r\n"]


@pytest.mark.parametrize("inside", [b"\r", b"\x00", b" ", b"\t", b"\n", b".", b"\xff", b"\x1a", b"\x04"])
@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_a_byte_within_the_end_of_data_makes_it_content(gateway: Gateway, inside: bytes, place: int) -> None:
    end = b"\r\n.\r\n"
    broken = end[:place] + inside + end[place:]
    if end in broken:
        return  # the byte stands behind or before a whole one
    mailbox = new_mailbox(gateway)
    with connected(gateway) as client:
        client.begin_data(mailbox)
        client.send(b"a" + broken + b"RSET\r\n.\r\n")
        assert client.reply().startswith("250 2.0.0 Ok: queued")
        assert client.ask("NOOP").startswith("250 2.0.0 ")

    expected = (b"a" + broken + b"RSET\r\n").replace(b"\r\n.", b"\r\n")
    assert [mail.raw for mail in stored(gateway, mailbox)] == [expected]


@pytest.mark.parametrize("around", [65_536, 131_072, 3 * 65_536])
@pytest.mark.parametrize("unit", [b"\r\n..\r\n.", b"\r\n\r\n..x", b"\r.\n..", b"\r\r\n.."])
def test_dots_at_the_borders_of_blocks_are_undone_once(gateway: Gateway, around: int, unit: bytes) -> None:
    message = b"x" * (around - 40) + unit * 30 + b"y" * 70_000 + unit + b"\r\n"
    mailbox = new_mailbox(gateway)
    with connected(gateway) as client:
        client.begin_data(mailbox)
        client.send(stuffed(message))
        assert client.reply().startswith("250 2.0.0 Ok: queued")
        assert client.ask("NOOP").startswith("250 2.0.0 ")

    (mail,) = stored(gateway, mailbox)
    assert mail.md5 == hashlib.md5(message).hexdigest()


def test_chunking_is_not_announced_and_what_follows_bdat_is_never_read(gateway: Gateway) -> None:
    # RFC 3030: content follows BDAT at once. Not knowing it, we would run the content as commands.
    mailbox, victim = new_mailbox(gateway), new_mailbox(gateway)
    hidden = f"RSET\r\nMAIL FROM:<forged@example.com>\r\nRCPT TO:<{victim}>\r\nDATA\r\nx\r\n.\r\n".encode()
    with connected(gateway) as client:
        assert "CHUNKING" not in client.ask("EHLO client.example")
        client.envelope(mailbox)
        client.send(f"BDAT {len(hidden)} LAST\r\n".encode() + hidden)
        assert client.rest() == "500 5.5.2 Command not recognised"

    assert stored(gateway, victim) == stored(gateway, mailbox) == []


def test_a_browser_that_is_made_to_speak_to_us_is_hung_up_on(gateway: Gateway) -> None:
    victim = new_mailbox(gateway)
    body = f"EHLO x\r\nMAIL FROM:<forged@example.com>\r\nRCPT TO:<{victim}>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
    client = RawClient(gateway.settings.smtp.port)
    client.send(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    assert [line[:3] for line in client.rest().split("\n")] == ["220", "500"]
    assert stored(gateway, victim) == []


def test_bare_line_ends_are_content_and_kept(gateway: Gateway) -> None:
    mailbox = new_mailbox(gateway)
    message = b"Subject: x\n\rA: b\r\r\n\r\n\nline\rline\n\r\n\r\r\n"
    with connected(gateway) as client:
        client.begin_data(mailbox)
        client.send(message + b".\r\n")
        assert client.reply().startswith("250 ")

    (mail,) = stored(gateway, mailbox)
    assert (mail.raw, mail.md5) == (message, hashlib.md5(message).hexdigest())


def test_content_sent_without_waiting_for_a_refused_data_is_never_run_as_mail(gateway: Gateway) -> None:
    victim = new_mailbox(gateway)
    client = RawClient(gateway.settings.smtp.port).greet()
    client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<nobody@pillarbox.test>\r\nDATA\r\n")
    assert [client.reply()[:3] for _ in range(3)] == ["250", "550", "503"]

    assert client.ask(f"RCPT TO:<{victim}>").startswith("250 ")  # the transaction of the client itself goes on
    client.close()


def _wait_until_read(gateway: Gateway) -> None:
    """A round trip on another connection: the loop has gone round, so the first part was taken by itself."""
    with connected(gateway) as other:
        assert other.ask("NOOP").startswith("250 ")
