"""What comes with a message beside its body: named safely, marked as inline or not, and `winmail.dat` opened.

What is unpacked of a container stands right behind it; the container itself stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from inbound.reading.filenames import FileNames, safe_name, type_of_name
from inbound.reading.headers import bare_id, readable
from inbound.reading.mime_transfer import uuencoded_files
from inbound.reading.parsed import Attachment, BodyCharset, DefectKind, Disposition
from inbound.reading.tnef import TnefBudget, is_tnef, unpack_tnef
from inbound.reading.tnef_message import EnclosedMessage

METHOD_SEARCH_BYTES = 4096
"""How far into a calendar its METHOD line is looked for; it stands before the first event (RFC 5545 section 3.6)."""
MAX_SHOWN_NAME = 80
"""Characters of a file name in a defect."""

_CALENDAR_TYPES = ("text/calendar", "application/ics")
_METHOD = re.compile(r"[A-Za-z-]{1,40}")
_METHOD_LINE = re.compile(rb"^METHOD:([A-Za-z-]{1,40})[ \t]*+\r?$", re.IGNORECASE | re.MULTILINE)
_CID_REFERENCE = re.compile(r"\bcid:([^\"'\s<>()]{1,500})", re.IGNORECASE)

_Report = Callable[[DefectKind, str], None]


@dataclass(slots=True)
class Found:
    """The bodies found so far; a container may fill them where the mail itself has none."""

    plain: str | None
    html: str | None
    plain_charset: BodyCharset | None
    html_charset: BodyCharset | None

    @property
    def is_empty(self) -> bool:
        """Whether a person would see nothing."""
        return not self.html and not (self.plain and self.plain.strip())


@dataclass(frozen=True, slots=True)
class Enclosure:
    """An attachment before it is named: what the message says of it."""

    name: str | None
    media_type: str
    method: str
    """The `method` parameter of a calendar; "" where there is none."""
    content_id: str | None
    content: bytes


class Enclosures:
    """Collects the enclosures of one message, and what is unpacked of them."""

    def __init__(self, found: Found, report: _Report) -> None:
        self._found = found
        self._report = report
        self._budget = TnefBudget()
        self._collected: list[Enclosure] = []

    def add(self, enclosure: Enclosure) -> None:
        """Take up one part, and what it holds if it is a container."""
        self._collected.append(enclosure)
        if is_tnef(enclosure.media_type, enclosure.name, enclosure.content):
            self._unpack(enclosure)

    def add_uuencoded(self, text: bytes) -> None:
        """Take up the uuencoded files that stand inside a text part, which keeps them too."""
        for file in uuencoded_files(text):
            self._collected.append(Enclosure(file.name, type_of_name(file.name), "", None, file.content))

    def attachments(self) -> tuple[Attachment, ...]:
        """Everything collected, in order; to be called when the bodies are known."""
        if not self._collected:
            return ()
        shown = _references(self._found.html) if self._found.html else frozenset()
        names = FileNames()
        return tuple(_attachment(enclosure, names, shown) for enclosure in self._collected)

    def _unpack(self, enclosure: Enclosure) -> None:
        unpacked = unpack_tnef(enclosure.content, self._budget, with_body=self._found.is_empty)
        shown = safe_name(enclosure.name or "")[:MAX_SHOWN_NAME] or enclosure.media_type
        for problem in unpacked.problems:
            self._report(problem, f"in {shown}")
        if self._found.is_empty:
            self._take_body(unpacked.message)
        for file in unpacked.message.files:
            content_id = bare_id(readable("content-id", file.content_id)) if file.content_id else None
            self._collected.append(Enclosure(file.name, file.media_type, "", content_id, file.content))

    def _take_body(self, message: EnclosedMessage) -> None:
        if message.plain:
            self._found.plain = message.plain.text.replace("\0", "")
            self._found.plain_charset = message.plain.charset
        if message.html:
            self._found.html = message.html.text.replace("\0", "")
            self._found.html_charset = message.html.charset


def _attachment(enclosure: Enclosure, names: FileNames, shown: frozenset[str]) -> Attachment:
    return Attachment(
        file_name=names.name(enclosure.name, enclosure.media_type),
        content_type=_content_type(enclosure),
        content=enclosure.content,
        disposition=Disposition.INLINE if enclosure.content_id in shown else Disposition.ATTACHMENT,
        content_id=enclosure.content_id,
    )


def _content_type(enclosure: Enclosure) -> str:
    """A calendar keeps its method: the one its header declares (RFC 6047 section 2.4), or else its own line's."""
    if enclosure.media_type not in _CALENDAR_TYPES:
        return enclosure.media_type
    method = enclosure.method if _METHOD.fullmatch(enclosure.method) else ""
    if not method:
        line = _METHOD_LINE.search(enclosure.content, 0, METHOD_SEARCH_BYTES)
        method = line[1].decode("ascii") if line else ""
    return f"{enclosure.media_type}; method={method.upper()}" if method else enclosure.media_type


def _references(html: str) -> frozenset[str]:
    """The Content-IDs an HTML body shows (RFC 2392), as written and with %-escapes undone."""
    written = _CID_REFERENCE.findall(html)
    return frozenset(written) | frozenset(unquote(reference) for reference in written)
