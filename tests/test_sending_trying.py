"""`pillarbox up` with defaults on one machine: a new user's first mail, and what he reads where there is no way."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from email import message_from_bytes
from typing import Any

import pytest

from tests.gateway import any_certificate
from tests.scripted_smtp import Peer, Script, running_peer
from tests.sending_world import path
from tests.up_process import Up, running_up, wait_until
from tests.zone_server import Zone, running_zone

BODY = {"from": "Me <me@example.com>", "subject": "My first", "plain": "Hi."}
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def sink() -> Iterator[Peer]:
    with running_peer(Script()) as started:
        yield started


@pytest.fixture(scope="module")
def relaying(sink: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Nothing is set but a relay."""
    with running_up(tmp_path_factory.mktemp("relay"), PILLARBOX_SMART_HOST=f"127.0.0.1:{sink.port}") as started:
        yield started


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    with running_zone() as started:
        started.failing.add("silent.test")
        started.add("inside.test", "MX", "10 mx.inside.test.")
        started.add("mx.inside.test", "A", "10.0.0.7")
        started.add("closed.test", "MX", "10 mx.closed.test.")
        started.add("mx.closed.test", "A", "127.255.255.250")
        yield started


@pytest.fixture(scope="module")
def asking(zone: Zone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Nothing is set but a DNS."""
    with running_up(tmp_path_factory.mktemp("asking"), PILLARBOX_RESOLVER=f"127.0.0.1:{zone.port}") as started:
        yield started


def send(up: Up, to: str, **fields: Any) -> str:
    answer = up.api("POST", "messages", json={**BODY, "to": to, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def wait_for_event(up: Up, message_id: str, *kinds: str) -> dict[str, Any]:
    """The recipient of a message as the API shows it, once his last event is one of these."""
    found: dict[str, Any] = {}

    def has_come() -> bool:
        (recipient,) = up.api("GET", f"outbound_messages/{message_id}").json()["recipients"]
        found.update(recipient)
        return recipient["last_event"] in kinds

    wait_until(has_come, PATIENCE_S, up.log)
    return found


def test_the_first_mail_by_api_needs_nothing_but_a_relay(relaying: Up, sink: Peer) -> None:
    message_id = send(relaying, "you@example.org")
    wait_for_event(relaying, message_id, "delivery")
    (taken,) = [one for one in sink.taken if path(one.recipients[0]) == "you@example.org"]
    assert path(taken.mail_from).endswith("@pillarbox.test")
    arrived = message_from_bytes(taken.content)
    assert (arrived["From"], arrived["Subject"], arrived["DKIM-Signature"]) == (BODY["from"], "My first", None)
    assert arrived.get_payload() == "Hi.\r\n"


def test_the_first_mail_by_smtp_needs_nothing_but_a_relay(relaying: Up, sink: Peer) -> None:
    keys = relaying.credentials()
    where = ("127.0.0.1", keys["smtp_submission_tls_port"])
    with smtplib.SMTP_SSL(*where, context=any_certificate(), timeout=PATIENCE_S) as client:
        client.login(keys["smtp_username"], keys["smtp_password"])
        client.sendmail("me@example.com", ["too@example.org"], b"From: me@example.com\r\nSubject: Too\r\n\r\nHi.\r\n")
    wait_until(lambda: any(path(one.recipients[0]) == "too@example.org" for one in sink.taken), PATIENCE_S)


def test_what_comes_back_finds_its_mail(relaying: Up, sink: Peer) -> None:
    """A bounce by SMTP to the only domain that there is, that of the gateway."""
    message_id = send(relaying, "gone@example.org")
    wait_for_event(relaying, message_id, "delivery")
    (taken,) = [one for one in sink.taken if path(one.recipients[0]) == "gone@example.org"]
    notice = (
        "From: MAILER-DAEMON@example.org\r\nSubject: Undelivered Mail Returned to Sender\r\n\r\n"
        "<gone@example.org>: host mx.example.org said: 550 5.1.1 User unknown\r\n"
    )
    with smtplib.SMTP("127.0.0.1", relaying.settings.smtp.port, timeout=PATIENCE_S) as client:
        client.sendmail("", [path(taken.mail_from)], notice)
    found = wait_for_event(relaying, message_id, "bounce")
    assert found["events"][-1]["details"]["severity"] == "hard"
    assert relaying.api("GET", "suppressions").json()[0]["address"] == "gone@example.org"


def test_mail_to_an_address_of_the_gateway_comes_in_again(asking: Up) -> None:
    mailbox = asking.add_address(f"{asking.settings.api_url}/target/200")
    wait_for_event(asking, send(asking, mailbox, subject="Out and in"), "delivery")

    def has_come() -> bool:
        statuses = asking.api("GET", "incoming_statuses", params={"query": "subject:out"}).json()
        return [one["status"] for one in statuses] == [200]

    wait_until(has_come, PATIENCE_S, asking.log)


@pytest.mark.parametrize(
    ("domain", "kind", "reason"),
    [
        ("silent.test", "dispatch_soft_bounce", "the DNS gave no answer about silent.test; it is asked again later"),
        (
            "closed.test",
            "dispatch_soft_bounce",
            "no connection to mx.closed.test (127.255.255.250) at port 25: Connection refused",
        ),
        ("inside.test", "dispatch_soft_bounce", "name its network in PILLARBOX_ALLOW_PRIVATE_TARGETS"),
        ("unknown.test", "bounce", "the DNS knows no unknown.test"),
    ],
)
def test_where_there_is_no_way_the_reason_is_told(asking: Up, domain: str, kind: str, reason: str) -> None:
    recipient = wait_for_event(asking, send(asking, f"you@{domain}"), kind)
    assert reason in recipient["error"]
    assert reason in recipient["events"][-1]["details"]["reason"]
    assert (recipient["next_attempt_at"] is None) == (kind == "bounce")


def test_a_mistake_is_told_with_its_cure(asking: Up) -> None:
    answer = asking.api("POST", "messages", json={**BODY, "to": "you"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("to: 'you' is no address; write it like user@example.com")
