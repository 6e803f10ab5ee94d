"""The connection under a session: who is at the other end and whether he may stay, its clock, TLS, and its end.

Where this differs from aiosmtpd: the client may stand behind a load balancer, talkers before the greeting are turned
away, refusals come slowly, and nothing that was said in clear survives STARTTLS.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar

import structlog
from aiosmtpd.smtp import SMTP

from core.clock import Clock, system_clock
from core.config import Settings
from inbound.clients import client_ip, is_within
from inbound.smtp.connections import Connections
from inbound.smtp.hooks import unconnected
from inbound.smtp.mail_handler import MailHandler
from inbound.smtp.proxy_protocol import HEADER_S, NoProxyHeader, read_client
from inbound.smtp.rates import Rates
from inbound.smtp.replies import Reply, on_the_wire, with_enhanced_code

READ_BLOCK_OCTETS = 64 * 1024
TLS_HANDSHAKE_S = 30
TARPIT_LIMIT_S = 10.0
"""How long a refusal is held back at most: longer, and honest senders take us for dead."""

log = structlog.get_logger("receiver")


class SessionParts:
    """What all sessions of a receiver process share, found out once."""

    def __init__(
        self,
        handler: MailHandler[Any],
        connections: Connections,
        settings: Settings,
        tls: ssl.SSLContext | None,
        clock: Clock = system_clock,
    ) -> None:
        self.handler = handler
        self.connections = connections
        self.settings = settings
        self.tls = tls
        self.rates = Rates(settings, clock)
        self.balancers = settings.proxy_sources
        self.derived = vars(unconnected(settings))


class Wire(SMTP):
    """One connection, in clear or within TLS."""

    commands: ClassVar[list[tuple[str, str]]] = []
    """Verbs, and the methods that answer them."""
    line_length_limit = READ_BLOCK_OCTETS
    # aiosmtpd declares these wider than they are once a client is connected.
    transport: Any
    session: Any
    envelope: Any
    _reader: Any
    _writer: Any
    _tls_protocol: Any
    _timeout_handle: Any

    def __init_subclass__(cls) -> None:
        cls.commands = [(name.removeprefix("smtp_"), name) for name in dir(cls) if name.startswith("smtp_")]

    def __init__(self, shared: SessionParts, is_tls_first: bool = False) -> None:
        """Take over what aiosmtpd's constructor finds out by inspection: for a session of one mail, that inspection
        would cost as much as all the rest (measured: 0.5 of 1.1 ms)."""
        vars(self).update(shared.derived)
        loop = asyncio.get_running_loop()
        asyncio.StreamReaderProtocol.__init__(
            self, asyncio.StreamReader(READ_BLOCK_OCTETS, loop), self._cb_client_connected, loop
        )
        self.loop = loop
        self.tls_context = shared.tls
        self._smtp_methods = {verb: getattr(self, name) for verb, name in self.commands}
        self.handler = shared.handler
        self.rates = shared.rates
        self._connections = shared.connections
        self._settings = shared.settings
        self._balancers = shared.balancers
        self._peer = ("", 0)
        self._errors = 0
        self._pausing: asyncio.Future[None] | None = None
        self._is_tls_first = is_tls_first
        self._is_greeted = False
        self.is_busy = False
        self._is_closing = False

    @property
    def remote_ip(self) -> str:
        """The client's address; a load balancer's as long as its client is not known."""
        return self._peer[0]

    @property
    def extensions(self) -> Sequence[str]:
        """What is announced to EHLO besides what all sessions do."""
        return ()

    # --- coming -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client, or turn it away before it costs anything."""
        peer = transport.get_extra_info("peername")
        self._peer = (client_ip(peer[0]), peer[1]) if peer else ("", 0)
        super().connection_made(transport)
        self.session.peer = self._peer
        has_place = self._connections.hold(self) if self._is_proxied else self._connections.admit(self, self.remote_ip)
        if not has_place:
            self._farewell(Reply.TOO_MANY_CONNECTIONS)

    @property
    def _is_proxied(self) -> bool:
        return bool(self._balancers) and is_within(self._peer[0], self._balancers)

    async def _meet(self) -> bool:
        """Everything before the greeting; whether there is somebody to greet."""
        if self._is_proxied and not await self._learn_client():
            return False
        if self._is_tls_first and not await self._begin_with_tls():
            return False
        if self._settings.greeting_delay_ms and not await self._waits_for_greeting():
            return False
        self._is_greeted = True
        self._reset_timeout()
        return not self.transport.is_closing()

    async def _learn_client(self) -> bool:
        """Take the client's address from the load balancer's header, and count the session for it."""
        balancer = self._peer
        self._reset_timeout(min(HEADER_S, self._settings.idle_timeout))
        try:
            self._peer = self.session.peer = await read_client(self._reader, balancer)
        except NoProxyHeader as error:
            log.info("no PROXY header", balancer=balancer[0], reason=str(error))
            self.transport.close()
            return False
        if not self._connections.admit(self, self.remote_ip):
            self._farewell(Reply.TOO_MANY_CONNECTIONS)
            return False
        return True

    async def _waits_for_greeting(self) -> bool:
        """Whether the client is silent until it is greeted, as RFC 5321 section 3.1 wants; few senders of spam are."""
        if not self._reader._buffer:
            await self._pause(self._settings.greeting_delay_ms / 1000)
        if not self._reader._buffer:
            return True
        log.info("talked before the greeting", remote_ip=self.remote_ip)
        self._farewell(Reply.TALKED_FIRST)
        return False

    # --- time -------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Somebody talks: perhaps too early."""
        super().data_received(data)
        if not self._is_greeted:
            self._end_pause()

    async def _pause(self, seconds: float) -> None:
        """Let time pass, for this session alone."""
        self._pausing = self.loop.create_future()
        timer = self.loop.call_later(seconds, self._end_pause)
        try:
            await self._pausing
        finally:
            timer.cancel()
            self._pausing = None

    def _end_pause(self) -> None:
        if self._pausing is not None and not self._pausing.done():
            self._pausing.set_result(None)

    async def _tarpit(self) -> None:
        """Each refusal comes later than the one before; the time is ours, and is not taken from the client's."""
        delay_s = min(self._errors * self._settings.tarpit_ms / 1000, TARPIT_LIMIT_S)
        if delay_s and not self._is_closing:
            self._timeout_handle.cancel()
            await self._pause(delay_s)
            self._reset_timeout()

    def _timeout_cb(self) -> None:
        self._farewell(Reply.TIMEOUT)

    # --- replies ----------------------------------------------------------------------------------------------------

    async def push(self, status: str | bytes) -> None:
        """Send a reply; count the refusals, and hold them back."""
        text = with_enhanced_code(status if isinstance(status, str) else status.decode())
        if text.startswith("5"):
            self._errors += 1
            await self._tarpit()
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client is gone")  # uvloop would say so with a RuntimeError
        self._writer.write(on_the_wire(text, self.envelope.smtp_utf8) + b"\r\n")
        await self._writer.drain()

    # --- TLS --------------------------------------------------------------------------------------------------------

    async def smtp_STARTTLS(self, arg: str | None) -> None:  # noqa: N802 (aiosmtpd's name)
        """Upgrade (RFC 3207). Nothing sent in clear before the handshake survives it (CVE-2024-34083)."""
        if arg:
            await self.push(Reply.NO_ARGUMENT)
            return
        if self.tls_context is None or self._tls_protocol is not None:
            await self.push(Reply.NO_TLS if self.tls_context is None else Reply.TLS_ALREADY)
            return
        await self.push(Reply.TLS_GO)
        self._reader._buffer.clear()  # asyncio has no public way to drop what was read ahead
        await self._secure(self._handshake())

    async def _begin_with_tls(self) -> bool:
        """The handshake of a connection that begins with it (RFC 8314 section 3.3); whether it succeeded."""
        self.is_busy = True
        is_secured = await self._secure(self._handshake_at_once())
        self.is_busy = False
        if self._is_closing:
            self._farewell(Reply.SHUTTING_DOWN)
        return is_secured

    async def _handshake_at_once(self) -> asyncio.Transport | None:
        """What the client has said by now was read as if in clear. It goes to TLS as soon as that has taken over the
        connection, and before anything else is read: transports are paused meanwhile."""
        handshake = self.loop.create_task(self._handshake())
        await asyncio.sleep(0)  # the task has run up to its first wait: TLS takes over with the next callbacks
        self.loop.call_soon(self._hand_over, self.transport)
        return await handshake

    def _hand_over(self, transport: asyncio.Transport) -> None:
        tls: Any = transport.get_protocol()  # a buffered protocol, asyncio's or uvloop's
        early = bytes(self._reader._buffer)
        self._reader._buffer.clear()
        while early:
            place = tls.get_buffer(len(early))
            taken = min(len(place), len(early))
            place[:taken] = early[:taken]
            tls.buffer_updated(taken)
            early = early[taken:]

    async def _handshake(self) -> asyncio.Transport | None:
        assert self.tls_context is not None  # asked before
        limit = min(TLS_HANDSHAKE_S, self._settings.idle_timeout)
        return await self.loop.start_tls(
            self.transport, self, self.tls_context, server_side=True, ssl_handshake_timeout=limit
        )

    async def _secure(self, handshake: Coroutine[Any, Any, asyncio.Transport | None]) -> bool:
        """Go on over TLS; false when it did not come to that."""
        self._timeout_handle.cancel()  # closing within a handshake, the session would wait for its end for ever
        try:
            secured = await handshake
        except (OSError, ssl.SSLError) as error:
            log.info("TLS handshake failed", remote_ip=self.remote_ip, reason=str(error))
            self.abort()
            return False
        self._continue_over(secured)
        return True

    def _continue_over(self, secured: asyncio.Transport | None) -> None:
        assert secured is not None  # only a closed transport gives none, and that raised before
        self._reader._transport = secured
        self._writer._transport = secured
        self.transport = secured
        self._tls_protocol = secured
        self.session = self._create_session()
        self.session.peer = self._peer
        self.session.ssl = {"cipher": secured.get_extra_info("cipher")}
        self._set_rset_state()
        self._reset_timeout()

    # --- going ------------------------------------------------------------------------------------------------------

    def connection_lost(self, error: Exception | None) -> None:
        """Give the place free."""
        self._connections.leave(self)
        super().connection_lost(error)

    def eof_received(self) -> bool:
        """A client that has closed its side has said all; what it said is still answered (TLS cannot half-close)."""
        self._reader.feed_eof()
        return self.session.ssl is None

    def begin_shutdown(self) -> None:
        """End the session: at once when idle, else after the reply to what it is doing."""
        self._is_closing = True
        self._end_pause()
        if not self.is_busy:
            self._farewell(Reply.SHUTTING_DOWN)

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    def _farewell(self, reply: str) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(reply.encode() + b"\r\n")
            self.transport.close()
