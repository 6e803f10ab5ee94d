"""The examples of docs/payloads.md are what the code really sends, and its sample really verifies."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from core.envelope import Envelope
from core.formats import TargetFormat
from inbound.payloads import Payload, render
from inbound.payloads.header_fields import MAX_NAME_LENGTH
from inbound.payloads.multipart_n import MAX_HEADER_FIELDS, MIN_HEADER_FIELDS
from inbound.reading.parse import parse_message
from inbound.reading.parsed import DefectKind
from tests.payload_readers import FLASK_FORM_MEMORY, read_with_werkzeug
from tests.payload_samples import OPTIONS, SAMPLES, SCANS, SECRET, VERDICTS, rendered_sample

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "payloads.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
RAW = re.findall(r"^```eml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0].replace("\n", "\r\n").encode()
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


@pytest.mark.parametrize("target_format", [TargetFormat.JSON_N, TargetFormat.POSTMARK])
def test_the_json_examples_are_what_is_sent(target_format: TargetFormat) -> None:
    sent = orjson.loads(_render(target_format).body)
    documented = orjson.loads(_example(target_format, "json"))
    assert sent == documented
    assert list(sent) == list(documented)


def test_the_headers_of_json_are_what_is_sent() -> None:
    sent = orjson.loads(_render(TargetFormat.JSON).body)
    assert {"headers": sent["headers"]} == orjson.loads(_example("json", "json"))


@pytest.mark.parametrize("target_format", [TargetFormat.MULTIPART_N, TargetFormat.RAW, TargetFormat.ORIGINAL])
def test_the_form_examples_are_what_is_sent(target_format: TargetFormat) -> None:
    assert "".join(_lines(target_format)) == _example(target_format, "form")


def test_the_lines_of_multipart_are_those_that_differ() -> None:
    differing = [line for line in _lines(TargetFormat.MULTIPART) if line.startswith(("headers", "attachments"))]
    assert "".join(differing) == _example("multipart", "form")
    others = [line for line in _lines(TargetFormat.MULTIPART_N) if not line.startswith(("headers", "attachments"))]
    assert [line for line in _lines(TargetFormat.MULTIPART) if line not in differing] == others


def test_the_verdicts_are_what_is_sent() -> None:
    spam = replace(VERDICTS.spam, score=1.1, description="") if VERDICTS.spam else None
    verdicts = replace(VERDICTS, spam=spam, scans=SCANS[:1], judged_helo=None)
    envelope = replace(
        ENVELOPE, verdicts=verdicts, flags=("dmarc",), store_url="https://mail-archive.example.net/5f0c.eml"
    )
    _assert_within(
        orjson.loads(_example("Verdicts", "json")), orjson.loads(_render(TargetFormat.JSON_N, envelope).body)
    )


def test_every_format_and_every_defect_has_its_place_in_the_docs() -> None:
    parsing = (DOCS / "parsing.md").read_text("utf-8")
    assert [target_format for target_format in TargetFormat if target_format not in SECTIONS] == []
    assert [kind for kind in DefectKind if f"| `{kind}` |" not in parsing] == []


def test_every_field_has_a_row() -> None:
    """Each key of the JSON formats' first two levels is named in the tables."""
    for target_format in (TargetFormat.JSON_N, TargetFormat.POSTMARK):
        section = SECTIONS[target_format] + SECTIONS["Verdicts"] + SECTIONS["json+n"]
        table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
        document = orjson.loads(rendered_sample(target_format, SAMPLES["judged_and_stored"]).body)
        keys = set(document) | set(document.get("envelope", ())) | set(document["pillarbox"])
        assert [key for key in sorted(keys) if key not in table] == []


def test_the_numbers_are_the_codes() -> None:
    form = " ".join(SECTIONS["multipart+n"].split())
    assert f"at most {MAX_HEADER_FIELDS} header fields" in form
    assert f"but {MIN_HEADER_FIELDS} always" in form
    assert f"{FLASK_FORM_MEMORY:,} bytes" in form
    assert f"longer than {MAX_NAME_LENGTH} characters" in " ".join(SECTIONS["json"].split())


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_takes_what_is_genuine_and_nothing_else(name: str) -> None:
    is_genuine = _sample()
    fields = dict(read_with_werkzeug(rendered_sample(TargetFormat.ORIGINAL, SAMPLES[name])).fields)
    assert is_genuine(fields, SECRET)
    assert not is_genuine(fields, "whsec_another")
    for field in fields:
        assert not is_genuine({**fields, field: fields[field] + "x"}, SECRET), field


def _sample() -> Callable[[dict[str, str], str], bool]:
    namespace: dict[str, Any] = {}
    exec(_example("original", "python"), namespace)
    function: Callable[[dict[str, str], str], bool] = namespace["is_genuine"]
    return function


def _example(section: str, kind: str) -> str:
    """The first block of a kind in a section."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)
    return str(blocks[0])


def _render(target_format: TargetFormat, envelope: Envelope = ENVELOPE) -> Payload:
    return render(target_format, RAW, partial(parse_message, RAW), envelope, OPTIONS)


def _lines(target_format: TargetFormat) -> list[str]:
    form = read_with_werkzeug(_render(target_format))
    lines = [f"{name}={value}" for name, value in form.fields]
    lines += [f"{name}=@{file_name};type={content_type}" for name, file_name, content_type, _ in form.files]
    message = RAW.decode().replace("\r\n", "↵")
    return [line.replace("\r\n", "↵").replace(message, "(the message)") + "\n" for line in lines]


def _assert_within(documented: Any, sent: Any) -> None:
    """Whatever is documented is sent; more may be."""
    if isinstance(documented, dict):
        for key, value in documented.items():
            _assert_within(value, sent[key])
    elif isinstance(documented, list):
        assert len(documented) == len(sent)
        for one, other in zip(documented, sent, strict=True):
            _assert_within(one, other)
    else:
        assert documented == sent
