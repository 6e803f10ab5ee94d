"""Every format over every sample, compared to the byte with what was reviewed (`tests/payload_golden/README.md`).

`PILLARBOX_WRITE_GOLDEN=1 pytest tests/test_payload_golden.py` writes the files anew; the reviewer reads the diff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import orjson
import pytest

from core.formats import TargetFormat
from inbound.payloads import Payload
from tests.payload_samples import SAMPLES, rendered_sample

FOLDER = Path(__file__).parent / "payload_golden"
WRITE = os.environ.get("PILLARBOX_WRITE_GOLDEN") == "1"
BOUNDARY = "BOUNDARY"
_TEXT_FIELD = re.compile(rf'--{BOUNDARY}\r\nContent-Disposition: form-data; name="([^"]*)"\r\n\r\n')


@pytest.mark.parametrize("name", SAMPLES)
def test_payloads_are_as_reviewed(name: str) -> None:
    path = FOLDER / f"{name}.txt"
    shown = "\n".join(_shown(target_format, name) for target_format in TargetFormat)
    if WRITE:
        path.write_bytes(shown.encode())
    assert shown == path.read_bytes().decode()


def test_there_is_no_file_without_a_sample() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(SAMPLES)


def _shown(target_format: TargetFormat, name: str) -> str:
    payload = rendered_sample(target_format, SAMPLES[name])
    content_type, body = _with_fixed_boundary(payload)
    text = _json(body) if content_type == "application/json" else _form(body)
    return f"##### {target_format}\nContent-Type: {content_type}\n\n{text}\n"


def _with_fixed_boundary(payload: Payload) -> tuple[str, bytes]:
    boundary = re.search(r"boundary=(.*)", payload.content_type)
    if boundary is None:
        return payload.content_type, payload.body
    content_type = payload.content_type.replace(boundary[1], BOUNDARY)
    return content_type, payload.body.replace(boundary[1].encode(), BOUNDARY.encode())


def _json(body: bytes) -> str:
    """Indented, the order of the keys kept; nothing of it depends on how the bytes were spaced."""
    return orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode()


def _form(body: bytes) -> str:
    """A line a line: `▸ name: ` begins a text field, `⏎` is CRLF, and what is no UTF-8 or a bare CR is escaped."""
    text = body.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    text = _TEXT_FIELD.sub(r"▸ \1: ", text)
    return text.replace("\r\n", "⏎\n").replace("\r", "\\r").replace("\x00", "\\0")
