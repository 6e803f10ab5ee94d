"""`json`: as `json+n`, but header names as they stood in the message (docs/payloads.md)."""

from __future__ import annotations

from collections.abc import Callable

from core.envelope import Envelope
from inbound.payloads.fields import Payload, RenderOptions
from inbound.payloads.header_fields import first_spelling, header_values, json_name
from inbound.payloads.json_n import render_json
from inbound.reading.parsed import ParsedMessage


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope, options: RenderOptions) -> Payload:
    """The whole message as JSON, attachments in base64 or as URLs."""
    parsed = message()
    return render_json(parsed, envelope, header_values(parsed, first_spelling(json_name)))
