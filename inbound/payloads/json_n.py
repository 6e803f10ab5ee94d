"""`json+n`: one JSON object with normalised header names (docs/payloads.md)."""

from __future__ import annotations

import binascii
from collections.abc import Callable

import orjson

from core.envelope import Envelope
from core.verdicts import AttachmentScan
from inbound.payloads.fields import (
    Payload,
    RenderOptions,
    attachment_values,
    body_values,
    envelope_values,
    own_json_values,
)
from inbound.payloads.header_fields import HeaderValues, header_values
from inbound.payloads.verdict_fields import scan_values
from inbound.reading.parsed import Attachment, ParsedMessage


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope, options: RenderOptions) -> Payload:
    """The whole message as JSON, attachments in base64 or as URLs."""
    parsed = message()
    return render_json(parsed, envelope, header_values(parsed))


def render_json(parsed: ParsedMessage, envelope: Envelope, headers: HeaderValues) -> Payload:
    """The JSON payload with these headers."""
    document = {
        "headers": headers,
        "envelope": envelope_values(envelope),
        **body_values(parsed),
        "attachments": _attachments(parsed, envelope),
        "pillarbox": own_json_values(parsed, envelope),
    }
    return Payload("application/json", orjson.dumps(document))


def base64_value(content: bytes) -> orjson.Fragment:
    """A JSON string of base64. It needs no escaping: a fragment spares orjson a second look at megabytes."""
    return orjson.Fragment(b'"' + binascii.b2a_base64(content, newline=False) + b'"')


def _attachments(parsed: ParsedMessage, envelope: Envelope) -> list[dict[str, object]]:
    scans = envelope.verdicts.scans
    if scans is None or len(scans) != len(parsed.attachments):
        # Scans that do not match the attachments one by one are claims about we know not what: leave them out.
        return [_attachment(attachment, None) for attachment in parsed.attachments]
    return [_attachment(attachment, scan) for attachment, scan in zip(parsed.attachments, scans, strict=True)]


def _attachment(attachment: Attachment, scan: AttachmentScan | None) -> dict[str, object]:
    values: dict[str, object] = dict(attachment_values(attachment))
    if attachment.url is None:
        values["content"] = base64_value(attachment.content)
    if scan is not None:
        values["scan"] = scan_values(scan)
    return values
