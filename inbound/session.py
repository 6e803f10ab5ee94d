"""One SMTP session: aiosmtpd's protocol with our limits, our reading of DATA and our replies.

Where this differs from aiosmtpd: an error is 451 and not a 500 with its text; storing outlives a client that hangs
up; DATA is read in blocks, not lines; only `<CRLF>.<CRLF>` ends it; every count and time has a limit.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from aiosmtpd.smtp import SMTP, Session

from core.addresses import parse_mailbox, strip_source_route
from core.config import Settings
from inbound.connections import Connections
from inbound.hooks import COMMAND_OCTETS, unconnected
from inbound.mail_handler import InboundEnvelope, MailHandler
from inbound.paths import NULL_PATH, split_path
from inbound.replies import Reply, with_enhanced_code
from inbound.spool import END_OF_DATA, MessageSpool, Overflow, SpooledMessage

READ_BLOCK_OCTETS = 64 * 1024
TLS_HANDSHAKE_S = 30
DRAIN_FACTOR = 3
"""A client that sends this many times the size limit is cut off instead of being read to the end."""

_OVERFLOW_REPLIES = {
    Overflow.LINE: Reply.DATA_LINE_TOO_LONG,
    Overflow.STORAGE: Reply.STORAGE_FULL,
}

_T = TypeVar("_T")

log = structlog.get_logger("receiver")


class SessionParts:
    """What all sessions of a receiver process share, found out once."""

    def __init__(
        self, handler: MailHandler, connections: Connections, settings: Settings, tls: ssl.SSLContext | None
    ) -> None:
        self.handler = handler
        self.connections = connections
        self.settings = settings
        self.tls = tls
        self.methods = [(n.removeprefix("smtp_"), n) for n in dir(InboundSession) if n.startswith("smtp_")]
        self.derived = vars(unconnected(settings))


class InboundSession(SMTP):
    """The protocol of one connection."""

    command_size_limit = COMMAND_OCTETS
    line_length_limit = READ_BLOCK_OCTETS
    # aiosmtpd declares these wider than they are once a client is connected.
    transport: Any
    session: Any
    envelope: Any
    _reader: Any
    _writer: Any
    _tls_protocol: Any
    _timeout_handle: Any

    def __init__(self, shared: SessionParts) -> None:
        """Take over what aiosmtpd's constructor finds out by inspection: for a session of one mail, that inspection
        would cost as much as all the rest (measured: 0.5 of 1.1 ms)."""
        vars(self).update(shared.derived)
        loop = asyncio.get_running_loop()
        asyncio.StreamReaderProtocol.__init__(
            self, asyncio.StreamReader(READ_BLOCK_OCTETS, loop), self._cb_client_connected, loop
        )
        self.loop = loop
        self.tls_context = shared.tls
        self._smtp_methods = {verb: getattr(self, name) for verb, name in shared.methods}
        self.handler = shared.handler
        self._connections = shared.connections
        self._settings = shared.settings
        self._peer_ip = ""
        self._errors = 0
        self._commands = 0
        self._data_deadline: float | None = None
        self.is_busy = False
        self._is_closing = False

    # --- the connection -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client, or turn it away before it costs anything."""
        peer = transport.get_extra_info("peername")
        self._peer_ip = peer[0] if peer else ""
        super().connection_made(transport)
        if not self._connections.admit(self, self._peer_ip):
            self._farewell(Reply.TOO_MANY_CONNECTIONS)

    def connection_lost(self, error: Exception | None) -> None:
        """Give the place free."""
        self._connections.leave(self, self._peer_ip)
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Within a message every byte proves the client alive, up to the message's own deadline."""
        super().data_received(data)
        if self._data_deadline is not None:
            self._reset_timeout(min(self._settings.idle_timeout, max(0.1, self._data_deadline - self.loop.time())))

    def eof_received(self) -> bool:
        """A client that has closed its side has said all; what it said is still answered (TLS cannot half-close)."""
        self._reader.feed_eof()
        return self.session.ssl is None

    def begin_shutdown(self) -> None:
        """End the session: at once when idle, else after the reply to what it is doing."""
        self._is_closing = True
        if not self.is_busy:
            self._farewell(Reply.SHUTTING_DOWN)

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    def _farewell(self, reply: Reply) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(reply.encode() + b"\r\n")
            self.transport.close()

    def _timeout_cb(self) -> None:
        self._farewell(Reply.TIMEOUT)

    async def push(self, status: str | bytes) -> None:
        """Send a reply, and count the refusals."""
        text = with_enhanced_code(status if isinstance(status, str) else status.decode())
        self._writer.write(text.encode() + b"\r\n")
        await self._writer.drain()
        if text.startswith("5"):
            self._errors += 1

    # --- the loop over commands -----------------------------------------------------------------------------------

    async def _handle_client(self) -> None:
        await self.push(f"220 {self.hostname} {self.__ident__}")
        while self.transport is not None and not self.transport.is_closing():
            try:
                line = await self._read_command()
                self.is_busy = True
                await self._run_command(line)
            except asyncio.CancelledError:
                self._writer.close()
                raise
            except (ConnectionError, asyncio.IncompleteReadError):
                self._writer.close()
                return
            except Exception as error:
                log.error("session failed", remote_ip=self._peer_ip, exc_info=error)
                await self.push(Reply.TRY_LATER)
            finally:
                self.is_busy = False
            self._close_when_due()

    async def _read_command(self) -> bytes | None:
        """The next line without its end; None when it was too long."""
        try:
            return (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")
        except asyncio.LimitOverrunError as error:
            consumed = error.consumed
        while True:
            await self._reader.readexactly(consumed)
            try:
                await self._reader.readuntil(b"\n")
                return None
            except asyncio.LimitOverrunError as error:
                consumed = error.consumed

    async def _run_command(self, line: bytes | None) -> None:
        self._reset_timeout()
        self._commands += 1
        if line is None or len(line) > COMMAND_OCTETS:
            await self.push(Reply.LINE_TOO_LONG)
            return
        verb, _, argument = line.partition(b" ")
        method = self._smtp_methods.get(verb.upper().decode("ascii", "replace")) if verb else None
        if method is None:
            await self.push(Reply.UNKNOWN_COMMAND if verb else Reply.BAD_SYNTAX)
            return
        await method(argument.strip().decode("utf-8", "surrogateescape") or None)

    def _close_when_due(self) -> None:
        if self._is_closing:
            self._farewell(Reply.SHUTTING_DOWN)
        elif self._errors > self._settings.max_session_errors:
            self._farewell(Reply.TOO_MANY_ERRORS)
        elif self._commands > self._settings.max_commands:
            self._farewell(Reply.TOO_MANY_COMMANDS)

    # --- commands -------------------------------------------------------------------------------------------------

    def _create_envelope(self) -> InboundEnvelope:
        return InboundEnvelope()

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Take the path from a MAIL or RCPT argument; aiosmtpd's own reading knows more forms than SMTP has."""
        path, parameters = split_path(arg)
        if path is None or parameters is None or not parameters.isascii():
            return None, None
        if path == "":
            return NULL_PATH, parameters
        mailbox = parse_mailbox(strip_source_route(path))
        return (None, None) if mailbox is None else (mailbox.text, parameters)

    async def smtp_RCPT(self, arg: str | None) -> None:
        """Check order and count, then ask the handler."""
        if len(self.envelope.routes) >= self._settings.max_recipients:
            await self.push(Reply.TOO_MANY_RECIPIENTS)
            return
        await super().smtp_RCPT(arg)

    async def smtp_AUTH(self, arg: str) -> None:
        """There is nothing to log in to."""
        await self.push(Reply.NO_AUTH)

    async def smtp_VRFY(self, arg: str) -> None:
        """Tell nobody which addresses exist other than by RCPT."""
        await self.push(Reply.CANNOT_VERIFY)

    async def smtp_EXPN(self, arg: str) -> None:
        """As VRFY."""
        await self.push(Reply.CANNOT_VERIFY)

    async def smtp_HELP(self, arg: str) -> None:
        """Name the commands there are."""
        await self.push(Reply.HELP)

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        """Upgrade (RFC 3207). Nothing sent in clear before the handshake survives it (CVE-2024-34083)."""
        if arg:
            await self.push(Reply.NO_ARGUMENT)
            return
        if self.tls_context is None or self._tls_protocol is not None:
            await self.push(Reply.NO_TLS if self.tls_context is None else Reply.TLS_ALREADY)
            return
        await self.push(Reply.TLS_GO)
        self._reader._buffer.clear()  # asyncio has no public way to drop what was read ahead
        limit = min(TLS_HANDSHAKE_S, self._settings.idle_timeout)
        self._timeout_handle.cancel()  # closing within a handshake, the session would wait for its end for ever
        try:
            secured = await self.loop.start_tls(
                self.transport, self, self.tls_context, server_side=True, ssl_handshake_timeout=limit
            )
        except (OSError, ssl.SSLError) as error:
            log.info("TLS handshake failed", remote_ip=self._peer_ip, reason=str(error))
            if self.transport is not None:
                self.transport.abort()
            return
        self._continue_over(secured)

    def _continue_over(self, secured: asyncio.Transport | None) -> None:
        assert secured is not None  # only a closed transport gives none, and that raised before
        self._reader._transport = secured
        self._writer._transport = secured
        self.transport = secured
        self._tls_protocol = secured
        self.session = self._create_session()
        self.session.peer = secured.get_extra_info("peername")
        self.session.ssl = {"cipher": secured.get_extra_info("cipher")}
        self._set_rset_state()
        self._reset_timeout()

    # --- the message ----------------------------------------------------------------------------------------------

    async def smtp_DATA(self, arg: str | None) -> None:
        """Read a message and hand it over."""
        if not self.envelope.routes:
            await self.push(Reply.RECIPIENT_FIRST if self.session.host_name else Reply.HELO_FIRST)
            return
        if arg:
            await self.push(Reply.NO_ARGUMENT)
            return
        await self.push(Reply.START_MAIL_INPUT)
        try:
            reply = await self._receive(self.handler.new_spool(self.envelope))
        finally:
            self._set_post_data_state()
        await self.push(reply)
        self._reset_timeout()

    async def _receive(self, spool: MessageSpool) -> str:
        try:
            message = await self._read_message(spool)
        except BaseException:
            spool.discard()
            self._is_closing = True  # what is left of the message must never be read as commands
            raise
        finally:
            self._data_deadline = None
        self._timeout_handle.cancel()  # from here on it is our time, not the client's
        if message is None:
            if spool.failure is not None:
                log.error("the message folder cannot be written to", reason=str(spool.failure))
            known = _OVERFLOW_REPLIES.get(spool.overflow or Overflow.SIZE)
            return known or self.handler.oversize_reply(self.envelope)
        reply = await asyncio.shield(self._hand_over(self.session, self.envelope, message))
        if reply.startswith("2"):
            self._commands = 0
        return reply

    async def _hand_over(self, session: Session, envelope: InboundEnvelope, message: SpooledMessage) -> str:
        try:
            return await self.handler.message(session, envelope, message)
        finally:
            message.discard()

    async def _read_message(self, spool: MessageSpool) -> SpooledMessage | None:
        """Feed the spool until `<CRLF>.<CRLF>`; None when the message overflowed."""
        self._data_deadline = self.loop.time() + self._settings.data_timeout
        self._reset_timeout(min(self._settings.idle_timeout, self._settings.data_timeout))
        # The CRLF that ended the DATA line is part of the terminator of an empty message.
        self._reader._buffer[:0] = b"\r\n"
        received = 0
        while True:
            try:
                last = await self._reader.readuntil(END_OF_DATA)
                return await self._in_thread_when_large(spool, spool.finish, last)
            except asyncio.LimitOverrunError as error:
                block = await self._reader.readexactly(error.consumed)
            received += len(block)
            if received > DRAIN_FACTOR * self._settings.max_message_size:
                self._farewell(Reply.MESSAGE_TOO_LARGE)
                return None
            await self._in_thread_when_large(spool, spool.append, block)

    async def _in_thread_when_large(self, spool: MessageSpool, take: Callable[[bytes], _T], data: bytes) -> _T:
        """A spool that writes to a file does so off the event loop."""
        if spool.is_small_with(data):
            return take(data)
        taking = self.loop.run_in_executor(None, take, data)
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.wait([taking])  # or the thread would go on with a spool that has been discarded
            raise
