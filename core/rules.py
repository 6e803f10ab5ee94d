"""What becomes of a mail: an address's rules, in their order, then its own reactions to failed checks. Pure, no I/O.

A rule that says allow, reject or quarantine decides; those behind it can only add flags, and behind `allow` nothing
is asked at all, the checks neither. The receiver asks twice: `judge_early` at RCPT, for what is certain already, and
`judge` after DATA where a refusal depends on more (`rejects_need`); the worker judges everything that was accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import orjson
from pydantic import TypeAdapter

from core.address_settings import DEFAULT_ADDRESS_SETTINGS, AddressSettings, FailAction, OnScannerFailure
from core.rule_conditions import NOTHING_NEEDED, Conditions, InspectionNeeds, Phase
from core.rule_facts import NOTHING_KNOWN, Facts, Known, work_up
from core.verdicts import AuthResult, DmarcPolicy, ScanStatus, SpamVerdict, Verdicts


class RuleAction(StrEnum):
    """What a rule says of the mail it matches."""

    ALLOW = "allow"
    """Accept it, whatever rules behind this one and checks would say."""
    REJECT = "reject"
    QUARANTINE = "quarantine"
    FLAG = "flag"
    """Mark it, and ask on."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of an account, or of one of its addresses."""

    rule_id: str
    address_id: str | None
    """None: for all addresses of the account."""
    position: int
    action: RuleAction
    conditions: Conditions
    note: str | None = None
    """The customer's own words: what it is for, and the flag that it sets."""

    @property
    def flag(self) -> str:
        """How its match is written among the flags."""
        return self.note or f"rule {self.rule_id}"


class JudgedAction(StrEnum):
    """What becomes of a mail."""

    ACCEPT = "accept"
    QUARANTINE = "quarantine"
    REJECT = "reject"


class Cause(StrEnum):
    """What led to it."""

    RULE = "rule"
    SPF = "spf"
    DKIM = "dkim"
    DMARC = "dmarc"
    SPAM = "spam"
    VIRUS = "virus"
    SCANNER = "scanner"


