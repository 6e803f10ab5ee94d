"""The search language: an Elasticsearch query string becomes an SQL condition.

luqum reads the text; this walks its tree. Words that no operator joins follow Lucene: `+` must match, `-` and NOT
must not, and of the rest at least one must match unless there is a `+`. A query either means what it says or is an
`InvalidField`; only what serves ranking (`^boosts`, and words beside a `+`) has no effect, as results are ordered by
time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luqum import tree
from luqum.exceptions import ParseError
from luqum.thread import parse as parse_query

from core.errors import InvalidField
from core.search_fields import (
    BARE_WORD_FIELDS,
    EVERYTHING,
    STATUS_FIELDS,
    BadTerm,
    Bounds,
    Condition,
    Field,
    Value,
    Wildcard,
    all_of,
    any_of,
    none_of,
)

MAX_QUERY_LENGTH = 1_000
MAX_TERMS = 50
MAX_DEPTH = 20
EXISTS_FIELD = "_exists_"
_PARAMETER = "query"
_FOREIGN_OPERATORS = ("&&", "||", "!")
_PIECE = re.compile(r"\\(?P<escaped>.)|(?P<wildcard>[*?])|(?P<text>[^\\*?]+)|(?P<stray>\\)", re.DOTALL)
_MAX_ECHO = 40


def _no_field(name: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a query may name."""

    fields: Mapping[str, Field]
    bare_words: tuple[str, ...]
    """The fields in which a word without a field is looked for."""
    further: Callable[[str], Field | None] = _no_field
    """Gives fields whose names are not known beforehand."""

    def find(self, name: str) -> Field:
        """The field of that name. Raises `InvalidField`."""
        found = self.fields.get(name) or self.further(name)
        if found is None:
            known = ", ".join(self.fields)
            raise InvalidField(_PARAMETER, f"{name[:_MAX_ECHO]!r} is not a field; the fields are {known}")
        return found


STATUS_VOCABULARY = Vocabulary(STATUS_FIELDS, BARE_WORD_FIELDS)
"""Of incoming statuses."""


def compile_query(text: str, now_ms: int, vocabulary: Vocabulary = STATUS_VOCABULARY) -> Condition:
    """Translate a query; a lone `*` matches everything. Raises `InvalidField` naming the term that is wrong."""
    if len(text) > MAX_QUERY_LENGTH:
        raise InvalidField(_PARAMETER, f"is longer than {MAX_QUERY_LENGTH} characters")
    if not text.strip() or "\0" in text:
        raise InvalidField(_PARAMETER, "is empty or holds a NUL; to match everything, write *")
    root = _parse(text)
    _check_size(root)
    return _Translator(now_ms, vocabulary).translate(root, None)


def _parse(text: str) -> tree.Item:
    try:
        root: tree.Item = parse_query(text)  # type: ignore[no-untyped-call]
    except ParseError as error:
        reason = str(error).removeprefix("Syntax error in input : ").rstrip("!")
        raise InvalidField(_PARAMETER, f'cannot be read: {reason}; put text with signs in it in "quotes"') from error
    except (ValueError, ArithmeticError) as error:  # luqum converts the number behind ~ or ^ while it parses
        raise InvalidField(_PARAMETER, "has no valid number behind ~ or ^") from error
    return root


def _check_size(root: tree.Item) -> None:
    """Bound the tree before anything walks it recursively."""
    terms = 0
    waiting: list[tuple[tree.Item, int]] = [(root, 1)]
    while waiting:
        item, depth = waiting.pop()
        terms += isinstance(item, tree.Term)
        if depth > MAX_DEPTH:
            raise InvalidField(_PARAMETER, f"is nested more than {MAX_DEPTH} deep")
        if terms > MAX_TERMS:
            raise InvalidField(_PARAMETER, f"has more than {MAX_TERMS} terms")
        waiting.extend((child, depth + 1) for child in item.children)


