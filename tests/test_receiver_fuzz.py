"""Whatever a client sends, in whatever pieces: one reply to each command, one message to each DATA, and never an error.

The checker reads the client's stream a second time, in its own way and all at once, and goes along with the replies:
it knows nothing of commands but where they end, and of messages but where they end and how dots are undone.
"""

from __future__ import annotations

import itertools
import random
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inbound.smtp.wire import READ_BLOCK_OCTETS
from tests.gateway import Gateway, running_gateway
from tests.memory_transport import EHLO, ENVELOPE, KNOWN, MAIL, Peer, Receiver, run
from tests.smtp_client import MESSAGE, SENDER, RawClient, new_mailbox, stored

REPLY = re.compile(r"(?:2\d\d|354|4\d\d|5\d\d)[ -][\x20-\x7e]*(?:\n\d{3}[ -][\x20-\x7e]+)*\Z")
LAST = ("221 ", "421 ")
CONTENT_FOLLOWS = (b"BDAT", b"GET", b"POST", b"CONNECT")
LONG_LINE = b"X" * 3_000
COMMANDS = (
    EHLO, b"HELO x\r\n", b"MAIL FROM:<a@example.com>\r\n", b"MAIL FROM:<>\r\n", f"RCPT TO:<{KNOWN}>\r\n".encode(),
    b"RCPT TO:<nobody@pillarbox.test>\r\n", b"DATA\r\n", b"DATA\n", b"data x\r\n", b"RSET\r\n", b"NOOP\r\n",
    b"QUIT\r\n", b"AUTH PLAIN AGEAYg==\r\n", b"AUTH LOGIN\r\n", b"STARTTLS\r\n", b"VRFY a\r\n", b"HELP\r\n",
    b"EXPN a\r\n", b"BDAT 10 LAST\r\n", b"GET / HTTP/1.1\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n",
    b"XCLIENT ADDR=192.0.2.1\r\n", ENVELOPE, MAIL, MAIL, MAIL, EHLO + MAIL,
    b"MAIL FROM:<a@example.com> SIZE=1 BODY=8BITMIME SMTPUTF8\r\n", b"MAIL FROM:<a@example.com> SIZE=99999999\r\n",
    b"RCPT TO:<Postmaster>\r\n", b"EHLO \xff\x00\r\n", b"MAIL FROM:<\"@a b\"@c>\r\n", b"MAIL\r\n", b"RCPT\r\n",
)  # fmt: skip
CONTENT = (
    b".\r\n", b"\r\n.\r\n", b"\r\n..\r\n", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r\n.\r\r\n", b"\r\n.x", b".",
    b"\r", b"\n", b"\r\n", b"\x00", b"\xff\xfe", b"text\r\n", b"Subject: x\r\n\r\n", LONG_LINE, b" ", b"a:b\r\n c\r\n",
    b"\r\n.\r\n" * 3,
)  # fmt: skip
STREAMS = st.lists(
    st.one_of(st.sampled_from(COMMANDS), st.sampled_from(CONTENT), st.binary(max_size=20)), max_size=25
).map(b"".join)
CUTS = st.lists(st.integers(0, 2_000), max_size=30)
BLOCKS = st.sampled_from((64 * 1024, 300, 60))
"""How much is read at once: with a small block, small messages take the way of large ones."""


@settings(max_examples=600, deadline=None)
@given(stream=STREAMS, cuts=CUTS, block=BLOCKS)
def test_every_stream_in_every_cut_is_answered_as_its_checker_reads_it(
    stream: bytes, cuts: list[int], block: int
) -> None:
    run(_check(stream, cuts, block))


@settings(max_examples=200, deadline=None)
@given(content=st.lists(st.sampled_from(CONTENT), max_size=30).map(b"".join), cuts=CUTS, block=BLOCKS)
def test_no_content_is_more_than_one_message(content: bytes, cuts: list[int], block: int) -> None:
    run(_check(EHLO + ENVELOPE + content + b"\r\n.\r\nQUIT\r\n", cuts, block))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_a_session_in_tiny_pieces(size: int) -> None:
    stream = EHLO + MAIL + ENVELOPE + b"\r\n..\r\n.\n.\r\r\n.\r\n" + MAIL + b"QUIT\r\n"

    run(_check(stream, list(range(0, len(stream), size))))


