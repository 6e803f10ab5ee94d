# ruff: noqa: N802 (the commands have the names that aiosmtpd looks for)
"""One submission session: the receiver's protocol, with TLS before everything and a login before mail."""

from __future__ import annotations

import re
from collections.abc import Sequence

import structlog

from core.errors import StorageUnavailable
from inbound.smtp.hooks import COMMAND_OCTETS
from inbound.smtp.mail_handler import MailEnvelope
from inbound.smtp.session import MailSession
from inbound.smtp.wire import SessionParts
from inbound.submission.exchange import (
    EMPTY,
    MECHANISMS,
    ExchangeFailed,
    NameAndPassword,
    challenge,
    decode,
    read_plain,
)
from inbound.submission.logins import Login, Logins
from inbound.submission.replies import SubmissionReply

BEHIND_LOGIN = frozenset({"MAIL", "RCPT", "DATA"})
BEHIND_TLS = BEHIND_LOGIN | {"VRFY", "EXPN"}
"""RFC 3207 section 4 names what may come before TLS where that is required."""
_AUTH_PARAMETER = re.compile(r"AUTH=[!-~]+", re.IGNORECASE)

log = structlog.get_logger("submission")


class SubmissionSession(MailSession):
    """The protocol of a connection by which a customer's mail program hands in mail."""

    def __init__(self, shared: SessionParts, logins: Logins, is_tls_first: bool = False) -> None:
        super().__init__(shared, is_tls_first)
        self._logins = logins

    @property
    def extensions(self) -> Sequence[str]:
        """AUTH, where a password is safe."""
        return (f"AUTH {' '.join(MECHANISMS)}",) if self._is_private else ()

    @property
    def _is_private(self) -> bool:
        return self._tls_protocol is not None

    @property
    def _is_logged_in(self) -> bool:
        return isinstance(self.session.auth_data, Login)

    def _create_envelope(self) -> MailEnvelope:
        return MailEnvelope()

    def _what_comes_first(self, verb: str) -> str | None:
        if verb in BEHIND_TLS and not self._is_private:
            return SubmissionReply.TLS_FIRST
        if verb in BEHIND_LOGIN and not self._is_logged_in:
            return SubmissionReply.LOGIN_FIRST
        return None

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Leave out MAIL's AUTH parameter: relays send it to servers with AUTH (RFC 4954 section 5); we believe none
        of them."""
        address, parameters = super()._getaddr(arg)
        if parameters and not self.envelope.mail_from:
            words = parameters.split()
            parameters = " ".join(word for word in words if not _AUTH_PARAMETER.fullmatch(word))
        return address, parameters

    async def smtp_HELP(self, arg: str) -> None:
        """Name the commands there are."""
        await self.push(SubmissionReply.HELP)

    # --- the login ------------------------------------------------------------------------------------------------

    async def smtp_AUTH(self, arg: str | None) -> None:
        """Log in (RFC 4954)."""
        refusal = self._refuses_auth(arg)
        if refusal is not None:
            await self.push(refusal)
            return
        if self._logins.is_barred(self.remote_ip):
            log.info("too many failed logins", remote_ip=self.remote_ip)
            self._farewell(SubmissionReply.TOO_MANY_FAILURES)
            return
        try:
            reply = await self._log_in(await self._ask_for_login(arg or ""))
        except ExchangeFailed as error:
            reply = error.reply
        if reply is SubmissionReply.WRONG_LOGIN:  # what others tried from there slows down this session too
            self._errors = max(self._errors, self._logins.failures(self.remote_ip) - 1)
        await self.push(reply)

    def _refuses_auth(self, arg: str | None) -> SubmissionReply | None:
        words = (arg or "").split()
        if not self._is_private:
            return SubmissionReply.TLS_BEFORE_LOGIN
        if not self.session.host_name or not self.session.extended_smtp:
            return SubmissionReply.EHLO_BEFORE_LOGIN
        if self._is_logged_in:
            return SubmissionReply.LOGGED_IN_ALREADY
        if not words:
            return SubmissionReply.WHICH_MECHANISM
        if words[0].upper() not in MECHANISMS:
            return SubmissionReply.UNKNOWN_MECHANISM
        return SubmissionReply.NO_INITIAL_RESPONSE if len(words) > 2 else None

    async def _ask_for_login(self, arg: str) -> NameAndPassword:
        """The rest of the exchange. Raises `ExchangeFailed`."""
        mechanism, _, initial = (word.strip() for word in arg.partition(" "))
        given = None if not initial else "" if initial == EMPTY else decode(initial.encode("utf-8", "surrogateescape"))
        if mechanism.upper() == "PLAIN":
            return read_plain(await self._answer("") if given is None else given)
        username = await self._answer("Username:") if given is None else given
        return NameAndPassword(username, await self._answer("Password:"))

    async def _answer(self, question: str) -> str:
        """The client's next response. Raises `ExchangeFailed`."""
        await self.push(challenge(question))
        self._reset_timeout()
        self.is_busy = False  # it is the client's turn: a server that stops need not wait for it
        line = await self._read_command()
        self.is_busy = True
        self._reset_timeout()
        if line is None or len(line) > COMMAND_OCTETS:
            raise ExchangeFailed(SubmissionReply.LOGIN_TOO_LONG)
        return decode(line)

    async def _log_in(self, given: NameAndPassword) -> SubmissionReply:
        try:
            found = await self._logins.open(self.remote_ip, given.username, given.password)
        except StorageUnavailable as error:
            log.error("logins cannot be checked now", reason=repr(error.__cause__))
            return SubmissionReply.LOGIN_LATER
        except Exception as error:
            log.error("a login failed by accident", remote_ip=self.remote_ip, exc_info=error)
            return SubmissionReply.LOGIN_LATER
        if isinstance(found, SubmissionReply):
            log.info("login refused", remote_ip=self.remote_ip, reply=found.value)
            return found
        self.session.auth_data = found
        self.session.authenticated = True
        log.info("logged in", username=found.credential.username, remote_ip=self.remote_ip)
        return SubmissionReply.LOGGED_IN
