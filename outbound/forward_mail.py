"""Forward accepted mail to a mailbox: one attempt, one `Outcome`, like a POST to a URL.

The content comes as the worker has prepared it (forged Authentication-Results taken out, ours put in front); from here
on trace headers are put before it and nothing in it is changed, so that signatures of its authors stay good.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime

from core.addresses import Mailbox
from core.clock import Clock
from core.delivery import Outcome, Verdict
from core.envelope import Envelope
from core.srs import SrsRewriter
from outbound.mail import NO_ANSWER, OutgoingMail, RecipientResult
from outbound.mx import MxTransport

LOOP_MARK = "X-Pillarbox-Forwarded"
MAX_NAME_LENGTH = 255
SEARCHED_BYTES = 1024 * 1024
"""How far into a message its marks are looked for; headers are far shorter."""
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_MARK = re.compile(rb"^" + LOOP_MARK.encode() + rb":[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_UNFIT_FOR_TRACE = re.compile(r"[^!-'*-:=?-\[\]-~]")  # spaces, brackets, comments, backslashes and all beyond ASCII


@dataclass(frozen=True, slots=True)
class Forward:
    """One message to be forwarded."""

    delivery_id: str
    envelope: Envelope
    """How it came in."""
    target: Mailbox
    """From `outbound.mailto.parse_mailto`."""
    mark: str
    """Names who forwards: the mailbox of the address. A message that bears it already has been here before."""
    content: bytes


class MailForwarder:
    """Forwards mail, from any thread."""

    def __init__(self, transport: MxTransport, srs: SrsRewriter, our_name: str, clock: Clock) -> None:
        self._transport = transport
        self._srs = srs
        self._our_name = our_name
        self._clock = clock

    def send(self, forward: Forward) -> RecipientResult:
        """Make one attempt."""
        if bears_mark(forward.content, forward.mark):
            return self._loop(forward)
        mail = OutgoingMail(
            mail_from=self._srs.forward(forward.envelope.mail_from),
            recipients=(forward.target.text,),
            content=self._trace(forward) + forward.content,
        )
        return self._transport.deliver(mail)[0]

    def _trace(self, forward: Forward) -> bytes:
        lines = [f"{LOOP_MARK}: {forward.mark}", *received_lines(forward.envelope, self._our_name, forward.delivery_id)]
        return "".join(f"{line}\r\n" for line in lines).encode()

    def _loop(self, forward: Forward) -> RecipientResult:
        text = (
            f"the mail was forwarded by {forward.mark} before: a loop; see where {forward.target.text} sends its mail"
        )
        outcome = Outcome(Verdict.PERMANENT, NO_ANSWER, self._clock(), 0, error=text)
        return RecipientResult(forward.target.text, outcome, "5.4.6", None, None, None)


def bears_mark(content: bytes, mark: str) -> bool:
    """Whether a message was forwarded in this name before."""
    end = _END_OF_HEADERS.search(content, 0, SEARCHED_BYTES)
    found = _MARK.finditer(content, 0, end.start() if end else SEARCHED_BYTES)
    return any(match[1].strip().lower() == mark.lower().encode() for match in found)


def received_lines(envelope: Envelope, our_name: str, trace_id: str) -> list[str]:
    """The Received header of our taking the message (RFC 5321 section 4.4), which its stored form does not have."""
    protocol = "ESMTPS" if envelope.tls_version else "ESMTP"
    client = f"from {_traceable(envelope.helo)} ({_address_literal(envelope.remote_ip)})"
    date = format_datetime(envelope.received_at.astimezone(UTC))
    only = envelope.recipients[0] if len(envelope.recipients) == 1 else None
    whom = f" for <{_traceable(only)}>" if only else ""
    return [f"Received: {client}", f"\tby {our_name} with {protocol} id {trace_id}{whom};", f"\t{date}"]


def _traceable(text: str) -> str:
    """What a client said, made fit to stand in a header."""
    return _UNFIT_FOR_TRACE.sub("?", text[:MAX_NAME_LENGTH]) or "unknown"


def _address_literal(text: str) -> str:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "unknown"
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"
