"""`postmark` read by django-anymail's own inbound view, in a Django application, over Django's test client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from core.envelope import Envelope
from core.formats import TargetFormat
from inbound.payloads import render
from inbound.reading.parse import parse_message
from tests.payload_readers import set_up_django
from tests.payload_samples import DELIVERY_ID, ENVELOPE, HOSTILE, JUDGED, MAIL, OPTIONS, PDF, SAMPLES, rendered_sample

Post = Callable[..., Any]


@pytest.fixture(scope="module")
def post() -> Post:
    """POSTs a JSON payload to the view and gives the event that the application's receiver got."""
    set_up_django()
    from anymail.signals import inbound
    from django.test import Client

    def send(body: bytes) -> Any:
        events: list[Any] = []

        def receive(event: Any, **_: Any) -> None:
            events.append(event)

        inbound.connect(receive)
        try:
            answer = Client().post(
                "/inbound/", data=body, content_type="application/json", headers={"authorization": "Basic dXNlcjpwYXNz"}
            )
        finally:
            inbound.disconnect(receive)
        assert answer.status_code == 200
        (event,) = events
        return event

    return send


@pytest.mark.parametrize("with_raw", [False, True])
def test_people_texts_and_the_envelope(post: Post, with_raw: bool) -> None:
    event = post(_body(MAIL, ENVELOPE, with_raw))
    message = event.message
    assert (event.event_type, event.event_id) == ("inbound", DELIVERY_ID)
    assert (message.envelope_sender, message.envelope_recipient) == ("ann@example.com", "bob@example.net")
    assert (message.from_email.display_name, message.from_email.addr_spec) == ("Müller, Ann", "ann+sales@example.com")
    assert [person.addr_spec for person in message.to] == ["bob@example.net", "dave+7@example.org"]
    assert [str(person) for person in message.cc] == ["Eve <eve@example.org>"]
    assert [str(person) for person in message.bcc] == ["carol@example.net"]
    assert message.subject == "Grüße"
    assert message.date.isoformat() == "2026-11-20T01:02:03+01:00"
    assert message.text.replace("\r\n", "\n") == "Danke\n\nOn 2026-11-20 10:11, Bob wrote:\n> old\n"
    assert message.html.strip() == '<p>Danke <img src="cid:logo@example.com"></p>'
    assert message.stripped_text == "Danke"
    assert (message["Message-ID"], message["Reply-To"]) == ("<2@example.com>", "answers@example.com")
    assert message.get_all("Received") == ["from one", "from two"]


@pytest.mark.parametrize("with_raw", [False, True])
def test_files_and_inline_images(post: Post, with_raw: bool) -> None:
    message = post(_body(MAIL, ENVELOPE, with_raw)).message
    logo = message.content_id_map["logo@example.com"]
    assert (logo.get_content_type(), logo.get_content_bytes()) == ("image/png", b"logo")
    pdf = _part_named(message, "Übersicht 2024.pdf")
    assert (pdf.get_content_type(), pdf.get_content_bytes()) == ("application/pdf", PDF)
    if with_raw:
        # Out of the parsed payload this reader takes every attachment for inline: Postmark's ContentID is never null.
        assert [part.get_filename() for part in message.attachments] == ["Übersicht 2024.pdf"]


@pytest.mark.parametrize("with_raw", [False, True])
@pytest.mark.parametrize("raw", [MAIL, HOSTILE])
def test_the_spam_verdict_is_ours_whatever_the_message_claims(post: Post, raw: bytes, with_raw: bool) -> None:
    message = post(_body(raw, JUDGED, with_raw)).message
    assert (message.spam_detected, message.spam_score) == (True, 7.25)
    assert str(message["Received-SPF"]).startswith("Pass identity=mailfrom; client-ip=198.51.100.9")
    assert message.envelope_sender == "ann@example.com"


def test_no_spam_check_no_verdict(post: Post) -> None:
    message = post(_body(MAIL, ENVELOPE, False)).message
    assert (message.spam_detected, message.spam_score) == (False, None)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_accepted(post: Post, name: str) -> None:
    event = post(rendered_sample(TargetFormat.POSTMARK, SAMPLES[name]).body)
    assert event.message.envelope_recipient == SAMPLES[name].envelope.recipients[0]


def test_an_attached_message_and_an_empty_file(post: Post) -> None:
    raw = (
        b"From: a@example.com\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: within\r\n\r\nhello\r\n"
        b"--b\r\nContent-Type: application/zip; name=empty.zip\r\n\r\n\r\n--b--\r\n"
    )
    message = post(_body(raw, ENVELOPE, False)).message
    (within,) = [part for part in message.walk() if part.get_content_type() == "message/rfc822"]
    assert within.get_payload(0)["Subject"] == "within"
    assert _part_named(message, "empty.zip").get_content_bytes() == b""


def test_a_message_with_its_own_bcc_header(post: Post) -> None:
    message = post(_body(b"Bcc: bob@example.net\r\nFrom: a@example.com\r\n\r\nx", ENVELOPE, False)).message
    assert [person.addr_spec for person in message.bcc] == ["bob@example.net", "carol@example.net"]


def _body(raw: bytes, envelope: Envelope, with_raw: bool) -> bytes:
    options = replace(OPTIONS, with_raw=with_raw)
    return render(TargetFormat.POSTMARK, raw, partial(parse_message, raw), envelope, options).body


def _part_named(message: Any, file_name: str) -> Any:
    (part,) = [part for part in message.walk() if part.get_filename() == file_name]
    return part
