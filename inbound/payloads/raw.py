"""`raw`: the envelope's fields and the unaltered message (docs/payloads.md)."""

from __future__ import annotations

from collections.abc import Callable

from core.envelope import Envelope
from inbound.parsed import ParsedMessage
from inbound.payloads.fields import Payload, envelope_values
from inbound.payloads.form import Form
from inbound.payloads.multipart_n import add_group


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope) -> Payload:
    """A form with the message in one field, byte for byte. Nothing is parsed."""
    form = Form()
    add_group(form, "envelope", envelope_values(envelope))
    form.add_bytes("message", raw, f"message/rfc822; charset={_charset(raw)}")
    return form.payload()


def _charset(raw: bytes) -> str:
    """A charset in which every byte survives: parsers that turn fields into text go by it (RFC 7578 section 4.5)."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "iso-8859-1"
    return "utf-8"
