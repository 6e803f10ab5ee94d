"""Stores end to end: set through the API, filled by the worker, named in the payload, fetched from the web process."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import requests

from core.built_in_store import read_stored_link, stored_url
from core.clock import DAY_MS, system_clock
from core.services.secrets import STORING_SECRET, shared_secret
from core.store_settings import StoreSettings
from inbound.payloads import Payload
from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, Received, reply, running_target
from tests.object_servers import S3Server, running_azurite, running_s3
from tests.payload_readers import read_with_werkzeug
from tests.raw_server import read_request, running_raw_server

PROCESSES = ("redis", "smtp", "worker", "scheduler", "web")
BUILT_IN = {"kind": "built_in"}
PDF = bytes(range(256)) * 800
PAGE = b"<script>alert(document.cookie)</script>"
SMALL = b"1,2\n"
FILES = {"Übersicht.pdf": ("application/pdf", PDF), "page.html": ("text/html", PAGE), "s.csv": ("text/csv", SMALL)}
CONTENTS = [content for _, content in FILES.values()]
MODES = ("queued", "inline")
MASK = "***"


def mail() -> bytes:
    """A message with three attachments, one of them a page that would like to run."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "A <a@example.com>", "b@example.net", "Files"
    message.set_content("Here they are.\n")
    for name, (content_type, content) in FILES.items():
        message.add_attachment(content, *content_type.split("/"), filename=name)
    return bytes(message).replace(b"\n", b"\r\n")


MAIL = mail()


@dataclass
class World:
    """A gateway and its target."""

    gateway: Gateway
    target: HttpTarget

    def address(self, path: str = "/ok", target_format: str = "json+n", **settings: Any) -> str:
        """An address made through the API; gives its mailbox."""
        made = self.gateway.api("POST", "/addresses", expected=201, **self.body(path, target_format), **settings)
        return str(made["address"])

    def body(self, path: str, target_format: str = "json+n") -> dict[str, Any]:
        return {"target": self.target.url(path), "target_format": target_format}

    def posts(self, path: str, count: int = 1) -> list[Received]:
        """So many requests to a path, once they have come."""
        deadline = time.monotonic() + 30
        while len(found := [request for request in self.target.received if request.path == path]) < count:
            assert time.monotonic() < deadline, f"{len(found)} came on {path}\n{self.gateway.log()[-3000:]}"
            time.sleep(0.02)
        assert len(found) == count
        return found

    def payload(self, path: str, count: int = 1) -> dict[str, Any]:
        return dict(json.loads(self.posts(path, count)[-1].body))

    def wait(self, mailbox: str, condition: str) -> dict[str, Any]:
        """The one delivery of an address, once the condition holds, as the API shows it."""
        address_id = mailbox.partition("@")[0]
        self.gateway.wait_until(f"SELECT 1 FROM delivery WHERE address_id = '{address_id}' AND {condition}")
        (listed,) = self.gateway.api("GET", f"/incoming_statuses?address_id={address_id}")
        return dict(listed)

    def make_due(self) -> None:
        """Let the time of every planned attempt have come."""
        with self.gateway.database.transaction():
            self.gateway.database.execute(
                "UPDATE delivery SET due_ms = 0 WHERE state = 'pending' AND lease_token IS NULL"
            )

    def stored_files(self) -> list[Path]:
        """What lies in the built-in store."""
        return [path for path in (self.gateway.settings.data / "messages" / "stored").rglob("*") if path.is_file()]


@contextmanager
def storing_world(folder: Path, database_url: str | None = None) -> Iterator[World]:
    with running_target() as target, running_gateway(folder, *PROCESSES, database_url=database_url) as gateway:
        yield World(gateway, target)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with storing_world(tmp_path_factory.mktemp("stored")) as started:
        yield started


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def as_request(settings: StoreSettings) -> dict[str, Any]:
    """A store as a customer would write it into a request."""
    return {name: value for name, value in asdict(settings).items() if value not in ("", None)}


def fetch(url: str) -> requests.Response:
    """What whoever has a URL gets."""
    return requests.get(url, timeout=20)


def objects(s3: S3Server, prefix: str) -> list[str]:
    """The names of the objects below a prefix."""
    scope = "Credential=x/20260101/eu-central-1/s3/aws4_request"
    headers = {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}
    with s3.unverified():
        listing = requests.get(f"{s3.url}/{s3.bucket}?list-type=2&prefix={prefix}/", headers=headers, timeout=20)
    return re.findall("<Key>(.*?)</Key>", listing.text)


# --- the built-in store ---


