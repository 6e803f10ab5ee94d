"""MIME parts as bytes (RFC 2045, RFC 2046): texts, attachments, multiparts; every line ASCII, at most 998 octets.

A part is a list of chunks that are joined once at the end, so that a large attachment is copied once.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from outbound.composing.attachment_rules import DEFAULT_CONTENT_TYPE, DraftAttachment
from outbound.composing.header_writing import MAX_LINE, is_plain
from outbound.composing.mime_parameters import encoded_parameter, extended_parameter

LINE_LENGTH = 76
"""RFC 2045 sections 6.7 (5) and 6.8: of quoted-printable and base64."""
BOUNDARY_START = "=_"
"""Neither quoted-printable nor base64 ever holds these two side by side (RFC 2045 section 6.7 recommends it)."""
MAX_PLAIN_FILE_NAME = 200

MAX_QUOTED_SHARE = 4
"""Where more than one byte in so many has to be escaped, base64 is clearly shorter; below it, quoted-printable stays
readable, and content filters trust it more."""

Disposition = Literal["inline", "attachment"]
_LINE_END = re.compile("\r\n?")
_NOT_QUOTED_PRINTABLE_TEXT = bytes(range(0x20, 0x7F)).replace(b"=", b"") + b"\t\n"
"""Bytes that quoted-printable leaves as they are."""
_UNSAFE_ASCII = re.compile(rb"[^\t\n -~]")
_QUOTE_LINE = b"From "
"""mbox files put a `>` before lines that begin so, which breaks signatures."""
_BARE = frozenset({"message/partial", "message/external-body"})
_EIGHT_BIT = re.compile(rb"[^\t\r\n -~]|\r(?!\n)|(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Part:
    """A MIME part: what stands before the blank line, and behind it."""

    fields: bytes
    """Whole header fields with their CRLF."""
    chunks: tuple[bytes, ...]
    """The body in pieces."""


def text_part(subtype: str, text: str) -> Part:
    """A body in UTF-8. Line ends of any kind become CRLF, and the last line has one."""
    plain = _LINE_END.sub("\n", text) if "\r" in text else text
    data = (plain if plain.endswith("\n") else plain + "\n").encode()
    encoding, body = encode_text(data)
    fields = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n"
    return Part(fields.encode(), (body,))


def attachment_part(attachment: DraftAttachment, disposition: Disposition) -> Part:
    """A file, byte for byte. A message is sent as such only if it needs no encoding, which it may not have."""
    content_type, encoding, body = _attachment_body(attachment)
    fields = [
        f"Content-Type: {content_type};\r\n {_type_name(attachment.file_name)}",
        f"Content-Transfer-Encoding: {encoding}",
        f"Content-Disposition: {disposition};\r\n {_disposition_name(attachment.file_name)}",
    ]
    if attachment.content_id:
        fields.append(f"Content-ID: <{attachment.content_id}>")
    return Part("".join(f"{field}\r\n" for field in fields).encode(), (body,))


def multipart(subtype: str, parts: Sequence[Part], boundary: str, parameter: str = "") -> Part:
    """Several parts as one. `parameter` is a further one of Content-Type."""
    extra = f" {parameter};\r\n" if parameter else ""
    fields = f'Content-Type: multipart/{subtype};\r\n{extra} boundary="{boundary}"\r\n'
    delimiter = f"--{boundary}".encode()
    chunks: list[bytes] = []
    for part in parts:
        chunks += [delimiter, b"\r\n", part.fields, b"\r\n", *part.chunks, b"\r\n"]
    return Part(fields.encode(), (*chunks, delimiter, b"--\r\n"))


def boundary_for(identifier: str, number: int) -> str:
    """A boundary that no other content holds, given an identifier that nobody could foresee."""
    return BOUNDARY_START + hashlib.sha256(f"{identifier} {number}".encode()).hexdigest()[:32]


def encode_text(data: bytes) -> tuple[str, bytes]:
    """Transfer encoding and body of a text whose line ends are LF: what is shortest, 7bit before all others."""
    if _is_seven_bit(data):
        return "7bit", data.replace(b"\n", b"\r\n")
    quoted = len(data.translate(None, _NOT_QUOTED_PRINTABLE_TEXT))
    if quoted * MAX_QUOTED_SHARE > len(data):
        return "base64", encode_base64(data.replace(b"\n", b"\r\n"))
    return "quoted-printable", encode_quoted_printable(data)


def encode_quoted_printable(data: bytes) -> bytes:
    """A text whose line ends are LF as quoted-printable with CRLF."""
    encoded = binascii.b2a_qp(data, istext=True)
    if encoded.startswith(_QUOTE_LINE):
        encoded = b"=46rom =\n" + encoded[len(_QUOTE_LINE) :]
    encoded = encoded.replace(b"\nFrom ", b"\n=46rom =\n")  # with a soft break, because the line may be full
    return encoded.replace(b"\n", b"\r\n")


def encode_base64(data: bytes) -> bytes:
    """In lines of 76, without a line end behind the last."""
    encoded = b64encode(data)
    return b"\r\n".join([encoded[start : start + LINE_LENGTH] for start in range(0, len(encoded), LINE_LENGTH)])


def _is_seven_bit(data: bytes) -> bool:
    """Whether it can go as it is: nothing that a transport, a mail folder or our own boundaries stumble over."""
    if not data.isascii() or _UNSAFE_ASCII.search(data) or b"--=_" in data:
        return False
    if data.startswith(_QUOTE_LINE) or b"\nFrom " in data:
        return False
    return max(map(len, data.split(b"\n"))) <= MAX_LINE


def _attachment_body(attachment: DraftAttachment) -> tuple[str, str, bytes]:
    """Media type, transfer encoding, body. RFC 2046 section 5.2.1: no base64 for messages, so one that needs it is
    sent as a file; a multipart as an attachment would lack its boundary."""
    bare, content = attachment.content_type.partition(";")[0], attachment.content
    if bare.startswith("message/"):
        lines = content.split(b"\r\n")
        is_plain_text = not _EIGHT_BIT.search(content) and max(map(len, lines)) <= MAX_LINE and b"--=_" not in content
        if is_plain_text and bare not in _BARE:
            return attachment.content_type, "7bit", content
    if bare.startswith(("message/", "multipart/")):
        return DEFAULT_CONTENT_TYPE, "base64", encode_base64(content)
    return attachment.content_type, "base64", encode_base64(content)


def _type_name(file_name: str) -> str:
    """The name for readers that look at Content-Type."""
    return f'name="{file_name}"' if _is_simple(file_name) else encoded_parameter("name", file_name)


def _disposition_name(file_name: str) -> str:
    return f'filename="{file_name}"' if _is_simple(file_name) else extended_parameter("filename", file_name)


def _is_simple(file_name: str) -> bool:
    return is_plain(file_name) and '"' not in file_name and len(file_name) <= MAX_PLAIN_FILE_NAME
