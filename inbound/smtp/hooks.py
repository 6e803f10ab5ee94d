# ruff: noqa: N802 (the hooks have the names that aiosmtpd looks for)
"""How aiosmtpd is set up for our sessions: its constructor's arguments, and the hooks it calls by name."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from aiosmtpd.smtp import SMTP, Envelope, Session

from core.addresses import parse_mailbox
from core.config import Settings
from inbound.smtp.mail_handler import MailEnvelope, MailHandler
from inbound.smtp.paths import NULL_PATH
from inbound.smtp.rates import Rates
from inbound.smtp.replies import Reply

MAX_SIZE_DIGITS = 20  # RFC 1870 section 3
COMMAND_OCTETS = 2_048
"""RFC 5321 asks for 512 and more for each extension; long mailboxes and parameters fit in this."""


def unconnected(settings: Settings) -> SMTP:
    """An aiosmtpd protocol as its own constructor makes it, never to be connected."""
    made = SMTP(
        _Hooks(),
        data_size_limit=settings.max_message_size,
        enable_SMTPUTF8=True,
        hostname=settings.mx_hostname,
        ident="ESMTP Pillarbox",
        timeout=settings.idle_timeout,
        loop=asyncio.get_running_loop(),
    )
    made.command_size_limits = defaultdict(lambda: COMMAND_OCTETS)
    return made


class HandlingSession(Protocol):
    """A session that knows who decides about its mail, and how fast it may come."""

    handler: MailHandler[Any]
    rates: Rates

    @property
    def remote_ip(self) -> str:
        """The client's address."""

    @property
    def extensions(self) -> Sequence[str]:
        """What it announces besides what all sessions do."""


class _Hooks:
    """aiosmtpd finds the hooks it calls by these names; the one object for all sessions."""

    async def handle_EHLO(
        self, server: HandlingSession, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Announce what there is, in one reply."""
        session.host_name = hostname
        kept = [line for line in responses[1:] if not line.startswith(("250-AUTH", "250 HELP"))]
        own = [f"250-{extension}" for extension in server.extensions]
        return [responses[0], "250-PIPELINING", *kept, *own, "250 ENHANCEDSTATUSCODES"]

    async def handle_MAIL(
        self, server: HandlingSession, session: Session, envelope: MailEnvelope, address: str, options: list[str]
    ) -> str:
        """Whether the sender may try, and may so now."""
        if not server.rates.allow_client(server.remote_ip):
            return Reply.CLIENT_TOO_FAST
        sender = parse_mailbox(address)  # the null sender is none: bounces come from nobody's domain
        if sender is not None and not server.rates.allow_domain(sender.domain):
            return Reply.DOMAIN_TOO_FAST
        envelope.mail_options.extend(options)
        envelope.declared_size = declared_size(options)
        return await server.handler.sender(address, session, envelope)

    async def handle_RCPT(
        self, server: HandlingSession, session: Session, envelope: MailEnvelope, address: str, options: list[str]
    ) -> str:
        """Whether the recipient is ours."""
        if address == NULL_PATH:
            return Reply.BAD_MAILBOX
        return await server.handler.recipient(address, session, envelope)


def declared_size(options: list[str]) -> int | None:
    """The SIZE that MAIL declares (RFC 1870), if it does."""
    for option in options:
        name, _, value = option.partition("=")
        if name.upper() == "SIZE" and value.isascii() and value.isdigit() and len(value) <= MAX_SIZE_DIGITS:
            return int(value)
    return None
