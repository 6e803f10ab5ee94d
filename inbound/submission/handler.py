"""What submission decides: who may begin a mail, and when it is ours to send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import structlog
from aiosmtpd.smtp import Session

from core.addresses import parse_mailbox
from core.config import Settings
from core.delivery import DeliveryKind
from core.errors import InvalidField, NotFound, StorageUnavailable
from core.sending.raw_submission import RawSubmission
from core.sending.reachable import why_unreachable
from core.services.sends import StoredSend, Submitter
from inbound.attempt import MemoryBudget
from inbound.reading.trace import find_loop
from inbound.smtp.intake import client_facts
from inbound.smtp.mail_handler import MailEnvelope
from inbound.smtp.replies import Reply, loop_detected
from inbound.smtp.spool import MessageSpool, SpooledMessage
from inbound.submission.logins import Login, Logins
from inbound.submission.replies import SubmissionReply, queued, refused, unreachable

THREADS = 16
"""Messages that are checked, composed and stored at once; the sessions of others wait."""
TAKING_S = 120.0
"""How long a session waits for that. A client waits ten minutes (RFC 5321 section 4.5.3.2.6), many do less. What is
stored later all the same is sent, and sent again when the client comes again."""
MEMORY_BUDGET = 256 * 1024 * 1024
"""Bytes that large messages may take at once, all their copies counted."""
COPIES = 5
"""Raw, taken apart, composed, in the database's hands: about what one message takes at its peak."""

log = structlog.get_logger("submission")


class Submit(Protocol):
    """Whoever accepts mail to be sent; from any thread."""

    def __call__(self, submission: RawSubmission) -> StoredSend:
        """Durable when it returns. Raises `InvalidField` (for good) and `StorageUnavailable` (for now)."""


class SubmissionHandler:
    """Shared by all sessions of a process."""

    def __init__(
        self,
        settings: Settings,
        logins: Logins,
        submit: Submit,
        ring: Callable[[DeliveryKind], None],
        spool_folder: Path,
    ) -> None:
        self._settings = settings
        self._logins = logins
        self._submit = submit
        self._ring = ring
        self._spool_folder = spool_folder
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="submit")
        self._budget = MemoryBudget(MEMORY_BUDGET)
        self._waiting = 0

    def stop(self) -> None:
        """Finish what was begun, and end."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def new_spool(self, envelope: MailEnvelope) -> MessageSpool:
        """Where the bytes of one message go."""
        return MessageSpool(self._spool_folder, self._settings.max_send_size, self._settings.max_line_length)

    def oversize_reply(self, envelope: MailEnvelope) -> str:
        """The reply to a message that is too large."""
        return Reply.MESSAGE_TOO_LARGE

    async def sender(self, address: str, session: Session, envelope: MailEnvelope) -> str:
        """Any envelope sender will do, since the header From decides; but the login must still be good."""
        login = _login(session)
        try:
            still = await self._logins.recheck(login)
        except StorageUnavailable as error:
            log.error("a login cannot be checked now", reason=repr(error.__cause__))
            return Reply.TRY_LATER
        session.auth_data = still  # type: ignore[assignment]  # aiosmtpd's attribute holds anything
        if still is None:
            log.info("a revoked login was still in use", username=login.credential.username)
            return SubmissionReply.REVOKED
        envelope.mail_from = address
        return Reply.SENDER_OK

    async def recipient(self, address: str, session: Session, envelope: MailEnvelope) -> str:
        """Any recipient that mail can be sent to: refused later, one would take the others with it."""
        mailbox = parse_mailbox(address)
        problem = "is no address" if mailbox is None else why_unreachable(mailbox)
        if problem is not None:
            return unreachable(problem)
        envelope.rcpt_tos.append(address)
        return Reply.RECIPIENT_OK

    async def message(self, session: Session, envelope: MailEnvelope, message: SpooledMessage) -> str:
        """Have the message checked and stored; the 250 is earned when this returns it."""
        loop = find_loop(message.head, self._settings.mx_hostname, self._settings.max_hops)
        if loop is not None:
            return loop_detected(loop)
        if self._waiting >= self._settings.max_connections:
            return Reply.TRY_LATER  # messages outlive their sessions, so the limit of connections does not bound them
        self._waiting += 1
        try:
            stored = await self._taken(session, envelope, message)
        except (InvalidField, NotFound) as error:
            log.info("refused", username=_login(session).credential.username, reason=str(error))
            return refused(error)
        except StorageUnavailable as error:
            log.error("a message was put off", reason=repr(error.__cause__ or error))
            return Reply.TRY_LATER
        finally:
            self._waiting -= 1
        self._tell(stored)
        log.info(
            "queued",
            message_id=stored.message_id,
            username=_login(session).credential.username,
            size=message.size,
            recipients=len(stored.recipients),
        )
        return queued(stored.message_id)

    async def _taken(self, session: Session, envelope: MailEnvelope, message: SpooledMessage) -> StoredSend:
        loop = asyncio.get_running_loop()
        taking = loop.run_in_executor(self._threads, self._take, session, envelope, message)
        try:
            return await asyncio.wait_for(taking, TAKING_S)
        except TimeoutError as error:
            raise StorageUnavailable("storing takes too long") from error

    def _take(self, session: Session, envelope: MailEnvelope, message: SpooledMessage) -> StoredSend:
        with self._budget.hold(message.size * COPIES if message.path is not None else 0):
            return self._submit(_submission(session, envelope, message))

    def _tell(self, stored: StoredSend) -> None:
        """After the commit: the mail itself, and its first events."""
        for kind in stored.rings:
            self._ring(kind)


def _login(session: Session) -> Login:
    login: Login = session.auth_data  # type: ignore[assignment]  # mail comes behind the login
    return login


def _submission(session: Session, envelope: MailEnvelope, message: SpooledMessage) -> RawSubmission:
    client = client_facts(session, envelope)
    credential = _login(session).credential
    cipher = (session.ssl or {}).get("cipher") or (None, None)
    return RawSubmission(
        submitter=Submitter(
            account_id=credential.account_id,
            username=credential.username,
            remote_ip=client.remote_ip,
            helo=client.helo,
            tls_version=cipher[1],
            tls_cipher=cipher[0],
        ),
        mail_from=client.mail_from,
        recipients=tuple(envelope.rcpt_tos),
        content=message.read(),
        sending_domain_id=credential.sending_domain_id,
    )
