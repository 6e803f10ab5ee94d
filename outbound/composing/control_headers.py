"""The headers that steer us: `x-cloudmta-class`, `x-cloudmta-tags`, `x-cloudmta-layout`. They are read and taken out.

All others that begin so are taken out too, unread: they are the vendor's, and tell recipients nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from core.errors import InvalidField
from core.sending.priority import Priority
from outbound.composing.drafts import MessageDraft
from outbound.composing.header_writing import check_line
from outbound.composing.raw_fields import join_message, normalise_line_ends, split_message
from outbound.composing.word_decoding import decoded

CONTROL_PREFIX = "x-cloudmta-"
CLASS, TAGS, LAYOUT = "x-cloudmta-class", "x-cloudmta-tags", "x-cloudmta-layout"
MAX_TAGS = 20
MAX_TAG_LENGTH = 1_000
"""Postmark's limit."""
MAX_LAYOUT_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Control:
    """What a message says about how to send it."""

    priority: Priority | None = None
    tags: tuple[str, ...] = ()
    layout: str | None = None


def take_control_headers(raw: bytes) -> tuple[bytes, Control]:
    """A message without its control headers, line ends CRLF, and what they said. Raises `InvalidField`."""
    fields, body = split_message(normalise_line_ends(raw))
    steering = [(one.lowered, decoded(one.text)) for one in fields if one.lowered.startswith(CONTROL_PREFIX)]
    kept = [one for one in fields if not one.lowered.startswith(CONTROL_PREFIX)]
    if steering and not kept:
        raise InvalidField("raw", "has no header but those that steer the gateway; it needs From at least")
    return join_message(kept, body), read_control(steering)


def take_draft_control(draft: MessageDraft) -> tuple[MessageDraft, Control]:
    """The same for the `headers` of a draft."""
    steering = [(name.lower(), value) for name, value in draft.headers if name.lower().startswith(CONTROL_PREFIX)]
    kept = tuple(pair for pair in draft.headers if not pair[0].lower().startswith(CONTROL_PREFIX))
    return replace(draft, headers=kept), read_control(steering)


def read_control(headers: Sequence[tuple[str, str]]) -> Control:
    """What lower-case names and their values say; the last class and layout win, tags add up. Raises `InvalidField`."""
    found = dict(headers)
    tags = [tag for name, value in headers if name == TAGS for tag in value.split(",")]
    layout = check_line(f"headers.{LAYOUT}", found.get(LAYOUT, "").strip(), MAX_LAYOUT_LENGTH)
    return Control(_priority(found.get(CLASS, "")), check_tags(f"headers.{TAGS}", tags), layout or None)


def check_tags(field: str, tags: Iterable[str]) -> tuple[str, ...]:
    """Tags without blanks around them, each once, empty ones left out. Raises `InvalidField`."""
    kept = dict.fromkeys(check_line(field, tag.strip(), MAX_TAG_LENGTH) for tag in tags)
    found = tuple(tag for tag in kept if tag)
    if len(found) > MAX_TAGS:
        raise InvalidField(field, f"are {len(found)}, {MAX_TAGS} are allowed")
    return found


def _priority(text: str) -> Priority | None:
    word = text.strip().lower()
    if not word:
        return None
    if word not in set(Priority):
        raise InvalidField(f"headers.{CLASS}", f"must be one of {', '.join(Priority)}")
    return Priority(word)
