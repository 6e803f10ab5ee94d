"""What comes back for mail that we sent: its kinds, what is known of each, and what a refusal means for the address.

One taxonomy for all: answers of hosts while we send, and the notifications they send later, go through the same
`severity`. It errs to the mild side: an address that is suppressed by mistake costs its owner mail, a mail too many to
a dead one costs a refusal. `docs/bounces.md` shows the tables to people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from core.sending.refusal_words import (
    BLOCK_PIECES,
    DEAD_PIECES,
    HARD_PIECES,
    MAX_SEARCHED,
    SENDER_PIECES,
    SOFT_PIECES,
    holds_any,
    searchable,
)


class ReturnedKind(StrEnum):
    """What a mail to a return path is. A message has one kind; its recipients may differ."""

    HARD_BOUNCE = "hard_bounce"
    SOFT_BOUNCE = "soft_bounce"
    """Delivery has ended without saying that the address is bad: full, blocked, given up, or for an unknown reason."""
    DELAYED = "delayed"
    """The host is still trying."""
    DELIVERED = "delivered"
    """A notice of success: delivered, relayed or expanded (RFC 3464 section 2.3.3)."""
    COMPLAINT = "complaint"
    """A feedback report (RFC 5965). `Complaint.is_against_sender` tells those that blame from those that do not."""
    AUTO_REPLY = "auto_reply"
    """Out of office and the like (RFC 3834): the mail has arrived."""
    CHALLENGE = "challenge"
    """Somebody's filter wants the sender to prove that he is a person."""
    RECEIPT = "receipt"
    """A disposition notification (RFC 8098): read, or deleted unread."""
    BOUNCE_REPLY = "bounce_reply"
    """A person's mail to the return path."""
    UNKNOWN = "unknown"


class DsnAction(StrEnum):
    """What a host has done with the mail for a recipient (RFC 3464 section 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


class Severity(StrEnum):
    """What a refusal means for the address."""

    HARD = "hard"
    """There is no such mailbox or domain, or it is closed for good: no more mail to it."""
    SOFT = "soft"
    """It may work another time."""
    BLOCK = "block"
    """Refused for what we are or what we sent; says nothing against the address."""
    UNKNOWN = "unknown"
    """Nobody said why. To be treated as `SOFT`."""


class FeedbackType(StrEnum):
    """Why somebody reports a mail (RFC 5965 section 7.3, RFC 6430, RFC 6591)."""

    ABUSE = "abuse"
    FRAUD = "fraud"
    VIRUS = "virus"
    OPT_OUT = "opt-out"
    """Of the drafts of RFC 5965, and still sent."""
    NOT_SPAM = "not-spam"
    AUTH_FAILURE = "auth-failure"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class ReturnedRecipient:
    """What is said about one recipient. All text is one line, printable and of bounded length."""

    address: str | None
    """`Final-Recipient` without its type, or as a text names it."""
    original_address: str | None = None
    """`Original-Recipient` (RFC 3461): as it was given by us, where the host knows."""
    action: DsnAction | None = None
    status: str | None = None
    """As stated, e.g. `5.1.1` (RFC 3463)."""
    smtp_code: int | None = None
    """Of the SMTP reply that the diagnostic quotes."""
    diagnostic: str | None = None
    """Without its type."""
    remote_mta: str | None = None
    severity: Severity | None = None
    """None unless `action` is `failed` or `delayed`."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """A feedback report."""

    feedback_type: FeedbackType
    stated_type: str | None = None
    """As it was written, for those not in `FeedbackType`."""
    user_agent: str | None = None
    source_ip: str | None = None
    original_mail_from: str | None = None
    original_recipients: tuple[str, ...] = ()
    arrived_ms: int | None = None
    reported_domains: tuple[str, ...] = ()

    @property
    def is_against_sender(self) -> bool:
        """Whether the recipient wants no more mail: `not-spam` says the opposite, `auth-failure` is no person's."""
        return self.feedback_type not in (FeedbackType.NOT_SPAM, FeedbackType.AUTH_FAILURE)


