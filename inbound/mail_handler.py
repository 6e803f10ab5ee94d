"""What a session asks of whoever decides about mail."""

from __future__ import annotations

from typing import Protocol

from aiosmtpd.smtp import Envelope, Session

from core.routing import Route
from inbound.spool import MessageSpool, SpooledMessage


class InboundEnvelope(Envelope):
    """aiosmtpd's envelope, with the route found for each accepted recipient."""

    def __init__(self) -> None:
        super().__init__()
        self.routes: list[tuple[str, Route]] = []


class MailHandler(Protocol):
    """What decides about mail; raises whatever goes wrong."""

    async def recipient(self, address: str, envelope: InboundEnvelope) -> str:
        """The reply to RCPT; an accepted recipient has been added to the envelope."""

    async def message(self, session: Session, envelope: InboundEnvelope, message: SpooledMessage) -> str:
        """The reply to a complete message."""

    def new_spool(self) -> MessageSpool:
        """Where the bytes of one message go."""