@dataclass(frozen=True, slots=True)
class _Translator:
    """Walks a tree whose size was checked; `field` is the name before the colon, None outside of any."""

    now_ms: int
    vocabulary: Vocabulary

    def translate(self, item: Any, field: str | None) -> Condition:
        step = _STEPS.get(type(item))
        if step is None:
            raise InvalidField(_PARAMETER, f'{_name(item)} is not supported; use words, "phrases", * and ?')
        return step(self, item, field)

    def field_search(self, item: tree.SearchField, field: str | None) -> Condition:
        if field is not None:
            raise InvalidField(_PARAMETER, f"{item.name!r} stands within {field!r}; a field cannot hold another")
        if item.name == EXISTS_FIELD:
            return self.vocabulary.find(_plain_word(item.expr)).present()
        if isinstance(item.expr, tree.Plus | tree.Prohibit):
            raise InvalidField(_PARAMETER, f"has a sign behind {item.name}: put it before, as in -{item.name}:…")
        self.vocabulary.find(item.name)
        return self.translate(item.expr, item.name)

    def inner(self, item: Any, field: str | None) -> Condition:
        return self.translate(item.children[0], field)

    def both(self, item: tree.AndOperation, field: str | None) -> Condition:
        return all_of([self.translate(child, field) for child in item.children])

    def either(self, item: tree.OrOperation, field: str | None) -> Condition:
        return any_of([self.translate(child, field) for child in item.children])

    def negation(self, item: tree.Unary, field: str | None) -> Condition:
        return none_of(self.translate(item.a, field))

    def side_by_side(self, item: tree.UnknownOperation, field: str | None) -> Condition:
        required: list[Condition] = []
        optional: list[Condition] = []
        for child in item.children:
            is_required = isinstance(child, tree.Plus | tree.Not | tree.Prohibit)
            (required if is_required else optional).append(self.translate(child, field))
        has_plus = any(isinstance(child, tree.Plus) for child in item.children)
        if optional and not has_plus:
            required.append(any_of(optional))
        return all_of(required)

    def term(self, item: tree.Term, field: str | None) -> Condition:
        value = _read_word(item) if isinstance(item, tree.Word) else _read_phrase(item)
        if field is None:
            if value.is_open:
                return EVERYTHING
            if not value.parts:
                raise InvalidField(_PARAMETER, 'has an empty phrase; name a field to find it empty: subject:""')
            return any_of(
                [self._ask(name, lambda f: f.matching(value, self.now_ms)) for name in self.vocabulary.bare_words]
            )
        if value.is_open:
            return self.vocabulary.find(field).present()
        return self._ask(field, lambda f: f.matching(value, self.now_ms))

    def range(self, item: tree.Range, field: str | None) -> Condition:
        bounds = Bounds(_read_bound(item.low), _read_bound(item.high), item.include_low, item.include_high)
        return self._range(bounds, field)

    def at_least(self, item: tree.From, field: str | None) -> Condition:
        return self._range(Bounds(_read_bound(item.a), None, includes_low=item.include), field)

    def at_most(self, item: tree.To, field: str | None) -> Condition:
        return self._range(Bounds(None, _read_bound(item.a), includes_high=item.include), field)

    def _range(self, bounds: Bounds, field: str | None) -> Condition:
        if field is None:
            raise InvalidField(_PARAMETER, "has a range without a field; write created_at:[now-1d TO now]")
        if bounds.low is None and bounds.high is None:
            return self.vocabulary.find(field).present()
        return self._ask(field, lambda f: f.within(bounds, self.now_ms))

    def _ask(self, field: str, question: Callable[[Any], Condition]) -> Condition:
        try:
            return question(self.vocabulary.find(field))
        except BadTerm as error:
            raise InvalidField(_PARAMETER, f"{field} {error}") from error


_Step = Callable[[_Translator, Any, "str | None"], Condition]
_STEPS: Mapping[type[tree.Item], _Step] = {
    tree.SearchField: _Translator.field_search,
    tree.Group: _Translator.inner,
    tree.FieldGroup: _Translator.inner,
    tree.Boost: _Translator.inner,
    tree.Plus: _Translator.inner,
    tree.AndOperation: _Translator.both,
    tree.OrOperation: _Translator.either,
    tree.UnknownOperation: _Translator.side_by_side,
    tree.Not: _Translator.negation,
    tree.Prohibit: _Translator.negation,
    tree.Word: _Translator.term,
    tree.Phrase: _Translator.term,
    tree.Range: _Translator.range,
    tree.From: _Translator.at_least,
    tree.To: _Translator.at_most,
}
_UNSUPPORTED = {
    tree.Regex: "a /regular expression/",
    tree.Fuzzy: "fuzzy search (word~)",
    tree.Proximity: 'proximity search ("phrase"~)',
}


def _name(item: tree.Item) -> str:
    return _UNSUPPORTED.get(type(item), "a part of it")


def _plain_word(item: tree.Item) -> str:
    if not isinstance(item, tree.Word):
        raise InvalidField(_PARAMETER, f"{EXISTS_FIELD} takes the name of a field, as in {EXISTS_FIELD}:subject")
    return str(item.value)


def _read_bound(item: tree.Item) -> Value | None:
    """One end of a range; `*` leaves it open."""
    if isinstance(item, tree.Prohibit):
        raise InvalidField(_PARAMETER, "has a negative number in a range; there are none in these fields")
    value = _read_word(item) if isinstance(item, tree.Word) else _read_phrase(item)
    return None if value.is_open else value


def _read_word(item: tree.Word) -> Value:
    text: str = item.value
    if text.startswith(_FOREIGN_OPERATORS):
        raise InvalidField(_PARAMETER, f"{text[:_MAX_ECHO]!r}: write AND, OR and NOT in capitals, or quote the sign")
    parts: list[str | Wildcard] = []
    for piece in _PIECE.finditer(text):
        if piece["wildcard"]:
            parts.append(Wildcard(piece["wildcard"]))
        else:
            parts.append(piece["escaped"] or piece["text"] or piece["stray"])
    return Value(_without_needless_wildcards(parts))


def _without_needless_wildcards(parts: list[str | Wildcard]) -> tuple[str | Wildcard, ...]:
    """`a**b` says no more than `a*b`."""
    star = Wildcard("*")
    kept = [part for index, part in enumerate(parts) if part != star or index == 0 or parts[index - 1] != star]
    return tuple(kept)


def _read_phrase(item: tree.Item) -> Value:
    if not isinstance(item, tree.Phrase):
        raise InvalidField(_PARAMETER, f'has {_name(item)} where a word or a "phrase" belongs')
    text = re.sub(r"\\(.)", r"\1", item.value[1:-1], flags=re.DOTALL)
    return Value((text,)) if text else Value(())
