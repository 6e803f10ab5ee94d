"""The texts of a spam verdict, cut to a size that a payload can carry."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

MAX_SYMBOLS = 200
MAX_SYMBOL_CHARACTERS = 100
MAX_DESCRIPTION_CHARACTERS = 4_000
_ELLIPSIS = "…"


def to_symbols(names: Iterable[str]) -> tuple[str, ...]:
    """Names of rules, the first of many."""
    return tuple(_printable(name)[:MAX_SYMBOL_CHARACTERS] for name in islice(names, MAX_SYMBOLS))


def to_description(text: str) -> str:
    """A text of several lines, cut at its end."""
    cut = text[: MAX_DESCRIPTION_CHARACTERS + 1]
    clean = _printable(cut).strip("\n")
    return clean if len(clean) <= MAX_DESCRIPTION_CHARACTERS else clean[: MAX_DESCRIPTION_CHARACTERS - 1] + _ELLIPSIS


def _printable(text: str) -> str:
    return "".join(c for c in text if c == "\n" or c.isprintable())
