"""What can be searched in incoming statuses, and how a value becomes an SQL condition on it.

The conditions speak of the aliases `d` (delivery) and `m` (message). None of them is ever NULL, so that NOT means
"all others", as it does in Elasticsearch. Text is found anywhere in its field, without regard to case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from core.delivery import DeliveryState
from core.ids import first_id_at
from core.search_dates import Span, parse_date

LIKE_ESCAPE = "!"  # a backslash would mean something of its own to some SQL dialects
MAX_WILDCARDS = 8
"""In one term: each multiplies the ways in which LIKE may have to look."""
MAX_STATUS = 999
_STATUS = re.compile(r"[0-9]{1,3}")


class BadTerm(ValueError):
    """A value its field cannot take; the text says why and what to write instead."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A piece of SQL, in need of no parentheses, with its parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()


EVERYTHING = Condition("1 = 1")


@dataclass(frozen=True, slots=True)
class Wildcard:
    """`*` or `?` in a term."""

    sign: str


@dataclass(frozen=True, slots=True)
class Value:
    """A term or phrase, its escapes resolved: literal text and wildcards in their order."""

    parts: tuple[str | Wildcard, ...]

    @property
    def literal(self) -> str:
        """The text. Raises `BadTerm` when there are wildcards in it."""
        if any(isinstance(part, Wildcard) for part in self.parts):
            raise BadTerm("takes no wildcards within a value")
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def is_open(self) -> bool:
        """Whether it is a lone `*`."""
        return self.parts == (Wildcard("*"),)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A range; None is an open end."""

    low: Value | None
    high: Value | None
    includes_low: bool = True
    includes_high: bool = True


class Field(Protocol):
    """A searchable field. `matching` and `within` raise `BadTerm`."""

    def matching(self, value: Value, now_ms: int) -> Condition:
        """The condition for `field:value`."""

    def within(self, bounds: Bounds, now_ms: int) -> Condition:
        """The condition for `field:[low TO high]`."""

    def present(self) -> Condition:
        """The condition for `field:*`: it has a value."""


@dataclass(frozen=True, slots=True)
class TextField:
    """Text in one or several columns; one that matches is enough."""

    columns: tuple[str, ...]
    is_json: bool = False
    """Whether the column holds JSON, in which quotes and backslashes are escaped."""

    def matching(self, value: Value, now_ms: int) -> Condition:
        """Contains the text; an empty phrase finds an empty (first) column, such as the null sender's."""
        if not value.parts:
            return Condition(f"coalesce({self.columns[0]}, '') = ''")
        pattern = f"%{''.join(self._like(part) for part in value.parts)}%"
        if sum(isinstance(part, Wildcard) for part in value.parts) > MAX_WILDCARDS:
            raise BadTerm(f"takes at most {MAX_WILDCARDS} wildcards in one term")
        return any_of([
            Condition(f"lower(coalesce({column}, '')) LIKE lower(?) ESCAPE '{LIKE_ESCAPE}'", (pattern,))
            for column in self.columns
        ])  # fmt: skip

    def within(self, bounds: Bounds, now_ms: int) -> Condition:
        """Text has no ranges."""
        raise BadTerm('is text and has no ranges; search for a word, a "phrase" or a pattern with * and ?')

    def present(self) -> Condition:
        """Not empty."""
        return any_of([Condition(f"coalesce({column}, '') <> ''") for column in self.columns])

    def _like(self, part: str | Wildcard) -> str:
        if isinstance(part, Wildcard):
            return "%" if part.sign == "*" else "_"
        text = orjson.dumps(part).decode()[1:-1] if self.is_json else part
        return re.sub(r"([%_!])", rf"{LIKE_ESCAPE}\1", text)


@dataclass(frozen=True, slots=True)
class StatusField:
    """The HTTP status of the last attempt: a number, 0 for a target that did not answer."""

    column: str

    def matching(self, value: Value, now_ms: int) -> Condition:
        """Exactly that status."""
        return self._compare("=", value)

    def within(self, bounds: Bounds, now_ms: int) -> Condition:
        """Between two statuses."""
        found = [self.present()]
        if bounds.low is not None:
            found.append(self._compare(">=" if bounds.includes_low else ">", bounds.low))
        if bounds.high is not None:
            found.append(self._compare("<=" if bounds.includes_high else "<", bounds.high))
        return all_of(found)

    def present(self) -> Condition:
        """There was an attempt."""
        return Condition(f"{self.column} IS NOT NULL")

    def _compare(self, operator: str, value: Value) -> Condition:
        text = value.literal
        if not _STATUS.fullmatch(text):
            raise BadTerm(f"takes a number from 0 to {MAX_STATUS} or a range such as [400 TO 499], not {text!r}")
        return Condition(f"coalesce({self.column}, -1) {operator} ?", (int(text),))


