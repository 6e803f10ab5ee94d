"""A returned mail taken apart: its header, what a person would read, its reports, and the header of our own mail in it.

Only the beginning of a message is read: what counts stands before the mail that is returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from inbound.reading.charsets import CharsetDetector, decode
from inbound.reading.headers import readable, split_header
from inbound.reading.htmltext import lines_of_html
from inbound.reading.mime_bodies import disposition_of
from inbound.reading.mime_split import Part, split_message
from inbound.reading.mime_transfer import undo_transfer_encoding

MAX_READ_BYTES = 2 * 1024 * 1024
"""Of the whole message."""
MAX_PART_BYTES = 256 * 1024
"""Of each part."""
MAX_TEXT = 64 * 1024
"""Characters of text that are looked at; explanations are short, and quotations follow them."""
MAX_LEAVES = 50
MAX_RETURNED_HEADER = 64 * 1024
MAX_HEADER_VALUE = 2000

Fields = dict[str, list[str]]
"""Readable values of a header by lower-case name."""

_REPORTS = frozenset(
    {"message/delivery-status", "message/global-delivery-status", "message/feedback-report"}
    | {"message/disposition-notification", "message/global-disposition-notification"}
)
_ORIGINALS = frozenset(
    {"message/rfc822", "message/global", "text/rfc822-headers", "message/rfc822-headers", "message/global-headers"}
    | {"text/rfc822-header", "text/rfc822"}
)
_REPORT_START = re.compile(
    r"\s*+(?:reporting-mta|final-recipient|original-recipient|original-envelope-id|feedback-type|arrival-date"
    r"|received-from-mta|dsn-gateway|reporting-ua|x-postfix-queue-id)[ \t]*+:",
    re.IGNORECASE,
)
_HEADER_LINE = re.compile(
    r"(?:received|return-path|message-id|x-pillarbox-return|cfbl-feedback-id)[ \t]*+:", re.IGNORECASE
)
_PRINTABLE_TYPES = ("text/", "application/octet-stream", "message/", "application/x-unknown")


@dataclass(frozen=True, slots=True)
class Report:
    """A part made of groups of fields."""

    media_type: str
    """As declared; `text/plain` for one that is only recognised by its fields."""
    text: str


@dataclass(frozen=True, slots=True)
class OpenedMail:
    """What a returned mail consists of."""

    fields: Fields
    report_type: str
    """The parameter of `multipart/report`, lower case; empty without one."""
    texts: tuple[str, ...]
    """What a person would read: the plain text, then the words of the HTML; only those that are not blank."""
    reports: tuple[Report, ...]
    original: Fields
    """The header of the mail that is returned; empty where none is."""

    def first(self, name: str) -> str:
        """The first value of a field of the message; empty when it has none."""
        return first_of(self.fields, name)

    @property
    def text(self) -> str:
        """The best text there is."""
        return self.texts[0] if self.texts else ""


def first_of(fields: Fields, name: str) -> str:
    """The first value of a field; empty when there is none."""
    values = fields.get(name)
    return values[0] if values else ""


def open_mail(raw: bytes) -> OpenedMail:
    """Take a message apart. Linear in the part of it that is read."""
    return _Opening(raw[:MAX_READ_BYTES]).result()


def header_inside(text: str) -> Fields:
    """The header of a mail that is returned inside a text, as older software does it."""
    lines = text[:MAX_TEXT].splitlines()
    for index, line in enumerate(lines):
        if _HEADER_LINE.match(line.lstrip(" \t>|")):
            prefix = line[: len(line) - len(line.lstrip(" \t>|"))]
            return _header("\n".join(one.removeprefix(prefix) for one in lines[index:]).encode("utf-8", "replace"))
    return {}


class _Opening:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._root, _ = split_message(raw)
        self._detector = CharsetDetector()
        self._plain: list[str] = []
        self._html: list[str] = []
        self._reports: list[Report] = []
        self._original: Fields = {}

    def result(self) -> OpenedMail:
        for part in islice(_leaves(self._root), MAX_LEAVES):
            self._take(part)
        plain = "\n".join(self._plain)[:MAX_TEXT]
        html = "\n".join(self._html)[:MAX_TEXT]
        return OpenedMail(
            fields=_by_name(self._root.fields),
            report_type=self._root.media.parameters.get("report-type", "").strip().lower(),
            texts=tuple(text for text in (plain, html) if text.strip()),
            reports=tuple(self._reports),
            original=self._original,
        )

    def _take(self, part: Part) -> None:
        kind = part.media.value
        if kind in _ORIGINALS:
            if not self._original:
                self._original = _header(self._content(part)[:MAX_RETURNED_HEADER])
        elif kind in _REPORTS:
            self._reports.append(Report(kind, self._text(part)))
        elif kind == "text/html":
            self._html.append("\n".join(line.text for line in lines_of_html(self._text(part))))
        elif kind.startswith(_PRINTABLE_TYPES):
            self._take_text(part, self._text(part))

    def _take_text(self, part: Part, text: str) -> None:
        """Text to read, unless it is a report under a wrong type. A file is no text to read."""
        if part is not self._root and _REPORT_START.match(text):
            self._reports.append(Report("text/plain", text))
        elif part.media.value == "text/plain" and disposition_of(part).value != "attachment":
            self._plain.append(text)

    def _content(self, part: Part) -> bytes:
        body = self._raw[part.start : min(part.end, part.start + MAX_PART_BYTES)]
        return undo_transfer_encoding(body, part.content_fields.get("content-transfer-encoding")).content

    def _text(self, part: Part) -> str:
        declared = part.media.parameters.get("charset", "")[:60] or None
        text = decode(self._content(part), declared, self._detector).text
        return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


def _leaves(root: Part) -> Iterator[Part]:
    """The leaves in order; the depth of the tree is bounded by `mime_split.MAX_DEPTH`."""
    if not root.children:
        yield root
        return
    for child in root.children:
        yield from _leaves(child)


def _header(content: bytes) -> Fields:
    content = content.lstrip(b" \t\r\n")
    return _by_name(split_header(content, 0, len(content), MAX_RETURNED_HEADER).fields)


def _by_name(raw_fields: list[tuple[str, str]]) -> Fields:
    fields: Fields = {}
    for name, value in raw_fields:
        lowered = name.lower()
        fields.setdefault(lowered, []).append(readable(lowered, value[:MAX_HEADER_VALUE]))
    return fields
