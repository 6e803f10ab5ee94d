"""What follows from each kind of returned mail, for all samples: pure, so without a database."""

from __future__ import annotations

import pytest

from core.sending.events import EventKind
from core.sending.returned import DsnAction, Returned, ReturnedKind, ReturnedRecipient, Severity
from core.sending.returned_steps import NOTHING, ReturnedStep, step_of
from core.sending.suppression import SuppressionReason
from inbound.returned_mail import classify
from tests import returned_samples as samples
from tests.returned_samples import BOUNCE_ADDRESS, KIM, Sample

K, S = ReturnedKind, Severity
EVENTS = {
    K.HARD_BOUNCE: EventKind.BOUNCE,
    K.SOFT_BOUNCE: EventKind.SOFT_BOUNCE,
    K.COMPLAINT: EventKind.COMPLAINT,
    K.AUTO_REPLY: EventKind.AUTO_REPLY,
    K.CHALLENGE: EventKind.AUTO_REPLY,
    K.RECEIPT: EventKind.READ,
    K.BOUNCE_REPLY: EventKind.BOUNCE_REPLY,
}
TO_KIM = [one for one in samples.DSNS if all(address == KIM for address, _ in one.failed)]


def step(sample: Sample, recipient: str = KIM) -> ReturnedStep:
    return step_of(classify(sample.raw, sample.envelope_from, [BOUNCE_ADDRESS]), recipient)


@pytest.mark.parametrize("sample", [*TO_KIM, *samples.ANSWERS], ids=lambda one: one.name)
def test_the_event_is_that_of_the_kind(sample: Sample) -> None:
    found = step(sample)
    assert found.event == EVENTS.get(sample.kind)
    is_hard = sample.kind is K.HARD_BOUNCE
    assert found.suppress == (SuppressionReason.HARD_BOUNCE if is_hard else None)
    meanings = {meaning for _, meaning in sample.failed}
    assert found.is_soft == (sample.kind is K.SOFT_BOUNCE and bool(meanings & {S.SOFT, S.UNKNOWN}))


@pytest.mark.parametrize("sample", samples.COMPLAINTS, ids=lambda one: one.name)
def test_complaints_suppress_unless_they_do_not_blame(sample: Sample) -> None:
    is_harmless = sample.name in {"not spam", "authentication failure"}
    found = step(sample)
    assert found == NOTHING if is_harmless else found.suppress is SuppressionReason.COMPLAINT
    assert found.event == (None if is_harmless else EventKind.COMPLAINT)


def test_a_block_says_nothing_against_the_address() -> None:
    found = step(next(one for one in samples.DSNS if one.name == "blocklist"))
    assert (found.event, found.is_soft, found.suppress) == (EventKind.SOFT_BOUNCE, False, None)


def test_a_temporary_block_that_outlasts_all_attempts_is_not_counted_either() -> None:
    """Else a week on a host's list would cost the customer all his recipients there."""
    diagnostic = "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints"
    raw = samples.report(samples.status_fields("4.7.0", diagnostic))
    found = step_of(classify(raw, "", [BOUNCE_ADDRESS]), KIM)
    assert (found.event, found.is_soft, found.suppress) == (EventKind.SOFT_BOUNCE, False, None)


def failed(address: str | None, severity: Severity, **more: object) -> ReturnedRecipient:
    return ReturnedRecipient(address, action=DsnAction.FAILED, severity=severity, **more)  # type: ignore[arg-type]


def bounce(*recipients: ReturnedRecipient) -> Returned:
    return Returned(K.HARD_BOUNCE, "a test", recipients, text="It did not arrive.")


def test_the_entry_about_our_recipient_decides() -> None:
    """A notice for several: what became of the others is not about this mail."""
    arrived = ReturnedRecipient(KIM, action=DsnAction.DELIVERED)
    assert step_of(bounce(failed("dead@far.test", S.HARD), arrived), KIM) == NOTHING
    assert step_of(bounce(failed("dead@far.test", S.HARD), failed(KIM, S.SOFT)), KIM).event is EventKind.SOFT_BOUNCE
    assert step_of(bounce(failed("x@far.test", S.SOFT), failed("Kim@FAR.test", S.HARD)), KIM).suppress is not None


def test_an_address_that_mail_was_passed_on_to_is_not_ours_to_suppress() -> None:
    found = step_of(bounce(failed("dead@elsewhere.test", S.HARD)), KIM)
    assert (found.event, found.suppress, found.is_soft) == (EventKind.SOFT_BOUNCE, None, False)
    assert "dead@elsewhere.test" in (found.details.reason or "")
    assert not step_of(bounce(failed("full@elsewhere.test", S.SOFT)), KIM).is_soft


def test_what_an_alias_of_ours_leads_to_is_counted_and_no_more() -> None:
    """One of those behind `sales@` has left: its host names both, and the others go on getting the mail."""
    found = step_of(bounce(failed("left@far.test", S.HARD, original_address=KIM)), KIM)
    assert (found.event, found.suppress, found.is_soft) == (EventKind.SOFT_BOUNCE, None, True)


def test_a_tag_that_the_host_leaves_out_does_not_make_it_anothers() -> None:
    tagged = KIM.replace("@", "+news@")
    assert step_of(bounce(failed(KIM, S.HARD)), tagged).suppress is SuppressionReason.HARD_BOUNCE
    assert step_of(bounce(failed("lee@far.test", S.HARD)), tagged).suppress is None


@pytest.mark.parametrize("entry", [failed(KIM, S.HARD, original_address="k@x.test"), failed(None, S.HARD)])
def test_a_host_that_names_ours_or_nobody_is_about_ours(entry: ReturnedRecipient) -> None:
    assert step_of(bounce(entry), KIM).suppress is SuppressionReason.HARD_BOUNCE


def test_where_no_host_has_said_anything_the_text_does() -> None:
    assert step_of(bounce(failed(KIM, S.HARD)), KIM).details.reason == "It did not arrive."
    quoted = step_of(bounce(failed(KIM, S.HARD, diagnostic="550 no")), KIM).details
    assert (quoted.reason, quoted.smtp_response) == (None, "550 no")


@pytest.mark.parametrize("disposition", ["displayed", "Displayed ", "deleted", "dispatched", "processed", "denied"])
def test_only_what_was_displayed_was_read(disposition: str) -> None:
    raw = samples.report(
        f"Final-Recipient: rfc822;kim@far.test\nDisposition: automatic-action/MDN-sent-automatically; {disposition}\n",
        status_type="message/disposition-notification",
        report_type="disposition-notification",
        sender=KIM,
        subject="Read: Your order",
    )
    is_read = disposition.strip().lower() == "displayed"
    assert step_of(classify(raw, KIM, [BOUNCE_ADDRESS]), KIM).event == (EventKind.READ if is_read else None)
