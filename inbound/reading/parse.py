"""From the bytes of a message to what a person would read in it. Total: any bytes give a `ParsedMessage`.

The steps: split into parts (`mime_split`), sort them into body and attachments (`mime_bodies`), undo the
transfer encodings (`mime_transfer`), open what Outlook wrapped up (`tnef`), read the text (`charsets`). What was
wrong is reported as defects.
`docs/parsing.md` tells the reasons.
"""

from __future__ import annotations

import re
from html import escape

import structlog

from inbound.reading.charsets import CharsetDetector, decode
from inbound.reading.enclosures import Enclosure, Enclosures, Found
from inbound.reading.headers import bare_id, readable
from inbound.reading.mime_bodies import Bodies, given_name, sort_parts
from inbound.reading.mime_split import Part, split_message
from inbound.reading.mime_transfer import undo_transfer_encoding
from inbound.reading.parsed import Attachment, BodyCharset, Defect, DefectKind, Disposition, ParsedMessage

MAX_DEFECTS = 32
"""Reported of one message: enough to see what kind of mail it is."""
MAX_SHOWN_LABEL = 60
"""Characters of a declared charset or encoding that are looked at and shown."""
META_SEARCH_BYTES = 2048
"""Where an HTML part must name its charset to be heard (WHATWG HTML asks for the first 1024)."""

_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_PRE_WRAP = '<div style="white-space: pre-wrap">{}</div>'

_log = structlog.get_logger(__name__)


def parse_message(raw: bytes) -> ParsedMessage:
    """Parse a whole message (RFC 5322, RFC 2045-2047, RFC 2231). Never raises, whatever the bytes."""
    try:
        return _Reading(raw).result()
    except Exception:  # noqa: BLE001 - an error of ours must not cost anyone a mail; it is logged and reported
        _log.exception("message_not_parsed", size=len(raw))
        return _unparsed(raw)


def _unparsed(raw: bytes) -> ParsedMessage:
    """The message as its own attachment, for the case that our parser itself is at fault."""
    whole = Attachment("message.eml", "message/rfc822", raw, Disposition.ATTACHMENT, None)
    defect = Defect(DefectKind.PARSER_FAILED, "the message could not be parsed and is attached as it came")
    return ParsedMessage((), None, None, None, None, None, None, (whole,), (defect,))


