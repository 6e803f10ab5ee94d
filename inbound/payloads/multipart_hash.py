"""`multipart`: as `multipart+n`, but header names as they stood, and numbered attachments (docs/payloads.md)."""

from __future__ import annotations

from collections.abc import Callable

from core.envelope import Envelope
from inbound.payloads.fields import Payload, RenderOptions
from inbound.payloads.header_fields import first_spelling, form_name, header_values
from inbound.payloads.multipart_n import render_form
from inbound.reading.parsed import ParsedMessage


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope, options: RenderOptions) -> Payload:
    """The whole message as a form. What is null in JSON is absent here; booleans are `true` and `false`."""
    parsed = message()
    headers = header_values(parsed, first_spelling(form_name))
    return render_form(parsed, envelope, headers, lambda index: f"attachments[{index}]")
