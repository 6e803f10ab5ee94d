"""The formats as an endpoint receives them, read back by Werkzeug, Django and the standard library."""

from __future__ import annotations

import base64

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.formats import TargetFormat
from inbound.payloads import render
from inbound.payloads.header_fields import MAX_NAME_LENGTH, form_name, header_key
from inbound.payloads.multipart_n import MAX_HEADER_FIELDS, MIN_HEADER_FIELDS
from inbound.reading.parse import parse_message
from inbound.reading.parsed import ParsedMessage
from tests.payload_readers import read_with_django, read_with_standard_library, read_with_werkzeug
from tests.payload_samples import BOUNCE, ENVELOPE, HOSTILE, MAIL, OPTIONS, PDF, rendered

FORMS = [TargetFormat.MULTIPART_N, TargetFormat.MULTIPART]


@pytest.fixture(scope="module")
def document() -> dict[str, object]:
    payload = rendered(TargetFormat.JSON_N, MAIL)
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
    own = orjson.loads(rendered(TargetFormat.JSON_N, raw).body)["pillarbox"]
    assert own == {
        "defects": [{"kind": "part_not_closed", "detail": "a multipart has no closing boundary"}],
        "charsets": {"plain": {"declared": "cp-850", "used": "ibm850"}},
    }


def test_json_of_a_message_with_nothing_in_it_has_nulls() -> None:
    document = orjson.loads(rendered(TargetFormat.JSON_N, b"Content-Type: application/zip\r\n\r\nx", BOUNCE).body)
    assert (document["plain"], document["html"], document["reply_plain"]) == (None, None, None)
    assert (document["envelope"]["from"], document["envelope"]["tls"]) == ("", False)
    assert document["envelope"]["tls_cipher"] is None
    assert document["envelope"]["helo_domain"] == "h?"


def test_a_reply_in_html_alone_has_a_reply_text() -> None:
    raw = b"Content-Type: text/html\r\n\r\n<p>Yes</p><blockquote type=cite>Shall we?</blockquote>"
    document = orjson.loads(rendered(TargetFormat.JSON_N, raw).body)
    assert (document["plain"], document["reply_plain"]) == (None, "Yes")


def test_form_fields_have_the_same_names() -> None:
    form = read_with_werkzeug(rendered(TargetFormat.MULTIPART_N, MAIL))
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
    assert [name for name, *_ in form.files] == ["attachments[]", "attachments[]"]


def test_form_files_have_readable_names_types_ids_and_exact_bytes() -> None:
    payload = rendered(TargetFormat.MULTIPART_N, MAIL)
    pdf, logo = read_with_werkzeug(payload).files
    assert pdf == ("attachments[]", "Übersicht 2024.pdf", "application/pdf", PDF)
    assert logo == ("attachments[]", "logo.png", "image/png", b"logo")
    assert b"Content-Type: image/png\r\nContent-ID: <logo@example.com>\r\n\r\nlogo\r\n" in payload.body


@pytest.mark.parametrize("target_format", FORMS)
def test_form_reads_the_same_with_other_parsers(target_format: TargetFormat) -> None:
    payload = rendered(target_format, MAIL)
    ours = read_with_werkzeug(payload)
    assert read_with_standard_library(payload) == ours
    assert read_with_django(payload) == ours


def test_multipart_has_names_as_they_stood_and_numbered_files() -> None:
    form = read_with_werkzeug(rendered(TargetFormat.MULTIPART, MAIL))
    assert form["headers[Received][1]"] == "from two"
    assert (form["headers[Message-ID]"], form["headers[Subject]"]) == ("<2@example.com>", "Grüße")
    assert form["envelope[recipients][1]"] == "carol@example.net"
    assert [name for name, *_ in form.files] == ["attachments[0]", "attachments[1]"]


def test_json_and_multipart_differ_from_the_normalised_in_header_names_only() -> None:
    ours = orjson.loads(rendered(TargetFormat.JSON, MAIL).body)
    normalised = orjson.loads(rendered(TargetFormat.JSON_N, MAIL).body)
    headers = ours.pop("headers")
    assert headers["Received"] == ["from one", "from two"]
    assert {header_key(name): value for name, value in headers.items()} == normalised.pop("headers")
    assert ours == normalised


def test_headers_that_differ_in_case_stand_under_the_first_spelling() -> None:
    raw = b"SUBJECT: one\r\nX-A: a\r\nSubject: two\r\nsubject: three\r\n\r\n"
    headers = orjson.loads(rendered(TargetFormat.JSON, raw).body)["headers"]
    assert headers == {"SUBJECT": ["one", "two", "three"], "X-A": "a"}
    assert read_with_werkzeug(rendered(TargetFormat.MULTIPART, raw))["headers[SUBJECT][2]"] == "three"


def test_null_is_absent_from_a_form() -> None:
    form = read_with_werkzeug(rendered(TargetFormat.MULTIPART_N, b"Content-Type: application/zip\r\n\r\nx", BOUNCE))
    assert not {"plain", "html", "reply_plain", "envelope[tls_cipher]"} & set(dict(form.fields))
    assert (form["envelope[tls]"], form["envelope[from]"]) == ("false", "")


