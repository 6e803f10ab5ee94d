"""What comes back, through the real processes: taken by the receiver, understood by a worker, told as events."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from core.store.blobs import INLINE_LIMIT
from tests import returned_samples as samples
from tests.gateway import Gateway, running_gateway
from tests.postfix_server import Postfix, running_postfix
from tests.postgres_server import stoppable_postgres
from tests.returned_samples import KIM, Sample
from tests.returned_support import US, Sent, add_sending_domain, addressed, store_sent
from tests.smtp_client import new_mailbox
from tests.up_process import wait_until

PATIENCE_S = 30.0
BY_NAME = {
    sample.name: sample
    for group in (samples.DSNS, samples.COMPLAINTS, samples.ANSWERS, samples.BROKEN_DSNS)
    for sample in group
}
HARD = BY_NAME["unknown user"]
FULL = BY_NAME["mailbox full"]
PERSON = BY_NAME["a person who replies"]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with ExitStack() as stack:
        url = stack.enter_context(stoppable_postgres()).url if request.param == "postgres" else None
        folder = tmp_path_factory.mktemp("returned")
        yield stack.enter_context(running_gateway(folder, database_url=url))


@pytest.fixture(scope="module")
def postfix(gateway: Gateway) -> Iterator[Postfix]:
    with running_postfix(gateway.settings.smtp.port) as started:
        yield started


@pytest.fixture
def sent(gateway: Gateway) -> Sent:
    """A mail of an account of its own."""
    return store_for(gateway, KIM)


def store_for(gateway: Gateway, recipient: str) -> Sent:
    with gateway.database.transaction():
        gateway.database.execute("DELETE FROM suppression")
        gateway.database.execute("DELETE FROM soft_bounce")
        gateway.database.execute("DELETE FROM sending_domain")
    domain_id = add_sending_domain(gateway.database, gateway.account.account_id)
    return store_sent(gateway.database, gateway.account.account_id, recipient, domain_id, f"mta.{US}")


def come_back(gateway: Gateway, sent: Sent, sample: Sample, to: str | None = None) -> None:
    """The mail of a host, a loop or a person, by SMTP."""
    gateway.send(to or sent.return_path, addressed(sample.raw, sent), sample.envelope_from)


def wait_until_understood(gateway: Gateway, count: int = 1) -> None:
    """Until so many mails that came back are done with, and none waits."""

    def is_done() -> bool:
        with gateway.database.reading():
            rows = gateway.database.execute("SELECT state FROM delivery WHERE kind = 'returned'")
        return len(rows) >= count and all(state == "delivered" for (state,) in rows)

    wait_until(is_done, PATIENCE_S, gateway.log)


def returned_count(gateway: Gateway) -> int:
    with gateway.database.reading():
        rows = gateway.database.execute("SELECT count(*) FROM delivery WHERE kind = 'returned'")
    return int(rows[0][0])


def bring_back(gateway: Gateway, sent: Sent, *brought: Sample, to: str | None = None) -> None:
    """Each after the other, and wait until all are understood."""
    for sample in brought:
        before = returned_count(gateway)
        come_back(gateway, sent, sample, to)
        wait_until_understood(gateway, before + 1)


def test_a_hard_bounce_is_told_and_suppresses(gateway: Gateway, sent: Sent) -> None:
    bring_back(gateway, sent, HARD)
    ((kind, details),) = sent.events()
    assert kind == "bounce"
    assert details == {
        "agent": "mx.far.test",
        "delivery_status": "5.1.1",
        "reply_code": 550,
        "smtp_response": "550 5.1.1 <kim@far.test>: Recipient address rejected: User unknown",
        "severity": "hard",
    }
    assert sent.suppressed() == [(KIM, "hard_bounce", None)]
    assert sent.returned() == [(sent.account_id, "delivered")]


def test_a_full_mailbox_is_told_and_counted(gateway: Gateway, sent: Sent) -> None:
    bring_back(gateway, sent, FULL)
    assert sent.kinds() == ["soft_bounce"]
    assert sent.suppressed() == []
    with gateway.database.reading():
        counted = gateway.database.execute("SELECT address, count FROM soft_bounce")
    assert counted == [(KIM, 1)]


def test_the_same_bounce_twice_is_one_event(gateway: Gateway, sent: Sent) -> None:
    """Once as the same bytes (our 250 was lost), once as the notice of another host."""
    before = returned_count(gateway)
    come_back(gateway, sent, FULL)
    come_back(gateway, sent, FULL)
    wait_until_understood(gateway, before + 1)
    assert returned_count(gateway) == before + 1, "the receiver knows the same bytes"
    bring_back(gateway, sent, BY_NAME["no answer"])
    assert sent.kinds() == ["soft_bounce"]
    bring_back(gateway, sent, HARD)
    assert sent.kinds() == ["soft_bounce", "bounce"]


def test_a_complaint_suppresses_for_its_domain(gateway: Gateway, sent: Sent) -> None:
    bring_back(gateway, sent, BY_NAME["abuse"])
    ((kind, details),) = sent.events()
    assert (kind, details["agent"], details["reason"]) == ("complaint", "Loop/1.0", "feedback type abuse")
    ((address, reason, domain_id),) = sent.suppressed()
    assert (address, reason) == (KIM, "complaint")
    assert domain_id is not None


def test_a_complaint_to_the_feedback_mailbox_says_inside_what_it_is_about(gateway: Gateway, sent: Sent) -> None:
    bring_back(gateway, sent, BY_NAME["abuse"], to="fbl@pillarbox.test")
    assert sent.kinds() == ["complaint"]


def test_anything_else_to_the_feedback_mailbox_is_nothing(gateway: Gateway, sent: Sent) -> None:
    """Nor does a complaint without proof tell of anything."""
    bring_back(gateway, sent, HARD, PERSON, to="fbl@pillarbox.test")
    other = store_for(gateway, KIM)
    gateway.send("fbl@pillarbox.test", BY_NAME["fraud"].raw, "feedback@far.test")
    wait_until_understood(gateway)
    assert sent.events() == other.events() == sent.suppressed() == []


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("not spam", []),
        ("authentication failure", []),
        ("delayed", []),
        ("delivered", []),
        ("receipt", ["read"]),
        ("challenge", ["auto_reply"]),
        ("a person who replies", ["bounce_reply"]),
        ("nobody and nothing", []),
        ("spam", ["soft_bounce"]),
    ],
)
def test_the_other_kinds(gateway: Gateway, sent: Sent, name: str, kinds: list[str]) -> None:
    bring_back(gateway, sent, BY_NAME[name])
    assert sent.kinds() == kinds
    assert sent.suppressed() == []
    assert [state for _, state in sent.returned()] == ["delivered"]


def test_an_out_of_office_note(gateway: Gateway, sent: Sent) -> None:
    automatic = next(one for one in samples.ANSWERS if one.kind is samples.K.AUTO_REPLY)
    bring_back(gateway, sent, automatic)
    assert sent.kinds() == ["auto_reply"]


def test_a_person_who_writes_twice_is_told_twice_with_his_words(gateway: Gateway, sent: Sent) -> None:
    second = Sample("", PERSON.raw.replace(b"Thanks", b"Hello again"), PERSON.kind, (), PERSON.envelope_from)
    bring_back(gateway, sent, PERSON, second)
    assert [(kind, details["reason"]) for kind, details in sent.events()] == [
        ("bounce_reply", "Thanks, when will it come?"),
        ("bounce_reply", "Hello again, when will it come?"),
    ]


def test_a_bounce_that_returns_all_of_a_large_mail(gateway: Gateway, sent: Sent) -> None:
    returned = samples.report(
        samples.status_fields("5.1.1", "550 5.1.1 User unknown"),
        original=samples.ORIGINAL + "\n" + "x" * 70 + ("\n" + "y" * 70) * (INLINE_LIMIT * 20 // 71),
        original_type="message/rfc822",
    )
    bring_back(gateway, sent, Sample("", returned, samples.K.HARD_BOUNCE))
    assert sent.kinds() == ["bounce"]


def test_a_mail_that_is_gone_is_acknowledged(gateway: Gateway, sent: Sent) -> None:
    with gateway.database.transaction():
        gateway.database.execute("DELETE FROM delivery WHERE id = ?", (sent.delivery_id,))
    bring_back(gateway, sent, HARD)
    assert [state for _, state in sent.returned()] == ["delivered"]
    assert sent.suppressed() == []


def test_a_bounce_about_somebody_that_the_mail_was_passed_on_to(gateway: Gateway) -> None:
    """The list exists; one of its members does not."""
    sent = store_for(gateway, "list@far.test")
    bring_back(gateway, sent, HARD)
    ((kind, details),) = sent.events()
    assert kind == "soft_bounce"
    assert str(details["reason"]).startswith("list@far.test passes its mail on to kim@far.test")
    assert sent.suppressed() == []


def test_postfix_sends_its_own_bounce(gateway: Gateway, postfix: Postfix) -> None:
    """The host accepts, finds out that nobody is there, and bounces to our return path."""
    recipient = "nobody@pillarbox.test"
    sent = store_for(gateway, recipient)
    before = returned_count(gateway)
    postfix.send(sent.return_path, [recipient], b"From: shop@us.test\r\nSubject: Your order\r\n\r\nHello.\r\n")
    wait_until(lambda: returned_count(gateway) > before, PATIENCE_S, postfix.log)
    wait_until_understood(gateway, before + 1)
    ((kind, details),) = sent.events()
    assert kind == "bounce"
    assert details["delivery_status"] == "5.1.1"
    assert details["reply_code"] == 550
    assert str(details["smtp_response"]).endswith("There is no such address here")
    assert (details["agent"], details["severity"]) == ("relay.example", "hard")
    assert sent.suppressed() == [(recipient, "hard_bounce", None)]


def test_postfix_gives_up_for_a_reason_that_may_pass(gateway: Gateway, postfix: Postfix) -> None:
    """Its notice of a mail that is too large for the next host."""
    mailbox = new_mailbox(gateway)
    with gateway.database.transaction():
        gateway.database.execute(
            "UPDATE address SET settings = ? WHERE id = ?", ('{"max_message_size": 10}', mailbox.partition("@")[0])
        )
    sent = store_for(gateway, mailbox)
    before = returned_count(gateway)
    postfix.send(sent.return_path, [mailbox], b"From: shop@us.test\r\nSubject: Your order\r\n\r\nHello.\r\n")
    wait_until(lambda: returned_count(gateway) > before, PATIENCE_S, postfix.log)
    wait_until_understood(gateway, before + 1)
    ((kind, details),) = sent.events()
    assert (kind, details["severity"]) == ("soft_bounce", "block")
    assert sent.suppressed() == []


def test_receiver_and_worker_killed_in_between_lose_nothing(gateway: Gateway, sent: Sent) -> None:
    gateway.stop("worker")
    before = returned_count(gateway)
    come_back(gateway, sent, HARD)
    gateway.kill("smtp")
    gateway.start("smtp")
    gateway.start("worker")
    wait_until_understood(gateway, before + 1)
    assert sent.kinds() == ["bounce"]


def test_a_forged_bounce_is_refused(gateway: Gateway, sent: Sent) -> None:
    head, _, mac = sent.return_path.partition("@")[0].rpartition("-")
    forged = f"{head}-{mac[::-1]}@mta.{US}"
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        come_back(gateway, sent, HARD, to=forged)
    assert sent.returned() == []
