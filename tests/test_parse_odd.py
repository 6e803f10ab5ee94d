"""The project's own odd messages, each with what a person should find in it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from inbound.reading.parse import parse_message
from inbound.reading.parsed import ParsedMessage

CORPUS = Path(__file__).parent / "corpus"
NAMES = [path.stem for path in sorted(CORPUS.glob("*.eml"))]


@pytest.mark.parametrize("name", NAMES)
def test_odd_message_reads_as_a_person_would_read_it(name: str) -> None:
    expected = json.loads((CORPUS / f"{name}.json").read_text("utf-8"))
    found = _described(parse_message((CORPUS / f"{name}.eml").read_bytes()))
    found["headers"] = {key: found["headers"].get(key) for key in expected.get("headers", {})}
    assert {key: found[key] for key in expected} == expected


def test_there_are_messages_and_each_has_its_expectation() -> None:
    assert len(NAMES) > 40
    assert {path.stem for path in CORPUS.glob("*.json")} == set(NAMES)


def _described(message: ParsedMessage) -> dict[str, Any]:
    charset = message.plain_charset
    return {
        "subject": message.subject,
        "headers": {name.lower(): value for name, value in message.headers},
        "plain": message.plain,
        "html": message.html,
        "plain_charset": [charset.declared, charset.used] if charset else None,
        "attachments": [
            {
                "file_name": attachment.file_name,
                "content_type": attachment.content_type,
                "content": base64.b64encode(attachment.content).decode(),
                "disposition": attachment.disposition.value,
                "content_id": attachment.content_id,
            }
            for attachment in message.attachments
        ],
        "defects": [defect.kind.value for defect in message.defects],
    }
