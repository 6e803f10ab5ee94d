"""How a session meets the impatient and the persistent: the greeting delay, slow refusals, the error budget.

Time is that of the loop, which jumps: nothing here waits.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest

from inbound.smtp.replies import Reply, accepted
from inbound.smtp.wire import TARPIT_LIMIT_S
from tests.memory_transport import CLIENT, EHLO, ENVELOPE, MAIL, Receiver, run

GREETING = "220 mx.pillarbox.test ESMTP Pillarbox"
WRONG = b"RCPT TO:<nobody@pillarbox.test>\r\n"
DELAYED = {"PILLARBOX_GREETING_DELAY_MS": "3000"}
SLOW = {"PILLARBOX_TARPIT_MS": "250", "PILLARBOX_MAX_SESSION_ERRORS": "100"}


# --- the greeting ---


def test_the_greeting_comes_after_its_delay_and_the_session_goes_on_as_ever() -> None:
    async def walk() -> None:
        receiver = Receiver(**DELAYED, PILLARBOX_IDLE_TIMEOUT="5")
        peer = receiver.connect()
        await peer.wait(2.9)
        assert peer.replies == []
        await peer.wait(0.2)
        assert peer.replies == [GREETING]
        assert peer.times == [pytest.approx(3, abs=0.01)]
        await peer.wait(4.8)  # the time of silence begins with the greeting
        assert [reply[:3] for reply in await peer.say(EHLO + MAIL)] == ["250", "250", "250", "354", "250"]

    run(walk())


@pytest.mark.parametrize("said", [b"E", EHLO, b"\x16\x03\x01", b"\n", b"x" * 1_000_000])
@pytest.mark.parametrize("after_s", [0.0, 1.5, 2.9])
def test_a_client_that_talks_first_is_refused_at_once_and_nothing_it_says_is_read(said: bytes, after_s: float) -> None:
    async def walk() -> None:
        receiver = Receiver(**DELAYED)
        peer = receiver.connect()
        await peer.wait(after_s)
        await peer.say(said)
        assert peer.replies == [Reply.TALKED_FIRST]
        assert peer.is_lost
        assert len(receiver.connections.sessions) == 0

    run(walk())


def test_without_a_delay_nobody_is_refused_for_talking_first() -> None:
    async def walk() -> None:
        receiver = Receiver()
        assert [reply[:3] for reply in await receiver.connect().say(EHLO + MAIL)][:2] == ["220", "250"]

    run(walk())


def test_a_client_that_goes_while_it_waits_and_a_receiver_that_stops_leave_nothing() -> None:
    async def walk() -> None:
        receiver = Receiver(**DELAYED)
        gone, waiting = receiver.connect(), receiver.connect()
        gone.hang_up()
        await peer_wait(1)
        waiting.session.begin_shutdown()
        await peer_wait(5)
        assert gone.replies == []
        assert waiting.replies == [Reply.SHUTTING_DOWN]
        assert len(receiver.connections.sessions) == 0

    peer_wait = asyncio.sleep
    run(walk())


# --- the tarpit ---


def test_each_refusal_comes_later_than_the_one_before_up_to_a_limit_and_others_do_not_wait() -> None:
    async def walk() -> None:
        receiver = Receiver(**SLOW)
        peer, other = receiver.connect(), receiver.connect()
        await peer.say(EHLO + b"MAIL FROM:<a@example.com>\r\n" + WRONG * 60)
        assert [reply[:3] for reply in await other.say(EHLO + MAIL)][-1] == "250"
        assert len(peer.replies) == 3
        await peer.wait(600)

        refusals = peer.times[2:63]
        gaps = [after - before for before, after in itertools.pairwise(refusals)]
        assert gaps == [pytest.approx(min(0.25 * number, TARPIT_LIMIT_S), abs=0.01) for number in range(1, 61)]

    run(walk())


def test_what_is_no_refusal_is_never_held_back() -> None:
    async def walk() -> None:
        receiver = Receiver(**SLOW)
        peer = receiver.connect()
        await peer.say(EHLO + WRONG * 3)
        await peer.wait(10)
        begun = receiver.loop.time()
        assert [reply[:3] for reply in await peer.say(MAIL + b"NOOP\r\n")] == ["250", "250", "354", "250", "250"]
        assert peer.times[-1] - begun < 0.01

    run(walk())


def test_the_time_of_a_refusal_is_ours_and_not_that_of_the_client() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_TARPIT_MS="8000", PILLARBOX_IDLE_TIMEOUT="2", PILLARBOX_DATA_TIMEOUT="3")
        peer = receiver.connect()
        await peer.say(EHLO + WRONG + ENVELOPE)
        await peer.wait(8)
        assert peer.codes == ["220", "250", "503", "250", "250", "354"]
        await peer.wait(1.9)
        await peer.say(b"x\r\n")
        await peer.wait(0.9)
        assert [reply[:3] for reply in await peer.say(b".\r\n")] == ["250"]

    run(walk())


def test_a_client_that_hangs_up_in_the_tarpit_and_a_receiver_that_stops_end_it_at_once() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_TARPIT_MS="8000")
        gone, held = receiver.connect(), receiver.connect()
        for peer in (gone, held):
            await peer.say(EHLO + WRONG)
        gone.hang_up()
        held.session.begin_shutdown()
        await held.wait(0.01)
        assert gone.codes == ["220", "250"]
        assert held.codes == ["220", "250", "503", "421"]
        assert len(receiver.connections.sessions) == 0

    run(walk())


# --- the budgets ---


def test_an_accepted_message_begins_the_count_of_errors_anew() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_MAX_SESSION_ERRORS="5")
        peer = receiver.connect()
        await peer.say(EHLO)
        for _ in range(4):
            await peer.say(WRONG * 5 + MAIL)
        assert not peer.is_lost
        await peer.say(WRONG * 6)
        assert peer.replies[-1] == Reply.TOO_MANY_ERRORS
        assert len(receiver.handler.messages) == 4

    run(walk())


def test_a_refused_message_does_not() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_MAX_SESSION_ERRORS="5")
        receiver.handler.reply = lambda: asyncio.sleep(0, "554 5.7.1 No")
        peer = receiver.connect()
        await peer.say(EHLO + (WRONG + MAIL) * 3)
        assert peer.replies[-1] == Reply.TOO_MANY_ERRORS

    run(walk())


def test_a_handler_that_takes_its_time_is_waited_for_and_others_are_served() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_IDLE_TIMEOUT="2", PILLARBOX_DATA_TIMEOUT="3")
        receiver.handler.reply = lambda: asyncio.sleep(100, accepted("late"))
        peer, other = receiver.connect(), receiver.connect((CLIENT[0], 40_001))
        await peer.say(EHLO + MAIL + b"NOOP\r\n")
        await other.say(EHLO)
        assert other.codes == ["220", "250"]
        await peer.wait(100)
        assert peer.replies[-2:] == [accepted("late"), Reply.OK]

    run(walk())


@pytest.mark.parametrize("verb", [b"BDAT 100 LAST", b"GET / HTTP/1.1", b"post / HTTP/1.0", b"CONNECT a:25 HTTP/1.1"])
def test_content_that_would_be_read_as_commands_ends_the_session(verb: bytes) -> None:
    async def walk() -> None:
        receiver = Receiver()
        peer = receiver.connect()
        await peer.say(EHLO)
        assert await peer.say(verb + b"\r\n" + MAIL) == [Reply.UNKNOWN_COMMAND]
        assert peer.is_lost
        assert receiver.handler.messages == []

    run(walk())


# --- senders and recipients that are special ---


def test_a_bounce_may_have_several_recipients() -> None:
    async def walk() -> None:
        receiver = Receiver()
        peer = receiver.connect()
        stream = ENVELOPE.replace(b"a@example.com", b"").replace(b"DATA", b"RCPT TO:<known@pillarbox.test>\r\nDATA")
        assert [reply[:3] for reply in await peer.say(EHLO + stream)][2:] == ["250", "250", "250", "354"]

    run(walk())


@pytest.mark.parametrize("written", ["postmaster", "Postmaster", "POSTMASTER"])
def test_postmaster_may_stand_alone_as_a_recipient_and_only_there(written: str) -> None:
    async def walk() -> None:
        receiver = Receiver()
        seen: list[str] = []
        ask = receiver.handler.recipient

        async def recipient(address: str, *others: object) -> str:
            seen.append(address)
            return await ask(address, *others)  # type: ignore[arg-type]

        receiver.handler.recipient = recipient  # type: ignore[method-assign, assignment]
        peer = receiver.connect()
        await peer.say(EHLO)
        assert (await peer.say(f"MAIL FROM:<{written}>\r\n".encode()))[0].startswith("553 5.1.3 ")
        await peer.say(b"MAIL FROM:<a@example.com>\r\n")
        await peer.say(f"RCPT TO:<{written}>\r\nRCPT TO:{written}\r\nRCPT TO:<{written}x>\r\n".encode())
        assert seen == [f"{written}@pillarbox.test"] * 2
        assert peer.codes[-1] == "553"

    run(walk())
