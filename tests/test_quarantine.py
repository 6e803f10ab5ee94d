"""Rules at work: refused at SMTP, held in quarantine, flagged, and released."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.address_settings import AddressSettings, DeliveryMode
from core.clock import system_clock
from core.rules import RuleAction
from core.services.rules import RuleDraft, create_rule
from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, running_target

MESSAGE = b"From: A <a@example.com>\r\nSubject: Hello\r\n\r\nHi.\r\n"
WITH_PROGRAM = (
    b"From: a@example.com\r\nSubject: Look\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\n\r\nHi.\r\n--b\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Disposition: attachment; filename=run.exe\r\n\r\nMZ\r\n--b--\r\n"
)


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


@pytest.fixture
def gateway(tmp_path: Path, database_url: str) -> Iterator[Gateway]:
    with running_gateway(tmp_path, "redis", "smtp", "worker", "web", database_url=database_url) as started:
        yield started


def rule(gateway: Gateway, action: RuleAction, mailbox: str | None = None, **conditions: Any) -> str:
    draft = RuleDraft(
        action=action, conditions=conditions, address_id=mailbox.partition("@")[0] if mailbox else None, note="my note"
    )
    return create_rule(gateway.database, gateway.account.account_id, draft, system_clock()).rule.rule_id


def refusal(gateway: Gateway, mailbox: str, message: bytes = MESSAGE) -> tuple[int, str]:
    """How the one recipient, or the message for it, was refused."""
    try:
        gateway.send(mailbox, message)
    except smtplib.SMTPRecipientsRefused as error:
        ((code, text),) = error.recipients.values()
    except smtplib.SMTPDataError as error:
        code, text = error.smtp_code, error.smtp_error
    else:
        raise AssertionError("it was taken")
    return code, text.decode() if isinstance(text, bytes) else text


def test_a_sender_is_refused_at_rcpt_and_others_are_not(gateway: Gateway, target: HttpTarget) -> None:
    mailbox, other = (gateway.add_address(target.url(path)) for path in ("/ok", "/ok/other"))
    rule(gateway, RuleAction.REJECT, mailbox, sender_domain=["example.com"])
    code, text = refusal(gateway, mailbox)
    assert (code, text.startswith("5.7.1")) == (550, True)
    assert "my note" not in text  # a rule's note is its owner's
    gateway.send(other, MESSAGE)
    gateway.send(mailbox, MESSAGE, sender="someone@example.org")
    target.wait_for(2)


def test_an_allow_rule_before_it_lets_a_sender_through(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url("/ok"))
    rule(gateway, RuleAction.ALLOW, sender=["sender@example.com"])
    rule(gateway, RuleAction.REJECT, ip=["127.0.0.0/8"])
    gateway.send(mailbox, MESSAGE)
    target.wait_for(1)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        gateway.send(mailbox, MESSAGE, sender="other@example.com")


def test_content_is_refused_after_data(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url("/ok"))
    rule(gateway, RuleAction.REJECT, attachment_extension=["exe"])
    assert refusal(gateway, mailbox, WITH_PROGRAM)[0] == 550
    gateway.send(mailbox, MESSAGE)
    target.wait_for(1)
    gateway.wait_for_states("delivered")


def test_where_only_some_recipients_refuse_theirs_is_held_and_nothing_is_lost(
    gateway: Gateway, target: HttpTarget
) -> None:
    strict, open_to_all = (gateway.add_address(target.url(path)) for path in ("/ok/strict", "/ok/open"))
    rule(gateway, RuleAction.REJECT, strict, attachment_extension=["exe"])
    gateway.send([strict, open_to_all], WITH_PROGRAM)
    (request,) = target.wait_for(1)
    assert request.path == "/ok/open"
    states = gateway.wait_until("SELECT state FROM delivery WHERE state <> 'pending' AND state <> 'quarantined'")
    assert states == [("delivered",)]
    held = gateway.wait_until("SELECT last_error, attempts FROM delivery WHERE state = 'quarantined'")
    assert "my note" in held[0][0]
    assert held[0][1] == 0


def test_what_is_held_is_shown_with_its_reason_and_goes_out_when_released(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url("/ok"))
    rule(gateway, RuleAction.QUARANTINE, subject_pattern=["(?i)hello"])
    gateway.send(mailbox, MESSAGE)
    gateway.wait_for_states("quarantined")
    (listed,) = gateway.api("GET", "/incoming_statuses?query=status_category:quarantined")
    assert (listed["state"], listed["status_category"], listed["status"]) == ("quarantined", "quarantined", None)
    assert (listed["attempts"], listed["released"]) == (0, False)
    assert "my note" in listed["error"]
    refused = gateway.api("POST", f"/incoming_statuses/{listed['id']}/retry", expected=409)
    assert "release it instead" in refused["error"]
    assert not target.received

    released = gateway.api("POST", f"/incoming_statuses/{listed['id']}/release", expected=202)
    assert (released["state"], released["released"], released["error"]) == ("pending", True, None)
    (request,) = target.wait_for(1)
    assert request.headers["webhook-id"] == listed["id"]
    gateway.wait_for_states("delivered")
    again = gateway.api("POST", f"/incoming_statuses/{listed['id']}/release", expected=409)
    assert "not in quarantine" in again["error"]
    gateway.api("POST", f"/incoming_statuses/{listed['id']}/retry", expected=202)
    target.wait_for(2)  # a rule that still matches does not hold it again


def test_many_are_released_by_a_search(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url("/ok"))
    rule(gateway, RuleAction.QUARANTINE, sender_domain=["example.com"])
    for _ in range(3):
        gateway.send(mailbox, MESSAGE)
    gateway.send(mailbox, MESSAGE, sender="a@example.org")
    gateway.wait_until("SELECT 1 FROM delivery WHERE state = 'quarantined' LIMIT 1 OFFSET 2")
    gateway.wait_until("SELECT 1 FROM delivery WHERE state = 'delivered'")
    done = gateway.api("POST", "/incoming_statuses/release?query=*", expected=202)
    assert done == {"retried": 3, "left_alone": 1, "next_cursor": None}
    target.wait_for(4)


def test_flags_are_in_the_payload_and_in_the_status(gateway: Gateway, target: HttpTarget) -> None:
    mailbox = gateway.add_address(target.url("/ok"))
    rule(gateway, RuleAction.FLAG, size_min=10)
    gateway.send(mailbox, MESSAGE)
    (request,) = target.wait_for(1)
    assert json.loads(request.body)["pillarbox"]["flags"] == ["my note"]
    gateway.wait_for_states("delivered")
    (listed,) = gateway.api("GET", "/incoming_statuses")
    assert listed["flags"] == ["my note"]


def test_a_limit_of_its_own_answers_in_the_words_of_its_owner(gateway: Gateway, target: HttpTarget) -> None:
    settings = AddressSettings(max_message_size=1_000, oversize_text="Send a link,\r\nplease")
    small = gateway.add_address(target.url("/ok"), settings=settings.to_json())
    other = gateway.add_address(target.url("/ok/other"))
    large = MESSAGE + b"x" * 70 + b"\r\n" * 1_000
    assert refusal(gateway, small, large) == (552, "5.3.4 Send a link, please")
    with gateway.connect() as client:
        client.mail("a@example.com", ["SIZE=5000"])
        assert client.rcpt(small) == (552, b"5.3.4 Send a link, please")
        assert client.rcpt(other)[0] == 250
        client.rset()
        client.mail("a@example.com")
        assert [client.rcpt(mailbox)[0] for mailbox in (small, other)] == [250, 250]
        assert client.data(large)[0] == 250
    (request,) = target.wait_for(1)
    assert request.path == "/ok/other"
    (held,) = gateway.wait_until("SELECT last_error FROM delivery WHERE state = 'quarantined'")
    assert "larger than the 1000 bytes" in held[0]


def test_an_inline_mail_that_is_held_is_answered_with_250(gateway: Gateway, target: HttpTarget) -> None:
    settings = AddressSettings(mode=DeliveryMode.INLINE)
    mailbox = gateway.add_address(target.url("/ok"), settings=settings.to_json())
    rule(gateway, RuleAction.QUARANTINE, subject_pattern=["Hello"])
    gateway.send(mailbox, MESSAGE)
    gateway.wait_for_states("quarantined")
    gateway.send(mailbox, MESSAGE)  # come again: held already
    assert len(gateway.deliveries()) == 1
    assert not target.received
