"""Reading Authentication-Results (RFC 8601 section 2.2), whoever wrote them and however they are folded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from core.addresses import normalise_domain

MAX_LENGTH = 64 * 1024
MAX_RESULTS = 200
_TOKEN = re.compile(
    r'(?P<quoted>"(?:[^"\\]|\\.)*+")|(?P<space>[ \t\r\n]++)|(?P<special>[()\\;=])|(?P<word>[^\s()"\\;=]++)', re.DOTALL
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_FOLD = re.compile(r"\r?\n")


@dataclass(frozen=True, slots=True)
class Result:
    """What one method found."""

    method: str
    result: str
    properties: Mapping[str, str]
    """Such as `header.d`, lower-case names."""

    def domain(self, name: str) -> str | None:
        """The domain in a property that is a domain or a mailbox."""
        value = self.properties.get(name)
        return normalise_domain(value.rpartition("@")[2]) if value else None


@dataclass(frozen=True, slots=True)
class Results:
    """The content of one field."""

    authserv_id: str
    """Who says so, as it stood, unquoted."""
    results: tuple[Result, ...]


def read_results(value: str) -> Results | None:
    """Read the value of a field; None when it cannot be read to its end."""
    groups = _groups(value[: MAX_LENGTH + 1]) if len(value) <= MAX_LENGTH else None
    if not groups or not groups[0]:
        return None
    results = [_read_result(group) for group in groups[1 : MAX_RESULTS + 1]]
    return Results(groups[0][0], tuple(result for result in results if result is not None))


def read_authserv_id(value: str) -> str | None:
    """Who a field says it is from; None when its beginning cannot be read."""
    groups = _groups(value[:MAX_LENGTH], is_first_enough=True)
    return groups[0][0] if groups and groups[0] else None


def _groups(value: str, *, is_first_enough: bool = False) -> list[list[str]] | None:
    """Words and `=` between semicolons, without comments; None when something is left open."""
    groups: list[list[str]] = [[]]
    depth = position = 0
    while position < len(value):
        match = _TOKEN.match(value, position)
        if match is None:
            return None
        position = match.end()
        kind, lexeme = match.lastgroup, match[0]
        if lexeme == "\\":
            if not depth:
                return None
            position += 1
        elif lexeme in ("(", ")"):
            depth += 1 if lexeme == "(" else -1
            if depth < 0:
                return None
        elif lexeme == ";" and not depth:
            if is_first_enough:
                return groups
            groups.append([])
        elif kind != "space" and not depth:
            groups[-1].append(_QUOTED_PAIR.sub(r"\1", _FOLD.sub("", lexeme[1:-1])) if kind == "quoted" else lexeme)
    return groups if not depth else None


def _read_result(words: list[str]) -> Result | None:
    """`method=result property=value …`; None for `none` and for what is malformed."""
    triples = [words[index : index + 3] for index in range(0, len(words), 3)]
    if not triples or any(len(triple) != 3 or triple[1] != "=" for triple in triples):
        return None
    method, _, result = triples[0]
    properties = {name.lower(): value for name, _, value in reversed(triples[1:])}
    return Result(method.partition("/")[0].lower(), result.lower(), properties)
