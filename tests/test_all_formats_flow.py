"""One rich message in every format, through the real processes, each payload read by a parser that is not ours."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from core.formats import TargetFormat
from inbound.payloads import Payload
from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, Received, running_target
from tests.payload_readers import read_with_django, read_with_standard_library, read_with_werkzeug, set_up_django
from tests.zone_server import running_zone

SENDER = "ann@example.com"
SUBJECT = "Grüße – 画像 🎉"
PLAIN = "Schöne Grüße aus Köln.\n日本語もあります。\n"
HTML = '<p>Schöne <b>Grüße</b> <img src="cid:logo@example.com"></p>\n'
LOGO = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PDF = (bytes(range(256)) + b"\r\n--pillarbox-\r\n.\r\n") * 600
TABLE = "Größe;Preis\n1;2 €\n".encode()
FILES = {
    "logo.png": ("image/png", LOGO),
    "Übersicht 2024.pdf": ("application/pdf", PDF),
    "画像 🎉.csv": ("text/csv", TABLE),
}
"""In the order of the message. Together more than the 128 KiB that are stored in the database."""
MODES = ("queued", "inline")
SECONDS = 30.0
Posts = dict[TargetFormat, Received]


def mail() -> bytes:
    """Text, HTML, an inline image and two attachments, with names in several scripts."""
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = "Änn Müller <ann@example.com>"
    message["To"] = "Пётр <peter@example.net>"
    message["Subject"] = SUBJECT
    message["Date"] = "Fri, 20 Nov 2026 01:02:03 +0100"
    message["Message-ID"] = "<rich@example.com>"
    message.set_content(PLAIN)
    message.add_alternative(HTML, subtype="html")
    html = message.get_payload()[1]  # type: ignore[index]
    html.add_related(LOGO, "image", "png", cid="<logo@example.com>", filename="logo.png", disposition="inline")  # type: ignore[union-attr]
    for name, (content_type, content) in list(FILES.items())[1:]:
        message.add_attachment(content, *content_type.split("/"), filename=name)
    return message.as_bytes()


MAIL = mail()


@dataclass(frozen=True)
class Read:
    """What an application has read out of a payload."""

    subject: str
    plain: str
    html: str
    sender: str
    """Of the envelope."""
    spf: str
    files: list[tuple[str, str, bytes]]
    """Name, type without parameters, content."""


@dataclass
class World:
    """A gateway with an address for each format and mode."""

    gateway: Gateway
    target: HttpTarget
    secrets: dict[str, str]
    """The signing secret of an address, by the path of its target."""

    def address(self, target_format: TargetFormat, mode: str) -> str:
        path = path_of(target_format, mode)
        body = {"target": self.target.url(path), "target_format": target_format.value, "mode": mode}
        made = self.gateway.api("POST", "/addresses", expected=201, **body)
        self.secrets[path] = made["signing_secret"]
        return str(made["address"])

    def post_all(self, mode: str) -> Posts:
        """Send the message to an address of each format; what was POSTed. Queued, all are of one transaction."""
        mailboxes = {target_format: self.address(target_format, mode) for target_format in TargetFormat}
        groups = [list(mailboxes.values())] if mode == "queued" else [[mailbox] for mailbox in mailboxes.values()]
        for group in groups:
            self.gateway.send(group, MAIL, SENDER)
        for mailbox in mailboxes.values():
            address_id = mailbox.partition("@")[0]
            query = f"SELECT 1 FROM delivery WHERE address_id = '{address_id}' AND state = 'delivered'"
            self.gateway.wait_until(query)
        return {target_format: self._posted(path_of(target_format, mode)) for target_format in TargetFormat}

    def _posted(self, path: str) -> Received:
        deadline = time.monotonic() + SECONDS
        while not (found := [request for request in self.target.received if request.path == path]):
            assert time.monotonic() < deadline, f"nothing came on {path}"
            time.sleep(0.02)
        (request,) = found
        return request


def path_of(target_format: TargetFormat, mode: str) -> str:
    return f"/ok/{mode}/{target_format.value}"


@contextmanager
def posting_world(folder: Path, database_url: str | None = None) -> Iterator[World]:
    with running_zone() as zone, running_target() as target:
        zone.add("example.com", "TXT", '"v=spf1 ip4:127.0.0.1 -all"')
        settings = {"PILLARBOX_AUTHENTICATION": "on", "PILLARBOX_RESOLVER": f"127.0.0.1:{zone.port}"}
        with running_gateway(
            folder, "redis", "smtp", "worker", "web", database_url=database_url, **settings
        ) as gateway:
            yield World(gateway, target, {})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with posting_world(tmp_path_factory.mktemp("formats")) as started:
        yield started


@pytest.fixture(scope="module", params=MODES)
def posts(request: pytest.FixtureRequest, world: World) -> Posts:
    return world.post_all(request.param)


# --- readers, none of them ours ---


def read_json(request: Received) -> Read:
    """The standard library's JSON and base64."""
    document = json.loads(request.body)
    headers = {name.lower(): value for name, value in document["headers"].items()}
    return Read(
        subject=headers["subject"],
        plain=document["plain"],
        html=document["html"],
        sender=document["envelope"]["from"],
        spf=document["envelope"]["spf"]["result"],
        files=[
            (entry["file_name"], _bare(entry["content_type"]), base64.b64decode(entry["content"], validate=True))
            for entry in document["attachments"]
        ],
    )


