"""A message as a mail program hands it in by SMTP: what the listener gives to whoever accepts mail to be sent."""

from __future__ import annotations

from dataclasses import dataclass

from core.services.sends import Submitter


@dataclass(frozen=True, slots=True)
class RawSubmission:
    """A message as it came by SMTP."""

    submitter: Submitter
    mail_from: str
    """The envelope sender; empty for the null sender."""
    recipients: tuple[str, ...]
    """Of the envelope, as given: they decide who gets it, whatever the headers say."""
    content: bytes
    sending_domain_id: str | None
    """The one domain that the credential may send from; None for all of its account."""
