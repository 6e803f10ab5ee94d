"""Which mail to return paths is taken, asked at RCPT of a real receiver: only what is proved to be about our mail."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest

from core.clock import DAY_MS, system_clock
from core.ids import new_time_ordered_id
from core.sending import verp
from core.sending.verp import VALIDITY_DAYS, ReturnPaths
from core.services.secrets import shared_secret
from inbound.smtp.replies import Reply
from inbound.smtp.returns import BOUNCE_SETTINGS, COUNTED_PATHS, MAILS_A_DAY, PathCounts, ReturnedTooOften
from tests.gateway import Gateway, running_gateway
from tests.returned_support import US, Sent, add_sending_domain, rcpt, store_sent
from tests.smtp_client import new_domain, new_mailbox

OK = Reply.RECIPIENT_OK
UNKNOWN = "550 5.1.1 There is no such address here"
HERE = "pillarbox.test"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = {"PILLARBOX_MAX_SESSION_ERRORS": "1000", "PILLARBOX_TARPIT_MS": "0"}
    with running_gateway(tmp_path_factory.mktemp("rcpt"), "smtp", **environment) as started:
        yield started


@pytest.fixture(scope="module")
def port(gateway: Gateway) -> int:
    return gateway.settings.smtp.port


@pytest.fixture(scope="module")
def domain_id(gateway: Gateway) -> str:
    return add_sending_domain(gateway.database, gateway.account.account_id)


@pytest.fixture
def sent(gateway: Gateway, domain_id: str) -> Sent:
    return store_sent(gateway.database, gateway.account.account_id, "kim@far.test", domain_id, f"mta.{US}")


def paths_of(gateway: Gateway, secret: bytes | None = None) -> ReturnPaths:
    return ReturnPaths(secret or shared_secret(gateway.database, verp.SECRET_NAME), system_clock)


def test_a_return_path_is_taken_at_the_names_that_lead_to_us(port: int, sent: Sent) -> None:
    local = sent.local_part
    names = (f"mta.{US}", HERE, f"mta.{HERE}", "MTA.Us.Test", f"mta.{US}.")
    assert rcpt(port, *(f"{local}@{name}" for name in names)) == [OK] * len(names)


def test_case_may_change_on_the_way(port: int, sent: Sent) -> None:
    assert rcpt(port, sent.return_path.upper(), sent.return_path.title(), f'"{sent.local_part}"@mta.{US}') == [OK] * 3


@pytest.mark.parametrize("sender", ["", "kim@far.test", "feedback@far.test", "shop@us.test"])
def test_bounces_and_senders_are_taken_alike(port: int, sent: Sent, sender: str) -> None:
    """Complaints, automatic answers and people come with a sender."""
    assert rcpt(port, sent.return_path, sender=sender) == [OK]


def test_names_that_are_not_this_mails_are_refused(gateway: Gateway, port: int, sent: Sent) -> None:
    """We are no relay: a proved local part opens no domain but its own."""
    other = add_sending_domain(gateway.database, gateway.account.account_id, "other.test")
    assert other
    names = (US, "other.test", "mta.other.test", "mta.far.test", "far.test", f"mta.mta.{US}", f"x.mta.{US}", f"x{HERE}",
             f"mta.x.{HERE}", "mta.None", "[127.0.0.1]")  # fmt: skip
    assert rcpt(port, *(f"{sent.local_part}@{name}" for name in names)) == [UNKNOWN] * len(names)


def test_local_parts_that_are_not_ours_are_refused(gateway: Gateway, port: int, sent: Sent) -> None:
    local = sent.local_part
    head, _, mac = local.rpartition("-")
    flipped = mac[:-1] + ("a" if mac[-1] != "a" else "b")
    strangers = paths_of(gateway, b"another secret of thirty-two by.")
    forged = (
        f"{head}-{flipped}", f"{head}-{'a' * 16}", strangers.local_part(sent.delivery_id), head, f"{local}x",
        f"x{local}", f"{local}+tag", f"b-{local}", local.replace("b-", "b_", 1), f"kim%far.test%{local}", "b-", "b",
        "b-path", f"{local}=far.test", local.replace("-", "--"), f" {local}",
    )  # fmt: skip
    for name in (HERE, f"mta.{HERE}", f"mta.{US}"):
        replies = rcpt(port, *(f'"{one}"@{name}' for one in forged))
        assert replies == [UNKNOWN] * len(forged), name


def test_letters_that_only_look_like_ours_are_refused(port: int, sent: Sent) -> None:
    """The Kelvin sign is a k in lower case."""
    local = "b-" + sent.local_part[2:].replace("k", "\u212a")
    with smtplib.SMTP("127.0.0.1", port, "mx.far.test", timeout=20) as client:
        client.ehlo()
        client.docmd("MAIL", "FROM:<> SMTPUTF8")
        client.command_encoding = "utf-8"
        code, _ = client.rcpt(f"{local}\u212a@{HERE}")
    assert code in (550, 553)


def test_an_old_return_path_is_refused(gateway: Gateway, port: int) -> None:
    """Its mail may be gone from the database or not."""
    paths, now_ms = paths_of(gateway), system_clock()
    fresh, old = (
        paths.make(new_time_ordered_id(now_ms - age_ms), HERE)
        for age_ms in ((VALIDITY_DAYS - 1) * DAY_MS, VALIDITY_DAYS * DAY_MS + 60_000)
    )
    assert rcpt(port, fresh, old) == [OK, UNKNOWN]


def test_what_is_not_a_mail_that_was_sent_belongs_to_nobody(gateway: Gateway, port: int) -> None:
    """A delivery of received mail has an id of the same form; nobody makes return paths of those."""
    made = paths_of(gateway).make(new_time_ordered_id(), f"mta.{US}")
    assert rcpt(port, made, made.replace(US, "far.test"), made.replace(f"mta.{US}", "far.test")) == [OK, OK, UNKNOWN]


def test_a_deleted_sending_domain_still_gets_its_bounces(gateway: Gateway, port: int) -> None:
    account_id = gateway.account.account_id
    domain_id = add_sending_domain(gateway.database, account_id, "old.test")
    made = store_sent(gateway.database, account_id, "kim@far.test", domain_id, "mta.old.test")
    with gateway.database.transaction():
        gateway.database.execute("UPDATE sending_domain SET deleted_ms = ? WHERE id = ?", (system_clock(), domain_id))
    assert rcpt(port, made.return_path) == [OK]


def test_mail_for_others_is_as_it_was(gateway: Gateway, port: int, sent: Sent) -> None:
    """Besides a return path, in the same transaction: an address of ours is taken, a stranger's is not."""
    mailbox = new_mailbox(gateway)
    new_domain(gateway, mailbox, "mta.customer.test")
    asked = (sent.return_path, mailbox, "b-anything@mta.customer.test", "victim@far.test", f"nobody@mta.{US}")
    assert rcpt(port, *asked, sender="kim@far.test") == [OK, OK, OK, UNKNOWN, UNKNOWN]


