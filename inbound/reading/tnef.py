"""`winmail.dat` unpacked: Transport Neutral Encapsulation Format ([MS-OXTNEF]), total, linear and bounded.

A stream is a list of attributes; those of level 1 tell of the message, those of level 2 of the attachments, each of
which begins with its rendering data. Checksums are not verified: damaged content is still better than none. A
message inside becomes an `.eml`, because nothing else can open it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from inbound.reading.charsets import CharsetDetector, decode
from inbound.reading.mapi_properties import MAX_STRING_BYTES, Property, PropertyList, Type, Value, read_properties
from inbound.reading.parsed import BodyCharset, DefectKind
from inbound.reading.rtf import read_rtf, unpack_rtf
from inbound.reading.tnef_message import EnclosedFile, EnclosedMessage, EnclosedText, as_eml

TNEF_TYPES = frozenset({"application/ms-tnef", "application/vnd.ms-tnef"})
TNEF_SIGNATURE = b"\x78\x9f\x3e\x22"
MAX_ATTRIBUTES = 20_000
"""Read of one mail's streams together; an attachment takes four."""
MAX_FILES = 1000
"""Unpacked of one mail."""
MAX_NESTING = 4
"""Messages inside messages that are opened; a deeper one stays a stream."""
MAX_RTF_BYTES = 1024 * 1024
"""Rich text unpacked of one mail: it can grow eightfold."""

_START = 6
_ATTRIBUTE = struct.Struct("<BII")
_CHECKSUM_BYTES = 2
_MESSAGE_LEVEL = 1
_ATTACHMENT_LEVEL = 2
_MESSAGE_INTERFACE = bytes.fromhex("0703020000000000c000000000000046")
"""The interface of an embedded message, before its stream ([MS-OXTNEF] section 2.1.3.3.15)."""
_INTERFACE_BYTES = 16
_WESTERN = 1252
_NO_DETECTOR = CharsetDetector(budget=0)

# Attribute numbers, without the type in their upper half ([MS-OXTNEF] section 2.1.3.2).
_SUBJECT = 0x8004
_BODY = 0x800C
_CODE_PAGE = 0x9007
_MESSAGE_PROPERTIES = 0x9003
_RENDERING = 0x9002
_DATA = 0x800F
_TITLE = 0x8010
_ATTACHMENT_PROPERTIES = 0x9005


