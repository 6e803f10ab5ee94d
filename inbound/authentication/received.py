"""Who handed a mail to the forwarders we trust, as they wrote it down in Received headers.

Each server puts its Received header on top, so the topmost ones are by hosts we trust. They are read until one names a
client we do not trust; what lies below may be anybody's invention and is never read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.netguard import LOOPBACK, IPNetwork
from inbound.clients import client_ip, is_within

MAX_HOPS = 50
"""Received headers that are read; mail with more is a loop anyhow."""
MAX_READ = 2000
"""Characters of one header; the client is named at the beginning."""
_IP = r"(?:IPv6:)?(?P<ip>[0-9a-f:.]{2,45})"
_NAME = r"(?P<name>\S{1,300})"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        # Postfix, Sendmail, Gmail, Haraka, and ours: `from helo (rdns [ip])`; Exim: `from rdns ([ip]:port helo=helo)`
        rf"from {_NAME} \((?:[^\s()\[\]]{{1,300}} )?\[{_IP}\](?::\d+)?(?: \(may be forged\))?"
        r"(?: helo=(?P<helo>[^\s)]{1,300}))?(?: ident=[^\s)]{1,300})?\) ",
        # Exim, of a client without a name: `from [ip] (helo=helo)` or `from [ip]`
        rf"from \[{_IP}\](?::\d+)? "
        r"(?:\((?:port=\d+ )?helo=(?P<helo>[^\s)]{1,300})(?: ident=[^\s)]{1,300})?\) )?by ",
        # Exchange, and qmail of a client that said what its name is: `from helo (ip)`
        rf"from {_NAME} \({_IP}\) ",
        # qmail: `from rdns (HELO helo) (user@ip)`
        rf"from \S{{1,300}} \((?:HELO|EHLO) (?P<helo>[^\s)]{{1,300}})\) \((?:[^\s()@]{{1,300}}@)?{_IP}\) ",
    )
)
_HANDED_ON = re.compile(r"by \S{1,300} (?:\([^()]{0,300}\) )?with (?:(?:E|UTF8)?SMTP|LMTP|UTF8LMTP)[SA]{0,2}\b", re.I)
_WHITE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Hop:
    """A client, as the server that took its mail wrote it down."""

    ip: str
    helo: str


def original_client(received: Sequence[str], trusted: Sequence[IPNetwork]) -> Hop | None:
    """The first client that is not trusted; None when the headers do not say.

    `received` are the values of the Received headers, the topmost first. Mail that a trusted host hands to itself
    over loopback (for a content filter) or by LMTP is followed further.
    """
    for value in received[:MAX_HOPS]:
        text = _WHITE.sub(" ", value[:MAX_READ]).strip() + " "
        hop = _read(text)
        if hop is None and not _HANDED_ON.match(text):
            return None
        if hop is not None and not is_within(hop.ip, (*trusted, *LOOPBACK)):
            return hop
    return None


def _read(text: str) -> Hop | None:
    for form in _FORMS:
        match = form.match(text)
        if match and _is_address(match["ip"]):
            groups = match.groupdict()
            return Hop(client_ip(match["ip"]), groups.get("helo") or groups.get("name") or f"[{match['ip']}]")
    return None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
