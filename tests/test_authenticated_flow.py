"""Checks, forwarding and bounces with the real processes, a DNS server and a mail host on loopback."""

from __future__ import annotations

import json
import smtplib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from core.address_settings import AddressSettings, FailAction
from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, reply, running_target
from tests.scripted_smtp import Peer, Script, running_peer
from tests.zone_server import Zone, running_zone

MESSAGE = (
    b"Authentication-Results: mx.pillarbox.test; spf=pass smtp.mailfrom=bank.example\r\n"
    b"From: A <a@good.example>\r\nSubject: Hello\r\nMessage-ID: <1@good.example>\r\n\r\nHi.\r\n"
)
FORGED = MESSAGE.replace(b"good.example", b"strict.example")
REJECTING = AddressSettings(on_dmarc_fail=FailAction.REJECT, on_spf_fail=FailAction.REJECT)


@dataclass
class World:
    """A gateway that checks, and what is around it."""

    gateway: Gateway
    target: HttpTarget
    host: Peer
    zone: Zone

    def send(self, mailbox: str, message: bytes = MESSAGE, sender: str = "a@good.example") -> None:
        self.gateway.send(mailbox, message, sender)

    def posted(self, count: int = 1) -> list[dict[str, object]]:
        return [json.loads(request.body) for request in self.target.wait_for(count)]


@pytest.fixture
def world(tmp_path: Path, database_url: str) -> Iterator[World]:
    with running_zone() as zone, running_peer(Script()) as host, running_target() as target:
        zone.add("good.example", "TXT", '"v=spf1 ip4:127.0.0.1 -all"')
        zone.add("_dmarc.good.example", "TXT", '"v=DMARC1; p=reject"')
        zone.add("strict.example", "TXT", '"v=spf1 -all"')
        zone.add("_dmarc.strict.example", "TXT", '"v=DMARC1; p=reject"')
        settings = {
            "PILLARBOX_AUTHENTICATION": "on",
            "PILLARBOX_RESOLVER": f"127.0.0.1:{zone.port}",
            "PILLARBOX_SMART_HOST": f"127.0.0.1:{host.port}",
        }
        with running_gateway(tmp_path, database_url=database_url, **settings) as gateway:
            yield World(gateway, target, host, zone)


def path_in(line: str) -> str:
    """What stands between the angle brackets of a command."""
    return line.partition("<")[2].partition(">")[0]


def test_the_payload_tells_who_the_sender_is_and_nothing_forged_in_our_name(world: World) -> None:
    world.send(world.gateway.add_address(world.target.url("/ok")))
    (payload,) = world.posted()
    envelope = payload["envelope"]
    assert envelope["spf"] == {"result": "pass", "domain": "good.example"}  # type: ignore[index]
    assert envelope["dkim"]["result"] == []  # type: ignore[index]
    assert (envelope["dmarc"]["result"], envelope["dmarc"]["success"]) == ("pass", True)  # type: ignore[index]
    results = payload["headers"]["authentication_results"]  # type: ignore[index]
    assert isinstance(results, str)
    assert "spf=pass" in results
    assert "bank.example" not in results


def test_a_forged_sender_is_refused_where_the_address_wants_that(world: World) -> None:
    strict = world.gateway.add_address(world.target.url("/ok"), settings=REJECTING.to_json())
    with pytest.raises(smtplib.SMTPDataError) as refused:
        world.send(strict, FORGED, "a@strict.example")
    assert refused.value.smtp_code == 550
    lenient = world.gateway.add_address(world.target.url("/ok"))
    world.send(lenient, FORGED, "a@strict.example")
    (payload,) = world.posted()
    assert payload["envelope"]["spf"]["result"] == "fail"  # type: ignore[index]
    assert payload["pillarbox"]["flags"] == ["dmarc_fail", "spf_fail"]  # type: ignore[index]
    world.send(strict)
    world.posted(2)


def test_a_dns_that_does_not_answer_delays_no_mail_beyond_the_budget(tmp_path: Path) -> None:

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, running_target() as target:
        silent.bind(("127.0.0.1", 0))
        settings = {
            "PILLARBOX_AUTHENTICATION": "on",
            "PILLARBOX_AUTHENTICATION_TIMEOUT": "1",
            "PILLARBOX_RESOLVER": f"127.0.0.1:{silent.getsockname()[1]}",
        }
        with running_gateway(tmp_path, **settings) as gateway:
            strict = gateway.add_address(target.url("/ok"), settings=REJECTING.to_json())
            gateway.send(strict, MESSAGE, "a@good.example")
            (request,) = target.wait_for(1, timeout=8)
    assert json.loads(request.body)["envelope"]["spf"]["result"] == "temperror"


