"""Addresses that get no more mail, and why."""

from __future__ import annotations

from enum import StrEnum

from core.addresses import parse_mailbox


class SuppressionReason(StrEnum):
    """Why nothing is sent to an address."""

    HARD_BOUNCE = "hard_bounce"
    SOFT_BOUNCE = "soft_bounce"
    """Mail has ended without arriving too often in a row."""
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    """The recipient wanted so."""
    MANUAL = "manual"
    """The customer wanted so."""


def read_reason(text: str) -> SuppressionReason:
    """A reason as it was stored. One that another version has written keeps mail back all the same."""
    try:
        return SuppressionReason(text)
    except ValueError:
        return SuppressionReason.MANUAL


def suppression_key(address: str) -> str:
    """An address as lists hold it: lower case, domain as A-labels. Of no mailbox, lower case alone."""
    mailbox = parse_mailbox(address)
    if mailbox is None:
        return address.lower()
    return f"{mailbox.text.rpartition('@')[0]}@{mailbox.domain}".lower()
