"""Address lists as people write them in From, To and Cc (RFC 5322 section 3.4), out of decoded header values.

The standard library's reader recurses into comments and is quadratic on hostile lists; this is one pass, and
lenient: what is no address is left out, and nothing raises. Encoded words are decoded and quoted already
(`inbound.reading.mime_words`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from core.addresses import TAG_SEPARATOR, strip_source_route

MAX_ADDRESSES = 1000
"""Addresses read of one header; the largest lists of real mail programs have a few hundred."""

_TOKEN = re.compile(
    r'"(?P<quoted>(?:[^"\\]|\\.)*+)"?|<(?P<angle>[^<>]*+)>?|(?P<mark>[(),;:])|(?P<word>[^"<>(),;:\s]++)|\s++|>'
)
_WHOLE_ADDRESS = re.compile(r'[^@"]++@[^@"]++')
_COMMENT_MARK = re.compile(r"\\.|[()]")
_QUOTED_PAIR = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class NamedAddress:
    """One entry of an address list."""

    name: str
    """The display name, unquoted; empty when there is none."""
    email: str
    """`local@domain` as it was written; empty when the entry has only a name."""

    @property
    def tag(self) -> str:
        """The part of the local part behind the first `+`, or nothing."""
        return self.email.rpartition("@")[0].partition(TAG_SEPARATOR)[2]

    @property
    def text(self) -> str:
        """As a header shows it: `"Ann" <ann@example.com>`, or the bare address."""
        if not self.name:
            return self.email
        escaped = self.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}" <{self.email}>'


@dataclass(slots=True)
class _Entry:
    """One entry while it is read."""

    words: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """The same words with their quotes, for an address without angle brackets."""
    comment: str = ""
    angle: str | None = None

    def result(self) -> NamedAddress | None:
        if self.angle is not None:
            name = " ".join(self.words) or self.comment
            return NamedAddress(_single_spaced(name), strip_source_route("".join(self.angle.split())))
        for index, word in enumerate(self.written):
            if _WHOLE_ADDRESS.fullmatch(word):
                others = self.words[:index] + self.words[index + 1 :]
                return NamedAddress(_single_spaced(" ".join(others) or self.comment), word)
        bare = "".join(self.written)
        if "@" in bare:
            return NamedAddress(_single_spaced(self.comment), bare)
        name = _single_spaced(" ".join(self.words))
        return NamedAddress(name, "") if name else None


def read_addresses(text: str) -> list[NamedAddress]:
    """The entries of a list, in order; groups (`Team: a@x, b@x;`) are opened. Linear in the length of the text."""
    found: list[NamedAddress] = []
    entry = _Entry()
    position = 0
    while position < len(text) and len(found) < MAX_ADDRESSES:
        token = _TOKEN.match(text, position)
        if token is None:  # pragma: no cover (the pattern takes every character)
            break
        position = token.end()
        if token["mark"] == "(":
            end = _end_of_comment(text, position)
            entry.comment = text[position : end - 1]
            position = end
        elif token["mark"] == ":":
            entry = _Entry()
        elif token["mark"] in (",", ";"):
            _finish(entry, found)
            entry = _Entry()
        else:
            _take(entry, token)
    _finish(entry, found)
    return found[:MAX_ADDRESSES]


def _take(entry: _Entry, token: re.Match[str]) -> None:
    if token["angle"] is not None:
        if entry.angle is None:
            entry.angle = token["angle"]
    elif token["quoted"] is not None:
        entry.words.append(_QUOTED_PAIR.sub(r"\1", token["quoted"]))
        entry.written.append(token[0])
    elif token["word"] is not None:
        entry.words.append(token["word"])
        entry.written.append(token["word"])


def _finish(entry: _Entry, found: list[NamedAddress]) -> None:
    result = entry.result()
    if result is not None:
        found.append(result)


def _end_of_comment(text: str, start: int) -> int:
    """The position behind the bracket that closes the comment begun before `start`; comments nest."""
    depth = 1
    for mark in _COMMENT_MARK.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(mark[0], 0)
        if depth == 0:
            return mark.end()
    return len(text) + 1


def _single_spaced(text: str) -> str:
    return " ".join(text.split())
