"""Inline mode: the target's answer is the sender's answer, and a sender that comes again is recognised."""

from __future__ import annotations

import smtplib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.address_settings import AddressSettings, DeliveryMode, OnDeadline
from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, reply, running_target

MESSAGE = b"From: A <a@example.com>\r\nSubject: Hello\r\nMessage-ID: <1@example.com>\r\n\r\nHi.\r\n"
INLINE = AddressSettings(mode=DeliveryMode.INLINE, inline_deadline_s=2)
QUEUED_WITH_WINDOW = AddressSettings(duplicate_window_s=3600)


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


@pytest.fixture
def gateway(tmp_path: Path, database_url: str) -> Iterator[Gateway]:
    with running_gateway(tmp_path, "redis", "smtp", database_url=database_url) as started:
        yield started


def inline(gateway: Gateway, url: str, settings: AddressSettings = INLINE) -> str:
    return gateway.add_address(url, settings=settings.to_json())


def answer(gateway: Gateway, mailbox: str | list[str], message: bytes = MESSAGE) -> tuple[int, str]:
    """The final reply to a message."""
    with gateway.connect(timeout=60) as client:
        client.mail("sender@example.com")
        for recipient in [mailbox] if isinstance(mailbox, str) else mailbox:
            assert client.rcpt(recipient)[0] == 250
        code, text = client.data(message)
        return code, text.decode()


def test_each_answer_of_the_target_becomes_the_reply(gateway: Gateway, target: HttpTarget) -> None:
    target.scripted["/no"] = [reply(422, b"no such\r\nticket", "Content-Type: text/plain; charset=utf-8")]
    target.scripted["/html"] = [reply(403, b"<h1>No</h1>", "Content-Type: text/html")]
    assert answer(gateway, inline(gateway, target.url("/ok")))[0] == 250
    assert answer(gateway, inline(gateway, target.url("/no"))) == (554, "5.7.1 no such ticket")
    code, text = answer(gateway, inline(gateway, target.url("/html")))
    assert (code, "<h1>" in text) == (554, False)
    assert answer(gateway, inline(gateway, target.url("/status/503")))[0] == 450
    assert answer(gateway, inline(gateway, "http://127.0.0.1:9/"))[0] == 450
    assert [row[0] for row in gateway.deliveries()] == ["delivered", "rejected", "rejected", "deferred", "deferred"]
    assert [row[2] for row in gateway.deliveries()] == [200, 422, 403, 503, 0]


def test_a_target_that_takes_too_long_means_450_or_the_queue_as_the_address_says(
    gateway: Gateway, target: HttpTarget
) -> None:
    asleep = target.url("/sleep/4")
    started = time.monotonic()
    assert answer(gateway, inline(gateway, asleep))[0] == 450
    assert time.monotonic() - started < 3.5
    queue = AddressSettings(mode=DeliveryMode.INLINE, inline_deadline_s=1, inline_on_deadline=OnDeadline.QUEUE)
    assert answer(gateway, inline(gateway, asleep, queue))[0] == 250
    assert [row[:2] for row in gateway.deliveries()] == [("deferred", 1), ("pending", 1)]


def test_a_sender_that_was_put_off_comes_again_as_the_same_delivery(gateway: Gateway, target: HttpTarget) -> None:
    target.scripted["/ok/later"] = [reply(503, b"not now")]
    mailbox = inline(gateway, target.url("/ok/later"))
    assert answer(gateway, mailbox)[0] == 450
    assert answer(gateway, mailbox)[0] == 250
    assert len({request.headers["webhook-id"] for request in target.wait_for(2)}) == 1
    assert [request.headers["pillarbox-attempt"] for request in target.received] == ["1", "2"]
    assert [row[1] for row in gateway.deliveries()] == [2]


def test_a_sender_that_did_not_hear_the_250_is_told_again_and_nothing_is_posted_twice(
    gateway: Gateway, target: HttpTarget
) -> None:
    mailbox = inline(gateway, target.url("/ok"))
    assert answer(gateway, mailbox)[0] == 250
    assert answer(gateway, mailbox)[0] == 250
    assert answer(gateway, mailbox, MESSAGE + b"another\r\n")[0] == 250
    assert len(target.received) == 2


