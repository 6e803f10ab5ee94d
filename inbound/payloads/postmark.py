"""`postmark`: the JSON that Postmark posts for an inbound mail, for clients written for it (docs/payloads.md)."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import format_datetime

import orjson

from core.envelope import Envelope
from inbound.payloads.address_list import NamedAddress, read_addresses
from inbound.payloads.fields import (
    Payload,
    RenderOptions,
    envelope_values,
    own_json_values,
    reply_of,
    scans_of_all,
)
from inbound.payloads.json_n import base64_value
from inbound.payloads.trace_headers import SPAM_HEADERS, trace_headers
from inbound.payloads.written_text import valid_text
from inbound.reading.parsed import Attachment, ParsedMessage

MESSAGE_STREAM = "inbound"
_OWN_FIELDS = frozenset({"date", "from", "to", "cc", "bcc", "subject", "reply-to"})
"""Headers that have a field of their own and are not among `Headers`. Bcc too: it would stand twice for a reader
that puts the message together again, and django-anymail refuses such a one."""

AddressObject = dict[str, str]


def render(raw: bytes, message: Callable[[], ParsedMessage], envelope: Envelope, options: RenderOptions) -> Payload:
    """The whole message. There is no `RecordType`: that would make it another webhook to some clients."""
    parsed = message()
    headers = _ByName(parsed)
    ours = trace_headers(envelope)
    document: dict[str, object] = {
        **_addresses(headers, envelope),
        "MessageStream": MESSAGE_STREAM,
        "Subject": parsed.subject or "",
        "MessageID": options.delivery_id,
        "ReplyTo": headers.all("reply-to"),
        "Date": headers.first("date") or format_datetime(envelope.received_at),
        "TextBody": parsed.plain or "",
        "HtmlBody": parsed.html or "",
        "StrippedTextReply": _stripped_reply(parsed, headers),
        "Tag": headers.first("x-pm-tag"),
        "Headers": _headers(parsed, envelope, ours),
        "Attachments": [_attachment(attachment) for attachment in parsed.attachments],
        "pillarbox": {
            "envelope": envelope_values(envelope),
            **own_json_values(parsed, envelope),
            **scans_of_all(envelope),
        },
    }
    if options.with_raw:
        document["RawEmail"] = _raw_email(raw, ours)
    return Payload("application/json", orjson.dumps(document))


class _ByName:
    """A message's headers by lower-case name."""

    def __init__(self, parsed: ParsedMessage) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in parsed.headers:
            self._values.setdefault(name.lower(), []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def first(self, name: str) -> str:
        """The value of the first; nothing when there is none."""
        values = self._values.get(name)
        return values[0] if values else ""

    def all(self, name: str) -> str:
        """The values of all, as one list."""
        return ", ".join(self._values.get(name, ()))


def _addresses(headers: _ByName, envelope: Envelope) -> dict[str, object]:
    """Everybody who is named. Whoever got the mail and stands in no header got it as a blind copy."""
    senders = read_addresses(headers.first("from"))
    sender = senders[0] if senders else NamedAddress("", "")
    to, cc, bcc = (_with_address(headers.all(name)) for name in ("to", "cc", "bcc"))
    delivered = [NamedAddress("", valid_text(recipient)) for recipient in envelope.recipients]
    named = {address.email.lower() for address in (*to, *cc, *bcc)}
    bcc += [address for address in delivered if address.email.lower() not in named]
    return {
        "FromName": sender.name,
        "From": sender.email,
        "FromFull": _full(sender),
        **_list("To", to),
        **_list("Cc", cc),
        **_list("Bcc", bcc),
        "OriginalRecipient": delivered[0].email,
        "MailboxHash": next((address.tag for address in delivered if address.tag), ""),
    }


def _with_address(text: str) -> list[NamedAddress]:
    return [address for address in read_addresses(text) if address.email]


def _list(name: str, addresses: list[NamedAddress]) -> dict[str, object]:
    text = ", ".join(address.text for address in addresses)
    return {name: text, f"{name}Full": [_full(address) for address in addresses]}


def _full(address: NamedAddress) -> AddressObject:
    return {"Email": address.email, "Name": address.name, "MailboxHash": address.tag}


def _stripped_reply(parsed: ParsedMessage, headers: _ByName) -> str:
    """Only what answers another mail, and has a plain text, has one."""
    is_reply = "in-reply-to" in headers or "references" in headers
    return (reply_of(parsed) or "") if is_reply and parsed.plain is not None else ""


def _headers(parsed: ParsedMessage, envelope: Envelope, ours: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Return-Path first, what we found out next, then the message's own.

    Of its own those are left out that only the receiving side may write: a Return-Path (RFC 5321 section 4.4), and
    the X-Spam headers where there are ours, or a sender could acquit himself.
    """
    dropped = _OWN_FIELDS | {"return-path"}
    if any(name.lower() in SPAM_HEADERS for name, _ in ours):
        dropped |= SPAM_HEADERS
    return [
        {"Name": "Return-Path", "Value": f"<{valid_text(envelope.mail_from)}>"},
        *({"Name": name, "Value": value} for name, value in ours),
        *({"Name": name, "Value": value} for name, value in parsed.headers if name.lower() not in dropped),
    ]


def _attachment(attachment: Attachment) -> dict[str, object]:
    values: dict[str, object] = {
        "Name": attachment.file_name,
        "Content": "" if attachment.url is not None else base64_value(attachment.content),
        "ContentType": attachment.content_type,
        "ContentLength": attachment.size,
        "ContentID": attachment.content_id or "",
    }
    if attachment.url is not None:
        values["Url"] = attachment.url
    if attachment.url is not None or not attachment.content:
        # django-anymail takes an empty Content for a missing one, and then insists on Data, as old samples had it.
        values["Data"] = ""
    return values


def _raw_email(raw: bytes, ours: list[tuple[str, str]]) -> str:
    """The source with our trace headers on top, where clients look for them; bytes outside UTF-8 as Latin-1."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("iso-8859-1")
    return "".join(f"{name}: {value}\n" for name, value in ours) + text.replace("\r\n", "\n")
