"""What all formats have in common: the payload itself, the envelope's fields, the attachments' and our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from core.envelope import Envelope
from core.verdicts import ScanStatus
from inbound.payloads.verdict_fields import scan_values, verdict_values
from inbound.payloads.written_text import valid_text
from inbound.reading.parsed import Attachment, BodyCharset, ParsedMessage
from inbound.reading.replytext import reply_plain_of

MAX_FORM_SCANS = 100
"""Scans told in a form, of three fields and more each: frameworks refuse forms of more than 1,000."""

Value: TypeAlias = "str | bool | int | Sequence[Value] | Mapping[str, Value] | None"
"""What a field can hold, in JSON and, bracket by bracket, in a form."""


@dataclass(frozen=True, slots=True)
class Payload:
    """The body of a POST and its Content-Type."""

    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """What a format may need beside the message and its envelope."""

    delivery_id: str
    """Stable over retries and replays; a UUID, which `postmark` shows as `MessageID`."""
    secret: str
    """The address's signing secret, as the API shows it: `original` signs with it."""
    with_raw: bool = False
    """Whether `postmark` carries the whole source as `RawEmail`."""


def envelope_values(envelope: Envelope) -> dict[str, Value]:
    """The envelope under the names of the contract. Checks that did not run are not claimed."""
    values: dict[str, Value] = {
        "to": valid_text(envelope.recipients[0]),
        "recipients": [valid_text(recipient) for recipient in envelope.recipients],
        "from": valid_text(envelope.mail_from),
        "helo_domain": valid_text(envelope.helo),
        "remote_ip": envelope.remote_ip,
        "tls": envelope.tls_version is not None,
        "tls_cipher": envelope.tls_version,
        "md5": envelope.md5,
    }
    if envelope.store_url is not None:
        values["store_url"] = envelope.store_url
    values.update(verdict_values(envelope.verdicts))
    return values


def body_values(message: ParsedMessage) -> dict[str, str | None]:
    """The three bodies; None for one the message does not have."""
    return {"plain": message.plain, "html": message.html, "reply_plain": reply_of(message)}


def reply_of(message: ParsedMessage) -> str | None:
    """The newly written part of a reply; None when the message has no text."""
    return reply_plain_of(message)


def attachment_values(attachment: Attachment) -> dict[str, Value]:
    """An attachment without its bytes; with the URL when it is stored."""
    values: dict[str, Value] = {
        "file_name": attachment.file_name,
        "content_type": attachment.content_type,
        "size": attachment.size,
        "disposition": attachment.disposition,
        "content_id": attachment.content_id,
    }
    if attachment.url is not None:
        values["url"] = attachment.url
    return values


def judgement_values(envelope: Envelope) -> dict[str, Value]:
    """Our own words on how the message was judged; a key stands only where there is something to say."""
    values: dict[str, Value] = {}
    if envelope.verdicts.judged_ip is not None:
        values["judged_ip"] = envelope.verdicts.judged_ip
    if envelope.verdicts.judged_helo is not None:
        values["judged_helo"] = valid_text(envelope.verdicts.judged_helo)
    if envelope.flags:
        values["flags"] = [valid_text(flag) for flag in envelope.flags]
    return values


def scans_of_all(envelope: Envelope) -> dict[str, Value]:
    """`scans` in the order of the attachments, for formats in which an attachment has no room for its own."""
    scans = envelope.verdicts.scans
    return {"scans": [scan_values(scan) for scan in scans]} if scans else {}


def scans_in_form(envelope: Envelope) -> dict[str, Value]:
    """As `scans_of_all`, but of very many only the first that are not `ok`, under their numbers."""
    scans = envelope.verdicts.scans
    if not scans or len(scans) <= MAX_FORM_SCANS:
        return scans_of_all(envelope)
    told = [(str(number), scan) for number, scan in enumerate(scans) if scan.status is not ScanStatus.OK]
    kept = {number: scan_values(scan) for number, scan in told[:MAX_FORM_SCANS]}
    return {"scans": kept, "scans_omitted": True}


def charset_values(message: ParsedMessage) -> dict[str, dict[str, str | None]]:
    """For each body there is: the charset it declared and the one it was read in."""
    bodies = {"plain": message.plain_charset, "html": message.html_charset}
    return {name: _charset(charset) for name, charset in bodies.items() if charset is not None}


def own_json_values(message: ParsedMessage, envelope: Envelope) -> dict[str, Value]:
    """The `pillarbox` object of a JSON payload."""
    values: dict[str, Value] = {
        "defects": [{"kind": defect.kind, "detail": defect.detail} for defect in message.defects],
        "charsets": charset_values(message),
    }
    values.update(judgement_values(envelope))
    return values


def own_form_values(message: ParsedMessage, envelope: Envelope) -> dict[str, Value]:
    """The `pillarbox[…]` fields of a form: a defect is one string, and the scans stand beside the files."""
    return {
        "defects": [f"{defect.kind}: {defect.detail}" for defect in message.defects],
        "charsets": charset_values(message),
        **judgement_values(envelope),
        **scans_in_form(envelope),
    }


def _charset(charset: BodyCharset) -> dict[str, str | None]:
    return {"declared": charset.declared, "used": charset.used}
