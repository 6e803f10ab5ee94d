"""Sending as a customer does it: a domain, mail by API and by SMTP, what arrives at a Postfix, what is told of it."""

from __future__ import annotations

import base64
import json
import smtplib
import subprocess
from pathlib import Path
from typing import Any

import dkim
import pytest
import requests
from standardwebhooks import Webhook

from tests.dkim_judges import opendkim_says, perl_says
from tests.programs import need_program
from tests.scripted_smtp import Taken
from tests.sending_world import GATEWAY, PEOPLE, SENDER, SHOP, TRACKING, SendingWorld, links, mail, path
from tests.tracking_support import PERSON

PICTURE = bytes(range(256)) * 3
PDF = b"%PDF-1.7\n" + bytes(range(255, -1, -1)) * 20
RICH = {
    "subject": "Your order ✓",
    "plain": "Grüße.\nhttps://shop.example/plain\n",
    "html": '<html><body><p>Grüße</p><a href="https://shop.example/one?a=1&amp;b=2">one</a>'
    '<img src="cid:picture@shop"></body></html>',
    "headers": {"X-Order": "1234"},
    "attachments": [
        {"file_name": "p.png", "content_type": "image/png", "content_id": "picture@shop"},
        {"file_name": "Übersicht.pdf", "content_type": "application/pdf"},
    ],
    "tags": ["orders"],
    "metadata": {"order": "1234"},
    "unsubscribe": True,
}
ALL_KINDS = {"registration", "dispatch", "delivery"}


@pytest.fixture(scope="module")
def world(sending: SendingWorld) -> SendingWorld:
    return sending


@pytest.fixture(scope="module")
def secret(world: SendingWorld) -> str:
    """Of a webhook that is told of everything."""
    made = world.gateway.api("POST", "/webhooks", 201, url=world.hooks.url("/events"))
    return str(made["signing_secret"])


def rich() -> dict[str, Any]:
    """A message with everything, as its author writes it."""
    attachments: list[dict[str, str]] = RICH["attachments"]  # type: ignore[assignment]
    contents = [base64.b64encode(content).decode() for content in (PICTURE, PDF)]
    return {**RICH, "attachments": [{**one, "content": text} for one, text in zip(attachments, contents, strict=True)]}


def assert_genuine(world: SendingWorld, recipient: str) -> Taken:
    """Both signatures, SPF and DMARC pass, for our own receiving side and for others; gives what arrived."""
    (taken,) = world.arrived(recipient)
    sender = path(taken.mail_from)
    assert sender.startswith("b-")
    assert sender.endswith(f"@mta.{SHOP}")
    found = world.judged(taken)
    assert found.spf is not None
    assert found.dkim is not None
    assert found.dmarc is not None
    assert (found.spf.result, found.spf.domain) == ("pass", f"mta.{SHOP}")
    assert [(one.result, one.domain) for one in found.dkim.signatures] == [("pass", SHOP), ("pass", SHOP)]
    assert (found.dmarc.result, found.dmarc.domain) == ("pass", SHOP)
    return taken


def others_accept(world: SendingWorld, taken: Taken, folder: Path) -> None:
    """dkimpy, Perl's Mail::DKIM and OpenDKIM accept the signatures, with the keys that the DNS has."""
    texts = {name: values[0] for (name, kind), values in world.zone.records.items() if kind == "TXT"}
    keys = {name: text.replace('" "', "").strip('"') for name, text in texts.items() if "_domainkey" in name}

    def ask(name: bytes, timeout: int = 5) -> bytes | None:
        return keys[name.decode().rstrip(".")].encode()

    verifier = dkim.DKIM(taken.content)
    assert [verifier.verify(idx=number, dnsfunc=ask) for number in (0, 1)] == [True, True]
    arrived = folder / "arrived"
    arrived.write_bytes(taken.content)
    assert perl_says(53, str(arrived), server=world.places.dns) == ["pass"]
    assert opendkim_says(arrived, keys) == ["pass", "pass"]


# --- 1. what arrives --------------------------------------------------------------------------------------------------


