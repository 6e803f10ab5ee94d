"""What is said in an AUTH exchange: base64 (RFC 4954), and within it PLAIN (RFC 4616) and LOGIN."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from inbound.submission.replies import SubmissionReply

MECHANISMS = ("PLAIN", "LOGIN")
CANCEL = b"*"
EMPTY = "="
"""An initial response of no bytes (RFC 4954 section 4)."""
_SEPARATOR = "\0"


class ExchangeFailed(Exception):
    """The exchange is over without a login; `reply` says why."""

    def __init__(self, reply: SubmissionReply) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class NameAndPassword:
    """What a client logs in with."""

    username: str
    password: str


def challenge(text: str = "") -> str:
    """The line that asks for more."""
    return f"334 {base64.b64encode(text.encode()).decode()}"


def decode(line: bytes) -> str:
    """A response as text. Raises `ExchangeFailed`.

    What is no UTF-8 cannot be a login of ours; it becomes text that opens nothing, and costs what others do.
    """
    if line == CANCEL:
        raise ExchangeFailed(SubmissionReply.CANCELLED)
    try:
        return base64.b64decode(line, validate=True).decode("utf-8", "replace")
    except binascii.Error as error:
        raise ExchangeFailed(SubmissionReply.BAD_BASE64) from error


def read_plain(response: str) -> NameAndPassword:
    """PLAIN: an identity to act as, the name, the password, NUL between them. Raises `ExchangeFailed`."""
    parts = response.split(_SEPARATOR)
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise ExchangeFailed(SubmissionReply.BAD_PLAIN)
    acts_as, username, password = parts
    if acts_as not in ("", username):  # nobody may act as somebody else here
        raise ExchangeFailed(SubmissionReply.WRONG_LOGIN)
    return NameAndPassword(username, password)
