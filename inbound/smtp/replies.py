"""Every SMTP reply of the receiver: the only table from a decision or an error to a code (RFC 5321, RFC 3463).

A failure of ours is 4xx, always: the sender keeps the mail and comes again. 5xx is for what will not change.
"""

from __future__ import annotations

import re
from enum import StrEnum

from core.routing import Refusal


class Reply(StrEnum):
    """The replies that say always the same."""

    OK = "250 2.0.0 Ok"
    SENDER_OK = "250 2.1.0 Ok"
    RECIPIENT_OK = "250 2.1.5 Ok"
    START_MAIL_INPUT = "354 End data with <CR><LF>.<CR><LF>"
    BYE = "221 2.0.0 Bye"
    HELP = "214 2.0.0 EHLO HELO STARTTLS MAIL RCPT DATA RSET NOOP VRFY QUIT (RFC 5321)"
    NO_AUTH = "503 5.5.1 This server takes no logins; it only receives mail"
    CANNOT_VERIFY = "252 2.5.2 Cannot VRFY, send some mail and see"
    BAD_SYNTAX = "500 5.5.2 Bad syntax"
    UNKNOWN_COMMAND = "500 5.5.2 Command not recognised"
    LINE_TOO_LONG = "500 5.5.2 Command line too long"
    DATA_LINE_TOO_LONG = "554 5.6.0 A line of the message is too long"
    HELO_FIRST = "503 5.5.1 Send EHLO first"
    SENDER_FIRST = "503 5.5.1 Send MAIL first"
    RECIPIENT_FIRST = "503 5.5.1 Send RCPT first"
    NESTED_MAIL = "503 5.5.1 There is a sender already; RSET forgets it"
    NO_ARGUMENT = "501 5.5.4 This command takes no argument"
    UNKNOWN_PARAMETER = "555 5.5.4 A parameter is not known here"
    MESSAGE_TOO_LARGE = "552 5.3.4 The message is larger than this server takes"
    ONE_AT_A_TIME = "452 4.5.3 This recipient takes mail of its own only; send it again to it alone"
    TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients in one message"
    BAD_MAILBOX = "553 5.1.3 The mailbox syntax is wrong"
    TRY_LATER = "451 4.3.0 The mail cannot be taken at the moment; try again later"
    STORAGE_FULL = "452 4.3.1 There is no room for the mail at the moment; try again later"
    TOO_MANY_CONNECTIONS = "421 4.7.0 Too many connections; try again later"
    TOO_MANY_COMMANDS = "421 4.7.0 Too many commands without a message; closing"
    TOO_MANY_ERRORS = "421 4.7.0 Too many errors; closing"
    TALKED_FIRST = "554 5.5.1 You talked before the greeting (RFC 5321 section 4.3.1)"
    CLIENT_TOO_FAST = "450 4.7.1 Too many messages a minute from your address; try again later"
    DOMAIN_TOO_FAST = "450 4.7.1 Too many messages a minute from this sender domain; try again later"
    RETURNED_TOO_OFTEN = "450 4.7.1 Too much mail has come back for this message today; try again tomorrow"
    TARGET_DELAYED = "450 4.3.0 The recipient's application cannot take the message now; try again later"
    TARGET_BUSY = "450 4.3.2 The recipient's application has too much to do at the moment; try again later"
    IN_PROGRESS = "450 4.3.2 This message is being delivered already; try again later"
    CANNOT_ASK = "450 4.4.1 Whether the recipient takes the mail cannot be found out now; try again later"
    SPF_REFUSED = "550 5.7.23 SPF of the sender domain does not allow your host"
    DKIM_REFUSED = "550 5.7.20 The message has no valid DKIM signature"
    DMARC_REFUSED = "550 5.7.1 DMARC of the From domain asks to refuse this message"
    VIRUS_REFUSED = "550 5.7.1 The message holds a virus"
    SPAM_REFUSED = "550 5.7.1 The message looks like spam"
    TIMEOUT = "421 4.4.2 Nothing arrived for too long; closing"
    SHUTTING_DOWN = "421 4.3.2 The server is restarting; try again at once"
    NO_TLS = "454 4.7.0 TLS is not available"
    TLS_ALREADY = "503 5.5.1 TLS is active already"
    TLS_GO = "220 2.0.0 Ready to start TLS"


