"""The scanners as the settings name them: one spam verdict a message, one virus scan an attachment.

Nothing here raises for what a scanner does, and everything for one message is over by its deadline.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Protocol

from core.clock import Clock, system_clock
from core.config import Settings
from core.dns_lookup import DnsLookup, open_lookup
from core.verdicts import AttachmentScan, ScanStatus, SpamVerdict
from inbound.scanning.availability import Availability
from inbound.scanning.clamd import Clamd, ClamdSession
from inbound.scanning.connection import Deadline, MonotonicClock
from inbound.scanning.endpoint import read_endpoint, read_url
from inbound.scanning.facts import MailFacts
from inbound.scanning.failures import Declined, ScannerFailure, Unreachable
from inbound.scanning.introduction import introduce
from inbound.scanning.reverse_names import confirmed_name
from inbound.scanning.rspamd import Rspamd
from inbound.scanning.spamd import Spamd

NO_MATCHES: tuple[str, ...] = ()


class SpamScanner(Protocol):
    """What spamd and rspamd have in common."""

    max_message_bytes: int | None
    """Larger messages are not given to it."""

    def ping(self, deadline: Deadline) -> None:
        """Raises `ScannerFailure` unless it is alive."""

    def score(self, raw: bytes, facts: MailFacts, deadline: Deadline) -> SpamVerdict:
        """Judge a message. Raises `ScannerFailure`."""


class Scanners:
    """All scanners of this process; may be used from many threads at once.

    Raises `ConfigurationError` for settings that cannot be used. Connects to nothing until there is a message.
    `lookup` finds the names of clients for spamd; without one it opens its own.
    """

    def __init__(
        self,
        settings: Settings,
        lookup: DnsLookup | None = None,
        clock: MonotonicClock = time.monotonic,
        wall_clock: Clock = system_clock,
    ) -> None:
        self._clock = clock
        self._timeout_s = settings.scan_timeout
        self._spam = _spam_scanner(settings, lookup, wall_clock)
        self._virus = Clamd(read_endpoint("PILLARBOX_CLAMD", settings.clamd)) if settings.clamd else None
        if self._spam is not None:
            name = "rspamd" if isinstance(self._spam, Rspamd) else "spamd"
            self._spam_availability = Availability(name, self._spam.ping, clock)
        if self._virus is not None:
            self._virus_availability = Availability("clamd", self._virus.ping, clock)

    @property
    def scores(self) -> bool:
        """Whether a spam scanner is configured."""
        return self._spam is not None

    @property
    def scans_attachments(self) -> bool:
        """Whether a virus scanner is configured."""
        return self._virus is not None

    def new_deadline(self) -> Deadline:
        """The time for one message begins now; `scan` and `score` share it."""
        return Deadline(self._timeout_s, self._clock)

    def score(self, raw: bytes, facts: MailFacts, deadline: Deadline | None = None) -> SpamVerdict | None:
        """What the spam scanner says; None when there is none.

        Without success, `description` says why in words that customers may read.
        """
        scanner = self._spam
        if scanner is None:
            return None
        limit = scanner.max_message_bytes
        if limit is not None and len(raw) > limit:
            description = f"not scored: {len(raw)} bytes, and the scanner is given at most {limit}"
            return SpamVerdict(success=False, description=description, is_skipped=True)
        until = deadline or self.new_deadline()
        try:
            return self._spam_availability.run(until, lambda: scanner.score(raw, facts, until))
        except Declined:
            return _unscored("not scored: the scanner refused the message")
        except ScannerFailure:  # logged already; its text names hosts, which are not the customer's business
            return _unscored("not scored: the scanner did not answer")

    def scan(self, contents: Sequence[bytes], deadline: Deadline | None = None) -> tuple[AttachmentScan, ...] | None:
        """What the virus scanner says to each content, in their order; None when there is no scanner."""
        if self._virus is None:
            return None
        with self._virus.session(deadline or self.new_deadline()) as session:
            return tuple(self._scan_all(session, contents))

    def _scan_all(self, session: ClamdSession, contents: Sequence[bytes]) -> list[AttachmentScan]:
        known: dict[str, AttachmentScan] = {}
        scans = []
        is_reachable = True
        for content in contents:
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 not in known:
                status, matches = ScanStatus.FAILED, NO_MATCHES
                if is_reachable:
                    status, matches, is_reachable = self._scan_one(session, content)
                md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
                known[sha256] = AttachmentScan(status, md5, sha256, matches)
            scans.append(known[sha256])
        return scans

    def _scan_one(self, session: ClamdSession, content: bytes) -> tuple[ScanStatus, tuple[str, ...], bool]:
        """Status, matches, and whether asking for the next content makes sense."""
        try:
            matches = self._virus_availability.run(session.deadline, lambda: session.scan(content))
        except Unreachable:
            return ScanStatus.FAILED, (), False
        except ScannerFailure:
            return ScanStatus.FAILED, (), True
        return ScanStatus.FOUND if matches else ScanStatus.OK, matches, True


def _spam_scanner(settings: Settings, lookup: DnsLookup | None, wall_clock: Clock) -> SpamScanner | None:
    if settings.rspamd:
        return Rspamd(*read_url("PILLARBOX_RSPAMD", settings.rspamd))
    if not settings.spamd:
        return None
    names = lookup or open_lookup(settings)

    def introduction(facts: MailFacts, deadline: Deadline) -> bytes:
        client_name = confirmed_name(names, facts.remote_ip, deadline)
        return introduce(facts, client_name, settings.mx_hostname, wall_clock())

    return Spamd(read_endpoint("PILLARBOX_SPAMD", settings.spamd), introduction)


def _unscored(description: str) -> SpamVerdict:
    return SpamVerdict(success=False, description=description)
