"""`json+n`: one JSON object with normalised header names (docs/payloads.md)."""

from __future__ import annotations

import binascii
from collections.abc import Callable

import orjson

from core.envelope import Envelope
from inbound.parsed import Attachment, ParsedMessage
from inbound.payloads.fields import Payload, charset_values, envelope_values, header_values
from inbound.replytext import reply_plain


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope) -> Payload:
    """The whole message as JSON, attachments in base64."""
    parsed = message()
    document = {
        "headers": header_values(parsed),
        "envelope": envelope_values(envelope),
        "plain": parsed.plain,
        "html": parsed.html,
        "reply_plain": reply_plain(parsed.plain),
        "attachments": [_attachment(attachment) for attachment in parsed.attachments],
        "pillarbox": {
            "defects": [{"kind": defect.kind, "detail": defect.detail} for defect in parsed.defects],
            "charsets": charset_values(parsed),
        },
    }
    return Payload("application/json", orjson.dumps(document))


def _attachment(attachment: Attachment) -> dict[str, object]:
    encoded = binascii.b2a_base64(attachment.content, newline=False)
    return {
        "file_name": attachment.file_name,
        "content_type": attachment.content_type,
        "size": attachment.size,
        "disposition": attachment.disposition,
        "content_id": attachment.content_id,
        # Base64 needs no escaping: a fragment spares orjson a second look at megabytes.
        "content": orjson.Fragment(b'"' + encoded + b'"'),
    }
