"""`multipart+n`: the names of `json+n` as form fields, attachments as files (docs/payloads.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from core.envelope import Envelope
from inbound.parsed import ParsedMessage
from inbound.payloads.fields import Payload, charset_values, envelope_values, header_values
from inbound.payloads.form import Form
from inbound.replytext import reply_plain

MAX_HEADER_FIELDS = 500
"""Header fields in a form: Flask and PHP refuse or cut a form of more than 1,000 fields altogether."""


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope) -> Payload:
    """The whole message as a form. What is null in JSON is absent here; booleans are `true` and `false`."""
    parsed = message()
    form = Form()
    add_group(form, "envelope", envelope_values(envelope))
    _add_headers(form, header_values(parsed))
    bodies = {"plain": parsed.plain, "html": parsed.html, "reply_plain": reply_plain(parsed.plain)}
    for name, text in bodies.items():
        if text is not None:
            form.add(name, text)
    for attachment in parsed.attachments:
        form.add_file(
            "attachments[]",
            attachment.file_name,
            attachment.content,
            attachment.content_type,
            attachment.content_id,
        )
    _add_own(form, parsed)
    return form.payload()


def add_group(form: Form, group: str, values: Mapping[str, str | bool | list[str] | None]) -> None:
    """Fields named `group[key]`, and `group[key][0]` … for the items of a list."""
    for key, value in values.items():
        if isinstance(value, list):
            for index, item in enumerate(value):
                form.add(f"{group}[{key}][{index}]", item)
        elif isinstance(value, bool):
            form.add(f"{group}[{key}]", "true" if value else "false")
        elif value is not None:
            form.add(f"{group}[{key}]", value)


def _add_headers(form: Form, headers: dict[str, str | list[str]]) -> None:
    room = MAX_HEADER_FIELDS
    for key, value in headers.items():
        if room <= 0:
            form.add("pillarbox[headers_omitted]", "true")
            return
        kept = value[:room] if isinstance(value, list) else value
        add_group(form, "headers", {key: kept})
        room -= len(kept) if isinstance(kept, list) else 1


def _add_own(form: Form, parsed: ParsedMessage) -> None:
    add_group(form, "pillarbox", {"defects": [f"{defect.kind}: {defect.detail}" for defect in parsed.defects]})
    for body, charset in charset_values(parsed).items():
        add_group(form, f"pillarbox[charsets][{body}]", charset)