def test_a_sender_that_comes_again_while_the_target_still_thinks_is_put_off(
    gateway: Gateway, target: HttpTarget
) -> None:
    mailbox = inline(gateway, target.url("/sleep/1.5"))
    with ThreadPoolExecutor() as threads:
        first = threads.submit(answer, gateway, mailbox)
        target.wait_for(1)
        assert answer(gateway, mailbox)[0] == 450
        assert first.result()[0] == 250
    assert answer(gateway, mailbox)[0] == 250
    assert len(target.received) == 1


def test_a_client_that_hangs_up_meanwhile_loses_nothing(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = inline(gateway, target.url("/sleep/1"))
    client = gateway.connect()
    client.mail("sender@example.com")
    client.rcpt(mailbox)
    assert client.docmd("DATA")[0] == 354
    client.send(MESSAGE + b".\r\n")
    target.wait_for(1)
    client.close()
    gateway.wait_for_states("delivered")
    assert answer(gateway, mailbox)[0] == 250
    assert len(target.received) == 1


def test_an_inline_recipient_shares_a_transaction_with_no_other_target(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = inline(gateway, target.url("/ok"))
    other = gateway.add_address(target.url("/ok/other"))
    with gateway.connect() as client:
        client.mail("sender@example.com")
        assert client.rcpt(mailbox)[0] == 250
        assert client.rcpt(mailbox.replace("@", "+tag@"))[0] == 250
        assert client.rcpt(other)[0] == 452
        assert client.data(MESSAGE)[0] == 250
        client.mail("sender@example.com")
        assert client.rcpt(other)[0] == 250
        assert client.rcpt(mailbox)[0] == 452


def test_large_mail_is_delivered_inline_and_its_duplicate_leaves_no_second_copy(
    gateway: Gateway, target: HttpTarget, tmp_path: Path
) -> None:
    mailbox = inline(gateway, target.url("/ok"))
    large = MESSAGE + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 5_000
    assert answer(gateway, mailbox, large)[0] == 250
    assert answer(gateway, mailbox, large)[0] == 250
    assert len(target.received) == 1
    files = [path for path in (tmp_path / "data" / "messages").rglob("*") if path.is_file()]
    assert len(files) == 1


def test_queued_mail_is_recognised_too_where_the_address_asks_for_it(gateway: Gateway, target: HttpTarget) -> None:
    with_window = gateway.add_address(target.url("/ok"), settings=QUEUED_WITH_WINDOW.to_json())
    without = gateway.add_address(target.url("/ok"))
    for _ in range(3):
        gateway.send(with_window, MESSAGE)
        gateway.send(without, MESSAGE)
    gateway.send(with_window, MESSAGE + b"another\r\n")
    assert len(gateway.deliveries()) == 2 + 3


def test_more_inline_mail_than_there_are_places_is_put_off_not_lost(tmp_path: Path, target: HttpTarget) -> None:
    with running_gateway(tmp_path, "redis", "smtp", PILLARBOX_INLINE_THREADS="2") as gateway:
        mailbox = inline(gateway, target.url("/sleep/1"))
        with ThreadPoolExecutor(6) as threads:
            codes = list(threads.map(lambda n: answer(gateway, mailbox, MESSAGE + b"%d\r\n" % n)[0], range(6)))
    assert sorted(set(codes)) == [250, 450]
    assert codes.count(250) == len(target.received)


def test_a_receiver_that_dies_with_the_mail_in_hand_leaves_it_to_a_worker(tmp_path: Path, target: HttpTarget) -> None:
    with running_gateway(tmp_path) as gateway:
        mailbox = inline(gateway, target.url("/sleep/1.5"))
        failed = threading.Event()

        def send() -> None:
            try:
                answer(gateway, mailbox)
            except (smtplib.SMTPException, OSError):
                failed.set()

        sender = threading.Thread(target=send)
        sender.start()
        target.wait_for(1)
        gateway.kill("smtp")
        sender.join()
        assert failed.is_set()
        with gateway.database.transaction():  # the lease would run out by itself; the test does not wait for that
            gateway.database.execute("UPDATE delivery SET due_ms = 0")
        gateway.wait_for_states("delivered")
        assert len({request.headers["webhook-id"] for request in target.wait_for(2)}) == 1
        gateway.start("smtp")
        assert answer(gateway, mailbox)[0] == 250
    assert len(target.received) == 2
