"""Customers' regular expressions: RE2, so that matching is linear in the text whatever the pattern is."""

from __future__ import annotations

from functools import lru_cache

import re2

from core.errors import InvalidField

MAX_PATTERN_LENGTH = 1_000
PATTERN_MEMORY_BYTES = 1 << 20
"""RE2 refuses a pattern whose automaton would need more."""
CACHED_PATTERNS = 2_048


def check_pattern(field: str, pattern: str) -> str:
    """Give a pattern back that RE2 can compile. Raises `InvalidField` with RE2's own words when it is not one."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidField(field, f"is longer than {MAX_PATTERN_LENGTH} characters")
    try:
        _compile(pattern)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise InvalidField(field, f"is not a valid regular expression ({reason}); the syntax is RE2's") from error
    return pattern


def fits(pattern: str, text: str) -> bool:
    """Whether the whole text matches a pattern; linear in the text's length.

    Raises `InvalidField` for one that cannot be compiled: patterns are checked when they are stored, so it was another
    RE2 that took it, and neither yes nor no would be true.
    """
    try:
        return _compile(pattern).fullmatch(text) is not None
    except re2.error as error:
        raise InvalidField("pattern", "is not one that this version of RE2 knows") from error


@lru_cache(maxsize=CACHED_PATTERNS)
def _compile(pattern: str) -> re2._Regexp:
    """Compiling costs fifty times what matching does, hence the cache; its size bounds the memory of all patterns."""
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_BYTES
    options.log_errors = False
    return re2.compile(pattern, options)
