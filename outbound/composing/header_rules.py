"""Which header fields a customer may set, and what may be in them.

Refused are those that the draft has fields for, those of the structure of a message (which would be a way to forge
it), and those that transport and authentication write. Everything else may be set, once or often.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import InvalidField
from outbound.composing.header_writing import (
    MAX_NAME,
    MAX_TOKEN,
    check_line,
    is_structured,
    structured_field,
    unstructured_field,
)
from outbound.composing.mailboxes import NamedMailbox, address_field, read_mailboxes

MAX_HEADERS = 100
MAX_VALUE_LENGTH = 8_000
MAX_MESSAGE_ID_LENGTH = 250

_NAME = re.compile(r"[!-9;-~]+")
"""RFC 5322 section 3.6.8."""
_MESSAGE_ID = re.compile(r"<?([!-;=?A-~]+@[!-;=?A-~]+)>?")
_HAS_FIELD = {"from": "from", "to": "to", "cc": "cc", "bcc": "bcc"}
_OURS = frozenset(
    [
        "date",
        "sender",
        "return-path",
        "received",
        "mime-version",
        "dkim-signature",
        "domainkey-signature",
        "authentication-results",
        "received-spf",
        "delivered-to",
        "x-original-to",
        "apparently-to",
        "errors-to",
        "envelope-to",
        "x-envelope-from",
        "x-envelope-to",
    ]
)
_OURS_BEGIN = ("content-", "arc-", "resent-", "x-pillarbox-", "x-google-dkim-")
_ADDRESSES = frozenset(
    [
        "reply-to",
        "disposition-notification-to",
        "return-receipt-to",
        "mail-followup-to",
        "mail-reply-to",
        "x-confirm-reading-to",
    ]
)
_STRUCTURED = frozenset(
    [
        "in-reply-to",
        "references",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "list-id",
        "list-help",
        "list-subscribe",
        "list-owner",
        "list-post",
        "list-archive",
        "auto-submitted",
        "precedence",
        "importance",
        "priority",
        "x-priority",
        "feedback-id",
    ]
)
_ONCE = _ADDRESSES | _STRUCTURED | {"message-id", "subject"}


@dataclass(frozen=True, slots=True)
class CheckedHeaders:
    """The fields that may be written."""

    fields: tuple[tuple[str, str], ...]
    """In the order given, without Subject and Message-ID."""
    subject: str
    """Empty when none was given here."""
    message_id: str | None
    """Without angle brackets."""
    mailboxes: tuple[NamedMailbox, ...]
    """All that the fields name."""

    def has(self, lowered_name: str) -> bool:
        """Whether a field of that name is set."""
        return any(name.lower() == lowered_name for name, _ in self.fields)


def check_headers(headers: Sequence[tuple[str, str]]) -> CheckedHeaders:
    """Check names and values. Raises `InvalidField`, its field being `headers.` and the name."""
    if len(headers) > MAX_HEADERS:
        raise InvalidField("headers", f"are more than {MAX_HEADERS}")
    for name, value in headers:
        _check_name(name)
        check_line(f"headers.{name}", value, MAX_VALUE_LENGTH)
    for name, count in Counter(name.lower() for name, _ in headers).items():
        if count > 1 and name in _ONCE:
            raise InvalidField(f"headers.{name}", "may stand once only; put all in one value")
    lowered = {name.lower(): value for name, value in headers}
    fields = tuple((name, value) for name, value in headers if name.lower() not in ("subject", "message-id"))
    return CheckedHeaders(
        fields=fields,
        subject=lowered.get("subject", ""),
        message_id=_message_id(lowered.get("message-id")),
        mailboxes=tuple(one for name, value in fields for one in _check_value(name, value)),
    )


def custom_field(name: str, value: str) -> bytes:
    """The whole field, for what `check_headers` let pass."""
    lowered = name.lower()
    if not value.strip():
        return f"{name}:\r\n".encode()
    if lowered in _ADDRESSES:
        return address_field(name, read_mailboxes(f"headers.{name}", value))
    if lowered in _STRUCTURED or is_structured(value):
        return structured_field(name, value.strip())
    return unstructured_field(name, value)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        shown = "".join(one if "!" <= one <= "~" else "?" for one in name[:MAX_NAME])
        problem = f"is no header name: at most {MAX_NAME} printable ASCII characters without blank and colon"
        raise InvalidField(f"headers.{shown}", problem)
    lowered = name.lower()
    if lowered in _HAS_FIELD:
        raise InvalidField(f"headers.{name}", f"cannot be set here; use the field {_HAS_FIELD[lowered]}")
    if lowered in _OURS or lowered.startswith(_OURS_BEGIN):
        raise InvalidField(f"headers.{name}", "cannot be set: the gateway writes it; leave it out")


def _check_value(name: str, value: str) -> tuple[NamedMailbox, ...]:
    """The mailboxes that the field names."""
    lowered = name.lower()
    if not value.strip():
        return ()
    if lowered in _ADDRESSES:
        return read_mailboxes(f"headers.{name}", value)
    if lowered in _STRUCTURED and not is_structured(value.strip()):
        raise InvalidField(f"headers.{name}", f"must be ASCII, with a blank after {MAX_TOKEN} characters at most")
    return ()


def _message_id(text: str | None) -> str | None:
    if not text or not text.strip():
        return None
    found = _MESSAGE_ID.fullmatch(text.strip())
    if found is None or len(found[1]) > MAX_MESSAGE_ID_LENGTH:
        raise InvalidField("headers.Message-ID", "must be of the form <unique@example.com>")
    return found[1]
