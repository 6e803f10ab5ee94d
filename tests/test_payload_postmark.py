"""`postmark` as the vendor's documentation and clients have it, traps included."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest
from postmark_inbound import PostmarkInbound

from core.envelope import Envelope
from core.formats import TargetFormat
from core.verdicts import AuthResult, SpamVerdict, SpfVerdict, Verdicts
from inbound.payloads import render
from inbound.reading.parse import parse_message
from tests.payload_samples import (
    BOUNCE,
    DELIVERY_ID,
    ENVELOPE,
    HOSTILE,
    JUDGED,
    MAIL,
    OPTIONS,
    PDF,
    SAMPLES,
    rendered_sample,
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return _document(MAIL)


def test_there_is_no_record_type_and_the_stream_is_inbound(document: dict[str, Any]) -> None:
    assert "RecordType" not in document
    assert document["MessageStream"] == "inbound"
    assert document["MessageID"] == DELIVERY_ID


def test_people(document: dict[str, Any]) -> None:
    sender = {"Email": "ann+sales@example.com", "Name": "Müller, Ann", "MailboxHash": "sales"}
    assert (document["From"], document["FromName"]) == ("ann+sales@example.com", "Müller, Ann")
    assert document["FromFull"] == sender
    assert document["To"] == '"Bob" <bob@example.net>, dave+7@example.org'
    assert document["ToFull"] == [
        {"Email": "bob@example.net", "Name": "Bob", "MailboxHash": ""},
        {"Email": "dave+7@example.org", "Name": "", "MailboxHash": "7"},
    ]
    assert (document["Cc"], document["CcFull"][0]["Name"]) == ('"Eve" <eve@example.org>', "Eve")
    assert document["OriginalRecipient"] == "bob@example.net"
    assert document["ReplyTo"] == "answers@example.com"


def test_whoever_got_it_and_is_not_named_got_a_blind_copy(document: dict[str, Any]) -> None:
    """bob is in To; carol is in no header."""
    assert document["Bcc"] == "carol@example.net"
    assert document["BccFull"] == [{"Email": "carol@example.net", "Name": "", "MailboxHash": ""}]


@pytest.mark.parametrize(
    ("headers", "bcc"),
    [
        (b"To: BOB@Example.NET\r\nCc: carol@example.net\r\n", ""),
        (b"To: x@example.org\r\nBcc: Carol <carol@example.net>\r\n", '"Carol" <carol@example.net>, bob@example.net'),
        (b"", "bob@example.net, carol@example.net"),
    ],
)
def test_bcc(headers: bytes, bcc: str) -> None:
    assert _document(headers + b"\r\n")["Bcc"] == bcc


def test_case_makes_no_blind_copy() -> None:
    envelope = replace(ENVELOPE, recipients=("BOB@example.net",))
    assert _document(b"To: bob@Example.NET\r\n\r\n", envelope)["Bcc"] == ""


def test_mailbox_hash_is_that_of_the_recipients_not_of_others_in_to(document: dict[str, Any]) -> None:
    assert document["MailboxHash"] == ""
    recipients = ("bob@example.net", "box+ticket-7+b@example.net", "c+d@example.net")
    assert _document(MAIL, replace(ENVELOPE, recipients=recipients))["MailboxHash"] == "ticket-7+b"


def test_texts(document: dict[str, Any]) -> None:
    assert document["Subject"] == "Grüße"
    assert document["Date"] == "Fri, 20 Nov 2026 01:02:03 +0100"
    assert document["TextBody"] == "Danke\r\n\r\nOn 2026-11-20 10:11, Bob wrote:\r\n> old\r\n"
    assert document["HtmlBody"].startswith("<p>Danke")
    assert document["Tag"] == ""
    assert _document(b"X-PM-Tag: welcome\r\n\r\n")["Tag"] == "welcome"


@pytest.mark.parametrize(
    ("raw", "stripped"),
    [
        (b"In-Reply-To: <1@x>\r\n\r\nyes\r\n> no\r\n", "yes"),
        (b"References: <1@x>\r\n\r\nyes\r\n> no\r\n", "yes"),
        (b"Subject: Re: x\r\n\r\nyes\r\n> no\r\n", ""),
        (b"In-Reply-To: <1@x>\r\nContent-Type: text/html\r\n\r\n<p>yes</p>", ""),
    ],
)
def test_only_a_reply_with_a_plain_text_has_a_stripped_one(raw: bytes, stripped: str) -> None:
    assert _document(raw)["StrippedTextReply"] == stripped


def test_headers_stand_in_order_with_return_path_first_and_six_taken_out(document: dict[str, Any]) -> None:
    assert document["Headers"][0] == {"Name": "Return-Path", "Value": "<ann@example.com>"}
    assert [header["Name"] for header in document["Headers"]] == [
        "Return-Path",
        "Received",
        "Received",
        "Message-ID",
        "In-Reply-To",
        "X-Custom-Header",
        "MIME-Version",
        "Content-Type",
    ]
    assert [header["Value"] for header in document["Headers"][1:3]] == ["from one", "from two"]


def test_what_we_found_out_stands_above_what_the_sender_says_of_himself() -> None:
    headers = _document(HOSTILE, JUDGED)["Headers"]
    assert [(header["Name"], header["Value"]) for header in headers[:6]] == [
        ("Return-Path", "<ann@example.com>"),
        ("X-Spam-Checker-Version", "Pillarbox"),
        ("X-Spam-Status", "Yes"),
        ("X-Spam-Score", "7.25"),
        ("X-Spam-Tests", "HTML_MESSAGE,MISSING_DATE"),
        (
            "Received-SPF",
            "Pass identity=mailfrom; client-ip=198.51.100.9; helo=first.example.org; envelope-from=ann@example.com",
        ),
    ]
    names = [header["Name"] for header in headers[6:]]
    assert "X-Spam-Status" not in names
    assert "Return-Path" not in names
    assert names[:3] == ["headers][x", "x[y]", 'x";filename="y']


def test_without_a_spam_check_the_senders_own_header_stands_as_any_other() -> None:
    headers = _document(HOSTILE)["Headers"]
    assert [header["Value"] for header in headers if header["Name"].startswith("X-Spam")] == ["No"]
    failed = replace(ENVELOPE, verdicts=Verdicts(spam=SpamVerdict(success=False)))
    assert _document(HOSTILE, failed)["Headers"] == headers


def test_received_spf_quotes_and_never_breaks_the_line() -> None:
    envelope = replace(
        ENVELOPE,
        helo='a"b\r\nX-Evil: 1',
        mail_from="",
        verdicts=Verdicts(spf=SpfVerdict(AuthResult.SOFTFAIL, "x", is_helo=True)),
    )
    document = _document(MAIL, envelope, with_raw=True)
    expected = 'Softfail identity=helo; client-ip=192.0.2.7; helo="a\\"b  X-Evil: 1"; envelope-from=""'
    assert document["Headers"][1] == {"Name": "Received-SPF", "Value": expected}
    assert document["RawEmail"].startswith(f"Received-SPF: {expected}\nReceived: from one\n")


def test_attachments(document: dict[str, Any]) -> None:
    pdf, logo = document["Attachments"]
    assert base64.b64decode(pdf["Content"]) == PDF
    assert (pdf["Name"], pdf["ContentType"], pdf["ContentLength"]) == ("Übersicht 2024.pdf", "application/pdf", 272)
    assert (pdf["ContentID"], logo["ContentID"]) == ("", "logo@example.com")
    assert "Data" not in pdf


def test_a_stored_attachment_has_a_url_and_no_content() -> None:
    stored = orjson.loads(rendered_sample(TargetFormat.POSTMARK, SAMPLES["judged_and_stored"]).body)["Attachments"][0]
    assert (stored["Content"], stored["Data"], stored["ContentLength"]) == ("", "", 272)
    assert stored["Url"] == "https://store.example/a/1f0c?sig=a%2Fb"


@pytest.mark.parametrize(
    ("raw", "source"),
    [
        (MAIL, MAIL.decode("latin-1").replace("\r\n", "\n")),
        ("Subject: Grüße\r\n\r\nein\rzwei\n".encode(), "Subject: Grüße\n\nein\rzwei\n"),
        (b"Subject: \xe9\r\n\r\n\x80", "Subject: é\n\n\x80"),
    ],
)
def test_the_source_comes_when_asked_for_with_line_feeds(raw: bytes, source: str) -> None:
    assert "RawEmail" not in _document(raw)
    assert _document(raw, with_raw=True)["RawEmail"] == source


def test_nothing_is_missing_from_an_empty_message() -> None:
    document = _document(b"", BOUNCE)
    assert document["Headers"] == [{"Name": "Return-Path", "Value": "<>"}]
    assert document["Date"] == "Fri, 20 Nov 2026 00:00:00 +0000"
    assert document["FromFull"] == {"Email": "", "Name": "", "MailboxHash": ""}
    texts = ("From", "FromName", "To", "Cc", "Subject", "ReplyTo", "TextBody", "HtmlBody", "StrippedTextReply", "Tag")
    assert [document[name] for name in texts] == [""] * len(texts)
    assert (document["ToFull"], document["Attachments"], document["Bcc"]) == ([], [], "bob@example.net")


def test_a_client_library_written_for_postmark_reads_it() -> None:
    body = render(TargetFormat.POSTMARK, MAIL, partial(parse_message, MAIL), JUDGED, OPTIONS).body
    inbound = PostmarkInbound(json=body.decode())
    assert inbound.sender()["Email"] == "ann+sales@example.com"
    assert [person["Email"] for person in inbound.to()] == ["bob@example.net", "dave+7@example.org"]
    assert (inbound.subject(), inbound.bcc(), inbound.message_id()) == ("Grüße", "carol@example.net", DELIVERY_ID)
    assert inbound.headers("X-Spam-Status") == "Yes"
    assert inbound.headers("Received-SPF").startswith("Pass ")
    assert inbound.send_date() is not None
    assert [attachment.read() for attachment in inbound.attachments()] == [PDF, b"logo"]
    assert inbound.attachments(as_mime=True)[0].get_payload(decode=True) == PDF


def _document(raw: bytes, envelope: Envelope = ENVELOPE, with_raw: bool = False) -> dict[str, Any]:
    options = replace(OPTIONS, with_raw=with_raw)
    return dict(json.loads(render(TargetFormat.POSTMARK, raw, partial(parse_message, raw), envelope, options).body))
