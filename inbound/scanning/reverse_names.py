"""The name of a client in the DNS, which SpamAssassin expects the receiving server to have looked up."""

from __future__ import annotations

import ipaddress

from core.dns_lookup import DnsLookup, LookupBudget, LookupFailed, RecordType
from inbound.scanning.connection import Deadline

LOOKUP_TIMEOUT_S = 2.0


def confirmed_name(lookup: DnsLookup, ip: str, deadline: Deadline) -> str | None:
    """The name of an address, if the address is also one of the name's (RFC 8601 section 3); else None.

    None as well when the DNS does not answer. Raises `NoTimeLeft`.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    if address.is_loopback:
        return None
    budget = LookupBudget(min(LOOKUP_TIMEOUT_S, deadline.remaining()))
    kind = RecordType.A if address.version == 4 else RecordType.AAAA
    try:
        names = lookup.find(address.reverse_pointer, RecordType.PTR, budget).names[:1]
        known = [ipaddress.ip_address(text) for name in names for text in lookup.find(name, kind, budget).addresses]
    except LookupFailed:
        return None
    return names[0] if address in known else None
