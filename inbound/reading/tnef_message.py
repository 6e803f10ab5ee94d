"""What a TNEF stream holds, as plain data, and such a message written out as an `.eml` (RFC 5322, RFC 2045).

Everything is written as ASCII: texts and files in base64, header values as encoded words, messages inside as they
are. So the result is at most half as large again as what it was made from.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from dataclasses import dataclass

from inbound.reading.filenames import safe_name, type_of_name
from inbound.reading.parsed import BodyCharset

MAX_HEADER_CHARACTERS = 2000
"""Written of one value."""

_LINE_BYTES = 57
"""Encoded to 76 characters, the longest line RFC 2045 allows."""
_WORD_BYTES = 42
"""Encoded to 56 characters, so that an encoded word stays within 75 (RFC 2047 section 2)."""
_BOUNDARY = b"=_enclosed_%d_%s"
"""No line of base64 and none of our headers begins with `--=_`; the depth keeps nested ones apart."""
_MESSAGE = "message/rfc822"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_PLAIN_ID = re.compile(r"[!-;=?-~]{1,500}")


@dataclass(frozen=True, slots=True)
class EnclosedText:
    """A body, read as text, and the charset it was read in."""

    text: str
    charset: BodyCharset


@dataclass(frozen=True, slots=True)
class EnclosedFile:
    """An attachment as the stream describes it: nothing of it is safe to use as a name or type yet."""

    name: str | None
    content_type: str | None
    content_id: str | None
    content: bytes
    is_ours: bool = False
    """Whether the content is a message that `as_eml` wrote, and so is ASCII with boundaries of a deeper level."""

    @property
    def media_type(self) -> str:
        """The type given, if it is one; else what the name's extension says."""
        given = (self.content_type or "").strip().lower()
        return given if _MEDIA_TYPE.fullmatch(given) else type_of_name(self.name or "")


@dataclass(frozen=True, slots=True)
class EnclosedMessage:
    """A message inside a stream."""

    subject: str | None
    sender_name: str | None
    sender_address: str | None
    recipients: str | None
    message_id: str | None
    plain: EnclosedText | None
    html: EnclosedText | None
    files: tuple[EnclosedFile, ...]


def as_eml(message: EnclosedMessage, depth: int) -> bytes:
    """Write the message, which lies `depth` messages deep. Never raises, whatever its fields hold."""
    parts = [_text_part("plain", message.plain)] if message.plain else []
    parts += [_text_part("html", message.html)] if message.html else []
    if len(parts) == 2:
        parts = [_multipart(b"alternative", parts, depth)]
    parts += [_file_part(file) for file in message.files]
    body = parts[0] if len(parts) == 1 else _multipart(b"mixed", parts, depth) if parts else [b"\r\n"]
    return b"".join([*_headers(message), b"MIME-Version: 1.0\r\n", *body])


def _headers(message: EnclosedMessage) -> list[bytes]:
    lines: list[bytes] = []
    if message.sender_name or message.sender_address:
        name = _words(message.sender_name) if message.sender_name else b""
        address = (message.sender_address or "").strip()
        lines.append(b"From: " + name + (b" <" + address.encode() + b">" if _is_address(address) else b"") + b"\r\n")
    if message.recipients:
        lines.append(b"To: " + _words(message.recipients) + b"\r\n")
    if message.subject:
        lines.append(b"Subject: " + _words(message.subject) + b"\r\n")
    if message.message_id and _PLAIN_ID.fullmatch(message.message_id.strip("<>")):
        lines.append(b"Message-ID: <" + message.message_id.strip("<>").encode() + b">\r\n")
    return lines


def _is_address(address: str) -> bool:
    return "@" in address and _PLAIN_ID.fullmatch(address) is not None


def _words(text: str) -> bytes:
    """A value as encoded words, which hold no syntax whatever the text is; plain letters stay as they are."""
    text = _CONTROL.sub(" ", text[:MAX_HEADER_CHARACTERS]).strip()
    if re.fullmatch(r"[A-Za-z0-9 !*+/_-]{0,60}", text):
        return text.encode()
    words: list[bytes] = []
    piece = b""
    for character in text:
        encoded = character.encode("utf-8", "replace")
        if len(piece) + len(encoded) > _WORD_BYTES:
            words.append(piece)
            piece = b""
        piece += encoded
    return b"\r\n ".join(b"=?utf-8?b?" + b64encode(word) + b"?=" for word in [*words, piece])


def _text_part(subtype: str, text: EnclosedText) -> list[bytes]:
    header = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    return [header.encode(), _base64(text.text.encode("utf-8", "replace"))]


def _file_part(file: EnclosedFile) -> list[bytes]:
    media_type = file.media_type
    if media_type == _MESSAGE and not file.is_ours:
        media_type = "application/octet-stream"  # RFC 2046 section 5.2.1 allows a message no base64
    name = safe_name(file.name) if file.name else ""
    header = f"Content-Type: {media_type}\r\n".encode()
    header += b"Content-Disposition: attachment"
    if name:
        escaped = "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "replace"))
        header += f"; filename*=utf-8''{escaped}".encode()
    content_id = (file.content_id or "").strip("<> ")
    if _PLAIN_ID.fullmatch(content_id):
        header += f"\r\nContent-ID: <{content_id}>".encode()
    if file.is_ours:
        return [header, b"\r\n\r\n", file.content]
    return [header, b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", _base64(file.content)]


def _multipart(subtype: bytes, parts: list[list[bytes]], depth: int) -> list[bytes]:
    """The parts' pieces with the boundary lines between them; joined only once, because files are large."""
    boundary = _BOUNDARY % (depth, subtype)
    pieces = [b'Content-Type: multipart/%s; boundary="%s"\r\n\r\n' % (subtype, boundary)]
    for part in parts:
        pieces += [b"--%s\r\n" % boundary, *part, b"\r\n"]
    return [*pieces, b"--%s--\r\n" % boundary]


def _base64(content: bytes) -> bytes:
    pieces = range(0, len(content), _LINE_BYTES)
    return b"".join(binascii.b2a_base64(content[at : at + _LINE_BYTES]) for at in pieces).replace(b"\n", b"\r\n")
