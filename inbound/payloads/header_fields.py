"""Headers as fields: under normalised names, or under the names as they stood in the message."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote

from inbound.reading.parsed import ParsedMessage

MAX_CACHED_NAMES = 4096
"""Header names whose field name is remembered; nearly all mail uses the same few dozen."""
MAX_NAME_LENGTH = 200
"""Characters of a field name; the longest registered header name has 47."""

HeaderValues = dict[str, str | list[str]]

_NOT_PLAIN = re.compile(r"[^a-z0-9_.]+")
_FORM_SYNTAX = re.compile(r'[^!-~]|["%;\[\\\]]')


@lru_cache(maxsize=MAX_CACHED_NAMES)
def header_key(name: str) -> str:
    """The normalised name: lower case, `_` for `-`, and for whatever could be syntax to a form parser.

    `x[y]` would open an array in PHP and Rack; leading underscores go, for `__proto__` is no name to hand on.
    """
    return _NOT_PLAIN.sub("_", name[:MAX_NAME_LENGTH].lower()).lstrip("_") or "unnamed"


@lru_cache(maxsize=MAX_CACHED_NAMES)
def form_name(name: str) -> str:
    """The name as it stood, for a form: what is syntax there, or not ASCII, is percent-encoded.

    Brackets would open arrays, quotes and semicolons end the name, `__proto__` reach into a receiver's objects.
    """
    escaped = _FORM_SYNTAX.sub(_percent_encoded, name[:MAX_NAME_LENGTH])
    return f"%5F{escaped[1:]}" if escaped.startswith("__") else escaped


def json_name(name: str) -> str:
    """The name as it stood: in JSON nothing in it is syntax."""
    return name[:MAX_NAME_LENGTH]


def header_values(message: ParsedMessage, name_of: Callable[[str], str] = header_key) -> HeaderValues:
    """Headers by field name: a string for one that occurs once, else an array in message order."""
    grouped: HeaderValues = {}
    for name, value in message.headers:
        key = name_of(name)
        known = grouped.get(key)
        if known is None:
            grouped[key] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            grouped[key] = [known, value]
    return grouped


def first_spelling(write: Callable[[str], str]) -> Callable[[str], str]:
    """A `name_of` for one message: names differ in case only, so all go under the spelling that came first."""
    seen: dict[str, str] = {}

    def name_of(name: str) -> str:
        key = name.lower()
        known = seen.get(key)
        if known is None:
            known = seen[key] = write(name)
        return known

    return name_of


def _percent_encoded(character: re.Match[str]) -> str:
    return quote(character[0], safe="")
