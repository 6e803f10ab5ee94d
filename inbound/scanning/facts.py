"""What a spam scanner is told about a message beside its bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MailFacts:
    """The SMTP conversation, as the scanners judge it. Its strings come from strangers."""

    remote_ip: str
    """The client; behind a trusted forwarder the one that connected there (`Verdicts.judged_ip`)."""
    helo: str
    """The name that client gave."""
    mail_from: str
    """The reverse path without angle brackets, empty for the null sender."""
    recipients: tuple[str, ...] = ()
