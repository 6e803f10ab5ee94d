"""Targets that are mailboxes: `mailto:user@example.com` (RFC 6068, without its headers)."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote

from core.addresses import Mailbox, parse_mailbox
from core.errors import InvalidField
from core.netguard import MAILTO, is_mailbox

MAX_ADDRESS_OCTETS = 254
"""RFC 5321 section 4.5.3.1.3: 256 with the brackets."""
_PREFIX = f"{MAILTO}:"


@lru_cache(maxsize=4096)
def parse_mailto(field: str, url: str) -> Mailbox:
    """The mailbox of a `mailto:` target. Raises `InvalidField`."""
    if not is_mailbox(url):
        raise InvalidField(field, "must begin with mailto:, like mailto:user@example.com")
    address = url[len(_PREFIX) :]
    if "?" in address or "#" in address or address.startswith("//"):
        raise InvalidField(field, "must hold an address only; leave out what follows it (write %3F and %23 within one)")
    mailbox = parse_mailbox(_unescape(field, address))
    if mailbox is None or len(mailbox.text.encode()) > MAX_ADDRESS_OCTETS:
        raise InvalidField(field, "must name one mailbox, like mailto:user@example.com")
    if mailbox.domain.startswith("[") or "." not in mailbox.domain:
        raise InvalidField(field, "must name a mailbox at a domain, like mailto:user@example.com")
    return mailbox


def _unescape(field: str, address: str) -> str:
    try:
        return unquote(address, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidField(field, "holds percent-encoded bytes that are no UTF-8") from error
