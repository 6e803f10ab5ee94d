"""What the receiver decides: whose mail it is, and when it is ours to keep."""

from __future__ import annotations

from pathlib import Path

import structlog
from aiosmtpd.smtp import Session

from core.addresses import parse_mailbox
from core.config import Settings
from core.errors import StorageUnavailable
from core.ids import new_time_ordered_id
from core.routing import Refusal
from inbound.acceptor import Acceptor, Conversation
from inbound.book import CachedRoutes
from inbound.mail_handler import InboundEnvelope
from inbound.paths import NULL_PATH
from inbound.replies import Reply, accepted, recipient_refused
from inbound.spool import MessageSpool, SpooledMessage

MAX_HELO_LENGTH = 255

log = structlog.get_logger("receiver")


class InboundHandler:
    """Routes recipients and stores messages; shared by all sessions of a process."""

    def __init__(self, settings: Settings, routes: CachedRoutes, acceptor: Acceptor, spool_folder: Path) -> None:
        self._settings = settings
        self._routes = routes
        self._acceptor = acceptor
        self._spool_folder = spool_folder

    def new_spool(self, envelope: InboundEnvelope) -> MessageSpool:
        """Where the bytes of one message go, as many as its recipients take."""
        return MessageSpool(self._spool_folder, self._settings.max_message_size, self._settings.max_line_length)

    def oversize_reply(self, envelope: InboundEnvelope) -> str:
        """The reply to a message larger than its recipients take."""
        return Reply.MESSAGE_TOO_LARGE

    async def sender(self, address: str, session: Session, envelope: InboundEnvelope) -> str:
        """Any sender may try."""
        envelope.mail_from = address
        return Reply.SENDER_OK

    async def recipient(self, address: str, session: Session, envelope: InboundEnvelope) -> str:
        """Accept the recipient into the envelope, or say why not."""
        mailbox = parse_mailbox(address)
        if mailbox is None:
            return Reply.BAD_MAILBOX
        try:
            found = await self._routes.find(mailbox)
        except StorageUnavailable as error:
            log.error("routing failed", reason=repr(error.__cause__))
            return Reply.TRY_LATER
        if isinstance(found, Refusal):
            return recipient_refused(found)
        envelope.rcpt_tos.append(address)
        envelope.routes.append((address, found))
        return Reply.RECIPIENT_OK

    async def message(self, session: Session, envelope: InboundEnvelope, message: SpooledMessage) -> str:
        """Store the message; the 250 is earned when this returns it."""
        conversation = _conversation(session, envelope)
        try:
            await self._acceptor.accept(conversation, message)
        except StorageUnavailable as error:
            log.error(
                "a message was put off", message_id=conversation.message_id, reason=repr(error.__cause__ or error)
            )
            return Reply.TRY_LATER
        log.info(
            "accepted",
            message_id=conversation.message_id,
            size=message.size,
            mail_from=conversation.mail_from,
            recipients=len(conversation.recipients),
        )
        return accepted(conversation.message_id)


def _conversation(session: Session, envelope: InboundEnvelope) -> Conversation:
    cipher = (session.ssl or {}).get("cipher") or (None, None)
    sender = envelope.mail_from or ""
    return Conversation(
        message_id=new_time_ordered_id(),
        mail_from="" if sender == NULL_PATH else sender,
        recipients=tuple(envelope.routes),
        helo=_printable(session.host_name or "")[:MAX_HELO_LENGTH],
        remote_ip=session.peer[0] if session.peer else "",
        tls_version=cipher[1],
        tls_cipher=cipher[0],
    )


def _printable(text: str) -> str:
    """What a client says of itself may hold anything; the database and payloads hold valid Unicode only."""
    valid = text.encode("utf-8", "replace").decode()
    return "".join(character for character in valid if character.isprintable())
