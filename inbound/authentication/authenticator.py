"""All checks of one message, together: what the receiver and its rules ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from core.authentication.spf import SpfQuestion, check_spf
from core.clock import SECOND_MS, Clock
from core.config import Settings
from core.dns_lookup import DnsLookup, LookupBudget
from core.netguard import IPNetwork
from core.verdicts import (
    ArcVerdict,
    AuthResult,
    DkimSignature,
    DkimVerdict,
    DmarcVerdict,
    SpfVerdict,
    Verdicts,
)
from inbound.authentication.arc import ArcFindings, check_arc, evidence_from
from inbound.authentication.dkim import check_dkim
from inbound.authentication.dmarc import author_domain, check_dmarc, sample_of
from inbound.authentication.header_fields import MessageView, view_message
from inbound.authentication.received import original_client
from inbound.clients import client_ip, is_within

OUR_FAULT = "the check failed here"
"""What a verdict says when an error of ours is behind it."""

log = structlog.get_logger("authentication")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """Who connected, and what it said of itself."""

    remote_ip: str
    helo: str
    mail_from: str
    """The reverse-path without brackets; empty for a bounce."""


class Authenticator:
    """Judges where messages come from. Safe for threads; never raises."""

    def __init__(self, settings: Settings, lookup: DnsLookup, clock: Clock) -> None:
        self._timeout_s = settings.authentication_timeout
        self._receiver = settings.mx_hostname
        self._forwarders = settings.trusted_forwarder_networks
        self._sealers = settings.trusted_sealer_domains
        self._lookup = lookup
        self._clock = clock

    def check(self, raw: bytes, client: ClientFacts) -> Verdicts:
        """Everything about a message, within the time the settings give. A silent DNS makes `temperror`."""
        budget = LookupBudget(self._timeout_s)
        now_ms = self._clock()
        now_s = now_ms // SECOND_MS
        view = _guarded("reading", lambda: view_message(raw), MessageView((), memoryview(b"")))
        dkim = _guarded("DKIM", lambda: check_dkim(view, self._lookup, budget, now_s), _FAILED_DKIM)
        arc = _guarded("ARC", lambda: check_arc(view, self._lookup, budget, self._sealers), _FAILED_ARC)
        judged = _guarded("trusted forwarders", lambda: self._judged_client(view, client), None)
        spf = _guarded("SPF", lambda: self._spf(judged, client, budget), _failed_spf(client))
        dmarc = _guarded("DMARC", lambda: self._dmarc(view, spf, dkim, arc, budget), _FAILED_DMARC)
        is_other = judged is not None and judged != client
        return Verdicts(
            spf=spf,
            dkim=dkim,
            dmarc=dmarc,
            arc=arc.verdict,
            judged_ip=judged.remote_ip if judged is not None and is_other else None,
            judged_helo=judged.helo if judged is not None and is_other else None,
            checked_ms=now_ms,
        )

    def check_spf(self, client: ClientFacts) -> SpfVerdict:
        """SPF alone, before there is a message. Behind a trusted forwarder nobody can be judged yet: `none`."""
        budget = LookupBudget(self._timeout_s)
        judged = None if self._is_forwarder(client) else client
        return _guarded("SPF", lambda: self._spf(judged, client, budget), _failed_spf(client))

    def _is_forwarder(self, client: ClientFacts) -> bool:
        return is_within(client_ip(client.remote_ip), self._forwarders)

    def _judged_client(self, view: MessageView, client: ClientFacts) -> ClientFacts | None:
        """The client that SPF is about; None when a trusted forwarder does not say."""
        return _named_client(view, client, self._forwarders)

    def _spf(self, judged: ClientFacts | None, client: ClientFacts, budget: LookupBudget) -> SpfVerdict:
        if judged is None:
            domain = (client.mail_from or client.helo).rpartition("@")[2].lower()
            reason = "the client is a trusted forwarder, and who handed it the mail is not known"
            return SpfVerdict(AuthResult.NONE, domain, not client.mail_from, reason)
        question = SpfQuestion(
            judged.remote_ip, judged.helo, judged.mail_from, self._receiver, self._clock() // SECOND_MS
        )
        return check_spf(question, self._lookup, budget)

    def _dmarc(
        self, view: MessageView, spf: SpfVerdict, dkim: DkimVerdict, arc: ArcFindings, budget: LookupBudget
    ) -> DmarcVerdict:
        domain = author_domain(view)
        relayed = evidence_from(arc.relayed, domain)
        sample = sample_of(b"".join(field.raw for field in view.fields))
        return check_dmarc(domain, spf, dkim, relayed, sample, self._lookup, budget)


def behind_forwarders(raw: bytes, client: ClientFacts, forwarders: Sequence[IPNetwork]) -> ClientFacts | None:
    """Who sent a message, as the forwarders we trust tell: the client itself when it is none of them, None when they do
    not say. Never raises."""
    return _guarded("trusted forwarders", lambda: _named_client(view_message(raw), client, forwarders), None)


def _named_client(view: MessageView, client: ClientFacts, forwarders: Sequence[IPNetwork]) -> ClientFacts | None:
    if not is_within(client_ip(client.remote_ip), forwarders):
        return client
    received = [field.value.decode("utf-8", "replace") for field in view.named(b"received")]
    hop = original_client(received, forwarders)
    return None if hop is None else ClientFacts(hop.ip, hop.helo, client.mail_from)


_FAILED_DKIM = DkimVerdict((DkimSignature(AuthResult.TEMPERROR, "", "", reason=OUR_FAULT),))
_FAILED_ARC = ArcFindings(ArcVerdict(AuthResult.TEMPERROR))
_FAILED_DMARC = DmarcVerdict(AuthResult.TEMPERROR, "")


def _failed_spf(client: ClientFacts) -> SpfVerdict:
    domain = (client.mail_from or client.helo).rpartition("@")[2].lower()
    return SpfVerdict(AuthResult.TEMPERROR, domain, not client.mail_from, OUR_FAULT)


def _guarded(check: str, run: Callable[[], Found], otherwise: Found) -> Found:
    """An error of ours must not lose mail, nor look like the sender's."""
    try:
        return run()
    except Exception:
        log.exception("an authentication check failed", check=check)
        return otherwise
