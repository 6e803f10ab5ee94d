"""`multipart/form-data` bodies (RFC 7578) that Werkzeug, Rack, PHP and others read alike."""

from __future__ import annotations

import secrets

from inbound.payloads.fields import Payload

BOUNDARY_BYTES = 20
"""160 random bits, drawn when the content is already fixed: nobody can have put them into a message."""


class Form:
    """A form under construction. Names are ours, or cleaned by `header_key`: plain ASCII without quotes."""

    def __init__(self) -> None:
        self._boundary = f"pillarbox-{secrets.token_hex(BOUNDARY_BYTES)}".encode()
        self._pieces: list[bytes] = []

    def add(self, name: str, value: str) -> None:
        """A text field, in UTF-8 as every form parser assumes (RFC 7578 section 5.1.2)."""
        self._begin(name)
        self._pieces += (b"\r\n", value.encode(), b"\r\n")

    def add_bytes(self, name: str, value: bytes, content_type: str) -> None:
        """A field whose bytes must arrive unaltered."""
        self._begin(name)
        self._pieces += (f"Content-Type: {content_type}\r\n\r\n".encode(), value, b"\r\n")

    def add_file(self, name: str, file_name: str, content: bytes, content_type: str, content_id: str | None) -> None:
        """A file part. Its name stands as raw UTF-8, as browsers send it: `filename*` is forbidden in forms."""
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
        self._pieces += (
            b"--" + self._boundary,
            f'\r\nContent-Disposition: form-data; name="{name}"\r\n'.encode(),
        )


def _quoted(file_name: str) -> str:
    """As the WHATWG form encoding does; safe names hold none of these, and this place must not rely on it."""
    return file_name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
