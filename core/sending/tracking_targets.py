"""Which URLs of a mail can be tracked, and the form in which a redirect names them.

Only what a browser would open in just the same way with and without the redirect between: absolute http and https
URLs. Whatever is doubtful is no target, and its link stays as the sender wrote it.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import idna

MAX_TARGET_CHARACTERS = 1_384
"""What fits into a token of `core.sending.tracking_tokens.MAX_TOKEN_CHARACTERS`."""
MAX_HOST_CHARACTERS = 253
"""RFC 1035 section 2.3.4, as text."""

_AROUND = "".join(map(chr, range(0x21)))  # C0 controls and space, which browsers take off
_LINE_BREAKS = re.compile(r"[\t\n\r]")  # browsers leave them out, wherever in a URL
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_URL = re.compile(r"(https?)://([^/?#\\]+)((?:[/?#].*)?)\Z", re.IGNORECASE | re.ASCII | re.DOTALL)
_AUTHORITY = re.compile(r"([^:@\[\]]+|\[[0-9A-Fa-f:.]+\])((?::[0-9]{0,5})?)\Z")
_ASCII_HOST = re.compile(r"[A-Za-z0-9._-]+\Z|\[")
_NOT_IN_A_HEADER = re.compile(r"[^!#-;=?-~]+")
"""Everything but printable ASCII, and of that not the space, `"`, `<` and `>`: browsers escape these as well."""


def trackable_target(url: str) -> str | None:
    """The URL in ASCII, fit for a `Location` header (RFC 9110 section 10.2.2), or None when it is not tracked.

    Not tracked: other schemes, relative URLs, user names (`https://bank.example@evil.example/`), control characters,
    host names that are none, and what is longer than `MAX_TARGET_CHARACTERS`. Characters beyond ASCII are escaped as
    UTF-8 and those of the host by IDNA 2008 with UTS 46, as a browser does it in a page in UTF-8.
    """
    if len(url) > 2 * MAX_TARGET_CHARACTERS:
        return None
    match = _URL.match(_LINE_BREAKS.sub("", url.strip(_AROUND)))
    authority = _AUTHORITY.match(match[2]) if match else None
    if match is None or authority is None or _CONTROLS.search(match[0]):
        return None
    host = _ascii_host(authority[1])
    if host is None:
        return None
    try:
        rest = _NOT_IN_A_HEADER.sub(lambda found: quote(found[0], safe=""), match[3])
    except UnicodeEncodeError:  # half a surrogate pair: bytes that were no text
        return None
    target = f"{match[1].lower()}://{host}{authority[2]}{rest}"
    return target if len(target) <= MAX_TARGET_CHARACTERS else None


def _ascii_host(host: str) -> str | None:
    if len(host) > MAX_HOST_CHARACTERS:
        return None
    if _ASCII_HOST.match(host):
        return host
    if host.isascii():
        return None
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return None
