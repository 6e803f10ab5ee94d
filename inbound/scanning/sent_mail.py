"""Asking the spam scanner about mail that a customer sends, before it is stored.

The scanner judges what is written, not where the customer sits: he has logged in, and his network is no sign of spam.
So it is told of a client on this machine.
"""

from __future__ import annotations

import structlog

from core.clock import Clock
from core.config import Settings
from core.errors import ConfigurationError
from core.services.sends import NewSend
from inbound.scanning.facts import MailFacts
from inbound.scanning.scanners import Scanners

OWN_NETWORK = "127.0.0.1"
MAX_SYMBOLS_NAMED = 5

log = structlog.get_logger("sending")


class SentMailCheck:
    """`outbound.accepting.SpamCheck`: says why a mail is to be held. From any thread."""

    def __init__(self, settings: Settings, scanners: Scanners) -> None:
        self._scanners = scanners
        self._hostname = settings.mx_hostname

    def __call__(self, content: bytes, send: NewSend) -> str | None:
        """None for mail that may go. What a scanner could not judge may go too; the log says so."""
        facts = MailFacts(OWN_NETWORK, self._hostname, send.mail_from, send.recipients)
        verdict = self._scanners.score(content, facts)
        if verdict is None:
            return None
        if not verdict.success:
            log.warning("sent without a spam check", message_id=send.message_id, reason=verdict.description)
            return None
        if not verdict.is_spam:
            return None
        named = ", ".join(verdict.symbols[:MAX_SYMBOLS_NAMED])
        return f"{verdict.score:g} points ({named})" if named else f"{verdict.score:g} points"


def open_sent_mail_check(settings: Settings, clock: Clock) -> SentMailCheck | None:
    """The check that the settings ask for; None when it is off. Raises `ConfigurationError`."""
    if not settings.check_sent_spam:
        return None
    scanners = Scanners(settings, wall_clock=clock)
    if not scanners.scores:
        raise ConfigurationError(
            "PILLARBOX_CHECK_SENT_SPAM: there is no scanner to ask; set PILLARBOX_RSPAMD or PILLARBOX_SPAMD, or `off`"
        )
    return SentMailCheck(settings, scanners)
