"""Finding out about one message what payloads tell and rules go by: the checks, and the judgement that follows.

Made once for each message: by the receiver when an answer to the sender depends on it, else by the worker before the
first attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from core.address_settings import AddressSettings
from core.clock import Clock
from core.config import Settings
from core.dns_lookup import open_lookup
from core.envelope import Envelope
from core.netguard import IPNetwork
from core.rule_facts import Content, Facts
from core.rules import Judgement, Rule, judge
from core.verdicts import Verdicts
from inbound.authentication import Authenticator, ClientFacts, behind_forwarders, from_domain
from inbound.clients import is_within
from inbound.reading.parsed import ParsedMessage
from inbound.scanning import MailFacts, Scanners

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
    forwarders: tuple[IPNetwork, ...] = ()
    """Hosts that we trust to say whom they had a mail from; they are never the client that rules are about."""

    @property
    def finds_nothing(self) -> bool:
        """Whether no check is switched on."""
        return (
            self.authenticator is None
            and not self.scanners.scores
            and not self.scanners.scans_attachments
            and not self.forwarders
        )

    def inspect(self, raw: bytes, message: Reader, envelope: Envelope) -> Verdicts | None:
        """What there is to find out, None when no check is switched on. Never raises for what a message holds."""
        if self.finds_nothing:
            return None
        client = ClientFacts(envelope.remote_ip, envelope.helo, envelope.mail_from)
        verdicts = self._who(raw, client) if self.authenticator is None else self.authenticator.check(raw, client)
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

    def judge(self, case: Case) -> Judgement:
        """What becomes of a mail, by all that will ever be known."""
        envelope = case.envelope
        needs_content = any(rule.conditions.needs.content for rule in case.rules)
        is_hidden = is_within(envelope.remote_ip, self.forwarders)  # unless the verdicts name whom it had the mail from
        facts = Facts(
            remote_ip=None if is_hidden else envelope.remote_ip,
            helo=None if is_hidden else envelope.helo,
            mail_from=envelope.mail_from,
            recipients=envelope.recipients,
            size=case.size,
            content=_content(case.message()) if needs_content else None,
            verdicts=envelope.verdicts,
        )
        return judge(case.rules, facts, case.settings)

    def _who(self, raw: bytes, client: ClientFacts) -> Verdicts:
        """Without authentication all that is found out of a client is who stands behind a forwarder."""
        named = behind_forwarders(raw, client, self.forwarders)
        if named is None or named == client:
            return Verdicts()
        return Verdicts(judged_ip=named.remote_ip, judged_helo=named.helo)


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
    return Inspector(authenticator, Scanners(settings, lookup), longest_s, clock, settings.trusted_forwarder_networks)


@dataclass(frozen=True, slots=True)
class Case:
    """A mail about to be judged for one delivery."""

    envelope: Envelope
    """With the verdicts, as far as there are any, and the recipients of this delivery."""
    size: int
    message: Reader
    rules: Sequence[Rule]
    settings: AddressSettings


def _content(message: ParsedMessage) -> Content:
    senders = [value for name, value in message.headers if name.lower() == "from"]
    return Content(
        from_domain=from_domain(senders),
        subject=message.subject or "",
        attachments=tuple((entry.file_name, entry.content_type) for entry in message.attachments),
    )
