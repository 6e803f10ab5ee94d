"""What the receiver decides: whose mail it is, whether it is wanted, and when it is ours to keep."""

from __future__ import annotations

from pathlib import Path

import structlog
from aiosmtpd.smtp import Session

from core.addresses import parse_mailbox
from core.clock import Clock
from core.config import Settings
from core.errors import StorageUnavailable
from core.routing import Refusal
from core.services.acceptance import AcceptedMail
from inbound.reading.trace import find_loop
from inbound.smtp.acceptor import Acceptor
from inbound.smtp.book import CachedRoutes
from inbound.smtp.inline import InlineDelivery
from inbound.smtp.intake import client_facts, take_in
from inbound.smtp.mail_handler import InboundEnvelope
from inbound.smtp.message_gate import MessageGate
from inbound.smtp.recipient_gate import RecipientGate, size_limit
from inbound.smtp.replies import Reply, accepted, loop_detected, oversize, recipient_refused
from inbound.smtp.returns import ReturnedTooOften, Returns
from inbound.smtp.spool import MessageSpool, SpooledMessage

POSTMASTER = "postmaster"
"""The one mailbox that every domain should have (RFC 5321 section 4.5.1)."""

log = structlog.get_logger("receiver")


class InboundHandler:
    """Routes recipients and takes messages in; shared by all sessions of a process."""

    def __init__(
        self,
        settings: Settings,
        routes: CachedRoutes,
        returns: Returns,
        gates: tuple[RecipientGate, MessageGate],
        acceptor: Acceptor,
        inline: InlineDelivery,
        spool_folder: Path,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._postmaster = parse_mailbox(settings.postmaster)
        self._routes = routes
        self._returns = returns
        self._recipient_gate, self._message_gate = gates
        self._acceptor = acceptor
        self._inline = inline
        self._spool_folder = spool_folder
        self._clock = clock

    def new_spool(self, envelope: InboundEnvelope) -> MessageSpool:
        """Where the bytes of one message go, as many as any of its recipients takes."""
        largest = max(
            (size_limit(route, self._settings.max_message_size) for _, route in envelope.routes),
            default=self._settings.max_message_size,
        )
        return MessageSpool(self._spool_folder, largest, self._settings.max_line_length)

    def oversize_reply(self, envelope: InboundEnvelope) -> str:
        """The reply to a message larger than its recipients take, in the words of the first that has any."""
        texts = (route.settings.oversize_text for _, route in envelope.routes)
        return oversize(next((text for text in texts if text), None))

    async def sender(self, address: str, session: Session, envelope: InboundEnvelope) -> str:
        """Any sender may try: whom it may send to is for the recipients' rules to say."""
        envelope.mail_from = address
        return Reply.SENDER_OK

    async def recipient(self, address: str, session: Session, envelope: InboundEnvelope) -> str:
        """Accept the recipient into the envelope, or say why not."""
        mailbox = parse_mailbox(address)
        if mailbox is None:
            return Reply.BAD_MAILBOX
        if mailbox.domain == self._settings.domain and mailbox.local.lower() == POSTMASTER:
            mailbox = self._postmaster or mailbox
        facts = client_facts(session, envelope)
        try:
            returned = await self._returns.find(mailbox, facts.mail_from)
            found = returned or await self._routes.find(mailbox)
        except StorageUnavailable as error:
            log.error("routing failed", reason=repr(error.__cause__))
            return Reply.TRY_LATER
        except ReturnedTooOften as error:
            log.warning("a return path gets too much mail", delivery_id=str(error), remote_ip=facts.remote_ip)
            return Reply.RETURNED_TOO_OFTEN
        if isinstance(found, Refusal):
            return recipient_refused(found)
        if not found.is_plain or envelope.routes:
            refusal = await self._recipient_gate.refusal(facts, envelope, address, found)
            if refusal is not None:
                return refusal
        envelope.rcpt_tos.append(address)
        envelope.routes.append((address, found))
        return Reply.RECIPIENT_OK

    async def message(self, session: Session, envelope: InboundEnvelope, message: SpooledMessage) -> str:
        """Judge and store the message; the 250 is earned when this returns it."""
        loop = find_loop(message.head, self._settings.mx_hostname, self._settings.max_hops, _forwarding(envelope))
        if loop is not None:
            return loop_detected(loop)
        mail = take_in(session, envelope, message, self._clock())
        try:
            return await self._take(mail, message)
        except StorageUnavailable as error:
            log.error("a message was put off", message_id=mail.message_id, reason=repr(error.__cause__ or error))
            return Reply.TRY_LATER

    async def _take(self, mail: AcceptedMail, message: SpooledMessage) -> str:
        examined = await self._message_gate.examine(mail, message)
        if isinstance(examined, str):
            log.info("refused", mail_from=mail.mail_from, remote_ip=mail.remote_ip, reply=examined)
            return examined
        plan = examined.plans.get(mail.recipients[0][1].delivery_key)
        if mail.recipients[0][1].is_inline and (plan is None or plan.held_because is None):
            return await self._inline.deliver(examined, message)
        await self._acceptor.accept(examined, message)
        log.info(
            "accepted",
            message_id=mail.message_id,
            size=mail.size,
            mail_from=mail.mail_from,
            recipients=len(mail.recipients),
        )
        return accepted(mail.message_id)


def _forwarding(envelope: InboundEnvelope) -> list[str]:
    """The addresses whose mail is sent on: one that comes round to them again is in a loop."""
    return [route.address_id for _, route in envelope.routes if route.is_forwarded]