def read_multipart(request: Received, subject: str) -> Read:
    """Werkzeug, Django and the standard library, which must agree."""
    payload = Payload(request.headers["content-type"], request.body)
    form = read_with_werkzeug(payload)
    for other in (read_with_django(payload), read_with_standard_library(payload)):
        assert sorted(other.fields) == sorted(form.fields)
        assert sorted((name, content) for _, name, _, content in other.files) == sorted(
            (name, content) for _, name, _, content in form.files
        )
    return Read(
        subject=form[f"headers[{subject}]"],
        plain=form["plain"],
        html=form["html"],
        sender=form["envelope[from]"],
        spf=form["envelope[spf][result]"],
        files=[(name, _bare(content_type), content) for _, name, content_type, content in form.files],
    )


def read_raw(request: Received) -> Read:
    """Werkzeug, and the standard library for the message."""
    form = read_with_werkzeug(Payload(request.headers["content-type"], request.body))
    assert form["message"].encode() == MAIL
    return _read_message(form["message"].encode(), form["envelope[from]"], form["envelope[spf][result]"])


def read_original(request: Received, secret: str) -> Read:
    """The same; the fields beside the message must say what it says, under the vendor's signature."""
    form = read_with_werkzeug(Payload(request.headers["content-type"], request.body))
    values = dict(form.fields)
    signature = values.pop("signature")
    said = b"".join(values[name].encode() for name in sorted(values)) + secret.encode()
    assert signature == hashlib.md5(said, usedforsecurity=False).hexdigest()
    read = _read_message(form["message"].encode(), form["from"], form["spf[result]"])
    assert (form["subject"], _lines(form["plain"]), _lines(form["html"])) == (read.subject, read.plain, read.html)
    assert form["x_to_header"] == "peter@example.net"
    return read


def read_postmark(request: Received) -> Read:
    """django-anymail's view, which makes an `email` message of it."""
    message = _event(request.body).message
    parts = [part for part in message.walk() if part.get_filename()]
    return Read(
        subject=message.subject,
        plain=message.text,
        html=message.html,
        sender=message.envelope_sender,
        spf=str(message["Received-SPF"]).partition(" ")[0].lower(),
        files=[(part.get_filename(), part.get_content_type(), part.get_content_bytes()) for part in parts],
    )


def _event(body: bytes) -> Any:
    set_up_django()
    from anymail.signals import inbound
    from django.test import Client

    events: list[Any] = []

    def receive(event: Any, **_: Any) -> None:
        events.append(event)

    inbound.connect(receive)
    try:
        headers = {"authorization": "Basic dXNlcjpwYXNz"}
        answer = Client().post("/inbound/", data=body, content_type="application/json", headers=headers)
    finally:
        inbound.disconnect(receive)
    assert answer.status_code == 200
    (event,) = events
    return event