@pytest.mark.parametrize("target_format", FORMS)
def test_a_form_of_very_many_headers_stays_within_what_frameworks_accept(target_format: TargetFormat) -> None:
    raw = b"".join(b"A%d: x\r\n" % number for number in range(1500)) + b"B: x\r\n" * 400 + b"\r\nbody"
    payload = rendered(target_format, raw)
    for form in (read_with_werkzeug(payload), read_with_django(payload)):
        assert sum(name.startswith("headers[") for name, _ in form.fields) == MAX_HEADER_FIELDS
        assert form["pillarbox[headers_omitted]"] == "true"
    assert len(orjson.loads(rendered(TargetFormat.JSON_N, raw).body)["headers"]) == 1501


@pytest.mark.parametrize("target_format", FORMS)
def test_headers_make_room_for_very_many_attachments(target_format: TargetFormat) -> None:
    head = b"".join(b"A%d: x\r\n" % number for number in range(600))
    part = b"--b\r\nContent-Type: image/png\r\n\r\nx\r\n"
    raw = head + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part * 900 + b"--b--\r\n"
    form = read_with_werkzeug(rendered(target_format, raw))
    assert len(form.files) == 900
    headers = sum(name.startswith("headers[") for name, _ in form.fields)
    assert MIN_HEADER_FIELDS <= headers < 90
    assert len(form.fields) + len(form.files) <= 1000


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
    form = read_with_werkzeug(rendered(TargetFormat.MULTIPART_N, raw))
    assert (form["headers[headers_x]"], form["headers[x_filename_y]"]) == ("1", "2")
    assert form.files == []


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Message-ID", "Message-ID"),
        ("X-Foo_Bar.baz", "X-Foo_Bar.baz"),
        ("x[y]", "x%5By%5D"),
        ("__proto__", "%5F_proto__"),
        ("_one", "_one"),
        ('a"b', "a%22b"),
        ("a;filename=x", "a%3Bfilename=x"),
        ("100%", "100%25"),
        ("Ü", "%C3%9C"),
        ("a\\", "a%5C"),
    ],
)
def test_names_as_they_stood_lose_their_syntax_in_a_form(name: str, written: str) -> None:
    assert form_name(name) == written


def test_hostile_names_stand_as_they_are_in_json_and_escaped_in_a_form() -> None:
    headers = orjson.loads(rendered(TargetFormat.JSON, HOSTILE).body)["headers"]
    assert (headers["headers][x"], headers["x[y]"], headers['x";filename="y'], headers["__proto__"]) == tuple("1234")
    assert headers["X-%41\\\N{REPLACEMENT CHARACTER}"] == "5"
    assert headers["L" * MAX_NAME_LENGTH] == "6"
    payload = rendered(TargetFormat.MULTIPART, HOSTILE)
    for form in (read_with_werkzeug(payload), read_with_django(payload)):
        assert (form["headers[x%5By%5D]"], form["headers[%5F_proto__]"]) == ("2", "4")
        assert form["headers[X-%2541%5C%EF%BF%BD]"] == "5"
        assert form["headers[SUBJECT][1]"] == "two"
        assert form.files == []


@pytest.mark.parametrize(
    "raw", [MAIL, b"Subject: \xff\xfe\x00\r\n\r\n\x80\r\n--pillarbox-\r\n", "Grüße\r\n".encode(), b""]
)
def test_raw_carries_the_message_byte_for_byte_and_parses_nothing(raw: bytes) -> None:
    payload = render(TargetFormat.RAW, raw, _must_not_be_called, ENVELOPE, OPTIONS)
    form = read_with_werkzeug(payload)
    assert read_with_django(payload)["message"] == raw.decode("utf-8", "replace")
    text = form["message"]
    assert text in (raw.decode("utf-8", "replace"), raw.decode("iso-8859-1"))
    assert raw in (text.encode("utf-8"), text.encode("iso-8859-1", "replace"))
    assert form["envelope[recipients][1]"] == "carol@example.net"
    assert form.files == []
    assert b"\r\n\r\n" + raw + b"\r\n--pillarbox-" in payload.body


def test_every_format_has_a_renderer() -> None:
    for target_format in TargetFormat:
        assert rendered(target_format, MAIL).body


def test_two_payloads_never_share_a_boundary() -> None:
    first, second = (rendered(TargetFormat.MULTIPART_N, MAIL).content_type for _ in range(2))
    assert first != second


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=800), st.sampled_from([b"", b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"]))
def test_any_message_renders_in_any_format_and_reads_back(noise: bytes, start: bytes) -> None:
    raw = start + noise
    message = parse_message(raw)
    for target_format in (TargetFormat.JSON_N, TargetFormat.JSON, TargetFormat.POSTMARK):
        orjson.loads(rendered(target_format, raw).body)
    for target_format in (*FORMS, TargetFormat.ORIGINAL):
        assert read_with_werkzeug(rendered(target_format, raw)).fields
    for target_format in FORMS:
        form = read_with_werkzeug(rendered(target_format, raw))
        assert dict(form.fields).get("plain") == message.plain
        assert [content for *_, content in form.files] == [found.content for found in message.attachments]
        assert [name for _, name, *_ in form.files] == [found.file_name for found in message.attachments]


def _must_not_be_called() -> ParsedMessage:
    raise AssertionError("raw needs no parsing")
