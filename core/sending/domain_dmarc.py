"""Whether a sending domain has a DMARC policy, and whether mail that we send for it can satisfy it (RFC 7489)."""

from __future__ import annotations

from typing import NamedTuple

from core.authentication.dmarc_record import DmarcRecord, is_policy, organizational_domain, read_policy
from core.authentication.tags import MalformedTags, read_tags
from core.dns_lookup import LookupFailed, RecordType
from core.sending.domain_questions import Questions, shown
from core.sending.domain_status import CheckResult, CheckState
from core.sending.sending_domains import POLICY_PREFIX, dmarc_suggestion
from core.verdicts import DmarcPolicy


class PolicyStatus(NamedTuple):
    """The check, and the policy in force."""

    check: CheckResult
    policy: DmarcPolicy | None = None


def check_policy(
    domain: str, report_address: str | None, signing_domain: str | None, questions: Questions
) -> PolicyStatus:
    """The DMARC check: the domain's own record, or that of its organizational domain (RFC 7489 section 6.6.3).

    `signing_domain` is `d=` of our signatures, as far as it is known.
    """
    suggestion = dmarc_suggestion(domain, report_address)
    looked_for = (suggestion,)
    try:
        for place in dict.fromkeys((domain, organizational_domain(domain))):
            name = f"{POLICY_PREFIX}{place}"
            policies = [text for text in questions.texts(name) if is_policy(text)]
            if not policies:
                continue
            found = shown(name, RecordType.TXT, policies)
            record = read_policy(policies)
            if record is None:
                cure = (
                    f"At {name} is more than one policy, or one that cannot be read; leave one like {suggestion.value}"
                )
                return PolicyStatus(CheckResult(CheckState.WRONG, looked_for, found, cure))
            advice = " ".join(_advice(record, policies[0], domain, report_address, signing_domain))
            check = CheckResult(CheckState.VERIFIED, looked_for, found, advice)
            return PolicyStatus(check, record.policy if place == domain else record.subdomain_policy)
    except LookupFailed as error:
        return PolicyStatus(questions.unknown(looked_for, error))
    cure = f"Not required, but large receivers want one: add the TXT record at {suggestion.name}."
    return PolicyStatus(CheckResult(CheckState.MISSING, looked_for, cure=cure))


def _advice(
    record: DmarcRecord, text: bytes, domain: str, report_address: str | None, signing_domain: str | None
) -> list[str]:
    advice = []
    if record.is_dkim_strict and signing_domain not in (None, domain):
        advice.append(
            f"adkim=s does not let signatures of {signing_domain} count for {domain}; publish the key below {domain}."
        )
    if report_address and report_address.lower() not in _reports(text):
        advice.append(f"To see reports here, add mailto:{report_address} to rua=.")
    return advice


def _reports(text: bytes) -> str:
    """`rua=`, lower-case; empty when it cannot be read."""
    try:
        return read_tags(text).text("rua")
    except MalformedTags:
        return ""
