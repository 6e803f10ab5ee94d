"""Forward accepted mail to a mailbox: one attempt, one `Outcome`, like a POST to a URL.

The content comes as the worker has prepared it (forged Authentication-Results taken out, ours put in front); from here
on trace headers are put before it and nothing in it is changed, so that signatures of its authors stay good.

With the rewritten sender a mail passes SPF as ours. Where the From header is of our domain too, or of one nearby, that
would make it pass DMARC (RFC 7489 section 3.1.2): anybody could write in the name of those we belong to, by way of an
address that forwards. Such a mail keeps its sender unless it had passed DMARC when it came.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime

from core.addresses import Mailbox, parse_mailbox
from core.clock import Clock
from core.delivery import Outcome, Verdict
from core.envelope import Envelope
from core.loop_mark import FORWARDED_HEADER
from core.srs import SrsRewriter
from core.verdicts import AuthResult, Verdicts
from outbound.mail import NO_ANSWER, OutgoingMail, RecipientResult
from outbound.mx import MxTransport

MAX_NAME_LENGTH = 255
SEARCHED_BYTES = 1024 * 1024
"""How far into a message its marks are looked for; headers are far shorter."""
_MAY_BE_OURS = (None, AuthResult.PASS, AuthResult.NONE)
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_MARK = re.compile(rb"^" + FORWARDED_HEADER.encode() + rb":[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_FROM = re.compile(rb"^From[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)", re.IGNORECASE | re.MULTILINE)
_SPACE = re.compile(rb"\s+")
_UNFIT_FOR_TRACE = re.compile(r"[^!-'*-:=?-\[\]-~]")  # spaces, brackets, comments, backslashes and all beyond ASCII


@dataclass(frozen=True, slots=True)
class Forward:
    """One message to be forwarded."""

    delivery_id: str
    envelope: Envelope
    """How it came in."""
    target: Mailbox
    """From `core.mailto.parse_mailto`."""
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
        target = forward.target.text
        if bears_mark(forward.content, forward.mark):
            text = f"the mail was forwarded by {forward.mark} before: a loop; see where {target} sends its mail"
            return self._refusal(target, "5.4.6", text)
        if self._claims_our_domain(forward.envelope):
            result = forward.envelope.verdicts.spf and forward.envelope.verdicts.spf.result
            if result is AuthResult.TEMPERROR:
                return self._refusal(target, "4.7.24", "SPF of our own domain cannot be looked up", Verdict.TEMPORARY)
            if result not in _MAY_BE_OURS:
                text = f"the sender claims to be of {self._srs.domain}, and SPF does not say that it is"
                return self._refusal(target, "5.7.1", text)
        mail = OutgoingMail(
            mail_from=self._sender(forward),
            recipients=(target,),
            content=self._trace(forward) + forward.content,
        )
        return self._transport.deliver(mail)[0]

    def _trace(self, forward: Forward) -> bytes:
        lines = [
            f"{FORWARDED_HEADER}: {forward.mark}",
            *received_lines(forward.envelope, self._our_name, forward.delivery_id),
        ]
        return "".join(f"{line}\r\n" for line in lines).encode()

    def _sender(self, forward: Forward) -> str:
        """Ours, so that SPF passes, unless that would lend our name to a stranger."""
        given = forward.envelope.mail_from
        spf = forward.envelope.verdicts.spf
        if spf is None and self._claims_our_domain(forward.envelope):
            return ""  # nobody has checked; from here it would pass as ours
        if spf is not None and spf.result is AuthResult.FAIL:
            return given  # an address of ours would let strangers write to whom they have named
        if names_domain_near(forward.content, self._srs.domain) and not _passed_dmarc(forward.envelope.verdicts):
            return given
        return self._srs.forward(given)

    def _claims_our_domain(self, envelope: Envelope) -> bool:
        """Whether it would pass SPF as ours without being rewritten."""
        sender = parse_mailbox(envelope.mail_from) if envelope.mail_from else None
        return sender is not None and sender.domain == self._srs.domain

    def _refusal(self, target: str, enhanced: str, text: str, verdict: Verdict = Verdict.PERMANENT) -> RecipientResult:
        outcome = Outcome(verdict, NO_ANSWER, self._clock(), 0, error=text, is_our_fault=verdict is Verdict.TEMPORARY)
        return RecipientResult(target, outcome, enhanced, None, None, None)


def bears_mark(content: bytes, mark: str) -> bool:
    """Whether a message was forwarded in this name before."""
    found = _MARK.finditer(content, 0, _end_of_headers(content))
    return any(match[1].strip().lower() == mark.lower().encode() for match in found)


def names_domain_near(content: bytes, domain: str) -> bool:
    """Whether a From header speaks of a domain whose last two labels are ours, however it is written.

    That takes in every domain that relaxed alignment could count as ours, and under suffixes like `co.uk` some more:
    for those it only means that an unauthenticated mail is forwarded as it came.
    """
    nearby = ".".join(domain.rsplit(".", 2)[-2:]).encode()
    found = _FROM.finditer(content, 0, _end_of_headers(content))
    return any(nearby in _SPACE.sub(b"", match[1]).lower() for match in found)


def _passed_dmarc(verdicts: Verdicts) -> bool:
    return verdicts.dmarc is not None and verdicts.dmarc.result is AuthResult.PASS


def _end_of_headers(content: bytes) -> int:
    end = _END_OF_HEADERS.search(content, 0, SEARCHED_BYTES)
    return end.start() if end else SEARCHED_BYTES


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
