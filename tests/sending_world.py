"""A gateway that sends, in the world it needs: a DNS that all parts ask, a Postfix as the recipients' mail host, a
customer with a domain of his own, and a webhook.

Everything is found as in the real world, by MX records and port 25; only the addresses are those of loopback, each
world with a net of its own. So it takes root, as Postfix does, and a mount namespace in which Postfix has another
`/etc/resolv.conf`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import smtplib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from core.clock import system_clock
from core.config import Settings
from core.delivery import SEND_KINDS
from core.dns_lookup import DnsLookup
from core.mx_check import make_resolver
from core.sending.sending_domains import operator_records, sending_hosts, zone_line
from core.store.db import Row
from core.verdicts import Verdicts
from inbound.authentication import Authenticator, ClientFacts
from tests.gateway import Gateway, any_certificate, running_gateway
from tests.http_target import HttpTarget, Received, running_target
from tests.ports import PORTS_PER_PROCESS, free_port
from tests.postfix_server import ROOT, Postfix, running_postfix
from tests.programs import missing, need_program
from tests.scripted_smtp import Answer, Peer, Script, Taken, running_peer
from tests.zone_server import Zone, running_zone
from workers.doorbell import Doorbell

GATEWAY = "gateway.test"
SHOP = "shop.test"
"""Whom mail comes from."""
PEOPLE = "people.test"
"""Where recipients are: a Postfix, behind which a peer takes what it passes on."""
ODD = "odd.test"
"""Where others are: a scripted peer."""
TRACKING = "https://links.gateway.test"
SENDER = f"Shop <news@{SHOP}>"
PROCESSES = ("redis", "smtp", "submission", "worker", "scheduler", "web")
PATIENCE_S = 30.0
SMTP_PORT = 25
POSTFIX_CF = """
smtp_host_lookup = dns
smtp_dns_support_level = enabled
transport_maps = inline:{{ {people}=smtp:[127.0.0.1]:{behind} }}
default_transport = smtp
"""
_nets = itertools.count(os.getpid())


def _open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


@dataclass
class PacedScript(Script):
    """A peer that takes as long over each message as a test says."""

    pause_s: float = 0.0
    gate: threading.Event = field(default_factory=_open_gate)
    """Before each answer to content it waits until this is set."""

    def pick(self, verb: str, line: str) -> Answer | None:
        """As ever, after a while."""
        if verb == ".":
            time.sleep(self.pause_s)
            self.gate.wait(PATIENCE_S)
        return super().pick(verb, line)


@dataclass(frozen=True, slots=True)
class Places:
    """Who has which address."""

    net: str

    @property
    def dns(self) -> str:
        """The DNS, at port 53."""
        return f"{self.net}.53"

    @property
    def receiver(self) -> str:
        """Our receiver."""
        return f"{self.net}.25"

    @property
    def people(self) -> str:
        """The Postfix."""
        return f"{self.net}.2"

    @property
    def odd(self) -> str:
        """The scripted peer."""
        return f"{self.net}.3"

    @property
    def source(self) -> str:
        """Where our mail comes from."""
        return f"{self.net}.9"


@dataclass
class SendingWorld:
    """All of it, running."""

    gateway: Gateway
    zone: Zone
    places: Places
    hooks: HttpTarget
    postfix: Postfix
    people: Peer
    """What arrives behind Postfix."""
    odd: Peer
    _bell: Doorbell = field(init=False)

    def __post_init__(self) -> None:
        self._bell = Doorbell(self.gateway.settings.redis_location)

    # --- the customer ---

    def publish(self, records: list[dict[str, Any]]) -> None:
        """Copy records that the API shows, line by line, into the zone."""
        for record in records:
            _add_line(self.zone, record["zone_line"])

    def verified_domain(self, name: str = SHOP, **settings: Any) -> str:
        """A sending domain as a customer gets one; gives its id."""
        made = self.gateway.api("POST", "/sending_domains", 201, domain=name, ed25519=True)
        self.publish(made["records"])
        seen = self.gateway.api("POST", f"/sending_domains/{made['id']}/verify")
        assert (seen["dkim_verified"], seen["return_path_verified"]) == (True, True), seen
        if settings:
            self.gateway.api("PATCH", f"/sending_domains/{made['id']}", settings=settings)
        return str(made["id"])

    def send(self, to: str | list[str], expected: int = 202, **fields: Any) -> str:
        """Send by API; gives the id of the message."""
        body = {"from": SENDER, "to": to, "subject": "Hello", "plain": "Hi.", **fields}
        return str(self.gateway.api("POST", "/messages", expected, **body).get("id", ""))

    def submit(self, message: bytes, *recipients: str) -> str:
        """Send by SMTP, with TLS from the first byte; gives the id of the message."""
        with self.login(is_tls_first=True) as client:
            client.mail(f"news@{SHOP}")
            for recipient in recipients:
                assert client.rcpt(recipient)[0] == 250
            code, text = client.data(message)
        assert code == 250, text
        return text.decode().removeprefix("Thanks! Queued as: ")

    def login(self, is_tls_first: bool = False) -> smtplib.SMTP:
        """A client that is logged in."""
        account = self.gateway.account
        if not is_tls_first:
            return self.gateway.connect_to_submit()
        context: ssl.SSLContext = any_certificate()
        client = smtplib.SMTP_SSL("127.0.0.1", self.gateway.submission_tls_port, context=context, timeout=20)
        client.login(account.smtp_username, account.smtp_password)
        return client

    # --- what became of it ---

    def shown(self, message_id: str) -> dict[str, Any]:
        """A message, by the API."""
        return dict(self.gateway.api("GET", f"/outbound_messages/{message_id}"))

    def kinds(self, message_id: str) -> list[str]:
        """The kinds of the events of a message with one recipient."""
        (recipient,) = self.shown(message_id)["recipients"]
        return [event["kind"] for event in recipient["events"]]

    def wait_for_kind(self, message_id: str, kind: str) -> dict[str, Any]:
        """Wait for an event of a message; gives it."""
        found: list[dict[str, Any]] = []

        def has_come() -> bool:
            everyone = self.shown(message_id)["recipients"]
            found.extend(event for one in everyone for event in one["events"] if event["kind"] == kind)
            return bool(found)

        self.wait_until(has_come, f"no {kind} of {message_id}")
        return found[0]

    def arrived(self, recipient: str, count: int = 1) -> list[Taken]:
        """What arrived for a recipient, wherever he is, once it is so much."""

        def found() -> list[Taken]:
            return [
                one for peer in (self.people, self.odd) for one in peer.taken if recipient in map(path, one.recipients)
            ]

        self.wait_until(lambda: len(found()) >= count, f"{recipient} has not got {count}")
        return found()

    def read(self, recipient: str) -> EmailMessage:
        """The one mail that arrived for a recipient, as the standard library reads it."""
        (only,) = self.arrived(recipient)
        return message_from_bytes(only.content, policy=policy.default)

    def judged(self, taken: Taken) -> Verdicts:
        """What a host that checks finds, one as good as our receiving side."""
        lookup = DnsLookup(make_resolver(f"{self.places.dns}:53"))
        client = ClientFacts(self.places.source, f"mx.{GATEWAY}", path(taken.mail_from))
        return Authenticator(self.gateway.settings, lookup, system_clock).check(taken.content, client)

    def posts(self, hook: str) -> list[Received]:
        """What was POSTed to a webhook so far."""
        return [request for request in self.hooks.received if request.path == hook]

    def told(self, hook: str, message_id: str) -> list[dict[str, Any]]:
        """Events of a message that a webhook was told of, in the order they came."""
        events = [event for request in self.posts(hook) for event in json.loads(request.body)["events"]]
        return [event for event in events if event["message_id"] == message_id]

    def wait_until_told(self, hook: str, message_id: str, *kinds: str) -> list[dict[str, Any]]:
        """Wait until a webhook has been told of these."""
        wanted = set(kinds)
        self.wait_until(
            lambda: wanted <= {event["kind"] for event in self.told(hook, message_id)},
            f"{hook} is not told of {kinds} of {message_id}",
        )
        return self.told(hook, message_id)

    def wait_until(self, condition: Callable[[], bool], problem: str) -> None:
        """Poll."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, (
                f"{problem}\n{self.gateway.deliveries()[-20:]}\n{self.gateway.log()[-3000:]}\n"
                f"{self.postfix.log()[-2000:]}"
            )
            time.sleep(0.02)

    # --- time ---

    def make_due(self) -> None:
        """Let the time of every planned attempt have come."""
        self.execute("UPDATE delivery SET due_ms = 0 WHERE state = 'pending' AND lease_token IS NULL")
        for kind in SEND_KINDS:
            self._bell.ring(kind)

    def execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
        """Any statement, in a transaction of its own."""
        with self.gateway.database.transaction():
            return self.gateway.database.execute(statement, parameters)


