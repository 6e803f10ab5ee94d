"""`original` as an endpoint of its time receives it: its fields, and the MD5 over them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import orjson
import pytest

from core.formats import TargetFormat
from inbound.payloads.original import signature
from tests.payload_readers import read_with_django, read_with_werkzeug
from tests.payload_samples import BOUNCE, ENVELOPE, JUDGED, MAIL, SAMPLES, SECRET, rendered, rendered_sample


def test_the_fields() -> None:
    form = read_with_werkzeug(rendered(TargetFormat.ORIGINAL, MAIL))
    assert form["message"].encode() == MAIL
    assert form["plain"].startswith("Danke\r\n")
    assert form["html"].startswith("<p>Danke")
    assert (form["to"], form["from"]) == ("bob@example.net", "ann@example.com")
    assert orjson.loads(form["recipients"]) == ["bob@example.net", "carol@example.net"]
    assert form["x_to_header"] == "bob@example.net,dave+7@example.org"
    assert form["x_cc_header"] == "eve@example.org"
    assert form["x_from_header"] == "ann+sales@example.com"
    assert (form["subject"], form["reply_plain"], form["disposable"]) == ("Grüße", "Danke", "")
    assert form.files == []
    assert not {"x_sender", "x_forwarded_for", "spf[result]"} & set(dict(form.fields))


def test_rare_headers_and_the_part_behind_the_plus() -> None:
    raw = b"X-Sender: s@example.com\r\nX-Forwarded-For: a@example.com b@example.net\r\n"
    raw += b"To: a@x.example\r\nTo: b@x.example\r\n\r\n"
    envelope = replace(ENVELOPE, recipients=("bob+a+b@example.net",))
    form = read_with_werkzeug(rendered(TargetFormat.ORIGINAL, raw, envelope))
    assert form["disposable"] == "a+b"
    assert (form["x_sender"], form["x_forwarded_for"]) == ("s@example.com", "a@example.com b@example.net")
    assert form["x_to_header"] == "a@x.example,b@x.example"


def test_what_is_not_there_is_absent() -> None:
    form = read_with_werkzeug(rendered(TargetFormat.ORIGINAL, b"Content-Type: application/zip\r\n\r\nx", BOUNCE))
    assert [name for name, _ in form.fields] == ["message", "to", "from", "recipients", "disposable", "signature"]
    assert form["from"] == ""


def test_a_stored_attachment_has_fields_and_others_stay_in_the_message() -> None:
    form = read_with_werkzeug(rendered_sample(TargetFormat.ORIGINAL, SAMPLES["judged_and_stored"]))
    assert form["attachments[0][url]"] == "https://store.example/a/1f0c?sig=a%2Fb"
    assert form["attachments[0][file_name]"] == "Übersicht 2024.pdf"
    assert "attachments[1][file_name]" not in form


def test_the_signature_of_known_values() -> None:
    """Sorted by name: `a`, `b`, `spf[domain]`, `spf[result]`; then the secret."""
    values = {"spf[result]": b"4", "b": b"2", "spf[domain]": b"3", "a": "é".encode()}
    assert signature(values, "geheim") == hashlib.md5("é234geheim".encode()).hexdigest()


@pytest.mark.parametrize("name", SAMPLES)
def test_whoever_has_the_secret_can_check_the_signature(name: str) -> None:
    """Over what another parser read, sorted by name; the message's bytes are those that were sent."""
    sample = SAMPLES[name]
    form = read_with_werkzeug(rendered_sample(TargetFormat.ORIGINAL, sample))
    values = {key: value.encode() for key, value in form.fields} | {"message": sample.raw}
    provided = values.pop("signature").decode()
    expected = hashlib.md5(b"".join(values[key] for key in sorted(values)) + SECRET.encode()).hexdigest()
    assert provided == expected


def test_the_signature_holds_the_secret() -> None:
    one = read_with_werkzeug(rendered(TargetFormat.ORIGINAL, MAIL))
    values = {name: value.encode() for name, value in one.fields if name != "signature"}
    assert one["signature"] == signature(values, SECRET) != signature(values, "whsec_other")


def test_django_reads_the_same() -> None:
    payload = rendered(TargetFormat.ORIGINAL, MAIL, JUDGED)
    ours = read_with_werkzeug(payload)
    assert read_with_django(payload) == ours


@pytest.mark.parametrize("raw", [b"Subject: \xe9\r\n\r\n\x80", b"", b"Subject: x\r\n\r\n--pillarbox-\r\n"])
def test_the_message_is_there_byte_for_byte(raw: bytes) -> None:
    payload = rendered(TargetFormat.ORIGINAL, raw)
    assert b"\r\n\r\n" + raw + b"\r\n--pillarbox-" in payload.body
    text = read_with_werkzeug(payload)["message"]
    assert raw in (text.encode("utf-8"), text.encode("iso-8859-1", "replace"))
