"""`raw`: the envelope's fields and the unaltered message (docs/payloads.md)."""

from __future__ import annotations

from collections.abc import Callable

from core.envelope import Envelope
from inbound.payloads.fields import Payload, RenderOptions, envelope_values, judgement_values, scans_in_form
from inbound.payloads.form import Form, charset_that_keeps_bytes
from inbound.reading.parsed import ParsedMessage


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope, options: RenderOptions) -> Payload:
    """A form with the message in one field, byte for byte. Nothing is parsed."""
    form = Form()
    form.add_values("envelope", envelope_values(envelope))
    form.add_values("pillarbox", {**judgement_values(envelope), **scans_in_form(envelope)})
    form.add_bytes("message", raw, f"message/rfc822; charset={charset_that_keeps_bytes(raw)}")
    return form.payload()
