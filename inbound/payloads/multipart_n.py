"""`multipart+n`: the names of `json+n` as form fields, attachments as files (docs/payloads.md)."""

from __future__ import annotations

from collections.abc import Callable

from core.envelope import Envelope
from inbound.payloads.fields import (
    Payload,
    RenderOptions,
    attachment_values,
    body_values,
    envelope_values,
    own_form_values,
)
from inbound.payloads.form import Form, flat
from inbound.payloads.header_fields import HeaderValues, header_values
from inbound.reading.parsed import Attachment, ParsedMessage

MAX_PARTS = 990
"""Fields and files of a form before headers are left out: Flask, Django and PHP refuse or cut more than 1,000."""
MAX_HEADER_FIELDS = 500
"""Header fields in a form."""
MIN_HEADER_FIELDS = 50
"""Header fields that stay however much else there is; attachments are never left out."""
BODIES = 3
STORED_FIELDS = 6
"""Fields of an attachment that is stored."""


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope, options: RenderOptions) -> Payload:
    """The whole message as a form. What is null in JSON is absent here; booleans are `true` and `false`."""
    parsed = message()
    return render_form(parsed, envelope, header_values(parsed), lambda index: "attachments[]")


def render_form(
    parsed: ParsedMessage, envelope: Envelope, headers: HeaderValues, name_attachment: Callable[[int], str]
) -> Payload:
    """The form payload with these headers; `name_attachment` gives the field name of the nth attachment."""
    form = Form()
    own = flat("pillarbox", own_form_values(parsed, envelope))
    form.add_values("envelope", envelope_values(envelope))
    _add_headers(form, headers, _room_for_headers(form.parts + len(own), parsed))
    for name, text in body_values(parsed).items():
        if text is not None:
            form.add(name, text)
    for index, attachment in enumerate(parsed.attachments):
        _add_attachment(form, name_attachment(index), attachment)
    for name, text in own:
        form.add(name, text)
    return form.payload()


def _room_for_headers(others: int, parsed: ParsedMessage) -> int:
    """How many header fields fit beside the `others`, the bodies and the attachments."""
    stored = sum(attachment.url is not None for attachment in parsed.attachments)
    taken = others + BODIES + len(parsed.attachments) - stored + stored * STORED_FIELDS
    return max(MIN_HEADER_FIELDS, min(MAX_HEADER_FIELDS, MAX_PARTS - taken))


def _add_headers(form: Form, headers: HeaderValues, room: int) -> None:
    for key, value in headers.items():
        if room <= 0:
            form.add("pillarbox[headers_omitted]", "true")
            return
        kept = value[:room] if isinstance(value, list) else value
        form.add_values(f"headers[{key}]", kept)
        room -= len(kept) if isinstance(kept, list) else 1


def _add_attachment(form: Form, name: str, attachment: Attachment) -> None:
    """A file, or fields that describe a stored one; the file name comes first, by which Rack tells them apart."""
    if attachment.url is not None:
        form.add_values(name, attachment_values(attachment))
        return
    form.add_file(name, attachment.file_name, attachment.content, attachment.content_type, attachment.content_id)