@contextmanager
def sending_world(folder: Path, database_url: str | None = None, **environment: str) -> Iterator[SendingWorld]:
    """Start everything."""
    if os.geteuid() != ROOT:
        missing("only root may listen on port 25")
    places = Places(f"127.{100 + free_port() // PORTS_PER_PROCESS}.{next(_nets) % 250}")
    socket.create_server((places.receiver, SMTP_PORT)).close()  # ours would share it with one left running
    with ExitStack() as stack:
        zone = stack.enter_context(running_zone(places.dns, 53))
        people = stack.enter_context(running_peer(Script()))
        odd = stack.enter_context(running_peer(PacedScript(), address=places.odd, port=SMTP_PORT))
        hooks = stack.enter_context(running_target())
        postfix = stack.enter_context(_postfix(folder, places, people.port))
        names = {
            "PILLARBOX_DOMAIN": GATEWAY,
            "PILLARBOX_SMTP": f"{places.receiver}:{SMTP_PORT}",
            "PILLARBOX_RESOLVER": f"{places.dns}:53",
            "PILLARBOX_SOURCE_IPS": places.source,
            "PILLARBOX_SENDING_IPS": places.source,
            "PILLARBOX_REQUIRE_VERIFIED": "on",
            "PILLARBOX_TRACKING_URL": TRACKING,
            "PILLARBOX_ALLOW_PRIVATE_TARGETS": "loopback",
            "PILLARBOX_PAUSE_BOUNCE_PERCENT": "0",  # tests of bounces must not pause those of others
            **environment,
        }
        gateway = stack.enter_context(running_gateway(folder, *PROCESSES, database_url=database_url, **names))
        _publish_names(zone, places, gateway.settings)
        yield SendingWorld(gateway, zone, places, hooks, postfix, people, odd)


