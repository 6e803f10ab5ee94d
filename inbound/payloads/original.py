"""`original`: CloudMailin's first format, a form with the message, its main fields and an MD5 (docs/payloads.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import orjson

from core.addresses import TAG_SEPARATOR
from core.envelope import Envelope
from inbound.payloads.address_list import read_addresses
from inbound.payloads.fields import (
    Payload,
    RenderOptions,
    Value,
    attachment_values,
    body_values,
    envelope_values,
    judgement_values,
    scans_in_form,
)
from inbound.payloads.form import Form, charset_that_keeps_bytes, flat
from inbound.reading.parsed import ParsedMessage

_ADDRESS_HEADERS = {"x_to_header": "to", "x_cc_header": "cc", "x_from_header": "from"}
_TEXT_HEADERS = {"x_sender": "x-sender", "x_forwarded_for": "x-forwarded-for"}
_VERDICTS_OF_OURS = ("dkim", "dmarc", "arc", "spamd", "store_url")
"""What the other formats say of the envelope and this one, older than that, has no field for."""


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope, options: RenderOptions) -> Payload:
    """The signed form. Attachments stay inside `message`; only those that are stored have fields."""
    fields = _fields(message(), envelope)
    form = Form()
    form.add_bytes("message", raw, f"message/rfc822; charset={charset_that_keeps_bytes(raw)}")
    for name, text in fields:
        form.add(name, text)
    values = {"message": raw, **{name: text.encode() for name, text in fields}}
    form.add("signature", signature(values, options.secret))
    return form.payload()


def signature(values: dict[str, bytes], secret: str) -> str:
    """Hex MD5 over the values in the order of their names, then the secret: the vendor's recipe, not ours.

    Nobody should rely on MD5 for more than this format must; every POST also has a Standard Webhooks signature.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(values):
        digest.update(values[name])
    digest.update(secret.encode())
    return digest.hexdigest()


def _fields(parsed: ParsedMessage, envelope: Envelope) -> list[tuple[str, str]]:
    """All fields but `message` and `signature`, flat; what the message does not have is absent."""
    known = envelope_values(envelope)
    recipients = known["recipients"]
    bodies = body_values(parsed)
    to = str(known["to"])
    values: dict[str, Value] = {
        "plain": bodies["plain"],
        "html": bodies["html"],
        "to": to,
        "from": known["from"],
        "recipients": orjson.dumps(recipients).decode(),
        "disposable": to.rpartition("@")[0].partition(TAG_SEPARATOR)[2],
        **_header_values(parsed),
        "subject": parsed.subject,
        "reply_plain": bodies["reply_plain"],
        "spf": known.get("spf"),
        "attachments": [attachment_values(found) for found in parsed.attachments if found.url is not None],
        "pillarbox": {
            **{key: known[key] for key in _VERDICTS_OF_OURS if key in known},
            **judgement_values(envelope),
            **scans_in_form(envelope),
        },
    }
    return [field for name, value in values.items() for field in flat(name, value)]


def _header_values(parsed: ParsedMessage) -> dict[str, str | None]:
    """Addresses without names, with commas between; the two rare headers as they read."""
    found: dict[str, list[str]] = {}
    for name, value in parsed.headers:
        found.setdefault(name.lower(), []).append(value)
    values: dict[str, str | None] = {}
    for field, header in _ADDRESS_HEADERS.items():
        addresses = read_addresses(", ".join(found.get(header, ())))
        values[field] = ",".join(address.email for address in addresses if address.email) or None
    for field, header in _TEXT_HEADERS.items():
        values[field] = found[header][0] if header in found else None
    return values
