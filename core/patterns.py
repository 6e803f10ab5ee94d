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
    """Whether the whole text matches a pattern that was checked when it was stored.

    False for one that no longer compiles: a newer RE2 must not turn mail away.
    """
    try:
        return _compile(pattern).fullmatch(text) is not None
    except re2.error:
        return False


@lru_cache(maxsize=CACHED_PATTERNS)
def _compile(pattern: str) -> re2._Regexp:
    """Compiling costs fifty times what matching does, hence the cache; its size bounds the memory of all patterns."""
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_BYTES
    options.log_errors = False
    return re2.compile(pattern, options)
