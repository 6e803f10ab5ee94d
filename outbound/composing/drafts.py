"""What a customer asks to be sent: the draft, the limits it is held to, and the checks that a mail passes first.

Everything that is wrong is an `InvalidField` that names the field as the API has it (`to[2]`,
`attachments[0].file_name`) and says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.errors import InvalidField
from outbound.composing.attachment_rules import FORBIDDEN_EXTENSIONS, DraftAttachment, check_attachments
from outbound.composing.header_rules import CheckedHeaders, check_headers
from outbound.composing.header_writing import check_line
from outbound.composing.mailboxes import NamedMailbox, read_mailbox, read_mailboxes

MAX_RECIPIENTS = 20
"""CloudMailin's limit on one message."""
MAX_MESSAGE_BYTES = 10 * 1024 * 1024
"""CloudMailin's limit on one message, as it is composed."""
MAX_SUBJECT_LENGTH = 2_000
"""Postmark's limit, and more than anybody shows."""
NO_BODY = "Body not found"
"""CloudMailin's words, which clients look for."""


@dataclass(frozen=True, slots=True)
class MessageDraft:
    """A message as it is asked for. Empty strings count as not given, everywhere."""

    from_: str
    """One address, with or without a name."""
    to: tuple[str, ...]
    """Addresses; an entry may hold several, with commas between them."""
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    """Recipients that no header names. CloudMailin has none."""
    reply_to: tuple[str, ...] = ()
    subject: str | None = None
    """Wins over a Subject among the headers or in `raw`."""
    plain: str | None = None
    html: str | None = None
    markdown: str | None = None
    """Becomes whichever of `plain` and `html` is missing."""
    headers: tuple[tuple[str, str], ...] = ()
    """Further header fields, in order."""
    attachments: tuple[DraftAttachment, ...] = ()
    raw: bytes | None = None
    """A whole message (RFC 5322) in the place of subject, bodies, headers and attachments; its From, To and Cc must
    name whom the draft names."""


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """What one message may have."""

    max_recipients: int = MAX_RECIPIENTS
    """To, Cc and Bcc together, each address once."""
    max_bytes: int = MAX_MESSAGE_BYTES
    """Of the composed message."""
    forbidden_extensions: frozenset[str] = FORBIDDEN_EXTENSIONS
    """Of attachments' file names: lower case, without the dot."""


@dataclass(frozen=True, slots=True)
class CheckedDraft:
    """The same with everything read: what is in here can be written."""

    from_: NamedMailbox
    to: tuple[NamedMailbox, ...]
    cc: tuple[NamedMailbox, ...]
    bcc: tuple[NamedMailbox, ...]
    reply_to: tuple[NamedMailbox, ...]
    subject: str
    headers: CheckedHeaders
    plain: str | None
    html: str | None
    markdown: str | None
    attachments: tuple[DraftAttachment, ...]
    raw: bytes | None
    recipients: tuple[str, ...] = field(default=())
    """Who gets it, each once: local part as written, domain as A-labels."""


def check_draft(draft: MessageDraft, limits: DraftLimits) -> CheckedDraft:
    """Read and check everything but the contents of `raw`. Raises `InvalidField`."""
    _check_bodies(draft)
    _check_size(draft, limits)
    headers = check_headers(draft.headers)
    to, cc, bcc = (_mailboxes(name, getattr(draft, name)) for name in ("to", "cc", "bcc"))
    reply_to = _mailboxes("reply_to", draft.reply_to)
    if reply_to and headers.has("reply-to"):
        raise InvalidField("headers.Reply-To", "is given as reply_to too; leave one of them out")
    return CheckedDraft(
        from_=read_mailbox("from", draft.from_),
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        subject=check_line("subject", draft.subject or "", MAX_SUBJECT_LENGTH) or headers.subject,
        headers=headers,
        plain=draft.plain or None,
        html=draft.html or None,
        markdown=draft.markdown or None,
        attachments=check_attachments(draft.attachments, limits.forbidden_extensions),
        raw=draft.raw or None,
        recipients=_recipients((*to, *cc, *bcc), limits),
    )


def too_large(size: int, limits: DraftLimits) -> InvalidField:
    """The error for a message beyond the limit."""
    return InvalidField(
        "message",
        f"takes {size:,} bytes with its attachments encoded, {limits.max_bytes:,} are allowed; "
        "send large files as links",
    )


def _check_bodies(draft: MessageDraft) -> None:
    bodies = {"plain": draft.plain, "html": draft.html, "markdown": draft.markdown}
    if draft.raw:
        extra = [name for name, text in bodies.items() if text]
        extra += [name for name, given in (("headers", draft.headers), ("attachments", draft.attachments)) if given]
        extra += ["reply_to"] if draft.reply_to else []
        if extra:
            raise InvalidField("raw", f"is a whole message, so it cannot stand beside {', '.join(extra)}")
        return
    if not any(bodies.values()):
        raise InvalidField("plain", f"{NO_BODY}; give plain, html or markdown (or a whole message as raw)")
    for name, text in bodies.items():
        _check_characters(name, text or "")


def _check_characters(name: str, text: str) -> None:
    """Bodies are sent as UTF-8, which has no halves of characters (lone surrogates, as broken JSON escapes make)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"half of a character (U+{ord(text[error.start]):04X}) at position {error.start + 1}"
        raise InvalidField(name, f"holds {found}; send whole characters") from error


def _check_size(draft: MessageDraft, limits: DraftLimits) -> None:
    """Before anything is encoded, so that what is far too large costs nothing."""
    contents = sum(len(one.content) for one in draft.attachments) * 4 // 3
    texts = sum(len(text or "") for text in (draft.plain, draft.html, draft.markdown))
    size = contents + texts + len(draft.raw or b"")
    if size > limits.max_bytes:
        raise too_large(size, limits)


def _mailboxes(name: str, entries: Sequence[str]) -> tuple[NamedMailbox, ...]:
    found: list[NamedMailbox] = []
    for index, entry in enumerate(entries):
        found += read_mailboxes(f"{name}[{index}]" if len(entries) > 1 else name, entry)
    return tuple(found)


def _recipients(mailboxes: Sequence[NamedMailbox], limits: DraftLimits) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(one.address for one in mailboxes))
    if not found:
        raise InvalidField("to", "names no recipient")
    if len(found) > limits.max_recipients:
        problem = f"has {len(found)} recipients with cc and bcc, {limits.max_recipients} are allowed"
        raise InvalidField("to", f"{problem}; send several messages")
    return found