@pytest.mark.parametrize("mode", MODES)
def test_attachments_are_fetched_by_their_urls_as_downloads(world: World, mode: str) -> None:
    path = f"/ok/fetched/{mode}"
    world.gateway.send(world.address(path, mode=mode, attachments=BUILT_IN), MAIL)
    attachments = world.payload(path)["attachments"]
    assert [entry["file_name"] for entry in attachments] == list(FILES)
    for entry, (content_type, content) in zip(attachments, FILES.values(), strict=True):
        assert "content" not in entry
        assert entry["size"] == len(content)
        answer = fetch(entry["url"])
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["Content-Type"].partition(";")[0] == content_type
        assert answer.headers["Content-Length"] == str(len(content))
        assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "filename*=UTF-8''%C3%9Cbersicht.pdf" in fetch(attachments[0]["url"]).headers["Content-Disposition"]


def test_a_url_that_was_changed_is_404_and_one_that_is_over_410(world: World) -> None:
    path = "/ok/tampered"
    world.gateway.send(world.address(path, attachments=BUILT_IN), MAIL)
    url = world.payload(path)["attachments"][1]["url"]
    place, token, file_name = url.rsplit("/", 2)
    middle = len(token) // 2
    changed = [
        f"{place}/{token[:middle]}{'A' if token[middle] != 'A' else 'B'}{token[middle + 1 :]}/{file_name}",
        f"{place}/{token[:-4]}/{file_name}",
        f"{place}/{token}AAAA/{file_name}",
        f"{place}/{token}/other.html",
        f"{place}/{token}/..%2f..%2fpillarbox.sqlite3",
        f"{place}/x/{file_name}",
        f"{place}/{'A' * 5000}/{file_name}",
    ]
    for wrong in changed:
        answer = fetch(wrong)
        assert (answer.status_code, PAGE in answer.content) == (404, False), wrong
    assert requests.post(url, timeout=20).status_code == 405
    assert fetch(url).content == PAGE

    settings, database = world.gateway.settings, world.gateway.database
    secret = shared_secret(database, STORING_SECRET)
    name = read_stored_link(secret, token, file_name).name
    eight_days_ago = system_clock() - 8 * DAY_MS
    over = stored_url(settings, secret, name, "text/html", file_name, eight_days_ago)
    assert fetch(over).status_code == 410
    (settings.data / "messages" / "stored" / name).unlink()
    answer = fetch(url)
    assert (answer.status_code, answer.json()["status"]) == (410, 410)


def test_attachments_below_the_threshold_stay_in_the_post(world: World) -> None:
    path = "/ok/threshold"
    settings = {"attachments": BUILT_IN, "attachment_threshold": len(PAGE)}
    world.gateway.send(world.address(path, **settings), MAIL)
    attachments = world.payload(path)["attachments"]
    assert ["url" in entry for entry in attachments] == [True, True, False]
    assert ["content" in entry for entry in attachments] == [False, False, True]


def test_a_whole_message_is_stored_as_it_came(world: World) -> None:
    path = "/ok/eml"
    world.gateway.send(world.address(path, message_store=BUILT_IN), MAIL)
    payload = world.payload(path)
    answer = fetch(payload["envelope"]["store_url"])
    assert answer.content == MAIL
    assert hashlib.md5(answer.content, usedforsecurity=False).hexdigest() == payload["envelope"]["md5"]
    assert answer.headers["Content-Type"].partition(";")[0] == "message/rfc822"
    assert "content" in payload["attachments"][0]


def test_a_whole_message_is_stored_as_the_json_that_is_posted(world: World) -> None:
    path = "/ok/json"
    stores = {"attachments": BUILT_IN, "message_store": BUILT_IN, "message_store_format": "json"}
    world.gateway.send(world.address(path, **stores), MAIL)
    payload = world.payload(path)
    stored = fetch(payload["envelope"].pop("store_url")).json()
    assert stored == payload
    assert fetch(stored["attachments"][0]["url"]).content == PDF


def test_a_form_has_the_urls_too_and_raw_stays_as_it_is(world: World) -> None:
    stores = {"attachments": BUILT_IN, "message_store": BUILT_IN}
    for target_format in ("multipart+n", "raw"):
        world.gateway.send(world.address(f"/ok/{target_format}", target_format, **stores), MAIL)
    (posted,) = world.posts("/ok/multipart+n")
    form = read_with_werkzeug(Payload(posted.headers["content-type"], posted.body))
    urls = [value for name, value in form.fields if name == "attachments[][url]"]
    assert [fetch(url).content for url in urls] == CONTENTS
    assert form.files == []
    (posted,) = world.posts("/ok/raw")
    form = read_with_werkzeug(Payload(posted.headers["content-type"], posted.body))
    assert form["message"].encode() == MAIL
    assert fetch(form["envelope[store_url]"]).content == MAIL


