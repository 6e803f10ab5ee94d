"""What the sending edge is given, and what it gives back for each recipient."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from core.delivery import Outcome, Verdict
from outbound.tls import TlsLevel


class Urgency(IntEnum):
    """Who goes first where mails wait for a connection to the same host; less is earlier."""

    PRIORITY = 0
    STANDARD = 1
    DIGEST = 2


NO_ANSWER = 0
"""The status where no reply decided: nobody could be asked, or the decision was made before anybody was."""


@dataclass(frozen=True, slots=True)
class OutgoingMail:
    """One message for recipients of one domain."""

    mail_from: str
    """The reverse path without brackets; empty for the null sender."""
    recipients: tuple[str, ...]
    """At least one, each once, all of the same domain: they share a host, and so a transaction."""
    content: bytes
    """The message as it is; line ends and dots are seen to on the way (`outbound.wire`)."""
    needs_smtputf8: bool = False
    """Whether it came in with SMTPUTF8, so that its headers may hold UTF-8 that only such hosts understand.
    Addresses beyond ASCII need it whatever this says."""
    source_ip: str | None = None
    """The address of ours to connect from, if it is among `Settings.source_addresses`."""
    urgency: Urgency = Urgency.STANDARD


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was said of one recipient, by a host or by ourselves."""

    verdict: Verdict
    code: int
    """The code of the reply; `NO_ANSWER` when no reply decided."""
    enhanced: str
    """RFC 3463, e.g. `5.1.1`: the host's own, or one that fits."""
    text: str
    """The reply as it came, or our reason in words."""
    is_timeout: bool = False
    is_our_fault: bool = False
    """Whether it says nothing of the host: it was never asked, or our own configuration is wrong."""
    is_about_sender: bool = False
    """Whether it is the answer to MAIL, which no recipient has a part in."""

    @property
    def is_from_host(self) -> bool:
        """Whether a reply decided."""
        return self.code != NO_ANSWER


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """How it went for one recipient. What the state machine needs is `outcome`; the rest is for reports and events."""

    recipient: str
    outcome: Outcome
    enhanced: str
    """RFC 3463 status, for a DSN and for classifying bounces."""
    reply: str | None
    """The deciding reply, also one that accepts; None when there was none."""
    host: str | None
    """The name of the host that decided."""
    tls_version: str | None
    """E.g. `TLSv1.3` when the mail went encrypted."""
    tls: TlsLevel = TlsLevel.NONE
    """How secure the session was in which the host decided; `NONE` too where no host did."""
    tls_warning: str | None = None
    """What an MTA-STS policy in testing mode would have kept the mail for."""
    is_about_sender: bool = False
    """Whether the host has refused our sender, and was not asked about the recipient."""
