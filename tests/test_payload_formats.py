"""The three formats as an endpoint receives them, read back by Werkzeug and by the standard library."""

from __future__ import annotations

import base64
import email
import email.policy
import io
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import partial

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.formparser import parse_form_data

from core.envelope import Envelope
from core.formats import TargetFormat
from inbound.parse import parse_message
from inbound.parsed import ParsedMessage
from inbound.payloads import Payload, render
from inbound.payloads.fields import header_key
from inbound.payloads.multipart_n import MAX_HEADER_FIELDS

ENVELOPE = Envelope(
    mail_from="ann@example.com",
    recipients=("bob@example.net", "carol@example.net"),
    helo="mail.example.com",
    remote_ip="192.0.2.7",
    tls_version="TLSv1.3",
    tls_cipher="TLS_AES_256_GCM_SHA384",
    md5="0123456789abcdef0123456789abcdef",
    received_at=datetime(2026, 11, 20, tzinfo=UTC),
)
BOUNCE = Envelope("", ("bob@example.net",), "h\udcff", "2001:db8::1", None, None, "0" * 32, ENVELOPE.received_at)
PDF = bytes(range(256)) + b"\r\n--pillarbox-\r\n"


def _mail() -> bytes:
    message = EmailMessage(policy=email.policy.SMTP)
    message["Received"] = "from one"
    message["Received"] = "from two"
    message["Subject"] = "Grüße"
    message["X-Custom-Header"] = "x"
    message.set_content("Danke\n\nOn 2026-11-20 10:11, Bob wrote:\n> old\n")
    message.add_alternative('<p>Danke <img src="cid:logo@example.com"></p>', subtype="html")
    message.add_attachment(PDF, "application", "pdf", filename="Übersicht 2024.pdf")
    message.add_attachment(b"logo", "image", "png", filename="logo.png", cid="<logo@example.com>")
    return message.as_bytes()


MAIL = _mail()


@pytest.fixture(scope="module")
def document() -> dict[str, object]:
    payload = _render(TargetFormat.JSON_N, MAIL)
    assert payload.content_type == "application/json"
    return dict(orjson.loads(payload.body))


def test_json_headers_are_a_string_or_an_array_in_message_order(document: dict[str, object]) -> None:
    headers = document["headers"]
    assert isinstance(headers, dict)
    assert headers["received"] == ["from one", "from two"]
    assert headers["subject"] == "Grüße"
    assert headers["x_custom_header"] == "x"


def test_json_envelope_has_the_names_of_the_contract_and_claims_no_check(document: dict[str, object]) -> None:
    assert document["envelope"] == {
        "to": "bob@example.net",
        "recipients": ["bob@example.net", "carol@example.net"],
        "from": "ann@example.com",
        "helo_domain": "mail.example.com",
        "remote_ip": "192.0.2.7",
        "tls": True,
        "tls_cipher": "TLSv1.3",
        "md5": "0123456789abcdef0123456789abcdef",
    }


def test_json_bodies_and_reply(document: dict[str, object]) -> None:
    assert document["plain"] == "Danke\r\n\r\nOn 2026-11-20 10:11, Bob wrote:\r\n> old\r\n"
    assert str(document["html"]).startswith("<p>Danke")
    assert document["reply_plain"] == "Danke"


def test_json_attachments_carry_their_bytes_in_base64(document: dict[str, object]) -> None:
    pdf, logo = document["attachments"]  # type: ignore[misc]
    assert base64.b64decode(pdf.pop("content")) == PDF
    assert pdf == {
        "file_name": "Übersicht 2024.pdf",
        "content_type": "application/pdf",
        "size": len(PDF),
        "disposition": "attachment",
        "content_id": None,
    }
    assert (logo["disposition"], logo["content_id"]) == ("inline", "logo@example.com")


