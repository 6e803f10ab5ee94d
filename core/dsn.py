"""Delivery status notifications: when we may send one, and how it is written (RFC 3464, RFC 6522, RFC 3834)."""

from __future__ import annotations

import hashlib
import quopri
import re
import textwrap
from dataclasses import dataclass
from email.utils import format_datetime

from core.addresses import parse_mailbox
from core.clock import to_datetime
from core.verdicts import AuthResult, Verdicts

MAX_RETURNED_BYTES = 16 * 1024
"""Of the original's headers: enough to know the mail by, too little to send anything through us."""
MAX_DIAGNOSTIC_LENGTH = 1_000
MAX_TEXT_LINE = 76
MAX_LINE_OCTETS = 998
"""RFC 5322 section 2.1.1."""
MAX_SHOWN_RECIPIENTS = 100
SEARCHED_BYTES = 1024 * 1024
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_MESSAGE_ID = re.compile(
    rb"^Message-ID:[ \t]*(?:\r?\n[ \t]+)?(<[!-;=?-~]{1,500}>)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)
_DAEMONS = frozenset({"mailer-daemon", "postmaster"})
_XTEXT = re.compile(r"[^!-*,-<>-\[\]-~]")
_BARE_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class FailedRecipient:
    """A recipient whom the mail did not reach."""

    address: str
    """As it was given at RCPT."""
    status: str
    """RFC 3463, e.g. `5.1.1`."""
    reason: str
    """For a person to read."""
    diagnostic: str | None = None
    """What the other side said."""
    diagnostic_type: str = "smtp"
    """`smtp` for an SMTP reply, else of the form `x-http`."""
    remote_host: str | None = None


@dataclass(frozen=True, slots=True)
class DsnReport:
    """Everything a notification tells."""

    sender: str
    """MAIL FROM of the original: who is told."""
    failed: tuple[FailedRecipient, ...]
    original: bytes
    """The original message, of which headers are returned."""
    arrived_ms: int
    now_ms: int
    reporting_host: str
    from_domain: str
    """The domain of the `mailer-daemon@` it comes from."""
    identifier: str
    """For Message-ID and boundary: must be unguessable, as `core.ids.new_time_ordered_id` is."""


def may_bounce(mail_from: str, verdicts: Verdicts | None, *, is_automatic: bool, is_ours: bool) -> bool:
    """Whether a notification may be sent to this sender without hitting somebody who never wrote (backscatter).

    Only when SPF has passed for the domain of MAIL FROM, or a DKIM signature of that domain (or of one it is below)
    has: without checks nobody is known. `is_automatic` is what `inbound.reading.trace` says of the message,
    `is_ours` whether the sender is an address that we receive for.
    """
    sender = parse_mailbox(mail_from) if mail_from else None
    if sender is None or verdicts is None or is_automatic or is_ours:
        return False
    if sender.untagged_local in _DAEMONS:
        return False
    return _spf_passed(verdicts, sender.domain) or _dkim_passed(verdicts, sender.domain)


def compose_dsn(report: DsnReport) -> bytes:
    """The whole notification, to be sent with the null sender. Raises `ValueError` when the sender is no address.

    It is ASCII throughout, unless the sender's address itself is not.
    """
    if parse_mailbox(report.sender) is None:
        raise ValueError("a notification needs a sender to go to")
    boundary = hashlib.sha256(report.identifier.encode()).hexdigest()[:32]
    returned, encoding = _returned_headers(report.original)
    parts = (
        ("text/plain; charset=us-ascii", "7bit", _text(report)),
        ("message/delivery-status", "7bit", _delivery_status(report)),
        ("text/rfc822-headers", encoding, returned),
    )
    lines = [*_headers(report, boundary), "", "This is a report in MIME format.", ""]
    for content_type, transfer_encoding, body in parts:
        lines += [f"--{boundary}", f"Content-Type: {content_type}", f"Content-Transfer-Encoding: {transfer_encoding}"]
        lines += ["", body]
    return ("\r\n".join([*lines, f"--{boundary}--"]) + "\r\n").encode()


# --- who may be told ---


def _spf_passed(verdicts: Verdicts, domain: str) -> bool:
    spf = verdicts.spf
    return spf is not None and spf.result is AuthResult.PASS and not spf.is_helo and spf.domain == domain


def _dkim_passed(verdicts: Verdicts, domain: str) -> bool:
    """A signature of a domain below that of the sender does not count: names below are given away to others."""
    signatures = verdicts.dkim.signatures if verdicts.dkim is not None else ()
    return any(
        one.result is AuthResult.PASS
        and not one.is_length_limited
        and "." in one.domain
        and (domain == one.domain or domain.endswith(f".{one.domain}"))
        for one in signatures
    )


# --- the parts ---


def _headers(report: DsnReport, boundary: str) -> list[str]:
    found = _MESSAGE_ID.search(_header_section(report.original))
    original_id = found[1].decode("ascii") if found else None
    thread = [f"In-Reply-To: {original_id}", f"References: {original_id}"] if original_id else []
    return [
        f"From: Mail Delivery System <mailer-daemon@{report.from_domain}>",
        f"To: <{report.sender}>",
        "Subject: Undelivered mail returned to sender",
        f"Date: {format_datetime(to_datetime(report.now_ms // 1000 * 1000))}",
        f"Message-ID: <{report.identifier}@{report.reporting_host}>",
        *thread,
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
    ]


def _text(report: DsnReport) -> str:
    lines = [f"This is the mail system at {report.reporting_host}.", "", "Your mail could not be delivered to:", ""]
    for one in report.failed[:MAX_SHOWN_RECIPIENTS]:
        lines += [_ascii(f"<{one.address}>"), *_wrapped(one.reason, "    "), ""]
    return "\r\n".join([*lines, "Its headers are attached. Nobody reads replies to this message.", ""])


def _delivery_status(report: DsnReport) -> str:
    """RFC 3464 section 2: one block for the message, one for each recipient."""
    arrived = format_datetime(to_datetime(report.arrived_ms // 1000 * 1000))
    blocks = [[f"Reporting-MTA: dns; {_ascii(report.reporting_host)}", f"Arrival-Date: {arrived}"]]
    for one in report.failed:
        block = [f"Final-Recipient: {_typed_address(one.address)}", "Action: failed", f"Status: {_ascii(one.status)}"]
        if one.remote_host:
            block.append(f"Remote-MTA: dns; {_ascii(one.remote_host)[: MAX_LINE_OCTETS // 2]}")
        if one.diagnostic:
            block.append("\r\n ".join(_wrapped(f"Diagnostic-Code: {one.diagnostic_type}; {one.diagnostic}")))
        blocks.append(block)
    return "\r\n".join("\r\n".join([*block, ""]) for block in blocks)


def _returned_headers(original: bytes) -> tuple[str, str]:
    """The headers of the original and their transfer encoding; cut between two lines where they are long."""
    section = _BARE_LINE_END.sub(b"\n", _header_section(original)) + b"\n"
    if len(section) > MAX_RETURNED_BYTES:
        section = section[: section.rfind(b"\n", 0, MAX_RETURNED_BYTES) + 1]
    is_plain = section.isascii() and b"\0" not in section
    if is_plain and all(len(line) <= MAX_LINE_OCTETS for line in section.split(b"\n")):
        return section.decode("ascii").replace("\n", "\r\n"), "7bit"
    encoded = quopri.encodestring(section).decode("ascii")
    return encoded.replace("\n", "\r\n"), "quoted-printable"


def _header_section(message: bytes) -> bytes:
    """What stands before the first empty line."""
    if message.startswith((b"\n", b"\r\n")):
        return b""
    end = _END_OF_HEADERS.search(message, 0, SEARCHED_BYTES)
    return message[: end.start() if end else SEARCHED_BYTES]


def _typed_address(address: str) -> str:
    """With its type; one beyond ASCII in the escaped form of RFC 6533 section 3."""
    if address.isascii():
        return f"rfc822; {_ascii(address)}"
    return "utf-8; " + _XTEXT.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", address)


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        _ascii(text[:MAX_DIAGNOSTIC_LENGTH]),
        MAX_TEXT_LINE,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ) or [indent + "no reason is known"]


def _ascii(text: str) -> str:
    """Printable ASCII in one line: what others said must not make headers."""
    return "".join(character if " " <= character <= "~" else " " if character.isspace() else "?" for character in text)
