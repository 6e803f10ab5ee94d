"""The edge end to end: who the client is behind load balancers and trusted forwarders, and what that decides; rates,
the greeting delay, loops and postmaster."""

from __future__ import annotations

import ipaddress
import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, running_target
from tests.smtp_client import RawClient, stuffed
from tests.zone_server import Zone, running_zone

BALANCER = "127.0.0.1"
FORWARDER = "127.0.0.7"
OUTSIDER = "127.0.0.9"
"""Loopback addresses to connect from: what each of them is, the settings below say."""
GOOD, BAD, STRANGER, BARRED = "198.51.100.7", "198.51.100.8", "203.0.113.5", "198.51.100.66"
GOOD_6, BARRED_6 = "2001:db8::7", "2001:db8:bad::66"
REMOTE_FORWARDER = "192.0.2.9"
SENDER = "a@good.example"
MAX_HOPS = 6
GREETING_DELAY_MS = 400
RATE_PER_IP, RATE_PER_DOMAIN = 3, 4
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_COMMAND, TCP4, TCP6 = 0x21, 0x11, 0x21
SETTINGS = {
    "PILLARBOX_AUTHENTICATION": "on",
    "PILLARBOX_PROXY_NETWORKS": f"{BALANCER}/32",
    "PILLARBOX_TRUSTED_FORWARDERS": f"{FORWARDER}/32,192.0.2.0/24",
    "PILLARBOX_TARPIT_MS": "0",
    "PILLARBOX_MAX_HOPS": str(MAX_HOPS),
}


def version_1(client: str) -> bytes:
    """The PROXY header of a client, as text."""
    is_6 = ":" in client
    return f"PROXY TCP{6 if is_6 else 4} {client} {'2001:db8::1' if is_6 else '203.0.113.1'} 4321 25\r\n".encode()


def version_2(client: str) -> bytes:
    """The same in binary."""
    source = ipaddress.ip_address(client)
    here = ipaddress.ip_address("2001:db8::1" if source.version == 6 else "203.0.113.1")
    payload = source.packed + here.packed + struct.pack("!HH", 4321, 25)
    return SIGNATURE + struct.pack("!BBH", PROXY_COMMAND, TCP6 if source.version == 6 else TCP4, len(payload)) + payload


HEADERS = pytest.mark.parametrize("header", [version_1, version_2], ids=["v1", "v2"])


@dataclass
class World:
    """A gateway and its target."""

    gateway: Gateway
    target: HttpTarget

    def address(self, path: str, **settings: Any) -> str:
        """An address made through the API; gives its mailbox."""
        body = {"target": self.target.url(path), "target_format": "json+n", **settings}
        return str(self.gateway.api("POST", "/addresses", expected=201, **body)["address"])

    def rule(self, mailbox: str, action: str, **conditions: Any) -> None:
        address_id = mailbox.partition("@")[0]
        self.gateway.api("POST", "/rules", 201, action=action, conditions=conditions, address_id=address_id)

    def deliver(self, mailbox: str, source: str, header: bytes = b"", **mail: Any) -> tuple[str, str]:
        """Send one mail from a loopback address; gives the command that was answered last, and the reply."""
        client = RawClient(self.gateway.settings.smtp.port, source=source)
        try:
            client.send(header)
            client.greet()
            return dialogue(client, mailbox, **mail)
        finally:
            client.close()

    def proxied(self, mailbox: str, client: str, header: Any = version_1, **mail: Any) -> tuple[str, str]:
        """Send one mail through the load balancer."""
        return self.deliver(mailbox, BALANCER, header(client), **mail)

    def payload(self, path: str) -> dict[str, Any]:
        """The one payload of a path."""
        deadline = time.monotonic() + 30
        while not (found := [request for request in self.target.received if request.path == path]):
            assert time.monotonic() < deadline, f"nothing came on {path}\n{self.gateway.log()[-3000:]}"
            time.sleep(0.02)
        (request,) = found
        return dict(json.loads(request.body))

    def is_held(self, mailbox: str) -> str:
        """Why the one delivery of an address is held."""
        address_id = mailbox.partition("@")[0]
        query = f"SELECT last_error FROM delivery WHERE address_id = '{address_id}' AND state = 'quarantined'"
        ((reason,),) = self.gateway.wait_until(query)
        return str(reason)


