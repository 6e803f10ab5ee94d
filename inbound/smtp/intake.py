"""From a finished SMTP transaction to the mail that is about to be stored."""

from __future__ import annotations

from aiosmtpd.smtp import Session

from core.ids import new_time_ordered_id
from core.services.acceptance import AcceptedMail
from inbound.authentication import ClientFacts
from inbound.reading.headers import read_summary
from inbound.smtp.mail_handler import InboundEnvelope, MailEnvelope
from inbound.smtp.paths import NULL_PATH
from inbound.smtp.spool import SpooledMessage

MAX_HELO_LENGTH = 255


def client_facts(session: Session, envelope: MailEnvelope) -> ClientFacts:
    """Who is sending."""
    sender = envelope.mail_from or ""
    return ClientFacts(
        remote_ip=session.peer[0] if session.peer else "",
        helo=_printable(session.host_name or "")[:MAX_HELO_LENGTH],
        mail_from="" if sender == NULL_PATH else sender,
    )


def take_in(session: Session, envelope: InboundEnvelope, message: SpooledMessage, now_ms: int) -> AcceptedMail:
    """All that is to be remembered of a transaction and its message."""
    client = client_facts(session, envelope)
    cipher = (session.ssl or {}).get("cipher") or (None, None)
    summary = read_summary(message.head)
    message_id = new_time_ordered_id(now_ms)
    return AcceptedMail(
        message_id=message_id,
        mail_from=client.mail_from,
        recipients=tuple(envelope.routes),
        helo=client.helo,
        remote_ip=client.remote_ip,
        tls_version=cipher[1],
        tls_cipher=cipher[0],
        size=message.size,
        md5=message.md5,
        subject=summary.subject,
        header_from=summary.from_,
        header_message_id=summary.message_id,
        received_ms=now_ms,
        raw=message.raw,
        blob_key=None if message.path is None else message_id,
    )


def _printable(text: str) -> str:
    """What a client says of itself may hold anything; the database and payloads hold valid Unicode only."""
    valid = text.encode("utf-8", "replace").decode()
    return "".join(character for character in valid if character.isprintable())
