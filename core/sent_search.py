"""What can be searched in sent messages, and how a value becomes an SQL condition on it.

The conditions speak of the aliases `s` (sent_message) and `m` (message). See `core.search_fields`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from core.delivery import DeliveryState
from core.search import Vocabulary
from core.search_fields import (
    LIKE_ESCAPE,
    BadTerm,
    Bounds,
    ChoiceField,
    Condition,
    Field,
    TextField,
    TimeField,
    Value,
    Wildcard,
    any_of,
)
from core.sending.events import INTERNAL_KINDS, EventKind
from core.sending.priority import Priority

METADATA_PREFIX = "metadata."
EVENT_RANKS = 32
"""More than there are kinds."""
SHOWN_KINDS = tuple(kind for kind in EventKind if kind not in INTERNAL_KINDS)
assert len(EventKind) < EVENT_RANKS
ONE_BY_ONE = "LIMIT 1 OFFSET 0"
"""Ends subqueries: they are asked for each message that is looked at. PostgreSQL would otherwise read the whole other
table to have all the answers at hand."""
STATES = tuple(state for state in DeliveryState if state is not DeliveryState.DEFERRED)
"""Of a recipient: a mail of ours is never deferred."""


def event_order(alias: str) -> str:
    """SQL by which the events of a recipient are ordered: by time, and within a millisecond by kind, as they happen."""
    ranks = " ".join(f"WHEN '{kind}' THEN {rank}" for rank, kind in enumerate(EventKind))
    return f"({alias}.at_ms * {EVENT_RANKS} + CASE {alias}.kind {ranks} ELSE {EVENT_RANKS - 1} END)"


@dataclass(frozen=True, slots=True)
class EntryField:
    """Texts within JSON: whole ones, or what they begin with. The column holds what `orjson.dumps` writes."""

    column: str
    before: str = ""
    """What stands in the JSON before the text: its key. As quotes within texts are escaped, it stands nowhere else."""

    def matching(self, value: Value, now_ms: int) -> Condition:
        """Equal without regard to case; with `*` at the end, one that begins so."""
        parts = list(value.parts)
        is_open = bool(parts) and parts[-1] == Wildcard("*")
        literal = Value(tuple(parts[:-1] if is_open else parts)).literal
        end = "" if is_open else '"'
        return self._like(f"{self.before}{orjson.dumps(literal).decode()[:-1]}{end}")

    def within(self, bounds: Bounds, now_ms: int) -> Condition:
        """Texts have no ranges."""
        raise BadTerm("has no ranges; search for a word, or its beginning with * behind it")

    def present(self) -> Condition:
        """There is one."""
        return self._like(f'{self.before}"')

    def _like(self, text: str) -> Condition:
        pattern = re.sub(r"([%_!])", rf"{LIKE_ESCAPE}\1", text)
        return Condition(f"lower({self.column}) LIKE lower(?) ESCAPE '{LIKE_ESCAPE}'", (f"%{pattern}%",))


@dataclass(frozen=True, slots=True)
class RecipientField:
    """Recipients by header, with their names, and by envelope."""

    headers: TextField = TextField(("s.header_to", "s.header_cc"), is_json=True)
    envelope: TextField = TextField(("d.recipients",), is_json=True)

    def matching(self, value: Value, now_ms: int) -> Condition:
        """Contains the text."""
        envelope = self.envelope.matching(value, now_ms)
        one_has = f"EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = s.message_id AND {envelope.sql} {ONE_BY_ONE})"  # noqa: S608
        return any_of([self.headers.matching(value, now_ms), Condition(one_has, envelope.parameters)])

    def within(self, bounds: Bounds, now_ms: int) -> Condition:
        """Text has no ranges."""
        return self.headers.within(bounds, now_ms)

    def present(self) -> Condition:
        """Always."""
        return Condition("1 = 1")


def _with_state(state: DeliveryState) -> Condition:
    return Condition(
        f"EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = s.message_id AND d.state = ? {ONE_BY_ONE})",  # noqa: S608
        (state.value,),
    )


def _with_event(kind: EventKind, further: str = "") -> Condition:
    sql = f"EXISTS (SELECT 1 FROM event e WHERE e.message_id = s.message_id AND e.kind = ?{further} {ONE_BY_ONE})"  # noqa: S608
    return Condition(sql, (kind.value,))


_NONE_LATER = f""" AND NOT EXISTS (
SELECT 1 FROM event l WHERE l.message_id = e.message_id AND l.recipient = e.recipient
AND l.kind NOT IN ({", ".join(repr(kind.value) for kind in INTERNAL_KINDS)})
AND {event_order("l")} > {event_order("e")})"""  # noqa: S608 (constants)
_STATE = ChoiceField({state.value: _with_state(state) for state in STATES})
_TAG = EntryField("s.tags")
SENT_FIELDS: Mapping[str, Field] = {
    "from": TextField(("m.mail_from", "m.header_from")),
    "to": RecipientField(),
    "subject": TextField(("m.subject",)),
    "tag": _TAG,
    "tags": _TAG,
    "stream": TextField(("s.stream",)),
    "message_id": TextField(("m.header_message_id",)),
    "priority": ChoiceField({one.value: Condition("s.priority = ?", (one.value,)) for one in Priority}),
    "test_mode": ChoiceField({
        "true": Condition("s.is_test = ?", (True,)),
        "false": Condition("s.is_test = ?", (False,)),
    }),
    "state": _STATE,
    "status": _STATE,
    "event": ChoiceField({kind.value: _with_event(kind) for kind in SHOWN_KINDS}),
    "last_event": ChoiceField({kind.value: _with_event(kind, _NONE_LATER) for kind in SHOWN_KINDS}),
    "created_at": TimeField("s.message_id"),
}  # fmt: skip
"""What a query may name, beside `metadata.` and a key. `state`, `status`, `event` and `last_event` ask whether any
recipient has it."""


def _metadata_field(name: str) -> Field | None:
    key = name.removeprefix(METADATA_PREFIX)
    return EntryField("s.metadata", f"{orjson.dumps(key).decode()}:") if key and key != name else None


SENT_VOCABULARY = Vocabulary(SENT_FIELDS, ("subject", "from", "to", "tag"), _metadata_field)
