"""Groups of fields inside a report: the form of RFC 3464 section 2.1, which RFC 5965 and RFC 8098 share.

Reads what programs really write: blank lines missing or too many, continuations without indentation, comments behind
values, addresses without type or in the escaped form of RFC 6533.
"""

from __future__ import annotations

import re
from itertools import islice

MAX_LINES = 5000
"""Lines read of one report; a recipient takes ten."""
MAX_GROUPS = 500
MAX_VALUE = 2000
"""Characters kept of one value."""

Group = dict[str, list[str]]
"""Values by lower-case name, in order."""

_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9-]{1,60})[ \t]*+:(.*+)", re.DOTALL)
_ONCE = frozenset({"final-recipient", "original-recipient", "action", "status"})
"""A second one of these begins another recipient where no blank line does."""
_NAMES_RECIPIENT = ("final-recipient", "original-recipient")
_TYPED = re.compile(r"[ \t]*+([A-Za-z0-9.-]{1,20})[ \t]*+;(.*+)", re.DOTALL)
_UTF8_ESCAPE = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_MAX_CODE_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def read_groups(text: str) -> list[Group]:
    """The groups of a report; one that only continues the recipient before it is joined to it. Linear, total."""
    groups: list[Group] = []
    current: Group = {}
    last: list[str] | None = None
    for line in islice(text.splitlines(), MAX_LINES):
        if not line.strip():
            _close(groups, current)
            current, last = {}, None
            continue
        match = None if line[0] in " \t" else _FIELD.match(line)
        if match is None:
            if last and len(last[-1]) < MAX_VALUE:
                last[-1] = f"{last[-1]} {line.strip()}"[:MAX_VALUE]
            continue
        name = match[1].lower()
        if name in _ONCE and name in current:
            _close(groups, current)
            current = {}
        last = current.setdefault(name, [])
        last.append(match[2].strip()[:MAX_VALUE])
    _close(groups, current)
    return groups


def _close(groups: list[Group], group: Group) -> None:
    if not group or len(groups) >= MAX_GROUPS:
        return
    previous = groups[-1] if groups else {}
    continues = (
        any(name in previous for name in _NAMES_RECIPIENT)
        and not any(name in group for name in _NAMES_RECIPIENT)
        and not any(name in previous for name in group)
    )
    if continues:
        previous.update(group)
    else:
        groups.append(group)


def first(group: Group, name: str) -> str | None:
    """The first value of a field that is not empty."""
    return next((value for value in group.get(name, ()) if value), None)


def typed_value(value: str | None) -> tuple[str, str] | None:
    """Type in lower case and the rest of `rfc822; a@b`; the type is empty where none is stated."""
    if not value:
        return None
    match = _TYPED.match(value)
    kind, rest = (match[1].lower(), match[2]) if match else ("", value)
    rest = rest.strip()
    return (kind, rest) if rest else None


def address_of(value: str | None) -> str | None:
    """The address in a `Final-Recipient` or `Original-Recipient`, in the form in which it goes into an envelope."""
    typed = typed_value(value)
    if typed is None:
        return None
    kind, text = typed
    if kind == "utf-8":
        text = _UTF8_ESCAPE.sub(_character, text)
    if text.startswith("<") and ">" in text:
        text = text[1 : text.index(">")]
    return text.split(" ", 1)[0].strip("<>,;") or None


def _character(escape: re.Match[str]) -> str:
    code = int(escape[1], 16)
    return chr(code) if code <= _MAX_CODE_POINT and code not in _SURROGATES else escape[0]