def dialogue(client: RawClient, mailbox: str, sender: str = SENDER, received: tuple[str, ...] = ()) -> tuple[str, str]:
    """A transaction up to its end or the first refusal."""
    for verb, command in (("MAIL", f"MAIL FROM:<{sender}>"), ("RCPT", f"RCPT TO:<{mailbox}>"), ("DATA", "DATA")):
        reply = client.ask(command)
        if reply[0] not in "23":
            return verb, reply
    client.send(stuffed(message(sender, received)))
    return ".", client.reply()


def message(sender: str, received: tuple[str, ...] = ()) -> bytes:
    """A message with these Received headers, the topmost first."""
    lines = [*(f"Received: {value}" for value in received), f"From: <{sender}>", "Subject: Hello", "", "Hi.", ""]
    return "\r\n".join(lines).encode()


def hop(client: str, host: str = "backup.example") -> str:
    """The Received header of a forwarder that had a mail from a client."""
    literal = f"IPv6:{client}" if ":" in client else client
    return f"from out.good.example (out.good.example [{literal}]) by {host} with ESMTP; Fri, 20 Nov 2026 01:02:03 +0000"


def add_records(zone: Zone) -> None:
    zone.add("good.example", "TXT", f'"v=spf1 ip4:{GOOD} ip6:{GOOD_6} -all"')
    zone.add("_dmarc.good.example", "TXT", '"v=DMARC1; p=reject"')
    zone.add("open.example", "TXT", '"v=spf1 +all"')