def test_the_mailbox_of_feedback_loops(port: int) -> None:
    asked = (f"fbl@{HERE}", f"FBL@{HERE}", f"fbl@mta.{US}", f"abuse@{HERE}", "fbl@far.test")
    assert rcpt(port, *asked, sender="feedback@far.test") == [OK, OK, UNKNOWN, UNKNOWN, UNKNOWN]


def test_a_mail_larger_than_any_we_send_is_refused(gateway: Gateway, port: int, sent: Sent) -> None:
    limit = gateway.settings.max_send_size + (BOUNCE_SETTINGS.max_message_size or 0)
    assert rcpt(port, sent.return_path, size=limit) == [OK]
    assert rcpt(port, sent.return_path, size=limit + 1) == [Reply.MESSAGE_TOO_LARGE]


def test_two_programs_that_answer_each_other_come_to_an_end(port: int, sent: Sent) -> None:
    assert rcpt(port, *[sent.return_path] * MAILS_A_DAY) == [OK] * MAILS_A_DAY
    assert rcpt(port, sent.return_path, sent.return_path.upper()) == [Reply.RETURNED_TOO_OFTEN] * 2


def test_the_count_is_of_a_day_and_of_one_path() -> None:
    now = [10 * DAY_MS]
    counts = PathCounts(lambda: now[0])
    for _ in range(MAILS_A_DAY):
        counts.add("one")
    with pytest.raises(ReturnedTooOften):
        counts.add("one")
    counts.add("another")
    now[0] += DAY_MS
    counts.add("one")


def test_counting_takes_no_more_memory_than_it_may() -> None:
    counts = PathCounts(lambda: 0)
    for number in range(COUNTED_PATHS + 50):
        counts.add(str(number))
    assert len(counts._counts) == COUNTED_PATHS
