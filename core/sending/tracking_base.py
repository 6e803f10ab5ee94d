"""The URL that open pixels and tracked links begin with."""

from __future__ import annotations

import re

from core.errors import InvalidField
from core.netguard import check_url

MAX_BASE_CHARACTERS = 90
"""Of the base URL: with it and a token a URL stays below 2,000 characters."""
_BASE = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~-]+)*\Z", re.ASCII)


def checked_base_url(field: str, base_url: str) -> str:
    """A base URL without the slash at its end. Raises `InvalidField` when it could not stand in any attribute as it is,
    or would make URLs too long."""
    trimmed = check_url(field, base_url).rstrip("/")
    if len(trimmed) > MAX_BASE_CHARACTERS:
        raise InvalidField(field, f"is longer than {MAX_BASE_CHARACTERS} characters")
    if not _BASE.match(trimmed):
        raise InvalidField(field, "must be like https://click.example.com/track, without user, query and fragment")
    return trimmed