def test_a_rich_mail_arrives_whole_and_genuine(world: SendingWorld, tmp_path: Path) -> None:
    """Everything that the API can put into a mail, read by the standard library behind a Postfix."""
    recipient = f"rich@{PEOPLE}"
    message_id = world.send(f"Rich <{recipient}>", **rich())
    taken = assert_genuine(world, recipient)
    others_accept(world, taken, tmp_path)
    assert f"from mx.{GATEWAY} (".encode() in taken.content.partition(b"\r\n\r\n")[0]
    arrived = world.read(recipient)
    shown = world.shown(message_id)
    assert arrived["Message-ID"] == shown["message_id"]
    assert (arrived["From"], arrived["To"], arrived["Subject"]) == (SENDER, f"Rich <{recipient}>", RICH["subject"])
    assert arrived["X-Order"] == "1234"
    assert shape(arrived) == [
        "multipart/mixed",
        ["multipart/alternative", "text/plain", ["multipart/related", "text/html", "image/png"]],
        "application/pdf",
    ]
    plain, html = (arrived.get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None
    assert html is not None
    assert plain.get_content().replace("\r\n", "\n") == RICH["plain"]
    assert 'src="cid:picture@shop"' in html.get_content()
    click, pixel = links(html.get_content())
    assert click.startswith("/c/")
    assert pixel.startswith("/o/")
    picture, pdf = (part for part in arrived.walk() if part.get_content_maintype() in ("image", "application"))
    assert picture.get_payload(decode=True) == PICTURE
    assert (picture["Content-ID"], picture.get_content_disposition()) == ("<picture@shop>", "inline")
    assert (pdf.get_payload(decode=True), pdf.get_filename()) == (PDF, "Übersicht.pdf")


def shape(part: Any) -> Any:
    """The tree of a message's parts."""
    if not part.is_multipart():
        return part.get_content_type()
    return [part.get_content_type(), *(shape(one) for one in part.iter_parts())]


def test_mail_by_smtp_arrives_genuine_and_keeps_its_message_id(world: SendingWorld, tmp_path: Path) -> None:
    recipient = f"smtplib@{PEOPLE}"
    headers = {"Message_ID": f"<kept@{SHOP}>", "X_CloudMTA_Tags": "orders, big", "X_CloudMTA_Class": "priority"}
    message_id = world.submit(mail(recipient, "By SMTP ✓", **headers), recipient)
    taken = assert_genuine(world, recipient)
    others_accept(world, taken, tmp_path)
    arrived = world.read(recipient)
    assert (arrived["Message-ID"], arrived["Subject"]) == (f"<kept@{SHOP}>", "By SMTP ✓")
    assert b"cloudmta" not in taken.content.lower()
    shown = world.shown(message_id)
    assert (shown["tags"], shown["priority"], shown["message_id"]) == (["orders", "big"], "priority", f"<kept@{SHOP}>")
    assert world.wait_for_kind(message_id, "delivery")["details"]["remote_host"] == f"mx.{PEOPLE}"


@pytest.mark.parametrize("way", ["starttls", "tls", "login"])
def test_mail_by_swaks_arrives(world: SendingWorld, way: str) -> None:
    account = world.gateway.account
    recipient = f"swaks-{way}@{PEOPLE}"
    port = world.gateway.submission_tls_port if way == "tls" else world.gateway.submission_port
    command = [
        need_program("swaks"), "--server", "127.0.0.1", "--port", str(port),
        "--tls-on-connect" if way == "tls" else "--tls", "--auth", "LOGIN" if way == "login" else "PLAIN",
        "--auth-user", account.smtp_username, "--auth-password", account.smtp_password,
        "--from", f"news@{SHOP}", "--to", recipient, "--h-Subject", f"By swaks over {way}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "250 Thanks! Queued as: " in done.stdout
    assert_genuine(world, recipient)
    assert world.read(recipient)["Subject"] == f"By swaks over {way}"


def test_all_recipients_get_it_and_bcc_stays_secret(world: SendingWorld) -> None:
    to, cc, bcc = (f"{name}@{PEOPLE}" for name in ("many-to", "many-cc", "many-bcc"))
    message_id = world.send([to], cc=[cc], bcc=[bcc])
    paths = {path(world.arrived(one)[0].mail_from) for one in (to, cc, bcc)}
    assert len(paths) == 3  # so that bounces tell who
    assert all(b"many-bcc" not in world.arrived(one)[0].content for one in (to, cc))
    assert {one["email"] for one in world.shown(message_id)["recipients"]} == {to, cc, bcc}


@pytest.mark.parametrize("sender", ["a@other.test", f"a@sub.{SHOP}"])
def test_nothing_is_sent_from_a_domain_that_is_not_verified(world: SendingWorld, sender: str) -> None:
    body = {"from": sender, "to": f"refused@{PEOPLE}", "subject": "Hello", "plain": "Hi."}
    answer = world.gateway.api("POST", "/messages", 422, **body)
    assert sender.partition("@")[2] in answer["error"]
    with pytest.raises(smtplib.SMTPDataError) as refused, world.login() as client:
        client.sendmail(sender, [f"refused@{PEOPLE}"], f"From: {sender}\r\nSubject: Hello\r\n\r\nHi.\r\n")
    assert refused.value.smtp_code == 550
    assert b"5.7.1" in refused.value.smtp_error


# --- 2. what is told of it --------------------------------------------------------------------------------------------


def test_each_step_is_told_in_signed_batches_and_shown(world: SendingWorld, secret: str) -> None:
    message_id = world.send(f"told@{PEOPLE}", tags=["orders"], metadata={"order": "1234"})
    told = world.wait_until_told("/events", message_id, *ALL_KINDS)
    assert sorted(event["kind"] for event in told) == sorted(ALL_KINDS)
    shown = world.shown(message_id)
    for event in told:
        assert event["recipient"] == f"told@{PEOPLE}"
        assert (event["domain"], event["tags"], event["metadata"]) == (SHOP, ["orders"], {"order": "1234"})
        assert f"<{event['original_message_id']}>" == shown["message_id"]
    assert [event["kind"] for event in shown["recipients"][0]["events"]] == ["registration", "dispatch", "delivery"]
    delivery = next(event for event in told if event["kind"] == "delivery")
    assert delivery["details"]["remote_host"] == f"mx.{PEOPLE}"
    assert "queued as" in delivery["details"]["smtp_response"]
    for request in world.posts("/events"):
        Webhook(secret).verify(request.body, request.headers)
        assert len(json.loads(request.body)["events"]) <= 100


def test_opening_and_clicking_are_told(world: SendingWorld, secret: str) -> None:
    recipient = f"reader@{PEOPLE}"
    message_id = world.send(recipient, **rich())
    html = world.read(recipient).get_body(("html",))
    assert html is not None
    click, pixel = links(html.get_content())
    world.wait_until_told("/events", message_id, "delivery")
    world.execute("UPDATE delivery SET finished_ms = finished_ms - 60000 WHERE message_id = ?", (message_id,))
    picture = visit(world, pixel)
    assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/gif")
    redirect = visit(world, click)
    assert (redirect.status_code, redirect.headers["Location"]) == (302, "https://shop.example/one?a=1&b=2")
    told = {event["kind"]: event for event in world.wait_until_told("/events", message_id, "open", "click")}
    assert told["click"]["details"]["url"] == "https://shop.example/one?a=1&b=2"
    assert told["open"]["recipient"] == told["click"]["recipient"] == recipient
    assert {"open", "click"} <= set(world.kinds(message_id))


def test_who_unsubscribes_with_one_click_gets_no_more(world: SendingWorld, secret: str) -> None:
    recipient = f"leaver@{PEOPLE}"
    first = world.send(recipient, **rich())
    arrived = world.read(recipient)
    assert arrived["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = str(arrived["List-Unsubscribe"]).strip("<>")
    assert url.startswith(f"{TRACKING}/u/")
    answer = visit(world, url.removeprefix(TRACKING), data={"List-Unsubscribe": "One-Click"})
    assert answer.status_code == 200
    world.wait_until_told("/events", first, "unsubscribe")
    second = world.send([recipient, f"stayer@{PEOPLE}"])
    world.arrived(f"stayer@{PEOPLE}")
    assert len(world.arrived(recipient)) == 1
    events = {one["email"]: one["last_event"] for one in world.shown(second)["recipients"]}
    assert events[recipient] == "suppressed"
    assert {event["recipient"] for event in world.wait_until_told("/events", second, "suppressed", "delivery")} == set(
        events
    )
    listed = world.gateway.api("GET", f"/suppressions?address={recipient}")
    assert [(one["address"], one["reason"]) for one in listed] == [(recipient, "unsubscribe")]


def visit(world: SendingWorld, place: str, **arguments: Any) -> requests.Response:
    """What a reader's program does; the TLS in front of the gateway is left out."""
    url = f"{world.gateway.settings.api_url}{place}"
    headers = {**PERSON, "Host": "links.gateway.test", "X-Forwarded-For": "198.51.100.7"}
    method = "POST" if arguments else "GET"
    return requests.request(method, url, headers=headers, allow_redirects=False, timeout=20, **arguments)