@dataclass(slots=True)
class TnefBudget:
    """What may still be unpacked of one mail, over all its streams."""

    attributes: int = MAX_ATTRIBUTES
    files: int = MAX_FILES
    rtf_bytes: int = MAX_RTF_BYTES


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a stream held. `message` has the attachments in order; each problem is named once."""

    message: EnclosedMessage
    problems: tuple[DefectKind, ...]


def is_tnef(media_type: str, file_name: str | None, content: bytes) -> bool:
    """Whether a part is such a stream: by its type, or by its usual name or first bytes under a type of unknown."""
    if media_type in TNEF_TYPES:
        return True
    is_unknown = media_type.startswith("application/")
    return is_unknown and ((file_name or "").lower() == "winmail.dat" or content.startswith(TNEF_SIGNATURE))


def unpack_tnef(content: bytes, budget: TnefBudget, *, with_body: bool) -> Unpacked:
    """Unpack one stream. Never raises; `with_body` says whether the text is wanted, which costs time."""
    reader = _Stream(budget, depth=0)
    message = reader.read(memoryview(content), with_body=with_body)
    return Unpacked(message, tuple(dict.fromkeys(reader.problems)))


@dataclass(slots=True)
class _File:
    """An attachment while its attributes are being read."""

    data: memoryview = field(default_factory=lambda: memoryview(b""))
    title: bytes = b""
    properties: PropertyList | None = None


class _Stream:
    """One stream and, through more of its kind, those inside it."""

    def __init__(self, budget: TnefBudget, depth: int) -> None:
        self._budget = budget
        self._depth = depth
        self._page = _WESTERN
        self._subject = b""
        self._body: memoryview | None = None
        self._properties: dict[Property, Value] = {}
        self._files: list[_File] = []
        self.problems: list[DefectKind] = []

    def read(self, stream: memoryview, *, with_body: bool) -> EnclosedMessage:
        for level, attribute, data in self._attributes(stream):
            if level == _MESSAGE_LEVEL:
                self._message_attribute(attribute, data)
            else:
                self._attachment_attribute(attribute, data)
        plain, html = self._bodies() if with_body else (None, None)
        return EnclosedMessage(
            subject=self._text(Property.SUBJECT) or self._eight_bit(self._subject),
            sender_name=self._text(Property.SENT_REPRESENTING_NAME, Property.SENDER_NAME),
            sender_address=self._text(Property.SENT_REPRESENTING_ADDRESS, Property.SENDER_ADDRESS),
            recipients=self._text(Property.DISPLAY_TO),
            message_id=self._text(Property.INTERNET_MESSAGE_ID),
            plain=plain,
            html=html,
            files=tuple(self._enclosed(file) for file in self._files),
        )

    def _attributes(self, stream: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        if bytes(stream[:4]) != TNEF_SIGNATURE:
            self.problems.append(DefectKind.TNEF_BROKEN)
            return
        position = _START
        while position + _ATTRIBUTE.size <= len(stream):
            level, attribute, length = _ATTRIBUTE.unpack_from(stream, position)
            start = position + _ATTRIBUTE.size
            if level not in (_MESSAGE_LEVEL, _ATTACHMENT_LEVEL):
                break
            if self._budget.attributes <= 0:
                self.problems.append(DefectKind.TNEF_LIMIT)
                return
            self._budget.attributes -= 1
            yield level, attribute & 0xFFFF, stream[start : start + length]
            position = start + length + _CHECKSUM_BYTES
        if position != len(stream):
            self.problems.append(DefectKind.TNEF_BROKEN)

    def _message_attribute(self, attribute: int, data: memoryview) -> None:
        if attribute == _CODE_PAGE and len(data) >= 4:
            self._page = int.from_bytes(data[:4], "little")
        elif attribute == _SUBJECT:
            self._subject = bytes(data[:MAX_STRING_BYTES])
        elif attribute == _BODY:
            self._body = data[:MAX_STRING_BYTES]
        elif attribute == _MESSAGE_PROPERTIES:
            self._properties = self._read_properties(data).values

    def _attachment_attribute(self, attribute: int, data: memoryview) -> None:
        if attribute == _RENDERING:
            if self._budget.files <= 0:
                self.problems.append(DefectKind.TNEF_LIMIT)
                return
            self._budget.files -= 1
            self._files.append(_File())
        if not self._files:
            return
        file = self._files[-1]
        if attribute == _DATA:
            file.data = data
        elif attribute == _TITLE:
            file.title = bytes(data[:MAX_STRING_BYTES])
        elif attribute == _ATTACHMENT_PROPERTIES:
            file.properties = self._read_properties(data)

    def _read_properties(self, data: memoryview) -> PropertyList:
        properties = read_properties(data)
        if not properties.is_whole:
            self.problems.append(DefectKind.TNEF_BROKEN)
        return properties

    def _enclosed(self, file: _File) -> EnclosedFile:
        values = file.properties.values if file.properties else {}
        stored = values.get(Property.ATTACH_DATA)
        if stored and stored.type == Type.OBJECT and stored.data[:_INTERFACE_BYTES] == _MESSAGE_INTERFACE:
            return self._enclosed_message(stored.data[_INTERFACE_BYTES:], self._name(file, values))
        content = bytes(file.data)
        if not content and stored:
            content = bytes(stored.data[_INTERFACE_BYTES:] if stored.type == Type.OBJECT else stored.data)
        return EnclosedFile(
            name=self._name(file, values),
            content_type=self._value_text(values.get(Property.ATTACH_MIME_TAG)),
            content_id=self._value_text(values.get(Property.ATTACH_CONTENT_ID)),
            content=content,
        )

    def _enclosed_message(self, stream: memoryview, name: str | None) -> EnclosedFile:
        if self._depth >= MAX_NESTING:
            self.problems.append(DefectKind.TNEF_LIMIT)
            return EnclosedFile(None, "application/ms-tnef", None, bytes(stream))
        inner = _Stream(self._budget, self._depth + 1)
        message = inner.read(stream, with_body=True)
        self.problems += inner.problems
        title = message.subject or name
        eml = as_eml(message, self._depth + 1)
        return EnclosedFile(f"{title}.eml" if title else None, "message/rfc822", None, eml, is_ours=True)

    def _name(self, file: _File, values: dict[Property, Value]) -> str | None:
        for wanted in (Property.ATTACH_LONG_FILENAME, Property.ATTACH_FILENAME):
            name = self._value_text(values.get(wanted))
            if name:
                return name
        return self._eight_bit(file.title) or self._value_text(values.get(Property.DISPLAY_NAME))

    def _bodies(self) -> tuple[EnclosedText | None, EnclosedText | None]:
        """The plain text and the HTML; rich text is unpacked only where it has to stand in for either."""
        plain = self._body_text(self._properties.get(Property.BODY)) or self._legacy_body()
        html = self._body_text(self._properties.get(Property.HTML), self._internet_page())
        rich = self._properties.get(Property.RTF_COMPRESSED)
        if html is None and rich is not None:
            text, is_html = self._rich_text(bytes(rich.data))
            if is_html:
                html = text
            else:
                plain = plain or text
        return plain, html

    def _rich_text(self, data: bytes) -> tuple[EnclosedText | None, bool]:
        unpacked = unpack_rtf(data, self._budget.rtf_bytes)
        is_cut = not unpacked.is_whole and len(unpacked.rtf) >= self._budget.rtf_bytes
        self._budget.rtf_bytes -= len(unpacked.rtf)
        if not unpacked.is_whole:
            self.problems.append(DefectKind.TNEF_LIMIT if is_cut else DefectKind.TNEF_BROKEN)
        read = read_rtf(unpacked.rtf)
        text = EnclosedText(read.text, BodyCharset(None, read.charset)) if read.text.strip() else None
        return text, read.is_html

    def _legacy_body(self) -> EnclosedText | None:
        return self._body_text(Value(Type.STRING8, self._body)) if self._body else None

    def _body_text(self, value: Value | None, page: int = 0) -> EnclosedText | None:
        if value is None or not value.data:
            return None
        label = self._label(value, page)
        decoded = decode(bytes(value.data[:MAX_STRING_BYTES]), label, _NO_DETECTOR)
        text = decoded.text.rstrip("\0")
        return EnclosedText(text, BodyCharset(label, decoded.used)) if text.strip() else None

    def _internet_page(self) -> int:
        page = self._properties.get(Property.INTERNET_CODEPAGE)
        return page.number if page else 0

    def _text(self, *wanted: Property) -> str | None:
        return next(filter(None, (self._value_text(self._properties.get(name)) for name in wanted)), None)

    def _value_text(self, value: Value | None) -> str | None:
        if value is None or value.type not in (Type.STRING8, Type.UNICODE):
            return None
        text = decode(bytes(value.data[:MAX_STRING_BYTES]), self._label(value), _NO_DETECTOR).text
        return " ".join(text.partition("\0")[0].split()) or None

    def _label(self, value: Value, page: int = 0) -> str:
        return "utf-16le" if value.type == Type.UNICODE else f"cp{page or self._page}"

    def _eight_bit(self, data: bytes) -> str | None:
        return self._value_text(Value(Type.STRING8, memoryview(data)))
