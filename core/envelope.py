"""The SMTP envelope of one accepted message, as routing and every payload format see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from core.verdicts import Verdicts

NO_VERDICTS = Verdicts()


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the SMTP conversation said (RFC 5321 section 2.3.1), beside what the message says of itself."""

    mail_from: str
    """The reverse path without angle brackets; empty for the null sender (a bounce)."""
    recipients: tuple[str, ...]
    """The RCPT TO addresses of this delivery, in the order they were given, never empty."""
    helo: str
    """The name the client gave in HELO or EHLO."""
    remote_ip: str
    """The client's IPv4 or IPv6 address in text form."""
    tls_version: str | None
    """E.g. `TLSv1.3`; None when the message came in clear text."""
    tls_cipher: str | None
    """E.g. `TLS_AES_256_GCM_SHA384`; None when the message came in clear text."""
    md5: str
    """Hex MD5 of the raw message: an identifier shown to customers, not a security measure."""
    received_at: datetime
    """When the last byte of DATA was read, in UTC."""
    verdicts: Verdicts = NO_VERDICTS
    store_url: str | None = None
    """Where the whole message is stored, when the address asks for that."""
    flags: tuple[str, ...] = ()
    """Names of the rules and checks that flagged the message (`core.address_settings.FailAction.FLAG`)."""
