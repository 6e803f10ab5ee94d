"""SMTP sessions without sockets and without waiting: the real protocol on a transport in memory, in a loop whose time
jumps to the next timer whenever nothing is left to do. What the handler decides is the test's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from aiosmtpd.smtp import Session

from core.config import Settings, load_settings
from core.routing import Route
from inbound.smtp.connections import Connections
from inbound.smtp.mail_handler import InboundEnvelope
from inbound.smtp.replies import Reply, accepted
from inbound.smtp.session import InboundSession
from inbound.smtp.spool import MessageSpool, SpooledMessage
from inbound.smtp.wire import SessionParts

CLIENT = ("192.0.2.7", 40_000)
KNOWN = "known@pillarbox.test"
ROUTE = Route("account", "known", None, "http://127.0.0.1:9/")
EHLO = b"EHLO client.example\r\n"
ENVELOPE = f"MAIL FROM:<a@example.com>\r\nRCPT TO:<{KNOWN}>\r\nDATA\r\n".encode()
MAIL = ENVELOPE + b"Subject: x\r\n\r\nHi.\r\n.\r\n"
_MOMENT_S = 0.001
_T = TypeVar("_T")


class ClockedLoop(asyncio.SelectorEventLoop):
    """A loop that never waits: where others sleep, its clock moves."""

    _now = 0.0

    def time(self) -> float:
        """The loop's own time, in seconds."""
        return self._now

    def _run_once(self) -> None:
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        if timers and not self._ready:  # type: ignore[attr-defined]
            self._now = max(self._now, min(timers))
        super()._run_once()  # type: ignore[misc]


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end, in no time."""
    loop = ClockedLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(_end_all_others())
        loop.close()


async def _end_all_others() -> None:
    """Sessions that a test has left open."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Deciding:
    """A handler that takes what is for `KNOWN`, keeps it in a list, and answers as it is told."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.messages: list[bytes] = []
        self.sessions: list[Session] = []
        self.oversize = str(Reply.MESSAGE_TOO_LARGE)
        self.reply: Callable[[], Awaitable[str]] | None = None

    async def sender(self, address: str, session: Session, envelope: InboundEnvelope) -> str:
        """Any sender may try."""
        envelope.mail_from = address
        self.sessions.append(session)
        return Reply.SENDER_OK

    async def recipient(self, address: str, session: Session, envelope: InboundEnvelope) -> str:
        """Only `KNOWN` is known."""
        if address != KNOWN:
            return "550 5.1.1 There is no such address here"
        envelope.rcpt_tos.append(address)
        envelope.routes.append((address, ROUTE))
        return Reply.RECIPIENT_OK

    async def message(self, session: Session, envelope: InboundEnvelope, message: SpooledMessage) -> str:
        """Keep it."""
        self.messages.append(message.raw if message.raw is not None else message.path.read_bytes())  # type: ignore[union-attr]
        return await self.reply() if self.reply else accepted("x")

    def new_spool(self, envelope: InboundEnvelope) -> MessageSpool:
        """In memory, as long as it is small."""
        return MessageSpool(Path("/nonexistent"), self.settings.max_message_size, self.settings.max_line_length)

    def oversize_reply(self, envelope: InboundEnvelope) -> str:
        """What the test says."""
        return self.oversize


class Receiver:
    """What the sessions of a test share. Make it within the loop."""

    def __init__(self, clock: Callable[[], int] | None = None, **environment: str) -> None:
        self.settings = load_settings({"PILLARBOX_TARPIT_MS": "0", **environment})
        self.handler = Deciding(self.settings)
        self.connections = Connections(self.settings)
        self.shared = SessionParts(
            self.handler, self.connections, self.settings, None, clock or (lambda: int(1000 * self.loop.time()))
        )
        self.loop = asyncio.get_running_loop()

    def connect(self, address: tuple[str, int] = CLIENT) -> Peer:
        """Open a connection."""
        return Peer(self, address)


class Peer(asyncio.Transport):
    """A client, and the transport between it and its session."""

    def __init__(self, receiver: Receiver, address: tuple[str, int]) -> None:
        super().__init__({"peername": address})
        self._loop = receiver.loop
        self._unread = b""
        self._is_closing = False
        self.is_reading = True
        self.is_lost = False
        self.replies: list[str] = []
        """Whole replies, the lines of one joined by a newline."""
        self.times: list[float] = []
        """When each began to arrive."""
        self.session = InboundSession(receiver.shared)
        self.session.connection_made(self)

    # --- as the client ---

    async def say(self, data: bytes = b"") -> list[str]:
        """Send bytes as one segment; the replies that come at once."""
        before = len(self.replies)
        if data and not self._is_closing:
            self.session.data_received(data)
        await self.wait(_MOMENT_S)
        return self.replies[before:]

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    async def finish(self) -> None:
        """Close our side, and wait until the session has closed its own."""
        if not self._is_closing:
            self.session.eof_received()
        await self.wait(_MOMENT_S)

    @property
    def codes(self) -> list[str]:
        """The first three digits of each reply."""
        return [reply[:3] for reply in self.replies]

    # --- as the transport ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take what the session sends."""
        if self._is_closing:
            return
        self._unread += bytes(data)
        while b"\r\n" in self._unread:
            line, _, self._unread = self._unread.partition(b"\r\n")
            if self.replies and self.replies[-1].rpartition("\n")[2][3:4] == "-":
                self.replies[-1] += "\n" + line.decode()
            else:
                self.replies.append(line.decode())
                self.times.append(self._loop.time())

    def is_closing(self) -> bool:
        """Whether the session has hung up."""
        return self._is_closing

    def close(self) -> None:
        """Hang up; all that was written has arrived already."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._lose)

    def abort(self) -> None:
        """As close."""
        self.close()

    def hang_up(self) -> None:
        """What a reset by the client looks like."""
        self.close()

    def pause_reading(self) -> None:
        """The session has enough to read."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """The session reads again."""
        self.is_reading = True

    def get_write_buffer_size(self) -> int:
        """Everything has been taken."""
        return 0

    def _lose(self) -> None:
        self.is_lost = True
        self.session.connection_lost(None)
