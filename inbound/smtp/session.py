"""One SMTP session: aiosmtpd's protocol with our limits, our reading of DATA and our replies.

Where this differs from aiosmtpd: an error is 451 and not a 500 with its text; storing outlives a client that hangs
up; DATA is read in blocks, not lines; only `<CRLF>.<CRLF>` ends it; every count and time has a limit.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from core.addresses import parse_mailbox, strip_source_route
from inbound.smtp.data_phase import EndlessMessage, read_message
from inbound.smtp.hooks import COMMAND_OCTETS
from inbound.smtp.mail_handler import InboundEnvelope
from inbound.smtp.paths import NULL_PATH, split_path, with_domain
from inbound.smtp.replies import Reply
from inbound.smtp.spool import MessageSpool, Overflow, SpooledMessage
from inbound.smtp.wire import SessionParts, Wire

__all__ = ["InboundSession", "MailSession", "SessionParts"]

DRAIN_FACTOR = 3
"""A client that sends this many times the size limit is cut off instead of being read to the end."""
FOREIGN_VERBS = frozenset({"BDAT", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Content follows these, and would be read as commands: BDAT (RFC 3030), which is not announced, and HTTP, which a
browser or a server can be made to speak to us."""

_OVERFLOW_REPLIES = {
    Overflow.LINE: Reply.DATA_LINE_TOO_LONG,
    Overflow.STORAGE: Reply.STORAGE_FULL,
}

log = structlog.get_logger("receiver")


class MailSession(Wire):
    """The protocol of one connection, whoever it takes mail from."""

    command_size_limit = COMMAND_OCTETS

    def __init__(self, shared: SessionParts, is_tls_first: bool = False) -> None:
        super().__init__(shared, is_tls_first)
        self._commands = 0
        self._data_deadline: float | None = None

    def data_received(self, data: bytes) -> None:
        """Within a message every byte proves the client alive, up to the message's own deadline."""
        super().data_received(data)
        if self._data_deadline is None:
            return
        remaining_s = self._data_deadline - self.loop.time()
        if remaining_s > 0:
            self._reset_timeout(min(self._settings.idle_timeout, remaining_s))
        else:  # a byte now and then must not put the end off again and again
            self._timeout_cb()

    # --- the loop over commands -----------------------------------------------------------------------------------

    async def _handle_client(self) -> None:
        if not await self._meet():
            return
        with suppress(ConnectionError):
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
                log.error("session failed", remote_ip=self.remote_ip, exc_info=error)
                with suppress(ConnectionError):  # perhaps it failed because the client has left
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
        word, _, argument = line.partition(b" ")
        verb = word.upper().decode("ascii", "replace")
        method = self._smtp_methods.get(verb) if verb else None
        if method is None:
            await self.push(Reply.UNKNOWN_COMMAND if verb else Reply.BAD_SYNTAX)
            if verb in FOREIGN_VERBS and self.transport is not None:
                self.transport.close()
            return
        refusal = self._what_comes_first(verb)
        if refusal is not None:
            await self.push(refusal)
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

    def _what_comes_first(self, verb: str) -> str | None:
        """The refusal of a known command that something else has to come before."""
        return None

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Take the path from a MAIL or RCPT argument; aiosmtpd's own reading knows more forms than SMTP has."""
        path, parameters = split_path(arg)
        if path is None or parameters is None or not parameters.isascii():
            return None, None
        if path == "":
            return NULL_PATH, parameters
        if self.envelope.mail_from:  # so this is RCPT
            path = self._recipient_path(path)
        mailbox = parse_mailbox(strip_source_route(path))
        return (None, None) if mailbox is None else (mailbox.text, parameters)

    def _recipient_path(self, path: str) -> str:
        """What the path of a RCPT stands for."""
        return path

    async def smtp_RCPT(self, arg: str | None) -> None:
        """Check order and count, then ask the handler."""
        if len(self.envelope.rcpt_tos) >= self._settings.max_recipients:
            await self.push(Reply.TOO_MANY_RECIPIENTS)
            return
        await super().smtp_RCPT(arg)

    async def smtp_VRFY(self, arg: str) -> None:
        """Tell nobody which addresses exist other than by RCPT."""
        await self.push(Reply.CANNOT_VERIFY)

    async def smtp_EXPN(self, arg: str) -> None:
        """As VRFY."""
        await self.push(Reply.CANNOT_VERIFY)

    async def smtp_HELP(self, arg: str) -> None:
        """Name the commands there are."""
        await self.push(Reply.HELP)

    # --- the message ----------------------------------------------------------------------------------------------

    async def smtp_DATA(self, arg: str | None) -> None:
        """Read a message and hand it over."""
        if not self.envelope.rcpt_tos:
            await self.push(Reply.RECIPIENT_FIRST if self.session.host_name else Reply.HELO_FIRST)
            return
        if arg:
            await self.push(Reply.NO_ARGUMENT)
            return
        await self.push(Reply.START_MAIL_INPUT)
        try:
            await self.push(await self._receive(self.handler.new_spool(self.envelope)))
        finally:
            self._set_post_data_state()
        self._reset_timeout()

    async def _receive(self, spool: MessageSpool) -> str:
        message = await self._read_to_its_end(spool)
        if message is None:
            if spool.failure is not None:
                log.error("the message folder cannot be written to", reason=str(spool.failure))
            known = _OVERFLOW_REPLIES.get(spool.overflow or Overflow.SIZE)
            return known or self.handler.oversize_reply(self.envelope)
        handing = self.loop.create_task(self.handler.message(self.session, self.envelope, message))
        handing.add_done_callback(lambda _: message.discard())  # also when it is cancelled before it begins
        reply = await asyncio.shield(handing)
        if reply.startswith("2"):
            self._commands = self._errors = 0
        return reply

    async def _read_to_its_end(self, spool: MessageSpool) -> SpooledMessage | None:
        """The message, in its time; None when it overflowed."""
        self._data_deadline = self.loop.time() + self._settings.data_timeout
        self._reset_timeout(min(self._settings.idle_timeout, self._settings.data_timeout))
        try:
            return await read_message(self._reader, spool, DRAIN_FACTOR * self._settings.max_message_size)
        except EndlessMessage:
            self._farewell(Reply.MESSAGE_TOO_LARGE)
            return None
        except BaseException:
            self._is_closing = True  # what is left of the message must never be read as commands
            raise
        finally:
            self._data_deadline = None
            self._timeout_handle.cancel()  # from here on it is our time, not the client's


class InboundSession(MailSession):
    """The protocol of a connection by which anybody's mail comes in."""

    def _create_envelope(self) -> InboundEnvelope:
        return InboundEnvelope()

    def _recipient_path(self, path: str) -> str:
        return with_domain(path, self._settings.domain)

    async def smtp_AUTH(self, arg: str) -> None:
        """There is nothing to log in to."""
        await self.push(Reply.NO_AUTH)
