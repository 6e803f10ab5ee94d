"""The DNS questions of one verification: asked anew, remembered while it lasts, within one bound of time."""

from __future__ import annotations

from collections.abc import Sequence

from core.dns_lookup import DnsLookup, LookupBudget, LookupFailed, RecordType
from core.mta_sts import DnsRecord
from core.sending.domain_status import CheckResult, CheckState
from core.sending.sending_domains import signing_domains

VERIFY_S = 12.0
"""For all questions together: somebody waits for the answer."""
MAX_ALIASES = 8
"""CNAME after CNAME; resolvers follow about as many."""
MAX_SHOWN = 5
"""Records of one name that are shown."""
MAX_SHOWN_LENGTH = 500
"""Of a value. A record with an RSA key of 2048 bits has 410 characters."""


class Questions:
    """Asks for one domain; all methods raise `LookupFailed` when the DNS does not answer, unless they say otherwise."""

    def __init__(self, lookup: DnsLookup) -> None:
        self.lookup = lookup.anew()
        self.budget = LookupBudget(VERIFY_S)

    def texts(self, name: str) -> tuple[bytes, ...]:
        """TXT records, behind aliases too."""
        return self.lookup.find(name, RecordType.TXT, self.budget).texts

    def exchanges(self, name: str) -> tuple[tuple[int, str], ...]:
        """MX records, the best first, behind aliases too."""
        return self.lookup.find(name, RecordType.MX, self.budget).exchanges

    def addresses(self, name: str) -> tuple[str, ...]:
        """IPv4 addresses, or else IPv6."""
        return (
            self.lookup.find(name, RecordType.A, self.budget).addresses
            or self.lookup.find(name, RecordType.AAAA, self.budget).addresses
        )

    def aliases(self, name: str, goal: str) -> tuple[str, ...]:
        """Where a name leads, alias by alias, as far as the goal; empty when it is none."""
        chain: list[str] = []
        while len(chain) < MAX_ALIASES and goal not in chain:
            target = self.lookup.find(chain[-1] if chain else name, RecordType.CNAME, self.budget).names[:1]
            if not target or target[0] in chain:
                break
            chain.extend(target)
        return tuple(chain)

    def doubled(self, name: str, domain: str, kind: RecordType) -> str | None:
        """Where a record lies that was entered with its full name at a provider that appends the domain.

        Only to give a better hint, so that a DNS that fails here means None.
        """
        for zone in signing_domains(domain):
            try:
                if self.lookup.find(f"{name}.{zone}", kind, self.budget).records:
                    return f"{name}.{zone}"
            except LookupFailed:
                continue
        return None

    def unknown(self, looked_for: tuple[DnsRecord, ...], error: LookupFailed) -> CheckResult:
        """The result of a check that the DNS did not answer."""
        return CheckResult(
            CheckState.UNKNOWN,
            looked_for,
            cure=f"Unknown, as {error}. Nothing has changed because of that; try again in a minute. "
            "If it stays so, see to the name servers of the domain.",
        )


def shown(name: str, kind: RecordType, values: Sequence[str | bytes]) -> tuple[DnsRecord, ...]:
    """Records for people to read: whoever filled the DNS may have put anything there."""
    return tuple(DnsRecord(name, kind.name, _printable(value)) for value in values[:MAX_SHOWN])


def _printable(value: str | bytes) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    clean = "".join(character if character.isprintable() else "\ufffd" for character in text[: MAX_SHOWN_LENGTH + 1])
    return clean if len(clean) <= MAX_SHOWN_LENGTH else clean[:MAX_SHOWN_LENGTH] + "…"