def test_json_tells_charsets_and_defects() -> None:
    raw = b'Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset="cp-850"\r\n\r\nx'
    own = orjson.loads(_render(TargetFormat.JSON_N, raw).body)["pillarbox"]
    assert own == {
        "defects": [{"kind": "part_not_closed", "detail": "a multipart has no closing boundary"}],
        "charsets": {"plain": {"declared": "cp-850", "used": "ibm850"}},
    }


def test_json_of_a_message_with_nothing_in_it_has_nulls() -> None:
    document = orjson.loads(_render(TargetFormat.JSON_N, b"Content-Type: application/zip\r\n\r\nx", BOUNCE).body)
    assert (document["plain"], document["html"], document["reply_plain"]) == (None, None, None)
    assert (document["envelope"]["from"], document["envelope"]["tls"]) == ("", False)
    assert document["envelope"]["tls_cipher"] is None
    assert document["envelope"]["helo_domain"] == "h?"


def test_form_fields_have_the_same_names() -> None:
    form, files = _werkzeug(_render(TargetFormat.MULTIPART_N, MAIL))
    assert form["envelope[to]"] == "bob@example.net"
    assert form["envelope[recipients][1]"] == "carol@example.net"
    assert form["envelope[from]"] == "ann@example.com"
    assert form["envelope[tls]"] == "true"
    assert form["headers[received][0]"] == "from one"
    assert form["headers[received][1]"] == "from two"
    assert form["headers[subject]"] == "Grüße"
    assert form["plain"].startswith("Danke\r\n")
    assert form["reply_plain"] == "Danke"
    assert form["pillarbox[charsets][plain][used]"] == "utf-8"
    assert [name for name, _ in files.items(multi=True)] == ["attachments[]", "attachments[]"]


def test_form_files_have_readable_names_types_ids_and_exact_bytes() -> None:
    _, files = _werkzeug(_render(TargetFormat.MULTIPART_N, MAIL))
    pdf, logo = files.getlist("attachments[]")
    assert (pdf.filename, pdf.content_type, pdf.read()) == ("Übersicht 2024.pdf", "application/pdf", PDF)
    assert logo.headers["Content-ID"] == "<logo@example.com>"


def test_form_reads_the_same_with_another_parser() -> None:
    payload = _render(TargetFormat.MULTIPART_N, MAIL)
    form, files = _werkzeug(payload)
    theirs_form, theirs_files = _standard_library(payload)
    assert theirs_form == list(form.items(multi=True))
    assert theirs_files == [(name, file.filename, file.read()) for name, file in files.items(multi=True)]


def test_null_is_absent_from_a_form() -> None:
    form, _ = _werkzeug(_render(TargetFormat.MULTIPART_N, b"Content-Type: application/zip\r\n\r\nx", BOUNCE))
    assert not {"plain", "html", "reply_plain", "envelope[tls_cipher]"} & set(form)
    assert (form["envelope[tls]"], form["envelope[from]"]) == ("false", "")


def test_a_form_of_very_many_headers_stays_within_what_frameworks_accept() -> None:
    raw = b"".join(b"A%d: x\r\n" % number for number in range(1500)) + b"B: x\r\n" * 400 + b"\r\nbody"
    form, _ = _werkzeug(_render(TargetFormat.MULTIPART_N, raw))
    assert sum(name.startswith("headers[") for name in form) == MAX_HEADER_FIELDS
    assert form["pillarbox[headers_omitted]"] == "true"
    assert len(orjson.loads(_render(TargetFormat.JSON_N, raw).body)["headers"]) == 1501


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Message-ID", "message_id"),
        ("X-Foo_Bar", "x_foo_bar"),
        ("x[y]", "x_y_"),
        ("__proto__", "proto__"),
        ('a"b', "a_b"),
        ("a;filename=x", "a_filename_x"),
        ("---", "unnamed"),
        ("Ünïcode", "n_code"),
    ],
)
def test_hostile_header_names_lose_their_syntax(name: str, key: str) -> None:
    assert header_key(name) == key


