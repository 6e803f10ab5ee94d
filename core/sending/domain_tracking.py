"""Whether a customer's own host for tracked links leads to this gateway: by a CNAME, or by the same addresses."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from core.dns_lookup import LookupFailed, RecordType
from core.mta_sts import DnsRecord
from core.sending.domain_questions import Questions, shown
from core.sending.domain_status import CheckResult, CheckState

_ADDRESS_TYPES = (RecordType.A, RecordType.AAAA)


def tracking_goal(tracking_base: str) -> str:
    """The host of the URL that tracked links begin with: where customers' own hosts must lead; lower-case."""
    return (urlsplit(tracking_base).hostname or "").lower()


def tracking_record(host: str, goal: str) -> DnsRecord:
    """What the customer publishes."""
    address = _address(goal)
    return DnsRecord(host, "CNAME", goal) if address is None else DnsRecord(host, _type_of(address), goal)


def is_address(host: str) -> bool:
    """Whether it is an IP address and no name."""
    return _address(host) is not None


def check_tracking_host(host: str, goal: str, questions: Questions) -> CheckResult:
    """Whether requests to the host reach us. A DNS that fails makes it unknown."""
    looked_for = (tracking_record(host, goal),)
    try:
        aliases = questions.aliases(host, goal)
        if goal in aliases:
            return CheckResult(CheckState.VERIFIED, looked_for, shown(host, RecordType.CNAME, aliases[:1]))
        found = {kind: _addresses(host, kind, questions) for kind in _ADDRESS_TYPES}
        listed = [record for kind, addresses in found.items() for record in shown(host, kind, addresses)]
        records = (*shown(host, RecordType.CNAME, aliases[:1]), *listed)
        given = {address for addresses in found.values() for address in addresses}
        if given and given <= _addresses_of_ours(goal, questions):
            return CheckResult(CheckState.VERIFIED, looked_for, records)
    except LookupFailed as error:
        return questions.unknown(looked_for, error)
    return _not_ours(looked_for[0], records)


def _not_ours(wanted: DnsRecord, records: tuple[DnsRecord, ...]) -> CheckResult:
    what = f"Make {wanted.name} {'a CNAME of' if wanted.type == 'CNAME' else 'point to'} {wanted.value}"
    until = "Until then links and pixels lead to the gateway's own host."
    if not records:
        return CheckResult(CheckState.MISSING, (wanted,), cure=f"{what}. {until}")
    cure = (
        f"{wanted.name} leads elsewhere. {what}; if your DNS provider offers to pass traffic through its own servers "
        f"(a proxy), switch that off for this name. {until}"
    )
    return CheckResult(CheckState.WRONG, (wanted,), records, cure)


def _addresses_of_ours(goal: str, questions: Questions) -> set[str]:
    """Raises `LookupFailed`."""
    literal = _address(goal)
    if literal is not None:
        return {str(literal)}
    return {address for kind in _ADDRESS_TYPES for address in _addresses(goal, kind, questions)}


def _addresses(name: str, kind: RecordType, questions: Questions) -> tuple[str, ...]:
    """Raises `LookupFailed`."""
    return questions.lookup.find(name, kind, questions.budget).addresses


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _type_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return (RecordType.A if address.version == 4 else RecordType.AAAA).name
