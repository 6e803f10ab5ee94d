"""From what a customer hands in, by API or SMTP, to a message that is stored: checks, composing, the commit.

Both ways lead through `SendAcceptor`, so that nothing can be sent around the checks.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.clock import Clock
from core.config import Settings
from core.services.sends import StoredSend, Submitter
from core.store.blobs import BlobStore
from core.store.db import Database


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


class SendAcceptor:
    """Takes messages to be sent, from any thread."""

    def __init__(self, settings: Settings, database: Database, blobs: BlobStore, clock: Clock) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._clock = clock

    def submit(self, submission: RawSubmission) -> StoredSend:
        """Check, complete and store a message that came by SMTP; when it returns the message is durable.

        Raises `InvalidField` (for good) and `StorageUnavailable` (for now).
        """
        raise NotImplementedError
