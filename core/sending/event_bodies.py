"""Events as webhooks get them: `{"events": [...]}` with CloudMailin's fields, and ours beside them.

A body is written once, when the event happens, and kept: every attempt sends the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from core.clock import to_rfc3339
from core.sending.events import NewEvent

MAX_BATCH_EVENTS = 100
"""Of one POST."""
MAX_BATCH_BYTES = 256 * 1024
"""Of one POST; many receivers refuse bodies of a megabyte. A single event may be larger, and is then alone."""
_BEGINNING, _END = b'{"events":[', b"]}"
_SAMPLE_MARK = {"test": True}


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """What an event tells of its message."""

    original_message_id: str | None
    """The Message-ID header, without angle brackets."""
    domain: str | None
    """The name of the sending domain; None for mail from an unknown one."""
    stream: str | None = None
    tags: str = "[]"
    """A JSON list."""
    metadata: str = "{}"
    """A JSON object."""


NO_FACTS = MessageFacts(None, None)


def event_body(event: NewEvent, facts: MessageFacts, is_sample: bool = False) -> bytes:
    """One event as JSON. `test` is there only in samples, so that nobody takes them for mail."""
    shown = {
        "kind": event.kind.value,
        "message_id": event.message_id,
        "recipient": event.recipient,
        "original_message_id": facts.original_message_id,
        "timestamp": to_rfc3339(event.at_ms),
        "details": event.details.as_dict(),
        "id": event.event_id,
        "domain": facts.domain,
        "stream": facts.stream,
        "tags": orjson.Fragment(facts.tags),
        "metadata": orjson.Fragment(facts.metadata),
        **(_SAMPLE_MARK if is_sample else {}),
    }
    return orjson.dumps(shown)


def batches(bodies: Iterable[bytes]) -> list[str]:
    """What is POSTed: the events in their order, as many at a time as one batch takes."""
    packed: list[str] = []
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        if batch and (len(batch) == MAX_BATCH_EVENTS or size + len(body) > MAX_BATCH_BYTES):
            packed.append(_join(batch))
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    return [*packed, _join(batch)] if batch else packed


def _join(bodies: Sequence[bytes]) -> str:
    return (_BEGINNING + b",".join(bodies) + _END).decode()
