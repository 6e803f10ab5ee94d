"""Bounces for people only: what a text says of which recipient, told by its form and by codes in it.

All programs write much the same: an introduction, then for each recipient a line that begins with the address and the
reason behind it or below, then our mail. Where no line begins with one, the first address in a sentence is it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from core.addresses import parse_mailbox
from core.sending.returned import DsnAction, ReturnedRecipient, Severity, severity, smtp_code_in, status_in
from inbound.returned_mail.automatic import mark_of
from inbound.returned_mail.automatic_phrases import AWAY_SUBJECTS, REPLY_SUBJECTS
from inbound.returned_mail.bounce_phrases import (
    BOUNCE_SUBJECTS,
    COPY_MARKS,
    DELAY_PHRASES,
    FAILURE_PHRASES,
    MAIL_SYSTEMS,
    SUCCESS_PHRASES,
    SUCCESS_SUBJECTS,
)
from inbound.returned_mail.opened import Fields, OpenedMail, header_inside
from inbound.returned_mail.shown import one_line

MAX_LINES = 400
"""Lines of a text that are read."""
MAX_LINE = 1000
MAX_RECIPIENTS = 100
MAX_REASON_LINES = 25
MAX_REASON = 1500
MAX_MARK = 40
"""Characters of `Original message follows.` and its like."""
FAILED_RECIPIENTS = "x-failed-recipients"
"""Exim's, and Gmail's."""

_LEADING = re.compile(
    r"[\s>*•|-]*+(?P<label>(?:recipient|recipients|recipient address|address|user|mailbox|failed recipient|e-mail|email"
    r"|unknown user|user unknown|no such user|invalid final delivery userid|error-for|delivery failed \d{1,3} attempts"
    r"|empfänger|destinataire|destinatario)[ \t]*+:[ \t]*+)?[\"'\[<(]*+(?:smtp:|mailto:)?"
    r"(?P<address>[^\s<>\"'(),;:\[\]@]{1,200}+@[^\s<>\"'(),;:\[\]@]{1,255}+)[\"'\]>)]*+(?P<rest>.*)",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(r"[\s<>\"'(),;:\[\]|]+")
_COPY_HEADER = re.compile(r"[\s>|]*+(?:received|return-path|message-id|dkim-signature)[ \t]*+:", re.IGNORECASE)
_NO_RECIPIENTS = frozenset({"postmaster", "abuse", "support", "helpdesk", "hostmaster"}) | MAIL_SYSTEMS


@dataclass(frozen=True, slots=True)
class TextBounce:
    """What such a text says."""

    written_by: str
    recipients: tuple[ReturnedRecipient, ...]
    original: Fields
    """The header of our mail, where the text holds it."""


@dataclass(frozen=True, slots=True)
class _Sender:
    is_daemon: bool
    is_null: bool
    is_reply: bool
    """By the subject: it answers something, and what it says besides are our own words."""
    says_bounce: bool
    """In the subject."""
    is_automatic: bool
    """Whether it is marked as the answer of a program, as some bounces are."""

    @property
    def is_notifying(self) -> bool:
        return self.is_daemon or self.says_bounce


@dataclass(slots=True)
class _Entry:
    address: str
    reason: list[str] = field(default_factory=list)


def is_mail_system(mail: OpenedMail, envelope_from: str) -> bool:
    """Whether the sender calls himself a mail system, in the envelope or in the header."""
    senders = [envelope_from, *(_addresses_in(mail.first("from")) or [mail.first("from")])]
    return any(sender.partition("@")[0].strip("<> ").lower().partition("+")[0] in MAIL_SYSTEMS for sender in senders)


def read_text_bounce(mail: OpenedMail, envelope_from: str, ours: frozenset[str]) -> TextBounce | None:
    """The bounce that a message without a status report is; None when it is none.

    `ours` are addresses, in lower case, that cannot have failed: those the message came to.
    """
    subject = mail.first("subject").strip().lower()
    named = [address for value in mail.fields.get(FAILED_RECIPIENTS, ()) for address in _addresses_in(value)]
    sender = _Sender(
        is_daemon=is_mail_system(mail, envelope_from),
        is_null=not envelope_from,
        is_reply=subject.startswith(REPLY_SUBJECTS),
        says_bounce=_holds_any(subject, BOUNCE_SUBJECTS) and not subject.startswith((*AWAY_SUBJECTS, *REPLY_SUBJECTS)),
        is_automatic=mark_of(mail) is not None,
    )
    if not (sender.is_daemon or sender.says_bounce or named or sender.is_null):
        return None
    for text in mail.texts:
        own_words = "\n".join(_without_copy(text))
        flat = _flat(own_words)
        is_delay = _is_delay(subject, flat)
        writer = next((name for name, phrase in FAILURE_PHRASES if phrase in flat), None)
        if writer is None and named:
            writer = "X-Failed-Recipients"
        if writer is None and not is_delay and sender.is_notifying and _is_success(subject, flat):
            action, writer = DsnAction.DELIVERED, "a notice of success"
        else:
            action = DsnAction.DELAYED if is_delay else DsnAction.FAILED
            writer = writer or ("a warning of delay" if is_delay else _by_substance(own_words, sender, ours))
        if writer is not None:
            recipients = _recipients(own_words, action, named, ours)
            return TextBounce(writer, recipients, mail.original or header_inside(text))
    return None


def _by_substance(own_words: str, sender: _Sender, ours: frozenset[str]) -> str | None:
    """A text that no known software writes: two of sender, subject, and a recipient or reason make it a bounce.

    People and their programs repeat our subjects, which may be "Delivery report", and write of addresses that do not
    exist. So a subject alone, without a mail system as the sender, says nothing unless nobody has sent it.
    """
    if sender.is_daemon and sender.says_bounce:
        return "a mail system, by its subject"
    if not sender.is_null and (sender.is_reply or not sender.is_daemon):
        return None
    if not sender.is_daemon and (not sender.says_bounce or sender.is_automatic):
        return None
    if severity(None, None, own_words) is not Severity.UNKNOWN or status_in(own_words):
        return "an unknown mail system, by its reasons"
    return "an unknown mail system, by its recipients" if _entries(own_words, ours) else None


def _is_delay(subject: str, flat: str) -> bool:
    return _holds_any(flat, DELAY_PHRASES) or subject.startswith(("warning: message", "delayed", "delivery delayed"))


def _is_success(subject: str, flat: str) -> bool:
    says_so = _holds_any(flat, SUCCESS_PHRASES) or _holds_any(subject, SUCCESS_SUBJECTS)
    return says_so and severity(None, None, flat) is Severity.UNKNOWN


def _without_copy(text: str) -> list[str]:
    """The lines before our own mail."""
    lines: list[str] = []
    for line in text.splitlines()[:MAX_LINES]:
        line = line[:MAX_LINE]
        if lines and (_COPY_HEADER.match(line) or _is_copy_mark(line)):
            break
        lines.append(line)
    return lines


def _is_copy_mark(line: str) -> bool:
    """A long sentence that only speaks of the copy is none, unless it is drawn as a rule."""
    stripped = line.strip()
    is_sentence = stripped.endswith(".") and len(stripped) > MAX_MARK and not stripped.startswith(("-", "_", "=", "|"))
    return _holds_any(stripped.lower(), COPY_MARKS) and "@" not in stripped and not is_sentence


def _recipients(
    own_words: str, action: DsnAction, named: list[str], ours: frozenset[str]
) -> tuple[ReturnedRecipient, ...]:
    entries = _entries(own_words, ours)
    if not entries:
        in_sentence = [one for one in _addresses_in(own_words) if _may_have_failed(one, ours)]
        entries = [_Entry(in_sentence[0], own_words.splitlines())] if in_sentence and not named else []
    if named:
        by_address = {entry.address.lower(): entry for entry in entries}
        whole = own_words.splitlines() if len(named) == 1 else []
        entries = [by_address.get(one.lower()) or _Entry(one, whole) for one in dict.fromkeys(named)]
    if not entries:
        return (_recipient(None, own_words, action),)
    return tuple(
        _recipient(one.address, "\n".join(one.reason), action, own_words if len(entries) == 1 else "")
        for one in entries[:MAX_RECIPIENTS]
    )


def _entries(own_words: str, ours: frozenset[str]) -> list[_Entry]:
    """A recipient for each line that begins with an address; what is said of one twice is joined."""
    entries: dict[str, _Entry] = {}
    current: _Entry | None = None
    for line in own_words.splitlines():
        match = _LEADING.match(line)
        if match and _may_have_failed(match["address"].rstrip("."), ours) and len(entries) < MAX_RECIPIENTS:
            address = match["address"].rstrip(".")
            current = entries.setdefault(address.lower(), _Entry(address))
            line = f"{match['label'] or ''} {match['rest'].lstrip(': ')}"
        if current is not None and line.strip() and len(current.reason) < MAX_REASON_LINES:
            current.reason.append(line)
    return list(entries.values())


def _recipient(address: str | None, reason: str, action: DsnAction, context: str = "") -> ReturnedRecipient:
    """`context` is asked where the reason says nothing."""
    diagnostic = one_line(reason, MAX_REASON)
    text = diagnostic or ""
    return ReturnedRecipient(
        address=one_line(address),
        action=action,
        status=status_in(text),
        smtp_code=smtp_code_in(text),
        diagnostic=diagnostic,
        severity=None if action is DsnAction.DELIVERED else _meaning(diagnostic, context, action),
    )


def _meaning(diagnostic: str | None, context: str, action: DsnAction) -> Severity:
    meaning = severity(None, None, diagnostic)
    if meaning is Severity.UNKNOWN and context:
        meaning = severity(None, None, one_line(context, MAX_REASON))
    return Severity.SOFT if meaning is Severity.UNKNOWN and action is DsnAction.DELAYED else meaning


def _addresses_in(text: str) -> list[str]:
    words = (word.rstrip(".") for word in _SEPARATORS.split(text) if "@" in word)
    return [word for word in words if parse_mailbox(word) is not None][:MAX_RECIPIENTS]


def _may_have_failed(address: str, ours: frozenset[str]) -> bool:
    mailbox = parse_mailbox(address)
    return mailbox is not None and mailbox.local.lower() not in _NO_RECIPIENTS and address.lower() not in ours


def _flat(text: str) -> str:
    return " ".join(text.lower().replace("\u2019", "'").split())


def _holds_any(text: str, pieces: tuple[str, ...]) -> bool:
    return any(piece in text for piece in pieces)
