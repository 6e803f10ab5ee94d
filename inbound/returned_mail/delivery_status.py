"""Delivery status notifications: the fields for machines (RFC 3464, RFC 6533), and what they say of recipients."""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.sending.returned import DsnAction, ReturnedRecipient, severity, smtp_code_in, status_in
from inbound.returned_mail.opened import OpenedMail, Report
from inbound.returned_mail.report_fields import Group, address_of, first, read_groups, typed_value
from inbound.returned_mail.shown import one_line

MAX_RECIPIENTS = 500
_STATUS_TYPES = frozenset({"message/delivery-status", "message/global-delivery-status"})
_MAILBOX_TYPES = frozenset({"", "rfc822", "utf-8"})
_RECIPIENT_FIELDS = frozenset({"final-recipient", "original-recipient", "action", "status"})
_STATUS_FIELD = re.compile(r"^[ \t]{0,8}(?:reporting-mta|final-recipient)[ \t]*+:", re.IGNORECASE | re.MULTILINE)
_END_OF_FIELDS = re.compile(r"^(?:--|content-type:|received:|return-path:)", re.IGNORECASE | re.MULTILINE)
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_ACTIONS = (
    ("fail", DsnAction.FAILED),
    ("undeliver", DsnAction.FAILED),
    ("bounce", DsnAction.FAILED),
    ("delay", DsnAction.DELAYED),
    ("warn", DsnAction.DELAYED),
    ("deliver", DsnAction.DELIVERED),
    ("relay", DsnAction.RELAYED),
    ("expand", DsnAction.EXPANDED),
)
_ACTION_OF_CLASS = {"5": DsnAction.FAILED, "4": DsnAction.DELAYED, "2": DsnAction.DELIVERED}


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """What a notification says."""

    recipients: tuple[ReturnedRecipient, ...]
    reporting_mta: str | None
    envelope_id: str | None
    """`Original-Envelope-Id`: the ENVID that we gave (RFC 3461), decoded."""


def read_delivery_status(mail: OpenedMail) -> DeliveryStatus | None:
    """The first status report in a message, also one that stands in the text; None when there is none."""
    for report in mail.reports:
        if _may_be_status(report):
            status = _status_of(report.text, mail.text)
            if status.recipients:
                return status
    for text in mail.texts:
        found = _STATUS_FIELD.search(text)
        if found:
            end = _END_OF_FIELDS.search(text, found.end())
            status = _status_of(text[found.start() : end.start() if end else len(text)], text)
            if status.recipients:
                return status
    return None


def _may_be_status(report: Report) -> bool:
    """Some hosts send a status report under the type of another report; those tell themselves apart by a field."""
    lowered = report.text[:4000].lower()
    return report.media_type in _STATUS_TYPES or ("feedback-type:" not in lowered and "disposition:" not in lowered)


def _status_of(text: str, explanation: str) -> DeliveryStatus:
    groups = read_groups(text)
    of_recipients = [group for group in groups if not _RECIPIENT_FIELDS.isdisjoint(group)]
    # Only where one recipient is told of can the text for people be about nobody else.
    explanation = explanation if len(of_recipients) == 1 else ""
    return DeliveryStatus(
        recipients=tuple(_recipient_of(group, explanation) for group in of_recipients[:MAX_RECIPIENTS]),
        reporting_mta=_host(_any(groups, "reporting-mta")),
        envelope_id=_decoded_xtext(_any(groups, "original-envelope-id")),
    )


def _recipient_of(group: Group, explanation: str) -> ReturnedRecipient:
    stated = first(group, "status")
    status = status_in(stated) if stated else None
    typed = typed_value(first(group, "diagnostic-code"))
    diagnostic = one_line(typed[1]) if typed else None
    action = _action_of(first(group, "action"), status)
    is_refused = action in (DsnAction.FAILED, DsnAction.DELAYED)
    code = smtp_code_in(diagnostic) if diagnostic else None
    reason = diagnostic or explanation
    return ReturnedRecipient(
        address=one_line(_address(group)),
        original_address=one_line(address_of(first(group, "original-recipient"))),
        action=action,
        status=status,
        smtp_code=code,
        diagnostic=diagnostic,
        remote_mta=_host(first(group, "remote-mta")),
        severity=severity(status, code, reason) if is_refused else None,
    )


def _address(group: Group) -> str | None:
    """The final recipient, unless it is of another world (`x400`) and the original one is not."""
    final, original = first(group, "final-recipient"), first(group, "original-recipient")
    typed = typed_value(final)
    is_mailbox = typed is not None and typed[0] in _MAILBOX_TYPES
    return address_of(final) if is_mailbox or original is None else address_of(original)


def _action_of(stated: str | None, status: str | None) -> DsnAction | None:
    lowered = (stated or "").strip().lower()
    for beginning, action in _ACTIONS:
        if lowered.startswith(beginning):
            return action
    return _ACTION_OF_CLASS[status[0]] if status else None


def _host(value: str | None) -> str | None:
    typed = typed_value(value)
    return one_line(typed[1].split(" ", 1)[0]) if typed else None


def _any(groups: list[Group], name: str) -> str | None:
    return next((value for group in groups if (value := first(group, name))), None)


def _decoded_xtext(value: str | None) -> str | None:
    """RFC 3461 section 4."""
    return _XTEXT.sub(lambda pair: chr(int(pair[1], 16)), value) if value else None