def test_a_hostile_header_name_opens_no_array_and_no_part() -> None:
    raw = b'headers][x: 1\r\nx";filename="y: 2\r\nSubject: ok\r\n\r\nbody'
    form, files = _werkzeug(_render(TargetFormat.MULTIPART_N, raw))
    assert (form["headers[headers_x]"], form["headers[x_filename_y]"]) == ("1", "2")
    assert len(files) == 0


@pytest.mark.parametrize(
    "raw", [MAIL, b"Subject: \xff\xfe\x00\r\n\r\n\x80\r\n--pillarbox-\r\n", "Grüße\r\n".encode(), b""]
)
def test_raw_carries_the_message_byte_for_byte_and_parses_nothing(raw: bytes) -> None:
    payload = render(TargetFormat.RAW, raw, _must_not_be_called, ENVELOPE)
    form, files = _werkzeug(payload)
    text = form["message"]
    assert text in (raw.decode("utf-8", "replace"), raw.decode("iso-8859-1"))
    assert raw in (text.encode("utf-8"), text.encode("iso-8859-1", "replace"))
    assert form["envelope[recipients][1]"] == "carol@example.net"
    assert len(files) == 0
    assert b"\r\n\r\n" + raw + b"\r\n--pillarbox-" in payload.body


def test_every_format_has_a_renderer() -> None:
    for target_format in TargetFormat:
        assert _render(target_format, MAIL).body


def test_two_payloads_never_share_a_boundary() -> None:
    first, second = (_render(TargetFormat.MULTIPART_N, MAIL).content_type for _ in range(2))
    assert first != second


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=800), st.sampled_from([b"", b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"]))
def test_any_message_renders_in_any_format_and_reads_back(noise: bytes, start: bytes) -> None:
    raw = start + noise
    orjson.loads(_render(TargetFormat.JSON_N, raw).body)
    message = parse_message(raw)
    form, files = _werkzeug(_render(TargetFormat.MULTIPART_N, raw))
    assert form.get("plain") == message.plain
    assert [file.read() for _, file in files.items(multi=True)] == [found.content for found in message.attachments]
    assert [file.filename for _, file in files.items(multi=True)] == [found.file_name for found in message.attachments]


def _must_not_be_called() -> ParsedMessage:
    raise AssertionError("raw needs no parsing")


def _render(target_format: TargetFormat, raw: bytes, envelope: Envelope = ENVELOPE) -> Payload:
    return render(target_format, raw, partial(parse_message, raw), envelope)


def _werkzeug(payload: Payload) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
    """Read as a Flask application would, with Flask's default limits."""
    environ = {
        "wsgi.input": io.BytesIO(payload.body),
        "CONTENT_LENGTH": str(len(payload.body)),
        "CONTENT_TYPE": payload.content_type,
        "REQUEST_METHOD": "POST",
    }
    _, form, files = parse_form_data(environ, silent=False, max_form_memory_size=500_000, max_form_parts=1000)
    return form, files


def _standard_library(payload: Payload) -> tuple[list[tuple[str, str]], list[tuple[str, str, bytes]]]:
    head = f"Content-Type: {payload.content_type}\r\n\r\n".encode()
    parts = email.message_from_bytes(head + payload.body, policy=email.policy.HTTP).get_payload()
    form: list[tuple[str, str]] = []
    files: list[tuple[str, str, bytes]] = []
    assert isinstance(parts, list)
    for part in parts:
        raw_disposition = dict(part.raw_items())["Content-Disposition"]
        disposition = raw_disposition.encode("ascii", "surrogateescape").decode("utf-8")
        name = disposition.split('name="')[1].split('"')[0]
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if 'filename="' in disposition:
            files.append((name, disposition.split('filename="')[1].split('"')[0], content))
        else:
            form.append((name, content.decode("utf-8")))
    return form, files