def test_mail_is_forwarded_to_a_mailbox_and_its_bounce_finds_back(world: World) -> None:
    mailbox = world.gateway.add_address("mailto:person@elsewhere.example")
    world.send(mailbox)
    world.gateway.wait_for_states("delivered")
    (taken,) = world.host.taken
    rewritten = path_in(taken.mail_from)
    assert [path_in(line) for line in taken.recipients] == ["person@elsewhere.example"]
    assert rewritten.startswith("SRS0=")
    assert rewritten.endswith("@pillarbox.test")
    text = taken.content.decode()
    assert text.endswith("Subject: Hello\r\nMessage-ID: <1@good.example>\r\n\r\nHi.\r\n")
    assert "bank.example" not in text
    assert "spf=pass" in text
    assert "Received: from client.example ([127.0.0.1])" in text

    bounce = b"From: <>\r\nSubject: Undeliverable\r\n\r\nSorry.\r\n"
    world.gateway.send(rewritten, bounce, sender="")
    world.gateway.wait_for_states("delivered", "delivered")
    returned = world.host.taken[1]
    assert [path_in(line) for line in (returned.mail_from, *returned.recipients)] == ["", "a@good.example"]
    assert returned.content.endswith(bounce)
    with pytest.raises(smtplib.SMTPRecipientsRefused):  # nobody else may write through such an address
        world.gateway.send(rewritten, bounce, sender="x@good.example")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        world.gateway.send(rewritten.replace("=good", "=evil"), bounce, sender="")


def test_forwarded_mail_that_comes_round_again_is_a_loop(world: World) -> None:
    mailbox = world.gateway.add_address("mailto:person@elsewhere.example")
    world.send(mailbox)
    world.gateway.wait_for_states("delivered")
    with pytest.raises(smtplib.SMTPDataError) as refused:
        world.send(mailbox, world.host.taken[0].content)
    assert (refused.value.smtp_code, b"loop" in refused.value.smtp_error) == (554, True)


def test_a_mailbox_that_is_away_is_tried_again_and_one_that_is_unknown_is_not(world: World) -> None:
    world.host.script.answers["RCPT"] = ["450 4.2.1 later", "550 5.1.1 unknown", "250 2.1.5 ok"]
    mailbox = world.gateway.add_address("mailto:person@elsewhere.example")
    world.send(mailbox)
    world.gateway.wait_until("SELECT 1 FROM delivery WHERE last_status = 450 AND state = 'pending'")
    with world.gateway.database.transaction():
        world.gateway.database.execute("UPDATE delivery SET due_ms = 0")
    ((state, attempts, status, _),) = world.gateway.wait_for_states("rejected")
    assert (state, attempts, status) == ("rejected", 2, 550)
    assert world.host.taken == []


BOUNCING = AddressSettings(bounce_rejected=True)


def test_a_rejection_is_told_to_a_sender_whose_spf_passed(world: World) -> None:
    world.target.scripted["/no"] = [reply(422, b"No such ticket.", "Content-Type: text/plain")]
    mailbox = world.gateway.add_address(world.target.url("/no"), settings=BOUNCING.to_json())
    world.send(mailbox)
    world.gateway.wait_until("SELECT 1 FROM delivery WHERE kind = 'bounce' AND state = 'delivered'")
    (taken,) = world.host.taken
    assert [path_in(line) for line in (taken.mail_from, *taken.recipients)] == ["", "a@good.example"]
    dsn = message_from_bytes(taken.content, policy=policy.default)
    assert dsn.get_content_type() == "multipart/report"
    assert dsn["Auto-Submitted"] == "auto-replied"
    assert dsn["In-Reply-To"] == "<1@good.example>"
    assert "No such ticket." in taken.content.decode()


@pytest.mark.parametrize(
    ("message", "sender"),
    [
        (FORGED, "a@strict.example"),
        (MESSAGE, ""),
        (b"Auto-Submitted: auto-replied\r\n" + MESSAGE, "a@good.example"),
        (b"List-Id: <l.good.example>\r\n" + MESSAGE, "a@good.example"),
    ],
    ids=["forged", "null", "automatic", "list"],
)
def test_nobody_else_is_told(world: World, message: bytes, sender: str) -> None:
    mailbox = world.gateway.add_address(world.target.url("/status/404"), settings=BOUNCING.to_json())
    world.send(mailbox, message, sender)
    world.gateway.wait_for_states("rejected")
    assert world.host.taken == []


def test_without_being_asked_for_there_is_no_bounce(world: World) -> None:
    world.send(world.gateway.add_address(world.target.url("/status/404")))
    assert [row[0] for row in world.gateway.wait_for_states("rejected")] == ["rejected"]
    assert world.host.taken == []


def test_an_address_that_becomes_a_mailbox_takes_its_waiting_mail_along(world: World) -> None:
    mailbox = world.gateway.add_address(world.target.url("/status/503"))
    world.send(mailbox)
    world.gateway.wait_until("SELECT 1 FROM delivery WHERE last_status = 503 AND lease_token IS NULL")
    world.gateway.start("web")
    address_id = mailbox.partition("@")[0]
    target = "mailto:person@elsewhere.example"
    world.gateway.api("PUT", f"/addresses/{address_id}", target=target, target_format="json+n")
    with world.gateway.database.transaction():
        world.gateway.database.execute("UPDATE delivery SET due_ms = 0")
    world.gateway.wait_for_states("delivered")
    assert path_in(world.host.taken[0].recipients[0]) == "person@elsewhere.example"
