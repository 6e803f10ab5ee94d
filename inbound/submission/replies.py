"""The replies of submission that the receiver has no use for (RFC 4954, RFC 6409)."""

from __future__ import annotations

import re
from enum import StrEnum

from core.errors import InvalidField, PillarboxError
from inbound.smtp.replies import one_line


class SubmissionReply(StrEnum):
    """The replies that say always the same."""

    HELP = "214 2.0.0 EHLO STARTTLS AUTH MAIL RCPT DATA RSET NOOP VRFY QUIT (RFC 6409)"
    TLS_FIRST = "530 5.7.0 Must issue a STARTTLS command first"
    LOGIN_FIRST = "530 5.7.0 Authentication required"
    TLS_BEFORE_LOGIN = "538 5.7.11 Encryption required for requested authentication mechanism; STARTTLS first"
    EHLO_BEFORE_LOGIN = "503 5.5.1 Send EHLO first"
    LOGGED_IN = "235 2.7.0 Authentication successful"
    LOGGED_IN_ALREADY = "503 5.5.1 Authenticated already"
    WRONG_LOGIN = "535 5.7.8 Authentication credentials invalid"
    MAY_NOT_SEND = "535 5.7.8 This login may not send; make one with the scope send"
    IS_API_KEY = "535 5.7.8 This is an API key; make an SMTP login for mail programs"
    REVOKED = "530 5.7.0 This login was revoked; authenticate with another"
    LOGIN_LATER = "454 4.7.0 Temporary authentication failure; try again later"
    TOO_MANY_FAILURES = "421 4.7.0 Too many failed logins from your address; try again later"
    WHICH_MECHANISM = "501 5.5.4 Name a mechanism: AUTH PLAIN or AUTH LOGIN"
    UNKNOWN_MECHANISM = "504 5.5.4 Unrecognized authentication type; PLAIN and LOGIN are known"
    NO_INITIAL_RESPONSE = "501 5.5.2 Too many words behind AUTH"
    BAD_BASE64 = "501 5.5.2 Cannot decode that; it must be base64"
    BAD_PLAIN = "501 5.5.2 PLAIN is base64 of NUL, username, NUL, password"
    CANCELLED = "501 5.7.0 Authentication cancelled"
    LOGIN_TOO_LONG = "500 5.5.6 Authentication exchange line is too long"


_CODES = {
    "from": "550 5.7.1",  # who may send what (RFC 3463: not authorized)
    "recipients": "550 5.1.3",
    "message": "552 5.3.4",  # its size
}
"""Of refusals, by the first word of the field that is wrong."""
_OTHER_CODE = "554 5.6.0"
WHOLE_FIELD = "raw"
"""The API's name for a whole message; here there is no other kind."""
_FIRST_WORD = re.compile(r"\w*")


def queued(message_id: str) -> str:
    """The reply that takes responsibility, in CloudMailin's words."""
    return f"250 Thanks! Queued as: {message_id}"


def unreachable(problem: str) -> str:
    """The reply to a RCPT that nothing can be sent to."""
    return f"{_CODES['recipients']} This address {one_line(problem)}"


def refused(error: PillarboxError) -> str:
    """The reply to a message that cannot be sent as it is: what is wrong, and the cure."""
    if isinstance(error, InvalidField) and error.field == WHOLE_FIELD:
        return f"{_OTHER_CODE} message: {one_line(error.problem)}"
    field = error.field if isinstance(error, InvalidField) else ""
    word = _FIRST_WORD.match(field)
    code = _CODES.get(word[0] if word else "", _OTHER_CODE)
    return f"{code} {one_line(str(error))}"
