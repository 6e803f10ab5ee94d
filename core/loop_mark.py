"""The mark on mail that we send on, by which both edges know it when it comes round again (RFC 5321 section 6.3)."""

from __future__ import annotations

FORWARDED_HEADER = "X-Pillarbox-Forwarded"
"""Added to each mail that we send on, one field for each time; the value is `forwarded_mark`."""


def forwarded_mark(address_id: str, own_hostname: str) -> str:
    """The value of `X-Pillarbox-Forwarded` on mail that is sent on for an address."""
    return f"{address_id}@{own_hostname}".lower()