def test_a_retry_and_a_replay_store_under_the_same_names(world: World) -> None:
    path = "/ok/again"
    world.target.scripted[path] = [reply(503, b"not now")]
    before = set(world.stored_files())
    mailbox = world.address(path, attachments=BUILT_IN, message_store=BUILT_IN)
    world.gateway.send(mailbox, MAIL)
    world.wait(mailbox, "last_status = 503 AND lease_token IS NULL")
    first = set(world.stored_files()) - before
    assert len(first) == len(FILES) + 1
    world.make_due()
    delivered = world.wait(mailbox, "state = 'delivered'")
    world.gateway.api("POST", f"/incoming_statuses/{delivered['id']}/retry", expected=202)
    world.posts(path, 3)
    assert set(world.stored_files()) - before == first
    for posted in world.posts(path, 3):
        urls = [entry["url"] for entry in json.loads(posted.body)["attachments"]]
        assert [fetch(url).content for url in urls] == CONTENTS


def test_a_store_that_cannot_write_puts_the_mail_off_until_it_can(tmp_path: Path) -> None:
    with storing_world(tmp_path) as world:
        blocking = tmp_path / "data" / "messages" / "stored"
        blocking.parent.mkdir(parents=True, exist_ok=True)
        blocking.write_text("a file where the folder would be")
        mailbox = world.address("/ok", attachments=BUILT_IN)
        world.gateway.send(mailbox, MAIL)
        waiting = world.wait(mailbox, "attempts = 1 AND lease_token IS NULL")
        assert (waiting["state"], waiting["status"]) == ("pending", 0)
        assert "the built-in store cannot take" in waiting["error"]
        assert world.target.received == []
        blocking.unlink()
        world.make_due()
        assert fetch(world.payload("/ok")["attachments"][0]["url"]).content == PDF
        world.wait(mailbox, "state = 'delivered'")


# --- stores of customers ---


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_s3_gets_what_the_payload_names_and_its_secret_is_in_no_answer(
    tmp_path: Path, database_url: str, s3: S3Server
) -> None:
    store = as_request(s3.settings(prefix="pg", url_lifetime_s=600))
    secret = store["secret_access_key"]
    with storing_world(tmp_path, database_url) as world:
        mailbox = world.address(attachments=store, message_store={**store, "prefix": "pg-whole"})
        address_id = mailbox.partition("@")[0]
        shown = world.gateway.api("GET", f"/addresses/{address_id}")
        assert shown["attachments"] == {**store, "secret_access_key": MASK}
        world.gateway.send(mailbox, MAIL)
        payload = world.payload("/ok")
        with s3.unverified():
            urls = [entry["url"] for entry in payload["attachments"]]
            fetched = [fetch(url) for url in urls]
            whole = fetch(payload["envelope"]["store_url"])
        assert [answer.content for answer in fetched] == CONTENTS
        assert fetched[0].headers["Content-Disposition"].endswith("filename*=UTF-8''%C3%9Cbersicht.pdf")
        assert whole.content == MAIL
        assert len(objects(s3, "pg")) == len(FILES)

        changed = world.gateway.api("PUT", f"/addresses/{address_id}", **{**shown, "nickname": "kept"})
        assert changed["attachments"]["secret_access_key"] == MASK
        world.gateway.send(mailbox, MAIL)
        world.posts("/ok", 2)
        assert len(objects(s3, "pg")) == 2 * len(FILES)
        elsewhere = {**shown["attachments"], "endpoint": world.target.url("")}
        refused = world.gateway.api("PUT", f"/addresses/{address_id}", 422, **{**shown, "attachments": elsewhere})
        assert "attachments.secret_access_key" in refused["error"]
        everything = json.dumps([shown, changed, refused, world.gateway.api("GET", "/addresses")])
        assert secret not in everything + world.gateway.log()
        assert not any(secret.encode() in request.body for request in world.target.received)


