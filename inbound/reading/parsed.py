"""What a parsed message is: plain, immutable data with no knowledge of how it was read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DefectKind(StrEnum):
    """What was wrong with a message, or what a limit made us leave undone. The values are shown to people."""

    NO_HEADERS = "no_headers"
    HEADER_LINE_BROKEN = "header_line_broken"
    HEADER_LIMIT = "header_limit"
    BOUNDARY_MISSING = "boundary_missing"
    BOUNDARY_UNUSED = "boundary_unused"
    PART_NOT_CLOSED = "part_not_closed"
    TOO_MANY_PARTS = "too_many_parts"
    TOO_DEEP = "too_deep"
    ENCODING_UNKNOWN = "encoding_unknown"
    ENCODING_BROKEN = "encoding_broken"
    CHARSET_UNKNOWN = "charset_unknown"
    CHARSET_WRONG = "charset_wrong"
    CHARACTERS_REPLACED = "characters_replaced"
    NUL_REMOVED = "nul_removed"
    TNEF_BROKEN = "winmail_broken"
    TNEF_LIMIT = "winmail_limit"
    PARSER_FAILED = "parser_failed"


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that was wrong, in words for a person. No defect ever stops a message."""

    kind: DefectKind
    detail: str


@dataclass(frozen=True, slots=True)
class BodyCharset:
    """The charset of a body's first part: what the message declared and what it was read as."""

    declared: str | None
    """As the message wrote it; None when it named none."""
    used: str
    """IANA name of the charset the bytes were decoded with."""


class Disposition(StrEnum):
    """Whether an attachment belongs inside the HTML body."""

    INLINE = "inline"
    ATTACHMENT = "attachment"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One part that is not body text, with its exact bytes."""

    file_name: str
    """Safe to use as a file name, unique in the message, never empty (see `inbound.reading.filenames`)."""
    content_type: str
    """`type/subtype` in lower case; a calendar part keeps its method: `text/calendar; method=REQUEST`."""
    content: bytes
    """The bytes after transfer decoding, in the charset they came in."""
    disposition: Disposition
    """`inline` only when the HTML body refers to this part's Content-ID."""
    content_id: str | None
    """Without angle brackets."""
    url: str | None = None
    """Where the content is stored; payloads then carry this in its place."""

    @property
    def size(self) -> int:
        """Length of the content in bytes."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """A message as a person would want it: readable headers, bodies and attachments, and what was wrong."""

    headers: tuple[tuple[str, str], ...]
    """Names as they stood and decoded, unfolded values, in message order; no NUL, CR or LF anywhere."""
    subject: str | None
    message_id: str | None
    """Without angle brackets."""
    plain: str | None
    """All plain text of the body in order; None when the message has none (an empty text part gives "")."""
    html: str | None
    """All of the body as HTML; None when no part of the body is HTML."""
    plain_charset: BodyCharset | None
    html_charset: BodyCharset | None
    attachments: tuple[Attachment, ...]
    defects: tuple[Defect, ...]
