"""What hosts refuse, at once or later, through a whole gateway: events, suppressions, mail that arrives after all."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from standardwebhooks import Webhook

from tests.scripted_smtp import Trick
from tests.sending_world import GATEWAY, ODD, PEOPLE, SHOP, SendingWorld, path

UNKNOWN = "550 5.1.1 There is nobody of this name"


@pytest.fixture(scope="module")
def world(sending: SendingWorld) -> SendingWorld:
    return sending


@pytest.fixture(scope="module")
def secret(world: SendingWorld) -> str:
    """Of a webhook that is told of bounces only."""
    kinds = ["bounce", "soft_bounce", "suppressed"]
    made = world.gateway.api("POST", "/webhooks", 201, url=world.hooks.url("/bounces"), kinds=kinds)
    return str(made["signing_secret"])


def suppressed(world: SendingWorld, address: str) -> list[str]:
    """Why an address is on a list."""
    return [entry["reason"] for entry in world.gateway.api("GET", f"/suppressions?address={address}")]


def attempted(world: SendingWorld, recipient: str) -> int:
    """How often the odd peer was asked to take mail for somebody."""
    return world.odd.lines.count(f"RCPT TO:<{recipient}>")


# --- for good ---------------------------------------------------------------------------------------------------------


def test_a_notice_from_the_recipients_postfix_finds_back_by_mx(world: SendingWorld, secret: str) -> None:
    """Postfix takes the mail, is refused behind, and looks up the MX of the return path for its notice."""
    recipient = f"gone@{PEOPLE}"
    world.people.script.answers[f"RCPT TO:<{recipient}>"] = UNKNOWN
    first = world.send(recipient, tags=["orders"])
    bounce = world.wait_for_kind(first, "bounce")
    assert world.kinds(first) == ["registration", "dispatch", "delivery", "bounce"]
    assert {name: bounce["details"][name] for name in ("reply_code", "delivery_status", "smtp_response")} == {
        "reply_code": "550", "delivery_status": "5.1.1", "smtp_response": UNKNOWN,
    }  # fmt: skip
    line = world.postfix.wait_for_log(f"@mta.{SHOP}>", f"relay=mx.{GATEWAY}[{world.places.receiver}]:25", "status=sent")
    assert "from=<>" not in line
    assert suppressed(world, recipient) == ["hard_bounce"]
    before = len(world.people.lines)
    second = world.send(recipient)
    assert world.kinds(second) == ["registration", "suppressed"]
    assert recipient not in world.postfix.log().partition("status=bounced")[2]
    assert len(world.people.lines) == before
    (told,) = world.wait_until_told("/bounces", first, "bounce")
    assert (told["recipient"], told["tags"], told["details"]) == (
        recipient,
        ["orders"],
        {**bounce["details"], "reply_code": 550},
    )
    world.wait_until_told("/bounces", second, "suppressed")
    for request in world.posts("/bounces"):
        Webhook(secret).verify(request.body, request.headers)


def test_a_refused_recipient_is_a_bounce_at_once(world: SendingWorld, secret: str) -> None:
    recipient = f"nobody@{ODD}"
    world.odd.script.answers[f"RCPT TO:<{recipient}>"] = UNKNOWN
    message_id = world.send(recipient)
    details = world.wait_for_kind(message_id, "bounce")["details"]
    assert world.kinds(message_id) == ["registration", "dispatch", "bounce"]
    assert (details["severity"], details["remote_host"], details["attempt"]) == ("hard", f"mx.{ODD}", 1)
    (listed,) = (one for one in world.gateway.api("GET", "/outbound_messages") if one["id"] == message_id)
    assert [(one["state"], one["error"]) for one in listed["recipients"]] == [("rejected", UNKNOWN)]
    assert suppressed(world, recipient) == ["hard_bounce"]
    world.gateway.api("DELETE", f"/suppressions/{recipient}", 202)
    del world.odd.script.answers[f"RCPT TO:<{recipient}>"]
    again = world.send(recipient)
    world.wait_for_kind(again, "delivery")
    assert len(world.arrived(recipient)) == 1


def test_a_refusal_of_the_content_suppresses_nobody(world: SendingWorld) -> None:
    world.odd.script.answers["."] = ["550 5.7.1 This looks like spam", "250 2.0.0 queued"]
    message_id = world.send(f"picky@{ODD}")
    details = world.wait_for_kind(message_id, "soft_bounce")["details"]
    assert (details["severity"], details["delivery_status"]) == ("block", "5.7.1")
    assert suppressed(world, f"picky@{ODD}") == []


def test_a_domain_that_takes_no_mail_is_a_bounce(world: SendingWorld) -> None:
    world.zone.add("nullmx.test", "MX", "0 .")
    message_id = world.send("somebody@nullmx.test")
    details = world.wait_for_kind(message_id, "bounce")["details"]
    assert details["severity"] == "hard"
    assert "takes no mail" in details["reason"]


def test_a_domain_that_does_not_exist_is_a_bounce(world: SendingWorld) -> None:
    message_id = world.send("somebody@nowhere.test")
    assert "nowhere.test" in world.wait_for_kind(message_id, "bounce")["details"]["reason"]


# --- for now ----------------------------------------------------------------------------------------------------------


def test_greylisting_delays_and_no_more(world: SendingWorld) -> None:
    recipient = f"grey@{ODD}"
    world.odd.script.answers[f"RCPT TO:<{recipient}>"] = ["450 4.7.1 Greylisted, come again", "250 2.1.5 ok"]
    message_id = world.send(recipient)
    details = world.wait_for_kind(message_id, "dispatch_soft_bounce")["details"]
    assert (details["reply_code"], details["delivery_status"]) == ("450", "4.7.1")
    assert details["next_attempt_at"]
    world.make_due()
    world.wait_for_kind(message_id, "delivery")
    assert world.kinds(message_id) == ["registration", "dispatch", "dispatch_soft_bounce", "delivery"]
    assert len(world.arrived(recipient)) == 1


def test_one_recipients_delay_delays_no_other(world: SendingWorld) -> None:
    slow, quick = f"slow@{ODD}", f"quick@{ODD}"
    world.odd.script.answers[f"RCPT TO:<{slow}>"] = ["452 4.2.2 Mailbox full", "250 2.1.5 ok"]
    message_id = world.send([slow, quick])
    world.wait_for_kind(message_id, "dispatch_soft_bounce")
    assert len(world.arrived(quick)) == 1
    world.make_due()
    assert len(world.arrived(slow)) == 1
    world.wait_until(lambda: last_events(world, message_id) == {slow: "delivery", quick: "delivery"}, "not delivered")
    assert (attempted(world, slow), attempted(world, quick)) == (2, 1)
    assert suppressed(world, slow) == []


def last_events(world: SendingWorld, message_id: str) -> dict[str, str]:
    return {one["email"]: one["last_event"] for one in world.shown(message_id)["recipients"]}


@pytest.mark.parametrize(
    ("name", "answer"), [("ended", Trick.HANG_UP), ("reset", Trick.RESET), ("closing", "421 4.3.2 Shutting down")]
)
def test_a_connection_that_breaks_after_the_content_loses_nothing(
    world: SendingWorld, name: str, answer: Trick | str
) -> None:
    """Nobody knows whether the host has the mail, so it goes again, and can be told by its Message-ID."""
    recipient = f"broken-{name}@{ODD}"
    world.odd.script.answers["."] = [answer, "250 2.0.0 queued"]
    message_id = world.send(recipient)
    world.wait_for_kind(message_id, "dispatch_soft_bounce")
    world.make_due()
    world.wait_for_kind(message_id, "delivery")
    first, second = world.arrived(recipient, 2)
    assert path(first.mail_from) == path(second.mail_from)
    ids = {message_from_bytes(one.content)["Message-ID"] for one in (first, second)}
    assert ids == {world.shown(message_id)["message_id"]}


def test_a_dns_that_fails_is_asked_again(world: SendingWorld) -> None:
    world.zone.failing.add("shaky.test")
    message_id = world.send("somebody@shaky.test")
    details = world.wait_for_kind(message_id, "dispatch_soft_bounce")["details"]
    assert "shaky.test" in details["reason"]
    world.zone.failing.clear()
    world.zone.mx("shaky.test", f"mx.{ODD}")
    world.make_due()
    world.wait_for_kind(message_id, "delivery")
