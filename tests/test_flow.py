"""From SMTP to HTTP with the real processes, on both databases."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from core.store.models import Address
from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, reply, running_target
from workers.doorbell import REDIS_TIMEOUT_S

MESSAGE = b"From: A <a@example.com>\r\nSubject: Hello\r\nMessage-ID: <1@example.com>\r\n\r\nHi.\r\n"


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


@pytest.fixture
def gateway(tmp_path: Path, database_url: str) -> Iterator[Gateway]:
    with running_gateway(tmp_path, database_url=database_url) as started:
        yield started


def test_a_mail_is_posted_to_its_target_and_signed(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url("/ok?x=1", credentials="us%40er:p%3Ass@"))

    gateway.send(mailbox, MESSAGE)

    (request,) = target.wait_for(1)
    payload = json.loads(request.body)
    assert request.path == "/ok?x=1"
    assert payload["headers"]["subject"] == "Hello"
    assert payload["envelope"]["to"] == mailbox
    assert payload["envelope"]["from"] == "sender@example.com"
    assert payload["envelope"]["helo_domain"] == "client.example"
    assert payload["plain"].strip() == "Hi."
    assert request.headers["authorization"] == "Basic dXNAZXI6cDpzcw=="
    assert request.headers["user-agent"].startswith("Pillarbox/")
    assert request.headers["pillarbox-attempt"] == "1"
    with gateway.database.reading():
        secret = Address.get().secret
    assert Webhook(secret).verify(request.body, request.headers)
    gateway.wait_for_states("delivered")


def test_while_a_secret_is_rotated_posts_are_signed_by_both(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url("/ok"))
    gateway.start("web")
    path = f"/addresses/{mailbox.partition('@')[0]}"
    old = gateway.api("GET", path)["signing_secret"]
    new = gateway.api("POST", f"{path}/rotate_secret", overlap_hours=1)["signing_secret"]
    gateway.send(mailbox, MESSAGE)
    (request,) = target.wait_for(1)
    for secret in (old, new):
        assert Webhook(secret).verify(request.body, request.headers)
    gateway.api("POST", f"{path}/rotate_secret", overlap_hours=0)
    gateway.send(mailbox, MESSAGE)
    (_, request) = target.wait_for(2)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(request.body, request.headers)


def test_recipients_of_one_address_share_a_delivery_and_others_get_their_own(
    gateway: Gateway, target: HttpTarget
) -> None:
    first = gateway.add_address(target.url("/ok/first"))
    second = gateway.add_address(target.url("/ok/second"))
    gateway.add_domain(first, "example.org")
    gateway.add_domain(first, "*.example.net", domain_target=target.url("/ok/domain"))
    tagged = first.replace("@", "+tag@")

    gateway.send([first, tagged, second, "anyone@example.org", "who@sub.example.net"], MESSAGE)

    requests = {request.path: json.loads(request.body)["envelope"]["recipients"] for request in target.wait_for(3)}
    assert requests == {
        "/ok/first": [first, tagged, "anyone@example.org"],
        "/ok/second": [second],
        "/ok/domain": ["who@sub.example.net"],
    }
    gateway.wait_for_states("delivered", "delivered", "delivered")


def test_a_target_that_fails_is_tried_again_with_the_same_id(gateway: Gateway, target: HttpTarget) -> None:
    # The schedule's first pause is ten seconds; the test shortens it in the database.
    target.scripted["/later"] = [reply(503, b"not now")]
    mailbox = gateway.add_address(target.url("/later"))
    gateway.send(mailbox, MESSAGE)
    target.wait_for(1)
    assert gateway.wait_for_states("pending")[0][0] == "pending"
    _wait_for_recorded_attempt(gateway)

    with gateway.database.transaction():
        gateway.database.execute("UPDATE delivery SET due_ms = 0")

    first, second = target.wait_for(2)
    assert gateway.wait_for_states("delivered") == [("delivered", 2, 200, None)]
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [request.headers["pillarbox-attempt"] for request in (first, second)] == ["1", "2"]
    attempts = gateway.database.execute("SELECT number, status, response FROM attempt ORDER BY number")
    assert attempts == [(1, 503, "not now"), (2, 200, None)]


def test_a_rejection_by_the_target_is_final_and_visible(gateway: Gateway, target: HttpTarget) -> None:
    gateway.send(gateway.add_address(target.url("/status/404")), MESSAGE)

    target.wait_for(1)

    assert gateway.wait_for_states("rejected") == [("rejected", 1, 404, None)]


def test_mail_is_taken_and_delivered_while_redis_is_down(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url())
    gateway.kill("redis")

    gateway.send(mailbox, MESSAGE)

    target.wait_for(1)
    gateway.wait_for_states("delivered")


def test_a_worker_that_starts_before_redis_does_not_end_for_it(gateway: Gateway, target: HttpTarget) -> None:
    """Redis may go at any moment, also while RQ's worker signs in, which it does not survive; ours does."""
    gateway.stop("worker")
    gateway.kill("redis")
    gateway.send(gateway.add_address(target.url()), MESSAGE)
    gateway.start("worker")
    logged = len(gateway.log())
    wait_for_log(gateway, logged, "Redis does not answer; trying again")
    gateway.wait_for_states("delivered")

    gateway.start("redis")

    gateway.send(gateway.add_address(target.url()), MESSAGE)
    gateway.wait_for_states("delivered", "delivered")
    assert "Traceback" not in gateway.log()[logged:]
    assert gateway.stop("worker") == 0


def test_a_worker_that_waits_for_redis_ends_when_it_is_told_to(gateway: Gateway) -> None:
    gateway.stop("worker")
    gateway.kill("redis")
    gateway.start("worker")
    wait_for_log(gateway, len(gateway.log()), "Redis does not answer; trying again")

    assert gateway.stop("worker") == 0


def wait_for_log(gateway: Gateway, position: int, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in gateway.log()[position:]:
        assert time.monotonic() < deadline, gateway.log()[position:]
        time.sleep(0.02)


def test_a_large_mail_lies_in_the_blob_store_and_arrives_whole(gateway: Gateway, target: HttpTarget) -> None:
    body = b"".join(b"%076d\r\n" % number for number in range(30_000))
    mailbox = gateway.add_address(target.url())

    gateway.send(mailbox, MESSAGE + body)

    (request,) = target.wait_for(1)
    plain = json.loads(request.body)["plain"]
    assert plain.replace("\r\n", "\n").endswith(body.decode().replace("\r\n", "\n"))
    assert gateway.database.execute("SELECT body IS NULL, blob_key IS NULL FROM raw_message") in (
        [(True, False)],
        [(1, 0)],
    )
    assert not list((gateway.settings.data / "messages" / "incoming").iterdir())


def _wait_for_recorded_attempt(gateway: Gateway) -> None:
    deadline = time.monotonic() + 10
    while not gateway.database.execute("SELECT 1 FROM attempt"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_stays_while_nothing_comes(gateway: Gateway, target: HttpTarget) -> None:
    """RQ blocks on Redis for longer than any other of our calls may take."""
    worker = gateway.processes["worker"]
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(REDIS_TIMEOUT_S + 1.5)

    gateway.send(gateway.add_address(target.url()), MESSAGE)

    gateway.wait_for_states("delivered")
