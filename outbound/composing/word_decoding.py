"""Encoded words (RFC 2047) as the text they stand for."""

from __future__ import annotations

from email.errors import HeaderParseError
from email.header import decode_header, make_header

MAX_DECODED = 8_000
"""Characters: the standard library takes time with the square of them for words that do not end."""


def decoded(text: str) -> str:
    """The text with its encoded words decoded; as it is where it has none, is too long, or they cannot be read."""
    if "=?" not in text or len(text) > MAX_DECODED:
        return text
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, ValueError):
        return text
