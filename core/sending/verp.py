"""Return paths: the envelope sender of each mail we send, from which a bounce tells which delivery it is about.

The local part is `b-`, the delivery's id in base32, `-`, and an HMAC over both: what comes back to it is about a mail
that we sent, and nobody can make a bounce for somebody else's. ("Variable envelope return paths", D. J. Bernstein,
1997.) Letters, digits and hyphens only, in lower case, because hosts on the way change case and some misread `+` and
`=`; 46 of the 64 octets that RFC 5321 section 4.5.3.1.1 allows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import uuid

from core.clock import DAY_MS, Clock

VALIDITY_DAYS = 60
"""Hosts give up after 5 days or less (RFC 5321 section 4.5.4.1); people complain about mail weeks later."""
MAC_LENGTH = 16
"""Characters of 5 bits: 80 bits, and each guess costs a mail."""
ID_LENGTH = 26
"""Of 128 bits in base32."""
PREFIX = "b-"
SECRET_NAME = "return_paths"  # noqa: S105 (the name under which processes share it)
RETURN_HEADER = "X-Pillarbox-Return"
"""A header of each mail we send, holding the local part. Feedback loops return mail without its envelope."""

_ID_PADDING = "=" * 6  # base32 counts in groups of 8
_FORM = re.compile(rf"{PREFIX}([a-z2-7]{{{ID_LENGTH}}})-([a-z2-7]{{{MAC_LENGTH}}})\Z")
_UUID_VERSION = 7
_TIME_SHIFT = 80


def is_like_return_path(local_part: str) -> bool:
    """Whether a local part has the form of ours; what it says is for `ReturnPaths.read` to prove."""
    return local_part.isascii() and _FORM.match(local_part.lower()) is not None


class ReturnPaths:
    """Makes return paths and reads them. Holds no state but the secret."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def make(self, recipient_delivery_id: str, domain: str) -> str:
        """The envelope sender for one recipient's delivery, e.g. `b-…-…@mta.example.com`.

        `domain` is put behind as it is. Raises `ValueError` when the id is no UUID version 7 (`core.ids`).
        """
        return f"{self.local_part(recipient_delivery_id)}@{domain}"

    def local_part(self, recipient_delivery_id: str) -> str:
        """What stands before the `@`, and in `RETURN_HEADER`. Raises `ValueError` as `make` does."""
        identifier = uuid.UUID(recipient_delivery_id)
        if identifier.version != _UUID_VERSION:
            raise ValueError("a return path needs a delivery id that is a UUID version 7")
        packed = base64.b32encode(identifier.bytes).decode("ascii").rstrip("=").lower()
        return f"{PREFIX}{packed}-{self._mac(packed)}"

    def read(self, local_part: str) -> str | None:
        """The delivery's id; None when we did not make this local part, or made its id too long ago. Never raises."""
        if not local_part.isascii():  # else the Kelvin sign is a k
            return None
        match = _FORM.match(local_part.lower())
        if match is None or not hmac.compare_digest(self._mac(match[1]), match[2]):
            return None
        identifier = uuid.UUID(bytes=base64.b32decode(match[1].upper() + _ID_PADDING))
        age_ms = self._clock() - (identifier.int >> _TIME_SHIFT)
        return str(identifier) if age_ms <= VALIDITY_DAYS * DAY_MS else None

    def _mac(self, packed: str) -> str:
        digest = hmac.new(self._secret, f"{PREFIX}{packed}".encode(), hashlib.sha256).digest()
        return base64.b32encode(digest).decode("ascii")[:MAC_LENGTH].lower()
