"""What a worker writes when it has understood returned mail: once, whoever else is at it; on both databases."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from core.clock import DAY_MS, system_clock
from core.delivery import HTTP_POLICY, DeliveryKind, Outcome, Verdict
from core.routing import AboutSent, Route
from core.sending.returned import (
    Complaint,
    DsnAction,
    FeedbackType,
    Returned,
    ReturnedKind,
    ReturnedRecipient,
    Severity,
)
from core.services.acceptance import store_accepted
from core.services.accounts import NewAccount
from core.services.claims import claim
from core.services.gateway_account import GATEWAY_ADDRESS_ID, ensure_gateway_account
from core.services.leases import FinishedAttempt
from core.services.recording import record
from core.services.returned import FinishedReturned, FollowReturned, ReturnedMail, load_returned
from core.services.suppressions import SendTarget, forget_soft_bounces
from core.store.db import Database
from tests.api_support import accepted_mail
from tests.deliveries import claim_request
from tests.returned_samples import KIM
from tests.returned_support import Sent, add_sending_domain, store_sent

FOLLOW = FollowReturned(soft_bounce_limit=3)
HARD = Returned(
    ReturnedKind.HARD_BOUNCE,
    "a test",
    (ReturnedRecipient(KIM, action=DsnAction.FAILED, severity=Severity.HARD, diagnostic="550 5.1.1 User unknown"),),
)
FULL = replace(
    HARD,
    kind=ReturnedKind.SOFT_BOUNCE,
    recipients=(ReturnedRecipient(KIM, action=DsnAction.FAILED, severity=Severity.SOFT),),
)
COMPLAINT = Returned(ReturnedKind.COMPLAINT, "a test", complaint=Complaint(FeedbackType.ABUSE))


@pytest.fixture
def sent(database: Database, account: NewAccount) -> Sent:
    domain_id = add_sending_domain(database, account.account_id)
    return store_sent(database, account.account_id, KIM, domain_id)


def take(database: Database, sent: Sent, about: AboutSent, count: int = 1) -> list[ReturnedMail]:
    """So many mails that came back, leased to a worker."""
    ensure_gateway_account(database, system_clock)
    route = Route(sent.account_id, GATEWAY_ADDRESS_ID, None, "https://returned.invalid", about=about)
    now_ms = system_clock()
    store_accepted(database, [accepted_mail(now_ms, ((sent.return_path, route),), mail_from="") for _ in range(count)])
    return list(claim(database, claim_request(kind=DeliveryKind.RETURNED), load_returned, now_ms).deliveries)


def finish(database: Database, mails: list[ReturnedMail], returned: Returned, now_ms: int | None = None) -> None:
    """Record them as understood, in one transaction."""
    moment = system_clock() if now_ms is None else now_ms
    outcome = Outcome(Verdict.ACCEPTED, 250, moment, 1)
    finished = [FinishedReturned(mail, outcome, returned=returned) for mail in mails]
    with database.transaction():
        record(database, finished, HTTP_POLICY, moment, FOLLOW)


def about(sent: Sent) -> AboutSent:
    return AboutSent(sent.delivery_id)


def test_what_a_worker_gets(database: Database, sent: Sent) -> None:
    (mail,) = take(database, sent, about(sent))
    assert (mail.kind, mail.about, mail.recipients) == (DeliveryKind.RETURNED, sent.delivery_id, (sent.return_path,))
    assert (mail.mail_from, mail.body) == ("", b"Subject: hello\r\n\r\nhi\r\n")


def test_several_notices_of_one_batch_are_one_event(database: Database, sent: Sent) -> None:
    finish(database, take(database, sent, about(sent), 5), HARD)
    assert sent.kinds() == ["bounce"]
    assert sent.suppressed() == [(KIM, "hard_bounce", None)]
    assert [state for _, state in sent.returned()] == ["delivered"] * 5


def test_workers_with_a_notice_each_tell_of_it_once(database: Database, sent: Sent) -> None:
    mails = take(database, sent, about(sent), 8)
    barrier = threading.Barrier(len(mails))

    def work(mail: ReturnedMail) -> None:
        barrier.wait(20)
        try:
            finish(database, [mail], FULL)
        finally:
            database.close()

    with ThreadPoolExecutor(len(mails)) as pool:
        list(pool.map(work, mails))
    assert sent.kinds() == ["soft_bounce"]
    with database.reading():
        assert database.execute("SELECT count FROM soft_bounce") == [(1,)]


def test_a_day_later_it_is_told_again(database: Database, sent: Sent) -> None:
    now_ms = system_clock()
    first, second, third = take(database, sent, about(sent), 3)
    finish(database, [first], FULL, now_ms)
    finish(database, [second], FULL, now_ms + DAY_MS - 1)
    assert sent.kinds() == ["soft_bounce"]
    finish(database, [third], FULL, now_ms + DAY_MS + 1)
    assert sent.kinds() == ["soft_bounce"] * 2


def test_an_outcome_under_a_lost_lease_tells_nothing(database: Database, sent: Sent) -> None:
    (mail,) = take(database, sent, about(sent))
    finish(database, [replace(mail, lease_token="another")], HARD)
    assert sent.events() == sent.suppressed() == []
    finish(database, [mail], HARD)
    assert sent.kinds() == ["bounce"]


def test_a_mail_that_could_not_be_read_tells_nothing(database: Database, sent: Sent) -> None:
    (mail,) = take(database, sent, about(sent))
    outcome = Outcome(Verdict.TEMPORARY, 0, system_clock(), 1, "the store is away", is_our_fault=True)
    with database.transaction():
        record(database, [FinishedReturned(mail, outcome)], HTTP_POLICY, system_clock(), FOLLOW)
    assert sent.events() == []
    assert [state for _, state in sent.returned()] == ["pending"]


def test_at_the_feedback_mailbox_only_a_proved_complaint_counts(database: Database, sent: Sent) -> None:
    mails = take(database, sent, AboutSent(None), 3)
    proved = replace(COMPLAINT, delivery_id=sent.delivery_id)
    finish(database, mails[:1], replace(HARD, delivery_id=sent.delivery_id))
    finish(database, mails[1:2], COMPLAINT)
    assert sent.events() == []
    finish(database, mails[2:], proved)
    assert sent.kinds() == ["complaint"]
    ((address, reason, domain_id),) = sent.suppressed()
    assert (address, reason, domain_id is None) == (KIM, "complaint", False)


def test_received_mail_is_nobodys_to_bounce(database: Database, sent: Sent) -> None:
    """Only what customers sent can be suppressed for: not even a proved id of another kind of delivery."""
    (first,) = take(database, sent, about(sent))
    finish(database, [first], HARD)
    (second,) = take(database, sent, AboutSent(first.delivery_id))
    finish(database, [second], HARD)
    assert sent.kinds() == ["bounce"]


def test_soft_bounces_by_notice_suppress_in_the_end(database: Database, account: NewAccount) -> None:
    """Each of its own mail, over three days."""
    now_ms = system_clock()
    for day in (0, 1, 3):
        sent = store_sent(database, account.account_id)
        with database.transaction():  # its host has taken it
            forget_soft_bounces(database, [SendTarget(account.account_id, None, KIM)])
        finish(database, take(database, sent, about(sent)), FULL, now_ms + day * DAY_MS)
    assert sent.suppressed() == [(KIM, "soft_bounce", None)]


def test_of_other_attempts_nothing_follows(database: Database, sent: Sent) -> None:
    """When a batch cannot be recorded, the engine records the bare outcome."""
    (mail,) = take(database, sent, about(sent))
    bare = FinishedAttempt(mail, Outcome(Verdict.ACCEPTED, 250, system_clock(), 1))
    with database.transaction():
        record(database, [bare], HTTP_POLICY, system_clock(), FOLLOW)
    assert sent.events() == []
