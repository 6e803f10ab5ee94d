"""Whether SPF lets us send for `mta.<domain>`, the envelope sender's domain.

Where the operator has named the addresses that mail leaves from, the real evaluator is asked about each of them, as
receivers do. Where he has not, a record counts that is ours by alias, or that names our hosts in its own terms.
"""

from __future__ import annotations

from core.authentication.spf import SpfQuestion, check_spf
from core.authentication.spf_macros import SpfSyntaxError
from core.authentication.spf_record import Mechanism, SpfRecord, is_spf_record, read_record
from core.clock import SECOND_MS, Clock
from core.dns_lookup import LookupFailed, RecordType
from core.mta_sts import DnsRecord
from core.sending.domain_questions import Questions, shown
from core.sending.domain_status import CheckResult, CheckState
from core.sending.sending_domains import SendingHosts, mta_domain
from core.verdicts import AuthResult, SpfVerdict

_BOUNCES = "bounces"
_OPEN_TO_ALL = "The record ends with +all, so that anybody may send in this name; write -all."


def check_sender_policy(
    domain: str, hosts: SendingHosts, is_alias_of_ours: bool, questions: Questions, clock: Clock
) -> CheckResult:
    """The SPF check. `is_alias_of_ours`: the record is the operator's, found by way of a CNAME."""
    return _SenderPolicy(domain, hosts, is_alias_of_ours, questions, clock).check()


class _SenderPolicy:
    """One check."""

    def __init__(
        self, domain: str, hosts: SendingHosts, is_alias_of_ours: bool, questions: Questions, clock: Clock
    ) -> None:
        self._name = mta_domain(domain)
        self._hosts = hosts
        self._is_alias_of_ours = is_alias_of_ours
        self._questions = questions
        self._clock = clock
        self._looked_for = (
            DnsRecord(self._name, "CNAME", hosts.return_path_host),
            DnsRecord(self._name, "TXT", f"v=spf1 include:{hosts.return_path_host} -all"),
        )

    def check(self) -> CheckResult:
        """The result; a DNS that fails makes it unknown."""
        try:
            policies = [text for text in self._questions.texts(self._name) if is_spf_record(text)]
            state, cure = self._judge(policies)
        except LookupFailed as error:
            return self._questions.unknown(self._looked_for, error)
        return CheckResult(state, self._looked_for, shown(self._name, RecordType.TXT, policies), cure)

    def _judge(self, policies: list[bytes]) -> tuple[CheckState, str]:
        """Raises `LookupFailed`."""
        if not policies:
            return CheckState.MISSING, self._cure(f"There is no SPF record at {self._name}.")
        if len(policies) > 1:
            return CheckState.WRONG, self._cure(f"There is more than one SPF record at {self._name}; leave one.")
        try:
            record = read_record(policies[0])
        except SpfSyntaxError as error:
            return CheckState.WRONG, self._cure(f"The SPF record cannot be read: {error}.")
        problem = self._problem_by_addresses() if self._hosts.sending_ips else self._problem_by_terms(record)
        if problem:
            return CheckState.WRONG, self._cure(problem)
        is_open = any(term.mechanism is Mechanism.ALL and term.result is AuthResult.PASS for term in record.directives)
        return CheckState.VERIFIED, _OPEN_TO_ALL if is_open else ""

    def _problem_by_addresses(self) -> str | None:
        """What receivers would say of our hosts. Raises `LookupFailed`."""
        for address in self._hosts.sending_ips:
            verdict = self._ask(address)
            if verdict.result is AuthResult.TEMPERROR:
                raise LookupFailed(verdict.explanation or f"the DNS gave no answer about SPF of {self._name}")
            if verdict.result is AuthResult.PERMERROR:
                return f"The SPF record is in error: {verdict.explanation}."
            if verdict.result is not AuthResult.PASS:
                return f"SPF says {verdict.result.value!r} for {address}, from which this gateway sends."
        return None

    def _ask(self, address: str) -> SpfVerdict:
        question = SpfQuestion(
            remote_ip=address,
            helo=self._hosts.mx_hostname,
            mail_from=f"{_BOUNCES}@{self._name}",
            receiver=self._hosts.mx_hostname,
            now_s=self._clock() // SECOND_MS,
        )
        return check_spf(question, self._questions.lookup, self._questions.budget)

    def _problem_by_terms(self, record: SpfRecord) -> str | None:
        return None if self._is_alias_of_ours or self._names_us(record) else "The SPF record does not name our hosts."

    def _names_us(self, record: SpfRecord) -> bool:
        """Only terms that stand for us by name; what they permit is the operator's to keep right."""
        ours = {
            (Mechanism.INCLUDE, self._hosts.return_path_host.lower()),
            (Mechanism.A, self._hosts.mx_hostname.lower()),
            (Mechanism.MX, self._hosts.return_path_host.lower()),
        }
        if (record.redirect or "").lower() == self._hosts.return_path_host.lower():
            return True
        for term in record.directives:
            if (term.mechanism, (term.spec or "").lower().removesuffix(".")) in ours:
                return term.result is AuthResult.PASS
            if term.mechanism is Mechanism.ALL:
                return term.result is AuthResult.PASS
        return False

    def _cure(self, problem: str) -> str:
        if self._is_alias_of_ours:
            return f"{problem} It is that of {self._hosts.return_path_host}: for the operator of this gateway to mend."
        return (
            f"{problem} Make {self._name} a CNAME of {self._hosts.return_path_host}, or let it have the TXT record "
            f"{self._looked_for[1].value}"
        )
