"""`multipart/form-data` bodies (RFC 7578) that Werkzeug, Django, Rack, PHP and others read alike."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from inbound.payloads.fields import Payload, Value

BOUNDARY_BYTES = 20
"""160 random bits, drawn when the content is already fixed: nobody can have put them into a message."""


class Form:
    """A form under construction. Names are ours, or cleaned in `header_fields`: plain ASCII without quotes."""

    def __init__(self) -> None:
        self._boundary = f"pillarbox-{secrets.token_hex(BOUNDARY_BYTES)}".encode()
        self._pieces: list[bytes] = []
        self.parts = 0
        """Fields and files so far."""

    def add(self, name: str, value: str) -> None:
        """A text field, in UTF-8 as every form parser assumes (RFC 7578 section 5.1.2)."""
        self._begin(name)
        self._pieces += (b"\r\n", value.encode(), b"\r\n")

    def add_values(self, name: str, value: Value) -> None:
        """A field, or for an object or array the fields `name[key]` and `name[0]` … in it."""
        if type(value) is str:
            self.add(name, value)
            return
        for field, text in flat(name, value):
            self.add(field, text)

    def add_bytes(self, name: str, value: bytes, content_type: str) -> None:
        """A field whose bytes must arrive unaltered."""
        self._begin(name)
        self._pieces += (f"Content-Type: {content_type}\r\n\r\n".encode(), value, b"\r\n")

    def add_file(self, name: str, file_name: str, content: bytes, content_type: str, content_id: str | None) -> None:
        """A file part. Its name stands as raw UTF-8, as browsers send it: `filename*` is forbidden in forms."""
        self.parts += 1
        self._pieces += (
            b"--" + self._boundary,
            f'\r\nContent-Disposition: form-data; name="{name}"; filename="{_quoted(file_name)}"\r\n'.encode(),
            f"Content-Type: {content_type}\r\n".encode(),
            f"Content-ID: <{content_id}>\r\n\r\n".encode() if content_id else b"\r\n",
            content,
            b"\r\n",
        )

    def payload(self) -> Payload:
        """The finished form."""
        self._pieces.append(b"--" + self._boundary + b"--\r\n")
        content_type = f"multipart/form-data; boundary={self._boundary.decode()}"
        return Payload(content_type, b"".join(self._pieces))

    def _begin(self, name: str) -> None:
        self.parts += 1
        self._pieces += (
            b"--" + self._boundary,
            f'\r\nContent-Disposition: form-data; name="{name}"\r\n'.encode(),
        )


def flat(name: str, value: Value) -> list[tuple[str, str]]:
    """Fields by their bracketed names. What is null is absent, booleans are `true` and `false`."""
    fields: list[tuple[str, str]] = []
    _flatten(name, value, fields)
    return fields


def _flatten(name: str, value: Value, fields: list[tuple[str, str]]) -> None:
    if isinstance(value, str):
        fields.append((name, value))
    elif value is None:
        return
    elif isinstance(value, bool):
        fields.append((name, "true" if value else "false"))
    elif isinstance(value, int):
        fields.append((name, str(value)))
    else:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            if type(item) is str:  # most are: this spares them a call
                fields.append((f"{name}[{key}]", item))
            else:
                _flatten(f"{name}[{key}]", item, fields)


def charset_that_keeps_bytes(data: bytes) -> str:
    """A charset in which every byte survives: parsers that turn fields into text go by it (RFC 7578 section 4.5)."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "iso-8859-1"
    return "utf-8"


def _quoted(file_name: str) -> str:
    """As the WHATWG form encoding does; safe names hold none of these, and this place must not rely on it."""
    return file_name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
