"""Finding out about one message what payloads tell and rules go by: the checks, and the judgement that follows.

Made once for each message: by the receiver when an answer to the sender depends on it, else by the worker before the
first attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from core.address_settings import AddressSettings
from core.clock import Clock
from core.config import Settings
from core.dns_lookup import open_lookup
from core.envelope import Envelope
from core.rule_facts import Content, Facts
from core.rules import Judgement, Rule, judge
from core.verdicts import Verdicts
from inbound.authentication import Authenticator, ClientFacts, from_domain
from inbound.parsed import ParsedMessage
from inbound.scanning import MailFacts, Scanners

log = structlog.get_logger("inspection")

Reader = Callable[[], ParsedMessage]
"""Gives the parsed message; cached, so that it is parsed once."""


@dataclass(frozen=True, slots=True)
class Inspector:
    """Makes the checks that are switched on, from any thread."""

    authenticator: Authenticator | None
    scanners: Scanners
    longest_s: int
    """How long an inspection may take."""
    clock: Clock

    @property
    def finds_nothing(self) -> bool:
        """Whether no check is switched on."""
        return self.authenticator is None and not self.scanners.scores and not self.scanners.scans_attachments

    def inspect(self, raw: bytes, message: Reader, envelope: Envelope) -> Verdicts | None:
        """What there is to find out, None when no check is switched on. Never raises for what a message holds."""
        if self.finds_nothing:
            return None
        client = ClientFacts(envelope.remote_ip, envelope.helo, envelope.mail_from)
        verdicts = Verdicts() if self.authenticator is None else self.authenticator.check(raw, client)
        deadline = self.scanners.new_deadline()
        if self.scanners.scores:
            facts = MailFacts(
                remote_ip=verdicts.judged_ip or envelope.remote_ip,
                helo=verdicts.judged_helo or envelope.helo,
                mail_from=envelope.mail_from,
                recipients=envelope.recipients,
            )
            verdicts = replace(verdicts, spam=self.scanners.score(raw, facts, deadline))
        if self.scanners.scans_attachments:
            contents = [attachment.content for attachment in message().attachments]
            verdicts = replace(verdicts, scans=self.scanners.scan(contents, deadline))
        return replace(verdicts, checked_ms=self.clock())


def open_inspector(settings: Settings, clock: Clock) -> Inspector:
    """The inspector that the settings describe. Raises `ConfigurationError`."""
    lookup = open_lookup(settings, clock)
    authenticator = None
    longest_s = 0
    if settings.checks_authentication:
        authenticator = Authenticator(settings, lookup, clock)
        longest_s += settings.authentication_timeout
    if settings.spamd or settings.rspamd or settings.clamd:
        longest_s += settings.scan_timeout
    return Inspector(authenticator, Scanners(settings, lookup), longest_s, clock)


@dataclass(frozen=True, slots=True)
class Case:
    """A mail about to be judged for one delivery."""

    envelope: Envelope
    """With the verdicts, as far as there are any, and the recipients of this delivery."""
    size: int
    message: Reader
    rules: Sequence[Rule]
    settings: AddressSettings


def judge_case(case: Case) -> Judgement:
    """What becomes of it, by all that will ever be known."""
    needs_content = any(rule.conditions.needs.content for rule in case.rules)
    facts = Facts(
        remote_ip=case.envelope.remote_ip,
        helo=case.envelope.helo,
        mail_from=case.envelope.mail_from,
        recipients=case.envelope.recipients,
        size=case.size,
        content=_content(case.message()) if needs_content else None,
        verdicts=case.envelope.verdicts,
    )
    return judge(case.rules, facts, case.settings)


def _content(message: ParsedMessage) -> Content:
    senders = [value for name, value in message.headers if name.lower() == "from"]
    return Content(
        from_domain=from_domain(senders),
        subject=message.subject or "",
        attachments=tuple((entry.file_name, entry.content_type) for entry in message.attachments),
    )