def test_azure_gives_urls_that_can_be_fetched(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_azurite(tmp_path_factory.mktemp("azure")) as azure:
        world.gateway.send(world.address("/ok/azure", attachments=as_request(azure.settings(url_lifetime_s=600))), MAIL)
        attachments = world.payload("/ok/azure")["attachments"]
        fetched = [fetch(entry["url"]).content for entry in attachments]
    assert fetched == CONTENTS


@pytest.mark.parametrize("mode", MODES)
def test_while_a_store_is_down_mail_waits_and_then_comes_whole(world: World, s3: S3Server, mode: str) -> None:
    path, prefix = f"/ok/down/{mode}", f"down-{mode}"
    with running_line(s3) as line:
        mailbox = world.address(
            path, mode=mode, attachments=as_request(s3.settings(endpoint=line.endpoint, prefix=prefix))
        )
        line.is_up.clear()
        with world.gateway.connect(timeout=60) as client:
            client.mail("sender@example.com")
            client.rcpt(mailbox)
            assert client.data(MAIL)[0] == (250 if mode == "queued" else 451)
        failed = world.wait(mailbox, "attempts = 1 AND lease_token IS NULL")
        assert (failed["state"], failed["status"]) == ("pending" if mode == "queued" else "deferred", 0)
        assert failed["error"].startswith("the s3 store attachments could not be reached")
        assert path not in [request.path for request in world.target.received]
        line.is_up.set()
        if mode == "inline":
            world.gateway.send(mailbox, MAIL)  # the sender comes again
        else:
            world.make_due()
        payload = world.payload(path)
        assert world.wait(mailbox, "state = 'delivered'")["attempts"] == 2
    assert len(objects(s3, prefix)) == len(FILES)
    assert all(entry["url"].startswith(f"{line.endpoint}/attachments/") for entry in payload["attachments"])


def test_a_store_that_stays_away_can_be_taken_off_and_the_waiting_mail_comes_whole(world: World, s3: S3Server) -> None:
    path = "/ok/off"
    with running_line(s3) as line:
        mailbox = world.address(path, attachments=as_request(s3.settings(endpoint=line.endpoint)))
        line.is_up.clear()
        world.gateway.send(mailbox, MAIL)
        world.wait(mailbox, "attempts = 1 AND lease_token IS NULL")
        world.gateway.api("PUT", f"/addresses/{mailbox.partition('@')[0]}", **world.body(path), attachments={})
        world.make_due()
        attachments = world.payload(path)["attachments"]
    contents = [base64.b64decode(entry["content"]) for entry in attachments]
    assert contents == CONTENTS


def test_a_retry_to_s3_replaces_what_the_first_attempt_stored(world: World, s3: S3Server) -> None:
    path = "/ok/replaced"
    world.target.scripted[path] = [reply(500, b"not now")]
    mailbox = world.address(path, attachments=as_request(s3.settings(prefix="replaced")))
    world.gateway.send(mailbox, MAIL)
    world.wait(mailbox, "last_status = 500 AND lease_token IS NULL")
    first = objects(s3, "replaced")
    world.make_due()
    world.wait(mailbox, "state = 'delivered'")
    assert objects(s3, "replaced") == first
    assert len(first) == len(FILES)
    payloads = [json.loads(posted.body) for posted in world.posts(path, 2)]
    assert payloads[0]["attachments"] == payloads[1]["attachments"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"secret_access_key": "wrong-secret"}, "secret_access_key"), ({"secret_access_key": MASK}, "secret_access_key"),
    ({"access_key_id": "AKIAWRONG"}, "access_key_id"), ({"bucket": "forbidden"}, "access_key_id"),
    ({"bucket": "missing"}, "bucket"), ({"bucket": ""}, "bucket"), ({"kind": "ftp"}, "kind"),
    ({"endpoint": "http://127.0.0.1:9"}, "endpoint"), ({"endpoint": "http://10.0.0.1"}, "endpoint"),
    ({"account": "mine"}, "account"), ({"acl": "everybody"}, "acl"), ({"prefix": "a/../b"}, "prefix"),
    ({"url_lifetime_s": 5}, "url_lifetime_s"),
]  # fmt: skip


@pytest.mark.parametrize("field", ["attachments", "message_store"])
def test_a_store_that_is_set_up_wrongly_is_refused_by_the_name_of_its_field(
    world: World, s3: S3Server, field: str
) -> None:
    mailbox = world.address("/ok/wrong", **{field: BUILT_IN})
    address_id = mailbox.partition("@")[0]
    for changes, name in WRONG:
        body = {**world.body("/ok/wrong"), field: {**as_request(s3.settings()), **changes}}
        for method, where in (("POST", "/addresses"), ("PUT", f"/addresses/{address_id}")):
            refused = world.gateway.api(method, where, 422, **body)
            assert refused["status"] == 422
            assert f"{field}.{name}" in refused["error"], (changes, refused)
            assert "wrong-secret" not in refused["error"]
    assert world.gateway.api("GET", f"/addresses/{address_id}")[field] == BUILT_IN
    assert world.gateway.api("PUT", f"/addresses/{address_id}", **world.body("/ok/wrong"), **{field: {}})[field] == {}


@dataclass(frozen=True)
class Line:
    """The way to a store, which can be cut."""

    endpoint: str
    is_up: threading.Event


@contextmanager
def running_line(s3: S3Server) -> Iterator[Line]:
    """A port whose requests reach the store, one a connection, while the line is up."""
    is_up = threading.Event()
    is_up.set()
    upstream = ("127.0.0.1", int(s3.url.rpartition(":")[2]))

    def pass_on(connection: socket.socket, number: int) -> None:
        request = read_request(connection)
        if not is_up.is_set():
            return
        with socket.create_connection(upstream) as server:
            server.sendall(request)
            server.shutdown(socket.SHUT_WR)
            while data := server.recv(65_536):
                connection.sendall(data)

    with running_raw_server(pass_on) as port:
        yield Line(f"http://127.0.0.1:{port}", is_up)
