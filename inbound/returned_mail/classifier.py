"""What a mail to a return path is. Total: any bytes give a `Returned`.

From the surest sign to the weakest: reports for machines (complaint, then delivery status), bounces for people,
answers that say they are automatic, challenges, and what is left: a person, or nobody knows. A bounce for people comes
before the automatic answers because Exim marks its bounces as such too.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from core.sending.returned import Complaint, DsnAction, Returned, ReturnedKind, ReturnedRecipient, Severity
from core.sending.verp import ReturnPaths
from inbound.returned_mail.automatic import is_receipt, read_automatic, was_displayed
from inbound.returned_mail.delivery_status import read_delivery_status
from inbound.returned_mail.feedback import read_complaint
from inbound.returned_mail.opened import Fields, OpenedMail, header_inside, open_mail
from inbound.returned_mail.original import find_delivery, original_message_id
from inbound.returned_mail.shown import excerpt
from inbound.returned_mail.text_bounce import is_mail_system, read_text_bounce

_log = structlog.get_logger(__name__)


def classify(
    raw: bytes, envelope_from: str, recipients: Sequence[str], return_paths: ReturnPaths | None = None
) -> Returned:
    """Understand a mail that came to `recipients`, of which at least one is a return path. Never raises.

    `envelope_from` is MAIL FROM, empty for the null sender. Without `return_paths` no delivery is found.
    """
    try:
        return _Judging(open_mail(raw), envelope_from, recipients, return_paths).result()
    except Exception:  # noqa: BLE001 - an error of ours must not cost anyone a mail; it is logged and reported
        _log.exception("returned_mail_not_classified", size=len(raw))
        return Returned(ReturnedKind.UNKNOWN, "an error of ours")


class _Judging:
    """One message being judged."""

    def __init__(
        self, mail: OpenedMail, envelope_from: str, recipients: Sequence[str], paths: ReturnPaths | None
    ) -> None:
        self._mail = mail
        self._envelope_from = envelope_from
        self._recipients = recipients
        self._paths = paths

    def result(self) -> Returned:
        return self._complaint() or self._status() or self._text_bounce() or self._answer()

    def _complaint(self) -> Returned | None:
        complaint = read_complaint(self._mail)
        if complaint is None:
            return None
        return self._returned(ReturnedKind.COMPLAINT, "a feedback report", complaint=complaint)

    def _status(self) -> Returned | None:
        status = read_delivery_status(self._mail)
        if status is None:
            return None
        return self._returned(
            kind_of(status.recipients),
            "a delivery status",
            recipients=status.recipients,
            reporting_mta=status.reporting_mta,
            envelope_id=status.envelope_id,
        )

    def _text_bounce(self) -> Returned | None:
        if is_receipt(self._mail):  # its words and its subject may be those of our mail
            return None
        ours = frozenset(address.lower() for address in self._recipients)
        bounce = read_text_bounce(self._mail, self._envelope_from, ours)
        if bounce is None:
            return None
        return self._returned(
            kind_of(bounce.recipients), f"the text of {bounce.written_by}", bounce.recipients, original=bounce.original
        )

    def _answer(self) -> Returned:
        automatic = read_automatic(self._mail, self._envelope_from)
        if automatic is not None:
            return self._returned(*automatic, was_displayed=was_displayed(self._mail))
        if self._envelope_from and self._mail.first("from") and not is_mail_system(self._mail, self._envelope_from):
            return self._returned(ReturnedKind.BOUNCE_REPLY, "a sender and no sign of a program")
        return self._returned(ReturnedKind.UNKNOWN, "no known sign")

    def _returned(
        self,
        kind: ReturnedKind,
        recognised_by: str,
        recipients: tuple[ReturnedRecipient, ...] = (),
        *,
        complaint: Complaint | None = None,
        original: Fields | None = None,
        reporting_mta: str | None = None,
        envelope_id: str | None = None,
        was_displayed: bool = False,
    ) -> Returned:
        if original is None:
            original = self._mail.original or header_inside(self._mail.text)
        return Returned(
            kind=kind,
            recognised_by=recognised_by,
            recipients=recipients,
            delivery_id=find_delivery(self._paths, self._recipients, original, envelope_id) if self._paths else None,
            original_message_id=original_message_id(self._mail, original),
            reporting_mta=reporting_mta,
            complaint=complaint,
            was_displayed=was_displayed,
            text=excerpt(self._mail.text),
        )


def kind_of(recipients: tuple[ReturnedRecipient, ...]) -> ReturnedKind:
    """The kind of a notification: the worst of what it says. Only a sure failure is hard."""
    actions = {one.action for one in recipients}
    failed = [one for one in recipients if one.action is DsnAction.FAILED]
    if failed:
        is_hard = any(one.severity is Severity.HARD for one in failed)
        return ReturnedKind.HARD_BOUNCE if is_hard else ReturnedKind.SOFT_BOUNCE
    if DsnAction.DELAYED in actions:
        return ReturnedKind.DELAYED
    if actions & {DsnAction.DELIVERED, DsnAction.RELAYED, DsnAction.EXPANDED}:
        return ReturnedKind.DELIVERED
    return ReturnedKind.UNKNOWN