@dataclass(frozen=True, slots=True)
class TimeField:
    """The time of creation, which the first 48 bits of a time-ordered id hold.

    Comparing ids instead of a column lets the index that orders the list skip everything outside the range.
    """

    id_column: str

    def matching(self, value: Value, now_ms: int) -> Condition:
        """Within what the expression covers: `2026-08-24` is the whole day."""
        return self.within(Bounds(value, value), now_ms)

    def within(self, bounds: Bounds, now_ms: int) -> Condition:
        """Between two times. An included end covers all of its day (hour, month …), an excluded one none of it."""
        found: list[Condition] = []
        if bounds.low is not None:
            low = _read_date(bounds.low, now_ms)
            found.append(self._not_before(low.start_ms if bounds.includes_low else low.end_ms + 1))
        if bounds.high is not None:
            high = _read_date(bounds.high, now_ms)
            found.append(self._before(high.end_ms + 1 if bounds.includes_high else high.start_ms))
        return all_of(found) if found else EVERYTHING

    def present(self) -> Condition:
        """Always."""
        return EVERYTHING

    def _not_before(self, moment_ms: int) -> Condition:
        return Condition(f"{self.id_column} >= ?", (first_id_at(moment_ms),))

    def _before(self, moment_ms: int) -> Condition:
        return Condition(f"{self.id_column} < ?", (first_id_at(moment_ms),))


@dataclass(frozen=True, slots=True)
class ChoiceField:
    """A few fixed words, each with its condition."""

    choices: Mapping[str, Condition]

    def matching(self, value: Value, now_ms: int) -> Condition:
        """That word."""
        word = value.literal.lower()
        if word not in self.choices:
            raise BadTerm(f"is one of {', '.join(self.choices)}, not {word!r}")
        return self.choices[word]

    def within(self, bounds: Bounds, now_ms: int) -> Condition:
        """Words have no order."""
        raise BadTerm(f"has no ranges; it is one of {', '.join(self.choices)}")

    def present(self) -> Condition:
        """Any of the words."""
        return any_of(list(self.choices.values()))


def all_of(conditions: list[Condition]) -> Condition:
    """AND."""
    return _joined(" AND ", conditions)


def any_of(conditions: list[Condition]) -> Condition:
    """OR."""
    return _joined(" OR ", conditions)


def none_of(condition: Condition) -> Condition:
    """NOT."""
    return Condition(f"NOT ({condition.sql})", condition.parameters)


def _joined(operator: str, conditions: list[Condition]) -> Condition:
    if len(conditions) == 1:
        return conditions[0]
    sql = operator.join(condition.sql for condition in conditions)
    return Condition(f"({sql})", tuple(parameter for condition in conditions for parameter in condition.parameters))


def _read_date(value: Value, now_ms: int) -> Span:
    try:
        return parse_date(value.literal, now_ms)
    except ValueError as error:
        raise BadTerm(str(error)) from error


_DELAYED = Condition(
    "(d.state = 'deferred' OR "
    "(d.state = 'pending' AND d.last_status IS NOT NULL AND d.last_status NOT BETWEEN 200 AND 299))"
)
STATUS_FIELDS: Mapping[str, Field] = {
    "status": StatusField("d.last_status"),
    "status_category": ChoiceField({
        "successful": Condition("d.state = 'delivered'"),
        "delayed": _DELAYED,
        "failed": Condition("d.state IN ('rejected', 'exhausted')"),
        "quarantined": Condition("d.state = 'quarantined'"),
    }),
    "state": ChoiceField({state.value: Condition("d.state = ?", (state.value,)) for state in DeliveryState}),
    "from": TextField(("m.mail_from", "m.header_from")),
    "to": TextField(("substr(d.recipients, 2, length(d.recipients) - 2)",), is_json=True),
    "subject": TextField(("m.subject",)),
    "body": TextField(("m.body_text",)),
    "created_at": TimeField("d.id"),
}  # fmt: skip
"""What a query may name. `from` is the envelope sender and the From header alike."""
BARE_WORD_FIELDS = ("subject", "from", "to", "body")
"""Where a word without a field is looked for."""
