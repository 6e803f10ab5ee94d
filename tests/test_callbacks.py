"""The authorization callback at RCPT, and the error callback when a target does not take a mail."""

from __future__ import annotations

import json
import socket
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from core.address_settings import AddressSettings, AuthorizationCallback, CallbackFormat
from core.signing import signature_headers
from core.store.models import Address
from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, Received, reply, running_target

MESSAGE = b"From: A <a@example.com>\r\nSubject: Hello\r\n\r\nHi.\r\n"


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("receiver"), "redis", "smtp") as started:
        yield started


@pytest.fixture
def gateway(tmp_path: Path, database_url: str) -> Iterator[Gateway]:
    with running_gateway(tmp_path, database_url=database_url) as started:
        yield started


def guarded_by(gateway: Gateway, url: str, form: CallbackFormat = CallbackFormat.FORM) -> str:
    settings = AddressSettings(authorization=AuthorizationCallback(url, form))
    return gateway.add_address("http://127.0.0.1:9/", settings=settings.to_json())


def ask(gateway: Gateway, mailbox: str, sender: str = "sender@example.com", size: int = 1234) -> tuple[int, str]:
    """The reply to RCPT."""
    with gateway.connect() as client:
        client.mail(sender, [f"SIZE={size}"])
        code, text = client.rcpt(mailbox)
        return code, text.decode()


def read_form(request: Received) -> dict[str, str]:
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    return {name: values[0] for name, values in parse_qs(request.body.decode(), keep_blank_values=True).items()}


def read_json(request: Received) -> dict[str, str]:
    assert request.headers["content-type"] == "application/json"
    return {name: str(value) for name, value in json.loads(request.body).items() if value is not None}


def read_xml(request: Received) -> dict[str, str]:
    assert request.headers["content-type"] == "application/xml"
    root = ElementTree.fromstring(request.body)
    assert root.tag == "parameters"
    assert {"helo-domain", "remote-ip"} <= {child.tag for child in root}
    return {child.tag.replace("-", "_"): child.text or "" for child in root}


@pytest.mark.parametrize(
    ("form", "read"),
    [(CallbackFormat.FORM, read_form), (CallbackFormat.JSON, read_json), (CallbackFormat.XML, read_xml)],
)
def test_the_question_says_who_wants_to_send_what_to_whom(
    receiver: Gateway, target: HttpTarget, form: CallbackFormat, read: object
) -> None:
    mailbox = guarded_by(receiver, target.url("/ok"), form)
    assert ask(receiver, mailbox)[0] == 250
    (request,) = target.received
    assert read(request) == {  # type: ignore[operator]
        "to": mailbox,
        "from": "sender@example.com",
        "size": "1234",
        "remote_ip": "127.0.0.1",
        "helo_domain": "client.example",
    }
    with receiver.database.reading():
        secret = Address.get_by_id(mailbox.partition("@")[0]).secret
    signed = signature_headers(
        secret, request.headers["webhook-id"], int(request.headers["webhook-timestamp"]), request.body
    )
    assert signed["webhook-signature"] == request.headers["webhook-signature"]


def test_the_null_sender_is_an_empty_field(receiver: Gateway, target: HttpTarget) -> None:
    assert ask(receiver, guarded_by(receiver, target.url("/ok")), sender="")[0] == 250
    assert read_form(target.received[0])["from"] == ""


def test_the_servers_answer_decides(receiver: Gateway, target: HttpTarget) -> None:
    target.scripted["/no"] = [reply(403, b"we know you\r\n250 ok", "Content-Type: text/plain")]
    target.scripted["/page"] = [reply(404, b"<html>", "Content-Type: text/html")]
    assert ask(receiver, guarded_by(receiver, target.url("/status/204")))[0] == 250
    assert ask(receiver, guarded_by(receiver, target.url("/redirect/307/ok")))[0] == 250
    assert ask(receiver, guarded_by(receiver, target.url("/no"))) == (550, "5.7.1 we know you 250 ok")
    code, text = ask(receiver, guarded_by(receiver, target.url("/page")))
    assert (code, "html" in text) == (550, False)
    for path in ("/status/500", "/status/429", "/reset", "/redirect/302/redirect/302/redirect/302/redirect/302/ok"):
        assert ask(receiver, guarded_by(receiver, target.url(path)))[0] == 450, path


