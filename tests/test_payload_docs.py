"""The examples of docs/payloads.md are what the code really sends."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import orjson
from werkzeug.formparser import parse_form_data

from core.envelope import Envelope
from core.formats import TargetFormat
from inbound.parse import parse_message
from inbound.parsed import DefectKind
from inbound.payloads import Payload, render

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "payloads.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RAW = next(text for kind, text in BLOCKS if kind == "eml").replace("\n", "\r\n").encode()
ENVELOPE = Envelope(
    mail_from="juergen@example.com",
    recipients=("help@example.net",),
    helo="b.example.com",
    remote_ip="192.0.2.7",
    tls_version="TLSv1.3",
    tls_cipher="TLS_AES_256_GCM_SHA384",
    md5="5eb63bbbe01eeed093cb22bb8f5acdc3",
    received_at=datetime(2026, 11, 20, 10, tzinfo=UTC),
)


def test_the_json_example_is_what_is_sent() -> None:
    documented = next(text for kind, text in BLOCKS if kind == "json")
    assert orjson.loads(_render(TargetFormat.JSON_N).body) == orjson.loads(documented)


def test_the_form_example_is_what_is_sent() -> None:
    documented = next(text for kind, text in BLOCKS if kind == "form")
    assert _lines(_render(TargetFormat.MULTIPART_N)) == documented


def test_the_raw_example_is_what_is_sent() -> None:
    documented = [text for kind, text in BLOCKS if kind == "form"][1]
    sent = _lines(_render(TargetFormat.RAW))
    assert sent.replace(RAW.decode().replace("\r\n", "↵"), "(the message)") == documented


def test_every_format_and_every_defect_has_its_place_in_the_docs() -> None:
    parsing = (DOCS / "parsing.md").read_text("utf-8")
    assert [target_format for target_format in TargetFormat if f"## {target_format}" not in PAGE] == []
    assert [kind for kind in DefectKind if f"| `{kind}` |" not in parsing] == []


def _render(target_format: TargetFormat) -> Payload:
    return render(target_format, RAW, partial(parse_message, RAW), ENVELOPE)


def _lines(payload: Payload) -> str:
    environ = {
        "wsgi.input": io.BytesIO(payload.body),
        "CONTENT_LENGTH": str(len(payload.body)),
        "CONTENT_TYPE": payload.content_type,
    }
    _, form, files = parse_form_data(environ)
    lines = [f"{name}={value}" for name, value in form.items(multi=True)]
    lines += [f"{name}=@{file.filename};type={file.content_type}" for name, file in files.items(multi=True)]
    return "".join(line.replace("\r\n", "↵") + "\n" for line in lines)