MAX_TEXT = 400
"""Characters of a text that somebody else wrote. With code and line end it fits the 512 octets of RFC 5321 section
4.5.3.1.5 unless it is mostly non-ASCII; then `on_the_wire` cuts it."""
MAX_LINE_OCTETS = 510
_LOOKED_AT = 4 * MAX_TEXT  # of a text that may be as long as an HTTP answer

_REFUSALS = {
    Refusal.UNKNOWN: "550 5.1.1 There is no such address here",
    Refusal.PATTERN_MISMATCH: "550 5.7.1 The recipient does not match the regexp of this domain",
}

_FROM_AIOSMTPD = {
    "250 OK": Reply.OK,
    "221 Bye": Reply.BYE,
    "503 Error: send HELO first": Reply.HELO_FIRST,
    "503 Error: need MAIL command": Reply.SENDER_FIRST,
    "503 Error: nested MAIL command": Reply.NESTED_MAIL,
    "552 Error: message size exceeds fixed maximum message size": Reply.MESSAGE_TOO_LARGE,
    "553 5.1.3 Error: malformed address": Reply.BAD_MAILBOX,
    "555 MAIL FROM parameters not recognized or not implemented": Reply.UNKNOWN_PARAMETER,
    "555 RCPT TO parameters not recognized or not implemented": Reply.UNKNOWN_PARAMETER,
}
_BARE_BAD_ARGUMENT = re.compile(r"501 (?!5\.\d)")
_BAD_ARGUMENT_ENHANCED = "501 5.5.4 "


def with_enhanced_code(status: str) -> str:
    """A reply of aiosmtpd's own with the code that RFC 2034 asks for once it is announced; ours have it already."""
    if _BARE_BAD_ARGUMENT.match(status):
        return _BARE_BAD_ARGUMENT.sub(_BAD_ARGUMENT_ENHANCED, status, count=1)
    return _FROM_AIOSMTPD.get(status, status)


def recipient_refused(refusal: Refusal) -> str:
    """The reply to a RCPT that is not taken."""
    return _REFUSALS[refusal]


def accepted(message_id: str) -> str:
    """The reply that takes responsibility: only ever sent once the message is durable."""
    return f"250 2.0.0 Ok: queued as {message_id}"


def oversize(text: str | None = None) -> str:
    """The reply to a message over the limit of an address, in the words its owner chose."""
    return Reply.MESSAGE_TOO_LARGE if not (line := one_line(text)) else f"552 5.3.4 {line}"


def rejected_by_target(text: str | None = None) -> str:
    """The reply to a message that the customer's application refuses for good, in its own words.

    5.7.1, "delivery not authorized, message refused" (RFC 3463): it is the recipient's decision.
    """
    return "554 5.7.1 " + (one_line(text) or "The recipient's application refuses the message")


def blocked(text: str | None = None) -> str:
    """The reply to what a rule of the recipient forbids."""
    return "550 5.7.1 " + (one_line(text) or "The recipient does not take this mail")


def refused_by_callback(text: str | None = None) -> str:
    """The reply to a recipient whose authorization callback says no."""
    return "550 5.7.1 " + (one_line(text) or "The recipient's application does not want this mail")


def loop_detected(reason: str) -> str:
    """The reply to a message that goes round in circles; `reason` is what `inbound.reading.trace.find_loop` gives."""
    return f"554 5.4.6 The message is in a loop: {one_line(reason)}"


def one_line(text: str | None) -> str:
    """What somebody else wrote, made fit to stand in a reply: one line, printable, at most `MAX_TEXT` characters."""
    characters = (
        character for character in (text or "")[:_LOOKED_AT] if character.isprintable() or character.isspace()
    )
    line = " ".join("".join(characters).split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 3].rstrip() + "..."


def on_the_wire(reply: str, is_utf8: bool) -> bytes:
    """A reply as it is sent, whatever it was made of: one line, printable, of legal length, without its end.

    Only a client that said SMTPUTF8 gets anything but ASCII (RFC 6531 section 3.7.4.2); others see `?`.
    """
    if not reply.isprintable():
        reply = "".join(character if character.isprintable() else "?" for character in reply)
    line = reply.encode("utf-8" if is_utf8 else "ascii", "replace")
    return line if len(line) <= MAX_LINE_OCTETS else line[:MAX_LINE_OCTETS].decode("utf-8", "ignore").encode()
