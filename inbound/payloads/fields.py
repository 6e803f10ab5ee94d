"""What all formats have in common: the payload itself, the envelope's fields and the headers' names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from core.envelope import Envelope
from inbound.parsed import BodyCharset, ParsedMessage

MAX_CACHED_NAMES = 4096
"""Header names whose field name is remembered; nearly all mail uses the same few dozen."""
_NOT_PLAIN = re.compile(r"[^a-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class Payload:
    """The body of a POST and its Content-Type."""

    content_type: str
    body: bytes


@lru_cache(maxsize=MAX_CACHED_NAMES)
def header_key(name: str) -> str:
    """The field name of a header: lower case, `_` for `-`, and for whatever could be syntax to a form parser.

    `x[y]` would open an array in PHP and Rack; leading underscores go, for `__proto__` is no name to hand on.
    """
    return _NOT_PLAIN.sub("_", name[:200].lower()).lstrip("_") or "unnamed"


def header_values(message: ParsedMessage) -> dict[str, str | list[str]]:
    """Headers by field name: a string for one that occurs once, else an array in message order."""
    grouped: dict[str, str | list[str]] = {}
    for name, value in message.headers:
        key = header_key(name)
        known = grouped.get(key)
        if known is None:
            grouped[key] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            grouped[key] = [known, value]
    return grouped


def envelope_values(envelope: Envelope) -> dict[str, str | bool | list[str] | None]:
    """The envelope under the names of the contract. Checks that did not run are not claimed."""
    return {
        "to": _text(envelope.recipients[0]),
        "recipients": [_text(recipient) for recipient in envelope.recipients],
        "from": _text(envelope.mail_from),
        "helo_domain": _text(envelope.helo),
        "remote_ip": envelope.remote_ip,
        "tls": envelope.tls_version is not None,
        "tls_cipher": envelope.tls_version,
        "md5": envelope.md5,
    }


def charset_values(message: ParsedMessage) -> dict[str, dict[str, str | None]]:
    """For each body there is: the charset it declared and the one it was read in."""
    bodies = {"plain": message.plain_charset, "html": message.html_charset}
    return {name: _charset(charset) for name, charset in bodies.items() if charset is not None}


def _charset(charset: BodyCharset) -> dict[str, str | None]:
    return {"declared": charset.declared, "used": charset.used}


def _text(value: str) -> str:
    """Valid Unicode: what an SMTP client sent outside UTF-8 reaches us as lone surrogates."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