@dataclass(frozen=True, slots=True)
class Returned:
    """A mail to a return path, understood as far as possible."""

    kind: ReturnedKind
    recognised_by: str
    """What gave it away, in words for the log; nothing may depend on it."""
    recipients: tuple[ReturnedRecipient, ...] = ()
    delivery_id: str | None = None
    """Of the delivery it is about, proved by the HMAC of its return path (`core.sending.verp`)."""
    original_message_id: str | None = None
    """Without angle brackets. Anybody may have written it: no proof."""
    reporting_mta: str | None = None
    complaint: Complaint | None = None
    was_displayed: bool = False
    """Whether a receipt says that somebody saw the mail."""
    text: str = ""
    """The beginning of what a person would read."""


# --- what a refusal means ---


@dataclass(frozen=True, slots=True)
class _Meaning:
    """Of a code: what it means, and whether the words beside it may say otherwise."""

    severity: Severity
    is_firm: bool = False


_ENHANCED = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)")
_SMTP_CODE = re.compile(r"(?<![\d.:/-])([245][0-57]\d)(?=[ -](?:[245]\.\d|[^\W\d]|[<\"'#(\[])|[ -]?\Z)")
_NO_DETAIL = (0, 0)

_HARD, _SOFT, _BLOCK, _UNKNOWN = (
    _Meaning(Severity.HARD),
    _Meaning(Severity.SOFT),
    _Meaning(Severity.BLOCK),
    _Meaning(Severity.UNKNOWN),
)
_SURELY_HARD = _Meaning(Severity.HARD, is_firm=True)
_SURELY_SOFT = _Meaning(Severity.SOFT, is_firm=True)
_SURELY_BLOCK = _Meaning(Severity.BLOCK, is_firm=True)

_OF_STATUS: dict[tuple[int, int], _Meaning] = {
    # RFC 3463 section 3.2: the address. Words may soften: hosts say 5.1.1 to spam and full mailboxes too.
    (1, 0): _HARD,
    (1, 1): _HARD,
    (1, 2): _HARD,
    (1, 3): _HARD,
    (1, 4): _SURELY_SOFT,  # ambiguous: it may be made unambiguous
    (1, 6): _SURELY_HARD,  # has moved
    (1, 7): _SURELY_BLOCK,  # the sender's address
    (1, 8): _SURELY_BLOCK,  # the sender's domain
    (1, 9): _SURELY_BLOCK,  # RFC 3886: relayed to a host that does not conform
    (1, 10): _SURELY_HARD,  # RFC 7505 null MX; Exchange: recipient not found
    (1, 90): _SURELY_BLOCK,  # Exchange Online: the sender has reached his daily limit
    # section 3.3: the mailbox
    (2, 0): _SOFT,
    (2, 1): _HARD,  # disabled; Gmail says it of accounts that get too much, too
    (2, 2): _SURELY_SOFT,  # full
    (2, 3): _SURELY_BLOCK,  # the message is too long for it
    (2, 4): _SOFT,  # a list cannot be expanded
    # section 3.4: the mail system
    (3, 4): _SURELY_BLOCK,  # too big
    (3, 6): _BLOCK,  # Exchange Online: a loop or a feature not supported
    # section 3.5: the way there
    (4, 1): _SOFT,  # no answer; Exchange Online: no such recipient ("Recipient address rejected: Access denied")
    (4, 4): _HARD,  # unable to route: no such host or domain
    (4, 7): _SURELY_SOFT,  # given up after too long
    (4, 310): _SURELY_HARD,  # Exchange Online: the domain does not exist
    # section 3.8: policy
    (7, 17): _SURELY_HARD,  # RFC 7293: the mailbox has another owner
    (7, 18): _SURELY_HARD,  # RFC 7293: the domain has another owner
    (7, 27): _SURELY_BLOCK,  # RFC 7505: the sender's domain has a null MX
}
_OF_SUBJECT: dict[int, _Meaning] = {
    1: _UNKNOWN,
    2: _SOFT,
    3: _SOFT,
    4: _SOFT,
    5: _UNKNOWN,  # section 3.6: the protocol; Outlook.com says 5.5.0 of unknown mailboxes
    6: _BLOCK,  # section 3.7: the content
    7: _BLOCK,  # section 3.8: security and policy
}
_OF_CODE: dict[int, _Meaning] = {
    # RFC 5321 section 4.2.3 where no other source is given
    521: _HARD,  # RFC 7504: this host takes no mail; some say it to those on their lists
    530: _BLOCK,  # RFC 4954
    535: _BLOCK,  # RFC 4954
    541: _BLOCK,  # not registered; rejected as spam
    551: _HARD,  # not here, try elsewhere
    552: _SOFT,  # exceeded storage allocation
    553: _HARD,  # mailbox name not allowed
    555: _BLOCK,  # parameters of MAIL or RCPT
    556: _SURELY_HARD,  # RFC 7504: the domain takes no mail
    571: _BLOCK,  # not registered; short for 5.7.1
}
MAX_QUOTED = 20
"""Statuses of one text that are looked at."""


