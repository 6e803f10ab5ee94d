"""What a returned mail means for the sent mail it is about: the event to tell, and whether the recipient gets more.

Pure. Its kinds are those of `core.sending.returned`; `docs/bounces.md` shows the table to people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.addresses import TAG_SEPARATOR
from core.sending.events import NO_DETAILS, EventDetails, EventKind
from core.sending.returned import DsnAction, Returned, ReturnedKind, ReturnedRecipient, Severity
from core.sending.suppression import SuppressionReason, suppression_key

_COUNTED = frozenset({Severity.SOFT, Severity.UNKNOWN})
"""A block says nothing against the address."""


@dataclass(frozen=True, slots=True)
class ReturnedStep:
    """What follows from a returned mail."""

    event: EventKind | None = None
    details: EventDetails = NO_DETAILS
    suppress: SuppressionReason | None = None
    """Why its recipient gets no more mail; None when he does."""
    is_soft: bool = False
    """Whether it counts as a mail that has ended without arriving."""


NOTHING = ReturnedStep()


def step_of(returned: Returned, recipient: str) -> ReturnedStep:
    """What follows for the recipient that we wrote to."""
    kind = returned.kind
    if kind in (ReturnedKind.HARD_BOUNCE, ReturnedKind.SOFT_BOUNCE):
        return _bounce(returned, recipient)
    if kind is ReturnedKind.COMPLAINT:
        return _complaint(returned)
    if kind in (ReturnedKind.AUTO_REPLY, ReturnedKind.CHALLENGE):
        return ReturnedStep(EventKind.AUTO_REPLY, EventDetails(reason=returned.text or None))
    if kind is ReturnedKind.RECEIPT and returned.was_displayed:
        return ReturnedStep(EventKind.READ)
    if kind is ReturnedKind.BOUNCE_REPLY:
        return ReturnedStep(EventKind.BOUNCE_REPLY, EventDetails(reason=returned.text or None))
    return NOTHING


def _bounce(returned: Returned, recipient: str) -> ReturnedStep:
    """What the notification says of our recipient; what it says of others is told as theirs.

    Mail that was forwarded, or expanded to a list, bounces for addresses that we do not know. However dead those are,
    the address that we wrote to has taken the mail: such a bounce is never hard. Nor is it counted, because others of
    the list have the mail; unless the host says itself that this was where ours has led to.
    """
    ours = [one for one in returned.recipients if _is_about(one, recipient)]
    found = _worst(ours or returned.recipients)
    if found is None or found.action is not DsnAction.FAILED:
        return NOTHING
    details = EventDetails(
        agent=returned.reporting_mta,
        delivery_status=found.status,
        smtp_response=found.diagnostic,
        reply_code=found.smtp_code,
        remote_host=found.remote_mta,
        reason=None if found.diagnostic else returned.text or None,
        severity=found.severity,
    )
    if found.severity is not Severity.HARD:
        return ReturnedStep(EventKind.SOFT_BOUNCE, details, is_soft=bool(ours) and found.severity in _COUNTED)
    if found.address is not None and not _is_same(found.address, recipient):
        reason = f"{recipient} passes its mail on to {found.address}, which refuses it for good"
        return ReturnedStep(EventKind.SOFT_BOUNCE, replace(details, reason=reason), is_soft=bool(ours))
    return ReturnedStep(EventKind.BOUNCE, details, SuppressionReason.HARD_BOUNCE)


def _complaint(returned: Returned) -> ReturnedStep:
    complaint = returned.complaint
    if complaint is None or not complaint.is_against_sender:
        return NOTHING
    details = EventDetails(
        agent=complaint.user_agent or returned.reporting_mta,
        reason=f"feedback type {complaint.stated_type or complaint.feedback_type}",
    )
    return ReturnedStep(EventKind.COMPLAINT, details, SuppressionReason.COMPLAINT)


def _is_about(one: ReturnedRecipient, recipient: str) -> bool:
    """Whether an entry is about the address that we wrote to; one that names nobody is."""
    named = [address for address in (one.original_address, one.address) if address]
    return not named or any(_is_same(address, recipient) for address in named)


def _is_same(address: str, recipient: str) -> bool:
    """Whether both are one mailbox: hosts may leave out the tag behind a `+`."""
    return _untagged(address) == _untagged(recipient)


def _untagged(address: str) -> str:
    local, _, domain = suppression_key(address).rpartition("@")
    return f"{local.partition(TAG_SEPARATOR)[0]}@{domain}"


def _worst(entries: Sequence[ReturnedRecipient]) -> ReturnedRecipient | None:
    """The one that decides: a hard failure before any other, a failure before the rest."""
    return max(entries, key=_weight, default=None)


def _weight(one: ReturnedRecipient) -> tuple[bool, bool]:
    is_failed = one.action is DsnAction.FAILED
    return is_failed and one.severity is Severity.HARD, is_failed