_SENDER_TEXT = {
    Cause.RULE: "the recipient does not accept this message",
    Cause.SPF: "the sender's domain does not let this client send for it (SPF)",
    Cause.DKIM: "no signature of the message is valid (DKIM)",
    Cause.DMARC: "the domain in From asks to refuse what it did not send (DMARC)",
    Cause.SPAM: "the message looks like spam",
    Cause.VIRUS: "the message carries a virus",
    Cause.SCANNER: "the message could not be checked",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a mail, and why."""

    action: JudgedAction = JudgedAction.ACCEPT
    reason: str = ""
    """For the customer; it may hold his own words. What the sender may know is `sender_text`."""
    rule_id: str | None = None
    cause: Cause | None = None
    """None when nothing decided: it is accepted because nothing spoke against it."""
    flags: tuple[str, ...] = ()

    @property
    def sender_text(self) -> str:
        """The reason as a sender may hear it in a refusal: ASCII, and nothing of the customer's."""
        return _SENDER_TEXT[self.cause] if self.cause else ""

    def after_acceptance(self) -> Judgement:
        """The same for mail that was answered with 250 already: too late to reject, so it is held."""
        return replace(self, action=JudgedAction.QUARANTINE) if self.action is JudgedAction.REJECT else self

    def to_json(self) -> str:
        """For the database."""
        return orjson.dumps(self).decode()


_ADAPTER: TypeAdapter[Judgement] = TypeAdapter(Judgement)
_DECIDES = {
    RuleAction.ALLOW: JudgedAction.ACCEPT,
    RuleAction.REJECT: JudgedAction.REJECT,
    RuleAction.QUARANTINE: JudgedAction.QUARANTINE,
}
_FOLLOWS = {
    FailAction.FLAG: JudgedAction.ACCEPT,
    FailAction.QUARANTINE: JudgedAction.QUARANTINE,
    FailAction.REJECT: JudgedAction.REJECT,
}
_SEVERITY = {JudgedAction.ACCEPT: 0, JudgedAction.QUARANTINE: 1, JudgedAction.REJECT: 2}
_BAD_SIGNATURES = (AuthResult.FAIL, AuthResult.PERMERROR, AuthResult.POLICY, AuthResult.NEUTRAL)
"""Not `temperror`: a DNS that does not answer says nothing about the sender, and that signature may be good."""
_OPEN_DMARC = (None, DmarcPolicy.NONE)
SPF_SOFTFAIL = "spf_softfail"


def read_judgement(text: str) -> Judgement:
    """What `to_json` wrote."""
    return _ADAPTER.validate_json(text)


def judge(rules: Sequence[Rule], facts: Facts, settings: AddressSettings = DEFAULT_ADDRESS_SETTINGS) -> Judgement:
    """Judge by all that will ever be known: a condition about what was not found out is not met.

    `rules` are those of the address, in their order.
    """
    decided, flags = _ask_rules(rules, facts)
    if decided is not None and decided.action is RuleAction.ALLOW:
        return _by_rule(decided, flags)
    failures = _failures(facts.verdicts, settings)
    flags = (*flags, *(failure.flag for failure in failures))
    if decided is not None:
        return _by_rule(decided, flags)
    if not failures:
        return Judgement(flags=flags)
    worst = max(failures, key=lambda failure: _SEVERITY[failure.action])
    if worst.action is JudgedAction.ACCEPT:
        return Judgement(flags=flags)
    return Judgement(worst.action, worst.reason, None, worst.cause, flags)


def judge_early(rules: Sequence[Rule], facts: Facts) -> Judgement | None:
    """The judgement by rules that no further fact can change; None while there is none.

    Failed checks are never judged early: the content may bring a seal that excuses them.
    """
    if not rules:
        return None
    known = work_up(facts)
    for rule in rules:
        if rule.action is RuleAction.FLAG:
            continue
        met = rule.conditions.hold(known)
        if met is None:
            return None
        if met:
            return _by_rule(rule, ())
    return None


def phase_of(rules: Iterable[Rule]) -> Phase:
    """The first phase at which all of these rules have their answers."""
    return max((rule.conditions.phase for rule in rules), default=Phase.RECIPIENT)


def may_still_reject(settings: AddressSettings, rules: Sequence[Rule], facts: Facts) -> bool:
    """Whether a mail of which this is known may yet be judged to be rejected, so that it must be judged before it is
    accepted. True also where that takes no inspection, only reading on: its size, or a client that was hidden."""
    return _outlook(settings, rules, work_up(facts)).is_possible


def rejects_need(settings: AddressSettings, rules: Sequence[Rule], facts: Facts | None = None) -> InspectionNeeds:
    """What must be found out while the sender waits, because it decides whether the mail is rejected.

    `facts` are what is known already and narrow it down; without them, any mail is meant. What is not needed for that
    can be found out after the 250.
    """
    return _outlook(settings, rules, work_up(facts) if facts is not None else NOTHING_KNOWN).needs


@dataclass(frozen=True, slots=True)
class _Outlook:
    """Whether a mail may be rejected, and by what that is decided."""

    is_possible: bool
    needs: InspectionNeeds


def _outlook(settings: AddressSettings, rules: Sequence[Rule], known: Known) -> _Outlook:
    waiting, needed, is_possible = NOTHING_NEEDED, NOTHING_NEEDED, False
    for rule in rules:
        met = rule.conditions.hold(known)
        if met is False or rule.action is RuleAction.FLAG:
            continue
        # An open rule before a reject matters whatever it says: were it to match, the reject would not be reached.
        waiting |= rule.conditions.open_needs(known)
        if rule.action is RuleAction.REJECT:
            needed |= waiting
            is_possible = True
        if met:
            return _Outlook(is_possible, needed)
    checks = _rejecting_checks(settings)
    return _Outlook(True, needed | waiting | checks) if checks else _Outlook(is_possible, needed)


def _rejecting_checks(settings: AddressSettings) -> InspectionNeeds:
    authentication = (settings.on_spf_fail, settings.on_dkim_fail, settings.on_dmarc_fail)
    return InspectionNeeds(
        authentication=FailAction.REJECT in authentication,
        spam=settings.on_spam is FailAction.REJECT,
        virus=settings.on_virus is FailAction.REJECT,
    )


def _ask_rules(rules: Sequence[Rule], facts: Facts) -> tuple[Rule | None, tuple[str, ...]]:
    """The rule that decides, if any, and the flags of all that match."""
    if not rules:
        return None, ()
    known = work_up(facts)
    decided: Rule | None = None
    flags: list[str] = []
    for rule in rules:
        is_flag = rule.action is RuleAction.FLAG
        if (decided is not None and not is_flag) or not rule.conditions.hold(known):
            continue
        if is_flag:
            flags.append(rule.flag)
            continue
        decided = rule
        if rule.action is RuleAction.ALLOW:
            break
    return decided, tuple(dict.fromkeys(flags))


def _by_rule(rule: Rule, flags: tuple[str, ...]) -> Judgement:
    reason = f"rule {rule.rule_id}: {rule.note}" if rule.note else f"rule {rule.rule_id}"
    return Judgement(_DECIDES[rule.action], reason, rule.rule_id, Cause.RULE, flags)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A check that failed, and what the address makes of it."""

    cause: Cause
    flag: str
    action: JudgedAction
    reason: str


def _failures(verdicts: Verdicts, settings: AddressSettings) -> list[_Failure]:
    """All of them, the one to name first in front."""
    found = (
        _virus_failure(verdicts, settings),
        *_authentication_failures(verdicts, settings),
        _spam_failure(verdicts.spam, settings),
        _scanner_failure(verdicts, settings),
    )
    return [failure for failure in found if failure is not None]


def _authentication_failures(verdicts: Verdicts, settings: AddressSettings) -> list[_Failure]:
    """SPF, DKIM and DMARC; a trusted chain (RFC 8617) vouches for what forwarding broke, so they only flag then."""
    is_excused = verdicts.arc is not None and verdicts.arc.is_trusted
    spf, dkim, dmarc = verdicts.spf, verdicts.dkim, verdicts.dmarc
    found: list[_Failure] = []

    def add(cause: Cause, reaction: FailAction, reason: str) -> None:
        action = JudgedAction.ACCEPT if is_excused else _FOLLOWS[reaction]
        found.append(_Failure(cause, f"{cause}_fail", action, reason))

    if dmarc is not None and dmarc.result is AuthResult.FAIL and dmarc.policy not in _OPEN_DMARC:
        add(Cause.DMARC, settings.on_dmarc_fail, f"DMARC fails for {dmarc.domain}, whose policy is {dmarc.policy}")
    if spf is not None and spf.result is AuthResult.FAIL:
        add(Cause.SPF, settings.on_spf_fail, f"SPF fails for {spf.domain}")
    if spf is not None and spf.result is AuthResult.SOFTFAIL:
        found.append(_Failure(Cause.SPF, SPF_SOFTFAIL, JudgedAction.ACCEPT, f"SPF softly fails for {spf.domain}"))
    if dkim is not None and dkim.signatures and all(one.result in _BAD_SIGNATURES for one in dkim.signatures):
        add(Cause.DKIM, settings.on_dkim_fail, "no DKIM signature passes")
    return found


def _spam_failure(spam: SpamVerdict | None, settings: AddressSettings) -> _Failure | None:
    if spam is None or not spam.success:
        return None
    threshold = settings.spam_threshold
    is_over = spam.is_spam if threshold is None or spam.score is None else spam.score >= threshold
    if not is_over:
        return None
    limit = "the scanner calls that spam" if threshold is None else f"the threshold is {threshold:g}"
    score = "unknown" if spam.score is None else f"{spam.score:g}"
    return _Failure(Cause.SPAM, "spam", _FOLLOWS[settings.on_spam], f"spam score {score}, {limit}")


def _virus_failure(verdicts: Verdicts, settings: AddressSettings) -> _Failure | None:
    names = [name for scan in verdicts.scans or () if scan.status is ScanStatus.FOUND for name in scan.matches]
    if not any(scan.status is ScanStatus.FOUND for scan in verdicts.scans or ()):
        return None
    reason = f"virus found: {', '.join(names)}" if names else "virus found"
    return _Failure(Cause.VIRUS, "virus", _FOLLOWS[settings.on_virus], reason)


def _scanner_failure(verdicts: Verdicts, settings: AddressSettings) -> _Failure | None:
    spam = verdicts.spam
    did_spam_fail = spam is not None and not spam.success and not spam.is_skipped
    did_virus_fail = any(scan.status in (ScanStatus.FAILED, ScanStatus.PENDING) for scan in verdicts.scans or ())
    if not (did_spam_fail or did_virus_fail):
        return None
    held = settings.on_scanner_failure is OnScannerFailure.HOLD
    which = " and ".join(["spam"] * did_spam_fail + ["virus"] * did_virus_fail)
    action = JudgedAction.QUARANTINE if held else JudgedAction.ACCEPT
    return _Failure(Cause.SCANNER, "scanner_failure", action, f"the {which} scanner gave no answer")