def severity(status: str | None, smtp_code: int | None, diagnostic: str | None) -> Severity:
    """What a refusal means for the address. Pure, total, linear in the first 4,000 characters of the diagnostic.

    `status` is RFC 3463's, `smtp_code` that of the reply; both are looked for in the diagnostic as well, where a
    specific status counts more than the one beside it: it is the refusing host's own. What is temporary is never hard.
    """
    text = (diagnostic or "")[:MAX_SEARCHED]
    code = smtp_code or smtp_code_in(text)
    quoted = _quoted_status(text)
    grade, detail = _closest(_read_status(status), quoted)
    is_generic = detail[0] == 0
    if is_generic and code is not None:
        grade = code // 100
    if grade == 2:
        return Severity.UNKNOWN
    meaning = _OF_CODE.get(code or 0, _UNKNOWN) if is_generic else _of_status(detail)
    found = meaning.severity if meaning.is_firm else _with_words(meaning.severity, text)
    if grade == 4 or (code is not None and code < 500 and quoted[0] != 5):
        return Severity.BLOCK if found is Severity.BLOCK else Severity.SOFT
    return found


def smtp_code_in(diagnostic: str) -> int | None:
    """The first code of an SMTP reply that a text quotes."""
    found = _SMTP_CODE.search(diagnostic[:MAX_SEARCHED])
    return int(found[1]) if found else None


def status_in(text: str) -> str | None:
    """The first status of RFC 3463 in a text, as it stands there."""
    found = _ENHANCED.search(text[:MAX_SEARCHED])
    return found[0] if found else None


def _read_status(text: str | None) -> tuple[int, tuple[int, int]]:
    """Class, and subject with detail; zeros where there is none."""
    found = _ENHANCED.search(text[:MAX_SEARCHED]) if text else None
    return _taken_apart(found) if found else (0, _NO_DETAIL)


def _quoted_status(text: str) -> tuple[int, tuple[int, int]]:
    """The first specific one, else the first: Exchange Online puts 5.0.350 in front of what another host has said."""
    quoted = [_taken_apart(found) for found in islice(_ENHANCED.finditer(text), MAX_QUOTED)]
    return next((one for one in quoted if one[1][0] != 0), quoted[0] if quoted else (0, _NO_DETAIL))


def _taken_apart(found: re.Match[str]) -> tuple[int, tuple[int, int]]:
    return int(found[1]), (int(found[2]), int(found[3]))


def _closest(stated: tuple[int, tuple[int, int]], quoted: tuple[int, tuple[int, int]]) -> tuple[int, tuple[int, int]]:
    """The status nearest to the host that refused: Sendmail states 5.1.1 for every 550, whatever that said."""
    if quoted[1][0] != 0 or not stated[0]:
        return quoted
    return stated


def _of_status(detail: tuple[int, int]) -> _Meaning:
    return _OF_STATUS.get(detail) or _OF_SUBJECT.get(detail[0], _UNKNOWN)


def _with_words(by_code: Severity, diagnostic: str) -> Severity:
    """Words that say the same as the code settle it, unless they blame the sender; else the mildest of what they say.

    That a recipient is rejected, beside a code of policy, does not say that there is none: Postfix says so of all that
    it refuses at RCPT.
    """
    searched = searchable(diagnostic)
    hard = DEAD_PIECES if by_code is Severity.BLOCK else HARD_PIECES
    words = ((Severity.SOFT, SOFT_PIECES), (Severity.BLOCK, BLOCK_PIECES), (Severity.HARD, hard))
    said = [one for one, pieces in words if holds_any(searched, pieces)]
    found = by_code if by_code in said or not said else said[0]
    return Severity.BLOCK if found is Severity.HARD and holds_any(searched, SENDER_PIECES) else found
