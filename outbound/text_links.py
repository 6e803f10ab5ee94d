"""Where the URLs of a plain text stand, as mail programs make links of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_URL = re.compile(r"(?<![A-Za-z0-9_])https?://[^\s<>\"\x00-\x1f\x7f]++", re.IGNORECASE | re.ASCII)
_BESIDE = frozenset(".,;:!?'*_~\u2019\u201d\u00bb\u2026")
"""Characters at the end that belong to the sentence, not to the URL."""
_BRACKETS = {")": "(", "]": "[", "}": "{"}
"""A closing one at the end belongs to the URL only if its opening one does: `(see https://example.com/a_(b))`."""


def find_text_links(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each URL, in order. Without those beyond ASCII: where they end is doubtful, since not all
    scripts put a blank between a URL and the words behind it, which would go with it."""
    for match in _URL.finditer(text):
        length = _length_of_url(match[0])
        if match[0][:length].isascii():
            yield match.start(), match.start() + length


def _length_of_url(found: str) -> int:
    surplus = {closing: found.count(closing) - found.count(opening) for closing, opening in _BRACKETS.items()}
    length = len(found)
    while length:
        last = found[length - 1]
        if surplus.get(last, 0) > 0:
            surplus[last] -= 1
        elif last not in _BESIDE:
            break
        length -= 1
    return length