@contextmanager
def edge(folder: Path, database_url: str | None = None, **settings: str) -> Iterator[World]:
    with running_zone() as zone, running_target() as target:
        add_records(zone)
        given = {**SETTINGS, "PILLARBOX_RESOLVER": f"127.0.0.1:{zone.port}", **settings}
        with running_gateway(folder, "redis", "smtp", "worker", "web", database_url=database_url, **given) as gateway:
            yield World(gateway, target)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with edge(tmp_path_factory.mktemp("edge")) as started:
        yield started
        assert "Traceback" not in started.gateway.log()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway with rates, a greeting delay and a postmaster."""
    limits = {
        "PILLARBOX_RATE_PER_IP": str(RATE_PER_IP),
        "PILLARBOX_RATE_PER_DOMAIN": str(RATE_PER_DOMAIN),
        "PILLARBOX_GREETING_DELAY_MS": str(GREETING_DELAY_MS),
        "PILLARBOX_PROXY_NETWORKS": f"{BALANCER}/32",
        "PILLARBOX_TARPIT_MS": "0",
    }
    folder = tmp_path_factory.mktemp("strict")
    with running_target() as target, running_gateway(folder, "redis", "web", "worker", **limits) as gateway:
        started = World(gateway, target)
        gateway.environment["PILLARBOX_POSTMASTER"] = started.address("/ok/postmaster")
        gateway.start("smtp")
        yield started


# --- behind a load balancer ---


@HEADERS
@pytest.mark.parametrize("client", [GOOD, GOOD_6])
def test_spf_judges_the_client_behind_the_load_balancer(world: World, header: Any, client: str) -> None:
    path = f"/ok/spf/{header.__name__}/{client}"
    mailbox = world.address(path, on_spf_fail="reject", on_dmarc_fail="reject")
    assert world.proxied(mailbox, client, header)[1].startswith("250 ")
    envelope = world.payload(path)["envelope"]
    assert (envelope["remote_ip"], envelope["helo_domain"]) == (client, "client.example")
    assert (envelope["spf"]["result"], envelope["dmarc"]["result"]) == ("pass", "pass")
    verb, reply = world.proxied(mailbox, BAD, header)
    assert (verb, reply[:8]) == (".", "550 5.7.")


@HEADERS
def test_a_rule_by_address_refuses_the_client_behind_the_load_balancer(world: World, header: Any) -> None:
    path = f"/ok/rule/{header.__name__}"
    mailbox = world.address(path)
    world.rule(mailbox, "reject", ip=[f"{BARRED}/32", "2001:db8:bad::/48", BALANCER])
    for client in (BARRED, BARRED_6):
        verb, reply = world.proxied(mailbox, client, header)
        assert (verb, reply[:9]) == ("RCPT", "550 5.7.1")
    assert world.proxied(mailbox, GOOD, header)[1].startswith("250 ")
    assert world.payload(path)["envelope"]["remote_ip"] == GOOD


def test_the_authorization_callback_is_told_of_the_real_client_too(world: World) -> None:
    callback = {"url": world.target.url("/ok/may-it"), "format": "json"}
    mailbox = world.address("/ok/asked", authorization=callback)
    assert world.proxied(mailbox, BAD)[1].startswith("250 ")
    question = world.payload("/ok/may-it")
    assert (question["remote_ip"], question["spf"]) == (BAD, "fail")
    world.payload("/ok/asked")


def test_who_is_no_load_balancer_cannot_say_who_he_is(world: World) -> None:
    mailbox = world.address("/ok/liar")
    client = RawClient(world.gateway.settings.smtp.port, source=OUTSIDER)
    client.greet()
    assert client.ask(version_1(GOOD).decode().strip()).startswith("500 ")
    assert dialogue(client, mailbox)[1].startswith("250 ")
    client.close()
    envelope = world.payload("/ok/liar")["envelope"]
    assert (envelope["remote_ip"], envelope["spf"]["result"]) == (OUTSIDER, "fail")


# --- behind a trusted forwarder ---


@pytest.mark.parametrize("way", ["direct", "proxied"])
def test_spf_judges_the_client_that_a_trusted_forwarder_names(world: World, way: str) -> None:
    def send(*received: str) -> tuple[str, str]:
        if way == "direct":
            return world.deliver(mailbox, FORWARDER, received=received)
        return world.proxied(mailbox, REMOTE_FORWARDER, received=received)

    path = f"/ok/forwarded/{way}"
    mailbox = world.address(path, on_spf_fail="reject")
    forged = hop(GOOD, "anybody.example")
    assert send(hop(BAD), forged)[1].startswith("550 5.7.23 ")
    assert send(hop(GOOD), hop(BAD, "anybody.example"))[1].startswith("250 ")
    payload = world.payload(path)
    assert payload["envelope"]["remote_ip"] == (FORWARDER if way == "direct" else REMOTE_FORWARDER)
    assert payload["envelope"]["spf"] == {"result": "pass", "domain": "good.example"}
    assert payload["pillarbox"]["judged_ip"] == GOOD
    assert payload["pillarbox"]["judged_helo"] == "out.good.example"


def test_forwarders_behind_each_other_are_followed_to_the_first_stranger(world: World) -> None:
    mailbox = world.address("/ok/chain", on_spf_fail="reject")
    chain = (hop(REMOTE_FORWARDER), hop(GOOD, "second.example"))
    assert world.deliver(mailbox, FORWARDER, received=chain)[1].startswith("250 ")
    assert world.payload("/ok/chain")["pillarbox"]["judged_ip"] == GOOD


def test_nobody_else_is_believed_who_he_had_a_mail_from(world: World) -> None:
    mailbox = world.address("/ok/unbelieved", on_spf_fail="reject")
    assert world.deliver(mailbox, OUTSIDER, received=(hop(GOOD),))[1].startswith("550 5.7.23 ")
    assert world.proxied(mailbox, STRANGER, received=(hop(GOOD),))[1].startswith("550 5.7.23 ")


def check_rules_behind_a_forwarder(world: World) -> None:
    """A rule by address goes by the client the forwarder names: it cannot answer before it has read the message."""
    refusing, holding = world.address("/ok/refusing"), world.address("/ok/holding")
    world.rule(refusing, "reject", ip=[BARRED])
    world.rule(holding, "quarantine", ip=[BARRED])
    verb, reply = world.deliver(refusing, FORWARDER, received=(hop(BARRED),))
    assert (verb, reply[:9]) == (".", "550 5.7.1")
    assert world.deliver(refusing, FORWARDER, received=(hop(GOOD), hop(BARRED)))[1].startswith("250 ")
    assert world.payload("/ok/refusing")["pillarbox"]["judged_ip"] == GOOD
    assert world.deliver(holding, FORWARDER, received=(hop(BARRED),))[1].startswith("250 ")
    assert world.is_held(holding).startswith("rule ")
    helo = world.address("/ok/helo")
    world.rule(helo, "reject", helo=["*.good.example"])
    assert world.deliver(helo, FORWARDER, received=(hop(STRANGER),))[1].startswith("550 5.7.1")


def test_rules_go_by_the_client_that_a_trusted_forwarder_names(world: World) -> None:
    check_rules_behind_a_forwarder(world)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_rules_behind_a_forwarder_and_a_load_balancer_on_postgresql(tmp_path: Path, database_url: str) -> None:
    with edge(tmp_path, database_url) as world:
        check_rules_behind_a_forwarder(world)
        mailbox = world.address("/ok/both")
        world.rule(mailbox, "reject", ip=[BARRED])
        assert world.proxied(mailbox, BARRED, version_2)[0] == "RCPT"
        assert world.proxied(mailbox, REMOTE_FORWARDER, received=(hop(BARRED),))[0] == "."
        assert world.proxied(mailbox, GOOD, version_2)[1].startswith("250 ")
        assert world.payload("/ok/both")["envelope"]["spf"]["result"] == "pass"


def test_an_allow_rule_before_it_holds_behind_a_forwarder_too(world: World) -> None:
    mailbox = world.address("/ok/allowed", on_spf_fail="reject")
    world.rule(mailbox, "allow", ip=["198.51.100.0/24"])
    world.rule(mailbox, "reject", sender_domain=["good.example"])
    assert world.deliver(mailbox, FORWARDER, received=(hop(BAD),))[1].startswith("250 ")
    assert world.payload("/ok/allowed")["envelope"]["spf"]["result"] == "fail"
    assert world.deliver(mailbox, FORWARDER, received=(hop(STRANGER),))[1].startswith("550 5.7.1")


def test_spf_is_none_where_a_forwarder_does_not_say(world: World) -> None:
    mailbox = world.address("/ok/silent", on_spf_fail="reject")
    assert world.deliver(mailbox, FORWARDER, received=("by somebody",))[1].startswith("250 ")
    payload = world.payload("/ok/silent")
    assert payload["envelope"]["spf"]["result"] == "none"
    assert "judged_ip" not in payload["pillarbox"]


def test_no_rule_takes_the_forwarder_for_the_client(world: World) -> None:
    mailbox = world.address("/ok/hidden")
    world.rule(mailbox, "reject", ip=[FORWARDER])
    assert world.deliver(mailbox, FORWARDER, received=(hop(GOOD),))[1].startswith("250 ")
    assert world.deliver(mailbox, FORWARDER)[1].startswith("250 ")


def test_rules_go_by_the_named_client_without_authentication_too(tmp_path: Path) -> None:
    with edge(tmp_path, PILLARBOX_AUTHENTICATION="off") as world:
        mailbox = world.address("/ok/unchecked")
        world.rule(mailbox, "reject", ip=[BARRED])
        assert world.deliver(mailbox, FORWARDER, received=(hop(GOOD),))[1].startswith("250 ")
        assert world.deliver(mailbox, FORWARDER, received=(hop(BARRED),))[1].startswith("550 5.7.1")


# --- loops ---


def test_a_message_of_too_many_hops_is_a_loop(world: World) -> None:
    mailbox = world.address("/ok/hops")
    ways = [hop(GOOD, f"h{number}.example") for number in range(MAX_HOPS + 1)]
    verb, reply = world.proxied(mailbox, GOOD, received=tuple(ways))
    assert (verb, reply[:10]) == (".", "554 5.4.6 ")
    assert "7 hosts" in reply
    assert world.proxied(mailbox, GOOD, received=tuple(ways[:MAX_HOPS]))[1].startswith("250 ")
    world.payload("/ok/hops")


# --- rates, greeting and postmaster ---


def test_a_client_that_sends_too_much_is_put_off_and_the_others_are_not(strict: World) -> None:
    mailbox = strict.address("/ok/rates")
    replies = [strict.proxied(mailbox, BARRED, sender=f"a@{n}.example") for n in range(RATE_PER_IP + 1)]
    assert [reply[:3] for _, reply in replies] == ["250"] * RATE_PER_IP + ["450"]
    assert replies[-1] == ("MAIL", "450 4.7.1 Too many messages a minute from your address; try again later")
    group = [strict.proxied(mailbox, f"2001:db8:5::{n}", sender=f"a@v6-{n}.example") for n in range(RATE_PER_IP + 1)]
    assert [reply[:3] for _, reply in group] == ["250"] * RATE_PER_IP + ["450"]
    others = [f"203.0.113.{n + 20}" for n in range(RATE_PER_DOMAIN + 1)]
    replies = [strict.proxied(mailbox, other, sender="a@busy.example") for other in others]
    assert [reply[:3] for _, reply in replies] == ["250"] * RATE_PER_DOMAIN + ["450"]
    assert replies[-1][1] == "450 4.7.1 Too many messages a minute from this sender domain; try again later"
    strict.target.wait_for(2 * RATE_PER_IP + RATE_PER_DOMAIN)


def test_who_talks_before_the_greeting_is_refused_and_who_waits_is_greeted(strict: World) -> None:
    port = strict.gateway.settings.smtp.port
    hasty, patient = (RawClient(port, source=OUTSIDER) for _ in range(2))
    connected_at = time.monotonic()
    hasty.send(b"EHLO client.example\r\n")
    assert hasty.reply() == "554 5.5.1 You talked before the greeting (RFC 5321 section 4.3.1)"
    assert hasty.rest() == ""
    assert patient.reply().startswith("220 ")
    assert time.monotonic() - connected_at >= GREETING_DELAY_MS / 1000 - 0.05
    assert patient.ask("EHLO client.example").startswith("250-")
    for one in (hasty, patient):
        one.close()


def test_mail_for_postmaster_goes_to_the_address_that_the_setting_names(strict: World, world: World) -> None:
    unwanted = "203.0.113.49"
    strict.rule(strict.gateway.environment["PILLARBOX_POSTMASTER"], "reject", ip=[unwanted])
    assert strict.proxied("postmaster", unwanted, sender="a@p.example")[0] == "RCPT"
    spellings = ("postmaster", "PostMaster@pillarbox.test", "postmaster@PILLARBOX.TEST")
    for number, recipient in enumerate(spellings):
        client = f"203.0.113.{number + 50}"
        assert strict.proxied(recipient, client, sender=f"a@p{number + 1}.example")[1].startswith("250 ")
    deadline = time.monotonic() + 20
    while len(posted := [one for one in strict.target.received if one.path == "/ok/postmaster"]) < len(spellings):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    told = {json.loads(request.body)["envelope"]["to"].lower() for request in posted}
    assert told == {"postmaster@pillarbox.test"}
    assert strict.proxied("postmaster@other.example", "203.0.113.60")[1].startswith("550 ")
    assert world.proxied("postmaster", GOOD)[1].startswith("550 ")  # where no such setting is
