"""The form formats read by Node's own `formData()` (the WHATWG parser), and the JSON ones by its `JSON.parse`."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import Any

import pytest

from core.formats import TargetFormat
from tests.payload_readers import read_with_werkzeug
from tests.payload_samples import SAMPLES, rendered_sample
from tests.programs import need_program

TIMEOUT_S = 60
READER = """
let text = '';
process.stdin.on('data', (piece) => (text += piece)).on('end', async () => {
  const read = [];
  for (const { type, body } of JSON.parse(text)) {
    const response = new Response(Buffer.from(body, 'base64'), { headers: { 'content-type': type } });
    if (type === 'application/json') {
      read.push(await response.json());
      continue;
    }
    const entries = [];
    for (const [name, value] of await response.formData()) {
      if (typeof value === 'string') entries.push([name, value]);
      else entries.push([name, value.name, Buffer.from(await value.arrayBuffer()).toString('base64')]);
    }
    read.push(entries);
  }
  console.log(JSON.stringify(read));
});
"""
PAYLOADS = [(name, target_format) for name in SAMPLES for target_format in TargetFormat]


@pytest.fixture(scope="module")
def read() -> dict[tuple[str, TargetFormat], Any]:
    """What one run of Node reads of all payloads."""
    payloads = [rendered_sample(target_format, SAMPLES[name]) for name, target_format in PAYLOADS]
    told = [{"type": found.content_type, "body": base64.b64encode(found.body).decode()} for found in payloads]
    command = [need_program("node"), "-e", READER]
    done = subprocess.run(command, input=json.dumps(told).encode(), capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return dict(zip(PAYLOADS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("name", "target_format"), PAYLOADS)
def test_node_reads_what_werkzeug_reads(
    read: dict[tuple[str, TargetFormat], Any], name: str, target_format: TargetFormat
) -> None:
    payload = rendered_sample(target_format, SAMPLES[name])
    theirs = read[name, target_format]
    if payload.content_type == "application/json":
        assert theirs == json.loads(payload.body)
        return
    ours = read_with_werkzeug(payload)
    expected = {field: text for field, text in ours.fields if field != "message"}
    assert {entry[0]: entry[1] for entry in theirs if len(entry) == 2 and entry[0] != "message"} == expected
    files = [(entry[0], entry[1], base64.b64decode(entry[2])) for entry in theirs if len(entry) == 3]
    assert files == [(field, file_name, content) for field, file_name, _, content in ours.files]
    if "message" in ours:
        # This parser reads every field as UTF-8, whatever charset it names.
        message = dict(entry for entry in theirs if len(entry) == 2)["message"]
        assert message == SAMPLES[name].raw.decode("utf-8", "replace").removeprefix("\N{BYTE ORDER MARK}")