class _Reading:
    """One message being read: the raw bytes, its parts, and what was found wrong on the way."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._root, self._defects = split_message(raw)
        self._detector = CharsetDetector()
        self._texts: dict[int, tuple[str, BodyCharset]] = {}

    def result(self) -> ParsedMessage:
        bodies = sort_parts(self._root)
        headers = self._headers()
        plain = self._plain(bodies)
        html = self._html(bodies)
        found = Found(
            plain,
            html,
            self._charset_of(bodies.plain, "text/plain") if plain is not None else None,
            self._charset_of(bodies.html, "text/html"),
        )
        enclosures = Enclosures(found, self._report)
        for part in bodies.plain:
            if part.media.value == "text/plain":
                enclosures.add_uuencoded(self._content(part))
        for part in bodies.attachments:
            enclosures.add(self._enclosure(part))
        return ParsedMessage(
            headers=headers,
            subject=_first(headers, "subject"),
            message_id=bare_id(_first(headers, "message-id")),
            plain=found.plain,
            html=found.html,
            plain_charset=found.plain_charset,
            html_charset=found.html_charset,
            attachments=enclosures.attachments(),
            defects=tuple(dict.fromkeys(self._defects))[:MAX_DEFECTS],
        )

    def _headers(self) -> tuple[tuple[str, str], ...]:
        hint = self._root.media.parameters.get("charset")
        return tuple((_header_name(name), readable(name.lower(), value, hint)) for name, value in self._root.fields)

    def _plain(self, bodies: Bodies) -> str | None:
        """The plain text in order; None too when the body opens with HTML that has no plain counterpart.

        In that case the text parts (a list's footer, say) are only fragments, and `html` holds them as well.
        """
        if not bodies.plain or bodies.plain[0].media.value == "text/html":
            return None
        return _joined([self._text(part)[0] for part in bodies.plain if part.media.value == "text/plain"])

    def _html(self, bodies: Bodies) -> str | None:
        """All of the body as HTML; plain parts between HTML parts are shown as they stand."""
        if not any(part.media.value == "text/html" for part in bodies.html):
            return None
        return _joined([self._as_html(part) for part in bodies.html])

    def _as_html(self, part: Part) -> str:
        text = self._text(part)[0]
        is_html = part.media.value == "text/html"
        return text if is_html or not text else _PRE_WRAP.format(escape(text))

    def _charset_of(self, parts: list[Part], media_type: str) -> BodyCharset | None:
        for part in parts:
            if part.media.value == media_type:
                return self._text(part)[1]
        return None

    def _text(self, part: Part) -> tuple[str, BodyCharset]:
        """A text part as Unicode, read only once although two bodies may hold it."""
        known = self._texts.get(id(part))
        if known is None:
            known = self._texts[id(part)] = self._read_text(part)
        return known

    def _read_text(self, part: Part) -> tuple[str, BodyCharset]:
        data = self._content(part)
        declared = part.media.parameters.get("charset", "")[:MAX_SHOWN_LABEL] or None
        hint = None
        if declared is None and part.media.value == "text/html" and not data.isascii():
            meta = _META_CHARSET.search(data, 0, META_SEARCH_BYTES)
            hint = meta[1].decode("ascii") if meta else None
        decoded = decode(data, declared, self._detector, hint)
        if decoded.problem:
            self._report(decoded.problem, f"{declared or 'no charset'}, read as {decoded.used}")
        text = decoded.text
        if "\x00" in text:
            self._report(DefectKind.NUL_REMOVED, f"from a {part.media.value} part")
            text = text.replace("\x00", "")
        return text, BodyCharset(declared, decoded.used)

    def _content(self, part: Part) -> bytes:
        encoding = part.content_fields.get("content-transfer-encoding")
        undone = undo_transfer_encoding(self._raw[part.start : part.end], encoding)
        if undone.problem:
            shown = readable("content-transfer-encoding", encoding or "")[:MAX_SHOWN_LABEL]
            self._report(undone.problem, f"{shown} of a {_media_type(part)} part")
        return undone.content

    def _enclosure(self, part: Part) -> Enclosure:
        media_type = _media_type(part)
        raw_id = part.content_fields.get("content-id")
        return Enclosure(
            name=given_name(part),
            media_type=media_type,
            method=part.media.parameters.get("method", ""),
            content_id=bare_id(readable("content-id", raw_id)) if raw_id else None,
            content=self._content(part),
        )

    def _report(self, kind: DefectKind, detail: str) -> None:
        if len(self._defects) < 10 * MAX_DEFECTS:
            self._defects.append(Defect(kind, detail))


def _header_name(name: str) -> str:
    return name if name.isascii() else name.encode("ascii", "surrogateescape").decode("utf-8", "replace")


def _first(headers: tuple[tuple[str, str], ...], lowered: str) -> str | None:
    for name, value in headers:
        if name.lower() == lowered:
            return value
    return None


def _joined(texts: list[str]) -> str:
    """Bodies one after the other, each beginning on a line of its own."""
    pieces: list[str] = []
    for text in texts:
        if pieces and text and not pieces[-1].endswith("\n"):
            pieces.append("\n")
        if text:
            pieces.append(text)
    return "".join(pieces)


def _media_type(part: Part) -> str:
    """The declared type if it is one; anything else could smuggle syntax into whatever shows it."""
    return part.media.value if _MEDIA_TYPE.fullmatch(part.media.value) else "application/octet-stream"