def test_a_dead_authorization_server_puts_the_sender_off_within_its_deadline(receiver: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mailbox = guarded_by(receiver, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        started = time.monotonic()
        assert ask(receiver, mailbox)[0] == 450
        assert 9 < time.monotonic() - started < 13
    assert ask(receiver, guarded_by(receiver, "http://127.0.0.1:9/"))[0] == 450


def test_a_refused_recipient_does_not_hurt_the_others(receiver: Gateway, target: HttpTarget) -> None:
    refused, taken = (guarded_by(receiver, target.url(path)) for path in ("/status/403", "/ok"))
    with receiver.connect() as client:
        client.mail("sender@example.com")
        assert [client.rcpt(mailbox)[0] for mailbox in (refused, taken, refused)] == [550, 250, 550]
        assert client.data(MESSAGE)[0] == 250
    with receiver.database.reading():
        rows = receiver.database.execute("SELECT recipients FROM delivery WHERE address_id = ?", (taken.split("@")[0],))
    assert json.loads(rows[0][0]) == [taken]


def reported(target: HttpTarget, path: str) -> list[Received]:
    return [request for request in target.received if request.path == path]


def failing_address(gateway: Gateway, target: HttpTarget, path: str, callback: str) -> str:
    settings = AddressSettings(error_callback=target.url(callback))
    return gateway.add_address(target.url(path), settings=settings.to_json())


def test_a_rejection_is_told_once_as_json_or_as_a_form(gateway: Gateway, target: HttpTarget) -> None:
    target.scripted["/a"] = [reply(422, b"no such ticket")]
    target.scripted["/b"] = [reply(404, b"gone")]
    as_json = failing_address(gateway, target, "/a", "/ok/errors.json")
    as_form = failing_address(gateway, target, "/b", "/ok/errors")
    gateway.send(as_json, MESSAGE)
    gateway.send(as_form, MESSAGE)
    target.wait_for(4)
    (told,) = reported(target, "/ok/errors.json")
    payload = json.loads(told.body)
    with gateway.database.reading():
        first = gateway.database.execute("SELECT id FROM delivery WHERE kind = 'inbound' ORDER BY id LIMIT 1")[0][0]
    assert payload == {
        "status": 422, "to": as_json, "from": "sender@example.com", "response": "no such ticket", "attempt": 1,
        "final": True, "id": first,
    }  # fmt: skip
    (told,) = reported(target, "/ok/errors")
    assert read_form(told)["status"] == "404"
    assert read_form(told)["final"] == "true"
    assert told.headers["webhook-id"] != first


def test_of_many_failures_only_the_first_and_the_last_are_told(gateway: Gateway, target: HttpTarget) -> None:
    target.scripted["/a"] = [reply(503, b"later"), reply(503, b"later"), reply(410, b"never")]
    mailbox = failing_address(gateway, target, "/a", "/ok/errors.json")
    gateway.send(mailbox, MESSAGE)
    for attempts in (1, 2):
        gateway.wait_until(f"SELECT 1 FROM attempt WHERE number = {attempts} AND status = 503")
        with gateway.database.transaction():
            gateway.database.execute("UPDATE delivery SET due_ms = 0 WHERE kind = 'inbound'")
    target.wait_for(5)
    told = [json.loads(request.body) for request in reported(target, "/ok/errors.json")]
    assert [(one["status"], one["attempt"], one["final"]) for one in told] == [(503, 1, False), (410, 3, True)]


def test_a_callback_that_fails_is_tried_again_and_is_in_no_list_of_mail(gateway: Gateway, target: HttpTarget) -> None:
    target.scripted["/ok/errors.json"] = [reply(500)]
    mailbox = failing_address(gateway, target, "/status/404", "/ok/errors.json")
    gateway.send(mailbox, MESSAGE)
    gateway.wait_until(
        "SELECT 1 FROM delivery WHERE kind = 'error_callback' AND last_status = 500 AND state = 'pending'"
    )
    with gateway.database.transaction():
        gateway.database.execute("UPDATE delivery SET due_ms = 0 WHERE kind = 'error_callback'")
    gateway.wait_until("SELECT 1 FROM delivery WHERE kind = 'error_callback' AND state = 'delivered'")
    assert len({request.headers["webhook-id"] for request in reported(target, "/ok/errors.json")}) == 1


def test_an_error_of_ours_is_not_told_as_the_targets(gateway: Gateway, target: HttpTarget, tmp_path: Path) -> None:
    mailbox = failing_address(gateway, target, "/ok", "/ok/errors.json")
    gateway.stop("worker")
    gateway.send(mailbox, MESSAGE + b"x" * 200_000 + b"\r\n")
    for blob in (tmp_path / "data" / "messages").rglob("*-*-*-*-*"):
        blob.unlink()
    gateway.start("worker")
    gateway.wait_until("SELECT 1 FROM delivery WHERE last_status = 0")
    with gateway.database.reading():
        assert not gateway.database.execute("SELECT 1 FROM delivery WHERE kind = 'error_callback'")
