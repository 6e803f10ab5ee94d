"""Addresses that get no more mail, and why."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

from core.addresses import parse_mailbox

_DOT_STRING = re.compile(r"[^\s\"(),:;<>@\[\\\]]+\Z")
_ESCAPED = re.compile(r"([\"\\])")


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
    """An address as lists hold it, so that one mailbox has one key: lower case, domain as A-labels, the local part in
    quotes only where it needs them (RFC 5321 section 4.1.2), its letters composed (RFC 6532 section 3.1). Of no
    mailbox, lower case alone."""
    mailbox = parse_mailbox(address)
    if mailbox is None:
        return address.lower()
    local = unicodedata.normalize("NFC", mailbox.local.lower())
    if not _DOT_STRING.match(local):
        local = '"' + _ESCAPED.sub(r"\\\1", local) + '"'
    return f"{local}@{mailbox.domain}"
