"""Whether customers have published what their sending domains need; asked of the DNS, never of what we remember.

A DNS that fails makes a check "unknown", never wrong. Only the key shows that a domain is its customer's: the other
records are the same for everybody who sends through this gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.authentication.keys import KeyProblem, SignerKey, read_key
from core.authentication.tags import MalformedTags
from core.clock import Clock, system_clock
from core.dns_lookup import DnsLookup, LookupFailed, RecordType
from core.mta_sts import DnsRecord
from core.sending.domain_dmarc import check_policy
from core.sending.domain_questions import Questions, shown
from core.sending.domain_spf import check_sender_policy
from core.sending.domain_status import CheckResult, CheckState, DomainStatus, Expectation, KeyStatus
from core.sending.sending_domains import (
    MX_PREFERENCE,
    KeyAlgorithm,
    SendingHosts,
    algorithm_of,
    key_name,
    mta_domain,
    public_octets,
    signing_domains,
)

WAIT = "DNS providers take minutes, some an hour, to show a change; then verify again."
_ZONE_FILE_SIGNS = (b'"', b"\\")


class DomainVerifier:
    """Verifies sending domains. Safe for threads."""

    def __init__(self, lookup: DnsLookup, clock: Clock = system_clock) -> None:
        self._lookup = lookup
        self._clock = clock

    def verify(self, expectation: Expectation, questions: Questions | None = None) -> DomainStatus:
        """Ask for everything, within `domain_questions.VERIFY_S` seconds. Never raises because of the DNS.

        Verifications that share `questions` share that time, and what was answered.
        """
        questions = questions or Questions(self._lookup)
        domain, hosts = expectation.domain, expectation.hosts
        key = _check_key(domain, expectation.selector, expectation.public_record, questions)
        path = _ReturnPath(domain, hosts, questions).check()
        spf = check_sender_policy(domain, hosts, path.is_alias_of_ours, questions, self._clock)
        dmarc = check_policy(domain, hosts.report_address, key.signing_domain, questions)
        return DomainStatus(key.check, path.result, spf, dmarc.check, key.signing_domain, dmarc.policy)

    def check_key(
        self, domain: str, selector: str, public_record: str, questions: Questions | None = None
    ) -> KeyStatus:
        """One key only: a second one beside the key in use, before it takes over."""
        return _check_key(domain, selector, public_record, questions or Questions(self._lookup))


class _Finding(NamedTuple):
    """What the texts at one name amount to."""

    state: CheckState
    cure: str = ""


def _check_key(domain: str, selector: str, public_record: str, questions: Questions) -> KeyStatus:
    names = {key_name(selector, signer): signer for signer in signing_domains(domain)}
    looked_for = tuple(DnsRecord(name, "TXT", public_record) for name in names)
    wrong: CheckResult | None = None
    failure: LookupFailed | None = None
    for name, signer in names.items():
        try:
            texts = questions.texts(name)
        except LookupFailed as error:
            failure = failure or error
            continue
        finding = _judge_key(name, texts, _our_key(public_record))
        result = CheckResult(finding.state, looked_for, shown(name, RecordType.TXT, texts), finding.cure)
        if result.verified:
            return KeyStatus(result, signer)
        if finding.state is CheckState.WRONG:
            wrong = wrong or result
    if failure is not None:
        return KeyStatus(questions.unknown(looked_for, failure))
    return KeyStatus(wrong or _missing_key(looked_for, domain, questions))


def _our_key(public_record: str) -> SignerKey:
    """Raises `ValueError` if it is no record of ours, which only an error of ours can make it."""
    for algorithm in KeyAlgorithm:
        try:
            return read_key(public_record.encode(), algorithm.value)
        except (KeyProblem, MalformedTags):
            continue
    raise ValueError("the public record of a sending domain cannot be read")


def _judge_key(name: str, texts: Sequence[bytes], ours: SignerKey) -> _Finding:
    """Whether verifiers will find our key there."""
    if not texts:
        return _Finding(CheckState.MISSING)
    if len(texts) > 1:
        count = len(texts)
        return _Finding(
            CheckState.WRONG,
            f"There are {count} TXT records at {name}, and receivers use any of them (RFC 6376 section 3.6.2.2); "
            "leave only ours.",
        )
    replace = f"Replace the TXT record at {name} by ours."
    try:
        found = read_key(texts[0], algorithm_of(ours.public).value)
    except MalformedTags as error:
        return _Finding(CheckState.WRONG, f"{_no_key_because(texts[0], error)} {replace}")
    except KeyProblem as error:
        return _Finding(CheckState.WRONG, f"The key there is of no use: {error.reason}. {replace}")
    if public_octets(found.public) != public_octets(ours.public):
        return _Finding(CheckState.WRONG, f"The key there is another one. {replace}")
    advice = "The key is marked for testing (t=y), and some receivers ignore such keys; remove that."
    return _Finding(CheckState.VERIFIED, advice if found.is_testing else "")


def _no_key_because(text: bytes, error: MalformedTags) -> str:
    if any(character in text for character in _ZONE_FILE_SIGNS):
        return "The record holds quotation marks or backslashes, which are only for zone files; enter it without them."
    return f"The record there is no key ({error}), or was cut off."


def _missing_key(looked_for: tuple[DnsRecord, ...], domain: str, questions: Questions) -> CheckResult:
    name = looked_for[0].name
    doubled = questions.doubled(name, domain, RecordType.TXT)
    if doubled is not None:
        return CheckResult(CheckState.MISSING, looked_for, cure=_doubled_cure(doubled, name))
    return CheckResult(CheckState.MISSING, looked_for, cure=f"Add the TXT record at {name}. {WAIT}")


class _PathFinding(NamedTuple):
    """The return path, and whether it leads to our records by an alias."""

    result: CheckResult
    is_alias_of_ours: bool = False


class _ReturnPath:
    """Whether bounces to `mta.<domain>` come to us: by a CNAME to our host, or an MX record that names our receiver."""

    def __init__(self, domain: str, hosts: SendingHosts, questions: Questions) -> None:
        self._domain = domain
        self._name = mta_domain(domain)
        self._hosts = hosts
        self._questions = questions
        self._looked_for = (
            DnsRecord(self._name, "CNAME", hosts.return_path_host),
            DnsRecord(self._name, "MX", f"{MX_PREFERENCE} {hosts.mx_hostname}"),
        )

    def check(self) -> _PathFinding:
        """The finding; a DNS that fails makes it unknown."""
        try:
            return self._check()
        except LookupFailed as error:
            return _PathFinding(self._questions.unknown(self._looked_for, error))

    def _check(self) -> _PathFinding:
        goal = self._hosts.return_path_host.lower()
        aliases = self._questions.aliases(self._name, goal)
        exchanges = self._questions.exchanges(self._name)
        if goal in aliases:
            return _PathFinding(self._check_alias(aliases, exchanges), is_alias_of_ours=True)
        best = [host for preference, host in exchanges if preference == exchanges[0][0]]
        hosts = tuple(f"{preference} {host}" for preference, host in exchanges)
        found = (*_alias(self._name, aliases), *shown(self._name, RecordType.MX, hosts))
        if best == [self._hosts.mx_hostname.lower()]:
            return _PathFinding(self._result(CheckState.VERIFIED, found))
        if found:
            return _PathFinding(self._result(CheckState.WRONG, found, self._wrong_cure(aliases)))
        return _PathFinding(self._missing())

    def _check_alias(self, aliases: Sequence[str], exchanges: Sequence[tuple[int, str]]) -> CheckResult:
        """What the alias leads to is the operator's to choose, but must take mail: bounces would be lost, and many
        receivers refuse mail from senders that cannot be written to. Raises `LookupFailed`."""
        found = _alias(self._name, aliases)
        if any(host for _, host in exchanges) or (not exchanges and self._questions.addresses(self._name)):
            return self._result(CheckState.VERIFIED, found)
        host = self._hosts.return_path_host
        cure = f"{host} takes no mail: for the operator of this gateway to mend. It needs the record {host} MX "
        return self._result(CheckState.WRONG, found, f"{cure}{MX_PREFERENCE} {self._hosts.mx_hostname}")

    def _result(self, state: CheckState, found: tuple[DnsRecord, ...], cure: str = "") -> CheckResult:
        return CheckResult(state, self._looked_for, found, cure)

    def _wrong_cure(self, aliases: Sequence[str]) -> str:
        wanted = f"make it a CNAME of {self._hosts.return_path_host}"
        if aliases:
            return f"{self._name} points elsewhere; {wanted}. {WAIT}"
        return (
            f"The first MX of {self._name} must be {self._hosts.mx_hostname} alone, or bounces go elsewhere; "
            f"better remove its records and {wanted}. {WAIT}"
        )

    def _missing(self) -> CheckResult:
        host = self._hosts.return_path_host
        addresses = self._questions.addresses(self._name)
        if addresses:
            cure = (
                f"{self._name} has an address but is no CNAME. If your DNS provider offers to pass traffic through its "
                f"own servers (a proxy), switch that off for this name; else replace the address by a CNAME of {host}."
            )
            return self._result(CheckState.WRONG, shown(self._name, RecordType.A, addresses), cure)
        doubled = self._questions.doubled(self._name, self._domain, RecordType.CNAME)
        if doubled is not None:
            return self._result(CheckState.MISSING, (), _doubled_cure(doubled, self._name))
        return self._result(CheckState.MISSING, (), f"Make {self._name} a CNAME of {host}. {WAIT}")


def _alias(name: str, aliases: Sequence[str]) -> tuple[DnsRecord, ...]:
    return shown(name, RecordType.CNAME, aliases[:1])


def _doubled_cure(doubled: str, name: str) -> str:
    return (
        f"The record is at {doubled}: your DNS provider appends the domain by itself. "
        f"Enter the name without it, so that the record lies at {name}."
    )
