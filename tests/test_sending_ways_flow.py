"""Less usual ways of mail through a whole gateway: old hosts, alphabets, new keys, tracking names, replies."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from typing import Any

import pytest

from core.authentication.dmarc_record import organizational_domain
from tests.scripted_smtp import Taken
from tests.sending_world import ODD, PEOPLE, SHOP, SendingWorld, mail, path

PLAIN_FEATURES = ("PIPELINING", "SIZE 50000000")
FEEDBACK = (
    "From: fbl@isp.example\r\nTo: <%s>\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n"
    "Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
    "--b\r\nContent-Type: text/plain\r\n\r\nSomebody called this spam.\r\n"
    "--b\r\nContent-Type: message/feedback-report\r\n\r\n"
    "Feedback-Type: abuse\r\nUser-Agent: isp/1\r\nVersion: 1\r\n\r\n"
    "--b\r\nContent-Type: message/rfc822\r\n\r\n"
)


@pytest.fixture
def world(sending: SendingWorld) -> Iterator[SendingWorld]:
    features = sending.people.script.features
    yield sending
    sending.people.script.features = features


def signers(world: SendingWorld, taken: Taken) -> list[str]:
    """The selectors of the signatures, all of which are good, as SPF and DMARC are."""
    found = world.judged(taken)
    assert found.spf is not None
    assert found.dmarc is not None
    assert found.dkim is not None
    results = [found.spf.result, found.dmarc.result, *(one.result for one in found.dkim.signatures)]
    assert set(results) == {"pass"}
    return [one.selector for one in found.dkim.signatures]


# --- the mail ---------------------------------------------------------------------------------------------------------


def test_a_host_that_knows_no_8_bits_breaks_no_signature(world: SendingWorld) -> None:
    """Postfix rewrites what its next host cannot take; what we send never needs that (RFC 6376 section 5.3)."""
    world.people.script.features = PLAIN_FEATURES
    recipient = f"seven@{PEOPLE}"
    content = mail(recipient, "Seven bits ✓")
    assert not content.isascii()
    world.submit(content, recipient)
    (taken,) = world.arrived(recipient)
    assert len(signers(world, taken)) == 2
    assert taken.content.isascii()
    body = world.read(recipient).get_body(("plain",))
    assert body is not None
    assert "Grüße" in body.get_content()


def test_lines_without_end_and_unknown_letters_arrive_signed(world: SendingWorld) -> None:
    recipient = f"long-lines@{PEOPLE}"
    header = f"From: news@{SHOP}\r\nTo: {recipient}\r\nSubject: Long\r\n\r\n".encode()
    world.submit(header + b"x" * 5000 + b"\r\n" + "Grüße".encode("latin-1") + b"\r\n", recipient)
    (taken,) = world.arrived(recipient)
    assert len(signers(world, taken)) == 2
    assert max(map(len, taken.content.split(b"\r\n"))) < 998


def test_a_large_mail_arrives_whole(world: SendingWorld) -> None:
    """Beyond what fits in a database row."""
    content = os.urandom(2_000_000)
    attachment = {
        "file_name": "a.pdf",
        "content": base64.b64encode(content).decode(),
        "content_type": "application/pdf",
    }
    world.send(f"large@{ODD}", attachments=[attachment])
    (taken,) = world.arrived(f"large@{ODD}")
    assert len(signers(world, taken)) == 2
    (arrived,) = world.read(f"large@{ODD}").iter_attachments()
    assert arrived.get_payload(decode=True) == content


def test_domains_of_other_alphabets_are_found(world: SendingWorld) -> None:
    world.zone.mx("xn--bcher-kva.test", f"mx.{ODD}")
    message_id = world.send("anna@bücher.test")
    world.wait_for_kind(message_id, "delivery")
    assert len(world.arrived("anna@xn--bcher-kva.test")) == 1
    refused = world.send(f"jörg@{ODD}")
    assert "SMTPUTF8" in world.wait_for_kind(refused, "soft_bounce")["details"]["reason"]


# --- the domain -------------------------------------------------------------------------------------------------------


def test_a_new_key_takes_over_when_its_record_is_seen(world: SendingWorld) -> None:
    domain_id = world.verified_domain("turning.test")
    place = f"/sending_domains/{domain_id}"
    old = world.gateway.api("GET", place)["dkim_selector"]

    def selector(name: str) -> str:
        world.send(f"{name}@{PEOPLE}", **{"from": "a@turning.test"})
        (taken,) = world.arrived(f"{name}@{PEOPLE}")
        return signers(world, taken)[0]

    made = world.gateway.api("POST", f"{place}/keys", 201, algorithm="rsa")
    (new,) = (key["selector"] for key in made["keys"] if key["state"] == "pending")
    assert selector("turn-before") == old
    world.publish(made["records"])
    seen = world.gateway.api("POST", f"{place}/verify")
    assert {key["selector"]: key["state"] for key in seen["keys"]}[old] == "retiring"
    assert selector("turn-after") == new
    assert len(signers(world, world.arrived(f"turn-before@{PEOPLE}")[0])) == 2  # what is still on its way


def test_links_lead_to_the_customers_own_name(world: SendingWorld) -> None:
    domain_id = world.verified_domain("tracked.test", tracking_host="links.tracked.test")
    shown = world.gateway.api("GET", f"/sending_domains/{domain_id}")
    assert shown["tracking_verified"] is False
    assert hosts_of(world, "untracked") == {"https://links.gateway.test"}
    world.publish([record for record in shown["records"] if record["purpose"] == "tracking"])
    assert world.gateway.api("POST", f"/sending_domains/{domain_id}/verify")["tracking_verified"] is True
    assert hosts_of(world, "tracked") == {"https://links.tracked.test"}


def hosts_of(world: SendingWorld, name: str) -> set[str]:
    """Where the pixel and the links of a mail lead."""
    html = '<a href="https://shop.example/">shop</a>'
    world.send(f"{name}@{PEOPLE}", **{"from": "a@tracked.test"}, html=html, unsubscribe=True)
    arrived = world.read(f"{name}@{PEOPLE}")
    body = arrived.get_body(("html",))
    assert body is not None
    return set(re.findall(r"https?://[^/\"]+", body.get_content() + str(arrived["List-Unsubscribe"])))


def test_what_waits_is_sent_though_its_domain_is_deleted(world: SendingWorld) -> None:
    domain_id = world.verified_domain("leaving.test")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    world.send(f"farewell@{PEOPLE}", **{"from": "a@leaving.test"}, send_at=later)
    world.gateway.api("DELETE", f"/sending_domains/{domain_id}", 202)
    world.send(f"farewell@{PEOPLE}", 422, **{"from": "a@leaving.test"})
    world.make_due()
    (taken,) = world.arrived(f"farewell@{PEOPLE}")
    assert len(signers(world, taken)) == 2
    assert organizational_domain(path(taken.mail_from).partition("@")[2]) == "leaving.test"


# --- what comes back --------------------------------------------------------------------------------------------------


def test_a_complaint_is_told_to_those_who_ask_and_ends_it(world: SendingWorld) -> None:
    world.gateway.api("POST", "/webhooks", 201, url=world.hooks.url("/complaints"), kinds=["complaint"])
    recipient = f"angry@{PEOPLE}"
    message_id = world.send(recipient)
    (taken,) = world.arrived(recipient)
    report = (FEEDBACK % path(taken.mail_from)).encode() + taken.content + b"\r\n--b--\r\n"
    world.gateway.send(path(taken.mail_from), report, "fbl@isp.example")
    (told,) = world.wait_until_told("/complaints", message_id, "complaint")
    assert told["recipient"] == recipient
    assert "complaint" not in world.kinds(message_id)
    assert world.kinds(world.send(recipient)) == ["registration", "suppressed"]


def test_replies_of_persons_and_machines_are_told_apart(world: SendingWorld) -> None:
    recipient = f"busy@{PEOPLE}"
    message_id = world.send(recipient)
    (taken,) = world.arrived(recipient)
    answers: list[tuple[str, str, dict[str, Any]]] = [
        ("auto_reply", "", {"Auto-Submitted": "auto-replied"}),
        ("bounce_reply", recipient, {}),
    ]
    for kind, sender, headers in answers:
        reply = message_from_bytes(b"")
        for name, value in {"From": f"Busy <{recipient}>", "Subject": "Re: Hello", **headers}.items():
            reply[name] = value
        reply.set_payload("I am not here." if headers else "Who are you?")
        world.gateway.send(path(taken.mail_from), reply.as_bytes().replace(b"\n", b"\r\n"), sender)
        world.wait_for_kind(message_id, kind)
    assert world.kinds(message_id)[-2:] == ["auto_reply", "bounce_reply"]


# --- without the doorbell ---------------------------------------------------------------------------------------------


def test_mail_is_taken_without_redis_and_goes_when_it_is_back(world: SendingWorld) -> None:
    world.gateway.kill("redis")
    try:
        world.send(f"no-bell@{ODD}")
        world.submit(mail(f"no-bell-smtp@{ODD}", "No bell"), f"no-bell-smtp@{ODD}")
    finally:
        world.gateway.start("redis")
    assert len(world.arrived(f"no-bell@{ODD}")) == 1
    assert len(world.arrived(f"no-bell-smtp@{ODD}")) == 1
