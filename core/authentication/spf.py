"""SPF: whether a client may send for a domain (RFC 7208).

Our own evaluator, and not pyspf: that is quadratic in the labels of a record (16 KB of them take it two seconds),
keeps its DNS function in a module global, and asks for explanations nobody will read. `docs/authentication.md` says
more.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from core.addresses import normalise_domain
from core.authentication.spf_macros import SpfSyntaxError, expand, expand_domain
from core.authentication.spf_record import Directive, Mechanism, SpfRecord, is_spf_record, read_record
from core.dns_lookup import Answer, DnsLookup, LookupBudget, LookupFailed, RecordType
from core.netguard import IPAddress
from core.verdicts import AuthResult, SpfVerdict

MAX_LOOKUPS = 10
"""Terms that ask the DNS (RFC 7208 section 4.6.4)."""
MAX_VOID_LOOKUPS = 2
"""Terms whose question has no answer (same section)."""
MAX_EXCHANGES = 10
"""MX hosts of one term; more are a permerror (same section)."""
MAX_CLIENT_NAMES = 10
"""PTR names that are looked at; further ones are ignored (same section)."""
MAX_EXPLANATION = 500
_MAX_LABEL = 63
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SpfQuestion:
    """Who connected, and who it says it is."""

    remote_ip: str
    helo: str
    mail_from: str
    """The reverse-path without brackets; empty for a bounce."""
    receiver: str
    """Our own name, for explanations."""
    now_s: int
    """Seconds since the epoch, for explanations."""


class _PermanentError(Exception):
    """The records are at fault."""


def check_spf(question: SpfQuestion, lookup: DnsLookup, budget: LookupBudget) -> SpfVerdict:
    """Judge a client. A failing DNS gives `temperror`."""
    is_helo = question.mail_from in ("", "<>")
    local, _, domain = ("", "", question.helo) if is_helo else question.mail_from.rpartition("@")
    judged = normalise_domain(domain) or ""
    address = _client_address(question.remote_ip)
    if address is None or not _is_judgeable(judged):
        reason = "the client's address is unknown" if address is None else "there is no domain to judge by"
        return SpfVerdict(AuthResult.NONE, judged, is_helo, reason)
    check = _Check(question, address, local or "postmaster", judged, lookup, budget)
    try:
        result = check.check_host(judged)
        explanation = check.explain() if result is AuthResult.FAIL else None
        return SpfVerdict(result, judged, is_helo, explanation)
    except LookupFailed as error:
        return SpfVerdict(AuthResult.TEMPERROR, judged, is_helo, str(error))
    except (_PermanentError, SpfSyntaxError) as error:
        return SpfVerdict(AuthResult.PERMERROR, judged, is_helo, str(error))


class _Check:
    """One evaluation; counts what the limits are about."""

    def __init__(
        self,
        question: SpfQuestion,
        address: IPAddress,
        local: str,
        domain: str,
        lookup: DnsLookup,
        budget: LookupBudget,
    ) -> None:
        self._question = question
        self._address = address
        self._address_type = RecordType.A if address.version == 4 else RecordType.AAAA
        self._local = local
        self._sender_domain = domain
        self._lookup = lookup
        self._budget = budget
        self._lookups = 0
        self._voids = 0
        self._client_names: tuple[str, ...] | None = None
        self._failed_at: tuple[str, str] | None = None

    def check_host(self, domain: str, is_included: bool = False) -> AuthResult:
        """The result for a domain (section 4). Raises `LookupFailed`, `SpfSyntaxError` and `_PermanentError`."""
        record = self._record_of(domain)
        if record is None:
            return AuthResult.NONE
        for directive in record.directives:
            if self._matches(directive, domain):
                if not is_included and directive.result is AuthResult.FAIL and record.explanation:
                    self._failed_at = (record.explanation, domain)
                return directive.result
        return self._redirected(record, domain, is_included)

    def explain(self) -> str | None:
        """The domain owner's words about a fail (section 6.2); whatever goes wrong here is not the mail's fault."""
        if self._failed_at is None:
            return None
        spec, domain = self._failed_at
        try:
            name = expand_domain(spec, lambda letter: self._macro(letter, domain))
            texts = self._lookup.find(name, RecordType.TXT, self._budget).texts
            if len(texts) != 1:
                return None
            words = expand(texts[0].decode("ascii"), lambda letter: self._macro(letter, domain))
        except (LookupFailed, SpfSyntaxError, UnicodeError):
            return None
        return words[:MAX_EXPLANATION]

    def _record_of(self, domain: str) -> SpfRecord | None:
        if not _is_judgeable(domain):
            return None
        records = [text for text in self._find(domain, RecordType.TXT).texts if is_spf_record(text)]
        if len(records) > 1:
            raise _PermanentError(f"{domain} has more than one SPF record")
        return read_record(records[0]) if records else None

    def _redirected(self, record: SpfRecord, domain: str, is_included: bool) -> AuthResult:
        if record.redirect is None:
            return AuthResult.NEUTRAL
        self._count_lookup()
        target = self._expand(record.redirect, domain)
        result = self.check_host(target, is_included)
        if result is AuthResult.NONE:
            raise _PermanentError(f"{domain} redirects to {target[:80]!r}, which has no SPF record")
        return result

    def _matches(self, directive: Directive, domain: str) -> bool:
        if directive.mechanism is Mechanism.ALL:
            return True
        if directive.network is not None:
            return self._address.version == directive.network.version and self._address in directive.network
        self._count_lookup()
        target = domain if directive.spec is None else self._expand(directive.spec, domain)
        match directive.mechanism:
            case Mechanism.INCLUDE:
                return self._is_included(target, domain)
            case Mechanism.EXISTS:
                return bool(self._find_term(target, RecordType.A).records)
            case Mechanism.PTR:
                return any(name == target or name.endswith(f".{target}") for name in self._names_of_client(True))
            case Mechanism.MX:
                return self._is_exchange(target, directive)
        return self._is_among(self._find_term(target, self._address_type), directive)

    def _is_included(self, target: str, domain: str) -> bool:
        result = self.check_host(target, is_included=True)
        if result is AuthResult.NONE:
            raise _PermanentError(f"{domain} includes {target[:80]!r}, which has no SPF record")
        return result is AuthResult.PASS

    def _is_exchange(self, target: str, directive: Directive) -> bool:
        exchanges = self._find_term(target, RecordType.MX).exchanges
        if len(exchanges) > MAX_EXCHANGES:
            raise _PermanentError(f"{target[:80]!r} has more than {MAX_EXCHANGES} MX records")
        hosts = [host for _, host in exchanges if host]
        return any(self._is_among(self._find(host, self._address_type), directive) for host in hosts)

    def _is_among(self, answer: Answer, directive: Directive) -> bool:
        bits = directive.ipv4_bits if self._address.version == 4 else directive.ipv6_bits
        return any(
            self._address in ipaddress.ip_network(f"{address}/{bits}", strict=False) for address in answer.addresses
        )

    def _names_of_client(self, is_term: bool = False) -> tuple[str, ...]:
        """Names of the client that lead back to it; what the DNS does not answer is left out (section 5.5)."""
        if self._client_names is None:
            find = self._find_term if is_term else self._find
            try:
                names = find(self._address.reverse_pointer, RecordType.PTR).names
            except LookupFailed:
                names = ()
            self._client_names = tuple(filter(self._is_name_of_client, names[:MAX_CLIENT_NAMES]))
        return self._client_names

    def _is_name_of_client(self, name: str) -> bool:
        try:
            addresses = self._find(name, self._address_type).addresses
        except LookupFailed:
            return False
        return any(ipaddress.ip_address(address) == self._address for address in addresses)

    def _count_lookup(self) -> None:
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise _PermanentError(f"more than {MAX_LOOKUPS} terms ask the DNS")

    def _find_term(self, name: str, kind: RecordType) -> Answer:
        """What a term asks for itself. The hosts of an `mx` do not count as void: to a client that uses IPv6, every
        host without IPv6 would."""
        answer = self._find(name, kind)
        if not answer.records:
            self._voids += 1
            if self._voids > MAX_VOID_LOOKUPS:
                raise _PermanentError(f"more than {MAX_VOID_LOOKUPS} lookups find nothing")
        return answer

    def _find(self, name: str, kind: RecordType) -> Answer:
        return self._lookup.find(name, kind, self._budget)

    def _expand(self, spec: str, domain: str) -> str:
        return expand_domain(spec, lambda letter: self._macro(letter, domain)).lower()

    def _macro(self, letter: str, domain: str) -> str:
        """The value of a macro letter (section 7.2)."""
        if letter == "p":
            return self._client_name(domain)
        is_ipv4 = self._address.version == 4
        values = {
            "s": f"{self._local}@{self._sender_domain}",
            "l": self._local,
            "o": self._sender_domain,
            "d": domain,
            "i": str(self._address) if is_ipv4 else ".".join(self._address.exploded.replace(":", "").upper()),
            "v": "in-addr" if is_ipv4 else "ip6",
            "h": self._question.helo,
            "c": str(self._address),
            "r": self._question.receiver,
            "t": str(self._question.now_s),
        }
        return values[letter]

    def _client_name(self, domain: str) -> str:
        """The domain itself, or else a name below it, or else any name of the client (section 7.3)."""
        names = self._names_of_client()
        below = [name for name in names if name.endswith(f".{domain}")]
        return domain if domain in names else (below or list(names) or [_UNKNOWN])[0]


def _client_address(text: str) -> IPAddress | None:
    """IPv4 in IPv6 is IPv4 (section 5); a zone index is of this machine only."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_judgeable(domain: str) -> bool:
    """Whether it is a fully qualified domain name (section 4.3)."""
    labels = domain.removesuffix(".").split(".")
    return len(labels) > 1 and not domain.startswith("[") and all(0 < len(label) <= _MAX_LABEL for label in labels)