def test_a_client_that_talks_without_end_is_held_back_and_not_stored() -> None:
    async def flood() -> None:
        receiver = Receiver(PILLARBOX_TARPIT_MS="1000", PILLARBOX_MAX_SESSION_ERRORS="1000")
        peer = receiver.connect()
        await peer.say(EHLO)
        sent = 0
        while peer.is_reading and sent < 10_000_000:
            await peer.say(b"RCPT TO:<x>\r\n" * 300)
            sent += 300 * 13
        assert sent < 300_000  # twice the block that is read at once, and what is on its way
        assert len(peer.session._reader._buffer) < 150_000
        peer.close()
        await peer.wait(1)

    run(flood())


async def _check(stream: bytes, cuts: list[int], block: int = READ_BLOCK_OCTETS) -> None:
    receiver = Receiver(PILLARBOX_MAX_SESSION_ERRORS="1000", PILLARBOX_MAX_COMMANDS="1000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inbound.smtp.wire.READ_BLOCK_OCTETS", block)
        peer = receiver.connect()
    places = [0, *sorted({min(cut, len(stream)) for cut in cuts}), len(stream)]
    for start, end in itertools.pairwise(places):
        await peer.say(stream[start:end])
    await peer.finish()

    assert peer.is_lost
    assert not receiver.connections.sessions
    assert [reply for reply in peer.replies if not REPLY.match(reply) or reply.startswith(("451", "500 E"))] == []
    assert receiver.handler.messages == _messages_by(stream, peer)


def _messages_by(stream: bytes, peer: Peer) -> list[bytes]:
    """The messages that the replies promise, read from the stream; fails where stream and replies do not fit."""
    replies = iter(peer.replies)
    assert next(replies) == "220 mx.pillarbox.test ESMTP Pillarbox"
    messages = []
    rest = stream
    for reply in replies:
        line, end, rest = rest.partition(b"\n")
        assert end, f"a reply to nothing: {reply}"
        if reply.startswith("354 "):
            content, end, rest = (b"\r\n" + rest).partition(b"\r\n.\r\n")
            final = next(replies, None)
            assert (final is not None) == bool(end), "a message is answered when it has ended, and only then"
            if final is not None and final.startswith("250 "):
                messages.append((content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:])
            if final is None:
                return messages
        elif reply.startswith(LAST) or line.upper().startswith(CONTENT_FOLLOWS):
            assert next(replies, None) is None, "a reply after the last"
            return messages
    assert b"\n" not in rest, "a command without a reply"
    return messages


# --- over real sockets ---


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = {"PILLARBOX_TARPIT_MS": "0", "PILLARBOX_IDLE_TIMEOUT": "20"}
    with running_gateway(tmp_path_factory.mktemp("fuzz"), "smtp", **environment) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "session failed" not in started.log()
        assert "never retrieved" not in started.log()


@pytest.mark.parametrize("seed", range(40))
def test_noise_over_a_real_connection_hurts_nobody(gateway: Gateway, seed: int) -> None:
    chance = random.Random(seed)
    pieces = [chance.choice(COMMANDS + CONTENT + (chance.randbytes(50),)) for _ in range(chance.randrange(60))]
    client = RawClient(gateway.settings.smtp.port)
    with suppress(OSError):
        for piece in pieces:
            client.send(piece)
        if chance.random() < 0.5:
            client.socket.shutdown(1)
            client.drained()
    client.close()


@pytest.mark.parametrize("seed", range(20))
def test_noise_within_tls_hurts_nobody(gateway: Gateway, seed: int) -> None:
    chance = random.Random(seed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = RawClient(gateway.settings.smtp.port).greet()
    raw = client.socket
    assert client.ask("STARTTLS").startswith("220 ")
    client.start_tls(context)
    with suppress(OSError):
        for _ in range(chance.randrange(30)):
            client.send(chance.choice(COMMANDS + CONTENT))
        if chance.random() < 0.5:
            raw.sendall(chance.randbytes(100))  # no TLS record
        client.drained() if chance.random() < 0.3 else None
    client.close()


def test_after_all_the_noise_mail_is_taken_as_before(gateway: Gateway) -> None:
    mailbox = new_mailbox(gateway)
    gateway.send(mailbox, MESSAGE, SENDER)

    assert [mail.raw for mail in stored(gateway, mailbox)] == [MESSAGE]
