"""From a draft to the bytes of a message (RFC 5322, RFC 2045 to 2047, RFC 2231).

The tree is the one all readers show alike: mixed( alternative( plain, related( html, inline files ) ), attachments ),
without the levels that are not needed. All of it is ASCII with lines that every host takes, so that nothing on the
way has to recode it and a signature holds; only a local part beyond ASCII needs SMTPUTF8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.utils import format_datetime

from core.clock import to_datetime
from outbound.composing.drafts import CheckedDraft, DraftLimits, MessageDraft, check_draft, too_large
from outbound.composing.header_rules import custom_field
from outbound.composing.header_writing import structured_field, unstructured_field
from outbound.composing.mailboxes import NamedMailbox, address_field
from outbound.composing.markdown_body import markdown_to_html
from outbound.composing.mime_writing import Part, attachment_part, boundary_for, multipart, text_part
from outbound.composing.raw_message import RawExpectation, RawOptions, prepare_raw


@dataclass(frozen=True, slots=True)
class ComposeOptions:
    """What does not come from the customer."""

    message_id: str
    """The left half of Message-ID, and the seed of boundaries: must be unguessable, as
    `core.ids.new_message_id` is."""
    now_ms: int
    hostname: str
    """The right half of Message-ID, ASCII."""
    limits: DraftLimits = field(default=DraftLimits())


@dataclass(frozen=True, slots=True)
class ComposedMessage:
    """A message that can be signed and sent."""

    content: bytes
    """With CRLF line ends only."""
    message_id: str
    """As its header has it, without angle brackets."""
    needs_smtputf8: bool
    """Whether its headers hold an address beyond ASCII."""
    from_: NamedMailbox
    recipients: tuple[str, ...]
    """For the envelope: Bcc too, each once, domains as A-labels."""


def compose(draft: MessageDraft, options: ComposeOptions) -> ComposedMessage:
    """Check a draft and write it. Raises `core.errors.InvalidField`, which names the field and the cure."""
    checked = check_draft(draft, options.limits)
    composed = _from_raw(checked, options) if checked.raw is not None else _from_parts(checked, options)
    if len(composed.content) > options.limits.max_bytes:
        raise too_large(len(composed.content), options.limits)
    return composed


def with_bodies(draft: MessageDraft) -> MessageDraft:
    """The draft with its Markdown rendered, for what works on HTML before it is composed: layouts, tracking."""
    if not draft.markdown:
        return draft
    html = draft.html or markdown_to_html(draft.markdown)
    return replace(draft, html=html, plain=draft.plain or draft.markdown, markdown=None)


def _from_parts(draft: CheckedDraft, options: ComposeOptions) -> ComposedMessage:
    message_id = draft.headers.message_id or f"{options.message_id}@{options.hostname}"
    body = _body(draft, options.message_id)
    head = b"".join(_fields(draft, message_id, options.now_ms))
    named = (draft.from_, *draft.to, *draft.cc, *draft.reply_to, *draft.headers.mailboxes)
    end = b"" if body.chunks[-1].endswith(b"\r\n") else b"\r\n"
    return ComposedMessage(
        content=b"".join((head, b"MIME-Version: 1.0\r\n", body.fields, b"\r\n", *body.chunks, end)),
        message_id=message_id,
        needs_smtputf8=any(one.needs_smtputf8 for one in named),
        from_=draft.from_,
        recipients=draft.recipients,
    )


def _from_raw(draft: CheckedDraft, options: ComposeOptions) -> ComposedMessage:
    assert draft.raw is not None
    expected = RawExpectation(draft.from_, draft.to, draft.cc, draft.subject or None)
    forbidden = options.limits.forbidden_extensions
    raw_options = RawOptions(options.message_id, options.now_ms, options.hostname, forbidden)
    prepared = prepare_raw(draft.raw, raw_options, expected)
    return ComposedMessage(
        content=prepared.content,
        message_id=prepared.message_id,
        needs_smtputf8=prepared.needs_smtputf8,
        from_=draft.from_,
        recipients=draft.recipients,
    )


def _fields(draft: CheckedDraft, message_id: str, now_ms: int) -> Iterator[bytes]:
    yield address_field("From", [draft.from_])
    if draft.to or not draft.cc:
        yield address_field("To", draft.to) if draft.to else b"To: undisclosed-recipients:;\r\n"
    if draft.cc:
        yield address_field("Cc", draft.cc)
    if draft.reply_to:
        yield address_field("Reply-To", draft.reply_to)
    if draft.subject:
        yield unstructured_field("Subject", draft.subject)
    yield structured_field("Date", format_datetime(to_datetime(now_ms // 1000 * 1000)))
    yield structured_field("Message-ID", f"<{message_id}>")
    for name, value in draft.headers.fields:
        yield custom_field(name, value)


def _body(draft: CheckedDraft, identifier: str) -> Part:
    html = draft.html or (markdown_to_html(draft.markdown) if draft.markdown else None)
    plain = draft.plain or draft.markdown
    inline = [one for one in draft.attachments if one.content_id and html]
    parts = [text_part("plain", plain)] if plain else []
    if html:
        shown = [text_part("html", html), *(attachment_part(one, "inline") for one in inline)]
        parts.append(_joined("related", shown, boundary_for(identifier, 1), 'type="text/html"'))
    body = _joined("alternative", parts, boundary_for(identifier, 2))
    files = [attachment_part(one, "attachment") for one in draft.attachments if not (one.content_id and html)]
    return _joined("mixed", [body, *files], boundary_for(identifier, 3))


def _joined(subtype: str, parts: list[Part], boundary: str, parameter: str = "") -> Part:
    return multipart(subtype, parts, boundary, parameter) if len(parts) > 1 else parts[0]
