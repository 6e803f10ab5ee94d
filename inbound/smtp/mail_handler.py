"""What a session asks of whoever decides about mail."""

from __future__ import annotations

from typing import Protocol, TypeVar

from aiosmtpd.smtp import Envelope, Session

from core.routing import Route
from core.verdicts import SpfVerdict
from inbound.smtp.spool import MessageSpool, SpooledMessage


class MailEnvelope(Envelope):
    """aiosmtpd's envelope, with what MAIL said of the message."""

    def __init__(self) -> None:
        super().__init__()
        self.declared_size: int | None = None
        """The SIZE parameter of MAIL (RFC 1870)."""


class InboundEnvelope(MailEnvelope):
    """One that comes in, with the route found for each accepted recipient."""

    def __init__(self) -> None:
        super().__init__()
        self.routes: list[tuple[str, Route]] = []
        self.spf: SpfVerdict | None = None
        """Once it was looked up for an authorization callback."""


EnvelopeT = TypeVar("EnvelopeT", bound=MailEnvelope, contravariant=True)


class MailHandler(Protocol[EnvelopeT]):
    """What decides about mail; raises whatever goes wrong."""

    async def sender(self, address: str, session: Session, envelope: EnvelopeT) -> str:
        """The reply to MAIL; an accepted sender has been put into the envelope."""

    async def recipient(self, address: str, session: Session, envelope: EnvelopeT) -> str:
        """The reply to RCPT; an accepted recipient has been added to the envelope's `rcpt_tos`."""

    async def message(self, session: Session, envelope: EnvelopeT, message: SpooledMessage) -> str:
        """The reply to a complete message."""

    def new_spool(self, envelope: EnvelopeT) -> MessageSpool:
        """Where the bytes of one message go, as many as its recipients take."""

    def oversize_reply(self, envelope: EnvelopeT) -> str:
        """The reply to a message larger than its recipients take."""
