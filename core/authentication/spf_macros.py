"""Macros of SPF records (RFC 7208 section 7): checking them, and putting values in their places."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

MAX_SPEC_LENGTH = 1000
"""Characters of a domain-spec or an explanation; no domain name needs a quarter of them."""
MAX_NAME_LENGTH = 253
EXPLANATION_LETTERS = frozenset("crt")
"""Macro letters that only an explanation may use (RFC 7208 section 7.2)."""

_TOKEN = re.compile(
    r"%\{(?P<letter>[slodiphcrtv])(?P<digits>[0-9]*+)(?P<reverse>r?+)(?P<delimiters>[.\-+,/_=]*+)\}"
    r"|%(?P<escape>[%_\-])|(?P<literal>[\x20-\x24\x26-\x7e]++)",
    re.IGNORECASE,
)
_TOP_LABEL_END = re.compile(r"\.(?:[a-z0-9]*[a-z][a-z0-9]*|[a-z0-9]+-[a-z0-9-]*[a-z0-9])\.?\Z", re.IGNORECASE)
_ESCAPES = {"%": "%", "_": " ", "-": "%20"}
_UNRESERVED = "-._~"

MacroSource = Callable[[str], str]
"""Gives the value of a macro letter (lower-case)."""


class SpfSyntaxError(Exception):
    """A record that cannot be understood, in words: a permerror."""


def check_macros(text: str, allowed: frozenset[str] | None = None) -> list[re.Match[str]]:
    """The pieces of a macro-string. Raises `SpfSyntaxError`.

    `allowed` are the letters of `EXPLANATION_LETTERS` that may be used; None means all.
    """
    if len(text) > MAX_SPEC_LENGTH:
        raise SpfSyntaxError(f"a term is longer than {MAX_SPEC_LENGTH} characters")
    tokens: list[re.Match[str]] = []
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or (token["digits"] and int(token["digits"]) == 0):
            raise SpfSyntaxError(f"{text[:80]!r} holds an invalid macro")
        letter = (token["letter"] or "").lower()
        if allowed is not None and letter in EXPLANATION_LETTERS - allowed:
            raise SpfSyntaxError(f"the macro {letter!r} is for explanations only")
        tokens.append(token)
        position = token.end()
    return tokens


def check_domain_spec(text: str) -> str:
    """Give back a domain-spec that is well-formed (section 7.1). Raises `SpfSyntaxError`."""
    tokens = check_macros(text, frozenset())
    ends_in_macro = bool(tokens) and tokens[-1]["literal"] is None
    if " " in text or not (ends_in_macro or _TOP_LABEL_END.search(text)):
        raise SpfSyntaxError(f"{text[:80]!r} is no domain name")
    return text


def expand_domain(spec: str, source: MacroSource) -> str:
    """The domain name that a checked domain-spec stands for; too long a name loses labels from the left."""
    name = expand(spec, source).removesuffix(".")
    excess = len(name) - MAX_NAME_LENGTH
    if excess <= 0:
        return name
    cut = name.find(".", excess - 1)
    return name[cut + 1 :] if cut >= 0 else name


def expand(text: str, source: MacroSource) -> str:
    """Put values in place of the macros. Raises `SpfSyntaxError`."""
    return "".join(_expand_token(token, source) for token in check_macros(text))


def _expand_token(token: re.Match[str], source: MacroSource) -> str:
    if token["literal"] is not None:
        return token["literal"]
    if token["escape"] is not None:
        return _ESCAPES[token["escape"]]
    value = source(token["letter"].lower())
    if token["digits"] or token["reverse"] or token["delimiters"]:
        value = _transform(value, token)
    return quote(value, _UNRESERVED) if token["letter"].isupper() else value


def _transform(value: str, token: re.Match[str]) -> str:
    """Split, reverse, keep the rightmost parts, and join with dots (section 7.3)."""
    parts = re.split(f"[{re.escape(token['delimiters'] or '.')}]", value)
    if token["reverse"]:
        parts.reverse()
    return ".".join(parts[-int(token["digits"]) :] if token["digits"] else parts)