def mail(recipient: str, subject: str, **headers: str) -> bytes:
    """A message as mail programs make it."""
    made = EmailMessage(policy=policy.SMTP)
    made["From"], made["To"], made["Subject"] = SENDER, recipient, subject
    for name, value in headers.items():
        made[name.replace("_", "-")] = value
    made.set_content("Grüße.\n")
    made.add_alternative('<p>Grüße</p><a href="https://shop.example/">shop</a>', subtype="html")
    return bytes(made)


def path(line: str) -> str:
    """What stands between the angle brackets of a command."""
    return line.partition("<")[2].partition(">")[0]


def links(html: str) -> list[str]:
    """The paths of tracked links, and of the pixel, in an HTML body."""
    return re.findall(rf"{re.escape(TRACKING)}(/[oc]/[^\"'\s>]+)", html)


@contextmanager
def _postfix(folder: Path, places: Places, behind: int) -> Iterator[Postfix]:
    """One that takes mail at port 25, and asks our DNS for hosts to send bounces to."""
    resolver = folder / "resolv.conf"
    resolver.write_text(f"nameserver {places.dns}\n")
    script = f"mount --bind {resolver} /etc/resolv.conf"
    unshare = need_program("unshare")
    if subprocess.run([unshare, "-m", "sh", "-c", script], capture_output=True, timeout=10).returncode != 0:
        missing("no mount namespace can be made here, in which Postfix would ask another DNS")
    main_cf = POSTFIX_CF.format(people=PEOPLE, behind=behind)
    master_cf = f"{places.people}:{SMTP_PORT} inet n - n - - smtpd\n"
    prefix = (unshare, "-m", "sh", "-c", f'{script} && exec "$@"', "sh")
    with running_postfix(behind, main_cf, master_cf=master_cf, prefix=prefix) as postfix:
        yield postfix


def _publish_names(zone: Zone, places: Places, settings: Settings) -> None:
    """What the gateway's operator and the recipients' did long ago."""
    for record in operator_records(sending_hosts(settings)):
        _add_line(zone, zone_line(record))
    zone.add(settings.mx_hostname, "A", places.receiver)
    zone.add("links.gateway.test", "A", "127.0.0.1")
    for domain, address in ((PEOPLE, places.people), (ODD, places.odd)):
        zone.add(f"mx.{domain}", "A", address)
        zone.mx(domain, f"mx.{domain}")


def _add_line(zone: Zone, line: str) -> None:
    """A line of a zone file."""
    name, _, kind, value = line.split(" ", 3)
    zone.add(name.rstrip("."), kind, value)