def _read_message(raw: bytes, sender: str, spf: str) -> Read:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    plain, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None
    assert html is not None
    parts = [part for part in message.walk() if part.get_filename()]
    return Read(
        subject=str(message["Subject"]),
        plain=_lines(plain.get_content()),
        html=_lines(html.get_content()),
        sender=sender,
        spf=spf,
        files=[(str(part.get_filename()), part.get_content_type(), part.get_payload(decode=True)) for part in parts],  # type: ignore[misc]
    )


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip()


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def reader_of(target_format: TargetFormat, secret: str) -> Callable[[Received], Read]:
    """How an application reads a format."""
    readers: dict[TargetFormat, Callable[[Received], Read]] = {
        TargetFormat.JSON_N: read_json,
        TargetFormat.JSON: read_json,
        TargetFormat.MULTIPART_N: lambda request: read_multipart(request, "subject"),
        TargetFormat.MULTIPART: lambda request: read_multipart(request, "Subject"),
        TargetFormat.RAW: read_raw,
        TargetFormat.ORIGINAL: lambda request: read_original(request, secret),
        TargetFormat.POSTMARK: read_postmark,
    }
    return readers[target_format]


def check(target_format: TargetFormat, request: Received, secret: str) -> None:
    """Everything of the message is there, and the files byte for byte."""
    read = reader_of(target_format, secret)(request)
    assert (read.subject, read.sender, read.spf) == (SUBJECT, SENDER, "pass")
    assert (_lines(read.plain).rstrip(), _lines(read.html).rstrip()) == (PLAIN.rstrip(), HTML.rstrip())
    expected = [(name, content_type, content) for name, (content_type, content) in FILES.items()]
    assert sorted(read.files) == sorted(expected)


# --- tests ---


@pytest.mark.parametrize("target_format", TargetFormat)
def test_each_format_carries_the_whole_message(world: World, posts: Posts, target_format: TargetFormat) -> None:
    request = posts[target_format]
    check(target_format, request, world.secrets[request.path])


@pytest.mark.parametrize("target_format", TargetFormat)
def test_each_post_is_signed_and_names_its_delivery(world: World, posts: Posts, target_format: TargetFormat) -> None:
    request = posts[target_format]
    key = base64.b64decode(world.secrets[request.path].removeprefix("whsec_"))
    delivery_id, moment = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    said = f"{delivery_id}.{moment}.".encode() + request.body
    expected = base64.b64encode(hmac.digest(key, said, hashlib.sha256)).decode()
    assert f"v1,{expected}" in request.headers["webhook-signature"].split(" ")
    shown = world.gateway.api("GET", f"/incoming_statuses/{delivery_id}")
    assert (shown["state"], shown["status"], shown["subject"]) == ("delivered", 200, SUBJECT)


def test_the_inline_image_is_found_by_its_content_id(posts: Posts) -> None:
    for target_format in (TargetFormat.JSON_N, TargetFormat.JSON):
        entries = json.loads(posts[target_format].body)["attachments"]
        assert [(entry["content_id"], entry["disposition"]) for entry in entries] == [
            ("logo@example.com", "inline"),
            (None, "attachment"),
            (None, "attachment"),
        ]
    logo = _event(posts[TargetFormat.POSTMARK].body).message.content_id_map["logo@example.com"]
    assert logo.get_content_bytes() == LOGO
    for target_format in (TargetFormat.MULTIPART_N, TargetFormat.MULTIPART):
        assert b"Content-ID: <logo@example.com>\r\n" in posts[target_format].body


def test_all_are_of_the_same_message_with_names_as_the_format_has_them(posts: Posts) -> None:
    md5 = hashlib.md5(MAIL, usedforsecurity=False).hexdigest()
    for target_format in (TargetFormat.JSON_N, TargetFormat.JSON):
        document = json.loads(posts[target_format].body)
        assert document["envelope"]["md5"] == md5
        assert ("message_id" in document["headers"]) is (target_format is TargetFormat.JSON_N)
        assert ("Message-ID" in document["headers"]) is (target_format is TargetFormat.JSON)
    for target_format, field in (
        (TargetFormat.MULTIPART_N, "attachments[]"),
        (TargetFormat.MULTIPART, "attachments[1]"),
    ):
        request = posts[target_format]
        form = read_with_werkzeug(Payload(request.headers["content-type"], request.body))
        assert form["envelope[md5]"] == md5
        assert field in [name for name, *_ in form.files]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_every_format_on_postgresql(tmp_path: Path, database_url: str) -> None:
    with posting_world(tmp_path, database_url) as world:
        for target_format, request in world.post_all("queued").items():
            check(target_format, request, world.secrets[request.path])
