"""Complaints: feedback reports (ARF, RFC 5965), and those of Microsoft's junk mail reporting, which have no form."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

from core.clock import to_ms
from core.sending.returned import Complaint, FeedbackType
from inbound.returned_mail.opened import OpenedMail, first_of
from inbound.returned_mail.report_fields import Group, first, read_groups
from inbound.returned_mail.shown import one_line

MAX_LISTED = 100
"""Recipients and domains kept of one report."""
_JMRP_RECIPIENT = "x-hmxmroriginalrecipient"
_JMRP_SENDERS = ("staff@hotmail.com", "staff@outlook.com", "report@hotmail.com")
_JMRP_SUBJECT = "complaint about message from"
_IP = re.compile(r"[0-9A-Fa-f.:]{3,45}")
_FEEDBACK_TYPES = {one.value: one for one in FeedbackType} | {
    "opt-out-list": FeedbackType.OPT_OUT,
    "unsubscribe": FeedbackType.OPT_OUT,
    "dmarc": FeedbackType.AUTH_FAILURE,
    "not_spam": FeedbackType.NOT_SPAM,
    "spam": FeedbackType.ABUSE,
    "miscategorized": FeedbackType.NOT_SPAM,
}


def read_complaint(mail: OpenedMail) -> Complaint | None:
    """The feedback report in a message; None when it has none."""
    for report in mail.reports:
        if report.media_type == "message/feedback-report" or "feedback-type:" in report.text[:4000].lower():
            return _complaint_of(_merged(read_groups(report.text)), mail)
    if mail.report_type == "feedback-report":
        return _complaint_of({}, mail)
    return _junk_mail_report(mail)


def _complaint_of(group: Group, mail: OpenedMail) -> Complaint:
    stated = one_line(first(group, "feedback-type"))
    words = stated.split(";")[0].split() if stated else []
    recipients = [address for value in group.get("original-rcpt-to", ()) if (address := _address(value))]
    junk_recipient = _address(first_of(mail.original, _JMRP_RECIPIENT))
    if not recipients and junk_recipient:
        recipients = [junk_recipient]
    # An unknown type is a complaint all the same (RFC 5965 section 3.1).
    kind = FeedbackType.OTHER if words else FeedbackType.ABUSE
    return Complaint(
        feedback_type=_FEEDBACK_TYPES.get(words[0].lower(), kind) if words else kind,
        stated_type=stated,
        user_agent=one_line(first(group, "user-agent")),
        source_ip=_ip(first(group, "source-ip")),
        original_mail_from=_address(first(group, "original-mail-from") or ""),
        original_recipients=tuple(recipients[:MAX_LISTED]),
        arrived_ms=_moment(first(group, "arrival-date") or first(group, "received-date")),
        reported_domains=tuple(
            domain for value in group.get("reported-domain", ())[:MAX_LISTED] if (domain := one_line(value.lower()))
        ),
    )


def _junk_mail_report(mail: OpenedMail) -> Complaint | None:
    """Microsoft's: the mail itself, under a fixed sender and subject, with the recipient in a header of its own."""
    subject = mail.first("subject").lower()
    sender = mail.first("from").lower()
    is_report = subject.startswith(_JMRP_SUBJECT) and any(one in sender for one in _JMRP_SENDERS)
    if not mail.original or not (is_report or _JMRP_RECIPIENT in mail.original):
        return None
    return _complaint_of({"source-ip": [subject.removeprefix(_JMRP_SUBJECT)]}, mail)


def _merged(groups: list[Group]) -> Group:
    """A feedback report is one group; blank lines inside are a mistake."""
    merged: Group = {}
    for group in groups:
        for name, values in group.items():
            merged.setdefault(name, []).extend(values)
    return merged


def _address(value: str) -> str | None:
    return one_line(value.strip().removeprefix("rfc822;").strip().strip("<>"))


def _ip(value: str | None) -> str | None:
    found = _IP.search(value) if value else None
    return found[0] if found else None


def _moment(value: str | None) -> int | None:
    try:
        return to_ms(parsedate_to_datetime(value)) if value else None
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
