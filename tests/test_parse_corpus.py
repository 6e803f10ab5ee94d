"""Our reading of 107 messages held against an independent parser's (the Rust mail-parser of Stalwart Labs).

Every field agrees, or `corpus_divergences.py` gives the reason why ours is right for a person. The expectations
were made from messages with bare line feeds, so the messages are given to us in that form.
"""

from __future__ import annotations

import base64
import email.utils
import json
from html import escape
from pathlib import Path
from typing import Any

import pytest

from inbound.reading.parse import parse_message
from inbound.reading.parsed import Attachment, ParsedMessage
from tests.corpus_divergences import DIVERGENCES

CORPUS = Path(__file__).parents[1].parent / "shared" / "corpus" / "parse"
IDS = [str(path.relative_to(CORPUS).with_suffix("")) for path in sorted(CORPUS.glob("*/*.eml"))] or ["absent"]
ADDRESS_FIELDS = ("from", "to", "cc")


@pytest.fixture
def corpus() -> Path:
    if not CORPUS.is_dir():
        pytest.skip("outside corpus not present")
    return CORPUS


@pytest.mark.parametrize("message_id", IDS)
def test_each_field_agrees_with_the_independent_parser_or_has_a_reason(corpus: Path, message_id: str) -> None:
    raw = (corpus / f"{message_id}.eml").read_bytes().replace(b"\r\n", b"\n")
    expected = json.loads((corpus / f"{message_id}.json").read_text())
    compared = compare(parse_message(raw), expected, raw)
    differing = {field for field, (ours, theirs) in compared.items() if ours != theirs}
    assert differing == set(DIVERGENCES.get(message_id, {})), {field: compared[field] for field in differing}


@pytest.mark.parametrize("message_id", IDS)
def test_line_ends_change_nothing_but_line_ends(corpus: Path, message_id: str) -> None:
    raw = (corpus / f"{message_id}.eml").read_bytes().replace(b"\r\n", b"\n")
    bare = parse_message(raw)
    full = parse_message(raw.replace(b"\n", b"\r\n"))
    assert full.headers == bare.headers
    assert _bare(full.plain) == _bare(bare.plain)
    assert _bare(full.html) == _bare(bare.html)
    assert [a.file_name for a in full.attachments] == [a.file_name for a in bare.attachments]


def test_every_divergence_names_a_message_and_has_a_reason(corpus: Path) -> None:
    assert set(DIVERGENCES) <= set(IDS)
    assert all(len(reason) > 30 for reasons in DIVERGENCES.values() for reason in reasons.values())


def compare(ours: ParsedMessage, theirs: dict[str, Any], raw: bytes) -> dict[str, tuple[Any, Any]]:
    """Field → (ours, theirs). An absent text and an empty one count as the same here."""
    parts = theirs["parts"]
    fields: dict[str, tuple[Any, Any]] = {
        "subject": (ours.subject or None, _subject(parts[0])),
        "text": (ours.plain or None, _text(parts, theirs["text_body"])),
        "html": (ours.html or None, _html(parts, theirs["html_body"])),
        "attachments": (len(ours.attachments), len(theirs["attachments"])),
    }
    for name in ADDRESS_FIELDS:
        fields[name] = (_our_addresses(ours, name), _their_addresses(parts[0], name))
    for index, (attachment, at) in enumerate(zip(ours.attachments, theirs["attachments"], strict=False)):
        for field, pair in _compare_attachment(attachment, parts[at], raw).items():
            fields[f"attachment {index} {field}"] = pair
    return fields


def _compare_attachment(ours: Attachment, part: dict[str, Any], raw: bytes) -> dict[str, tuple[Any, Any]]:
    media = _media(part, "content_type")
    name = _attribute(_media(part, "content_disposition"), "filename") or _attribute(media, "name")
    content = _their_content(part, _attribute(media, "charset"), raw)
    fields: dict[str, tuple[Any, Any]] = {"bytes": (ours.content, content)}
    if name is not None:
        fields["name"] = (ours.file_name, name)
    if media:
        kind = f"{media['c_type']}/{media['c_subtype']}".lower()
        fields["type"] = (ours.content_type.partition(";")[0], kind)
    return fields


def _their_content(part: dict[str, Any], charset: str | None, raw: bytes) -> bytes:
    """Bytes of a part: theirs are given as numbers, or for text as decoded text, or for messages as a tree."""
    kind, value = _body(part)
    if kind in ("Text", "Html"):
        return value.encode(charset or "utf-8")
    if kind == "Message":
        body = raw[part["offset_body"] : part["offset_end"]]
        encodings = [v.get("Text") for v in _values(part, "content_transfer_encoding") if isinstance(v, dict)]
        return base64.b64decode(body) if "base64" in [(e or "").lower() for e in encodings] else body
    return bytes(value)


def _text(parts: list[dict[str, Any]], chosen: list[int]) -> str | None:
    bodies = [_body(parts[at]) for at in chosen]
    return _lines([value for kind, value in bodies if kind == "Text"]) or None


def _html(parts: list[dict[str, Any]], chosen: list[int]) -> str | None:
    bodies = [_body(parts[at]) for at in chosen]
    if not any(kind == "Html" for kind, _ in bodies):
        return None
    return _lines([value if kind == "Html" else _shown(value) for kind, value in bodies if kind in ("Text", "Html")])


def _shown(text: str) -> str:
    return f'<div style="white-space: pre-wrap">{escape(text)}</div>' if text else ""


def _lines(texts: list[str]) -> str:
    joined = ""
    for text in texts:
        joined += "\n" if joined and text and not joined.endswith("\n") else ""
        joined += text
    return joined


def _subject(root: dict[str, Any]) -> str | None:
    texts = [value["Text"] for value in _values(root, "subject") if isinstance(value, dict) and "Text" in value]
    return texts[0] if texts else None


def _our_addresses(ours: ParsedMessage, name: str) -> list[tuple[str, str]]:
    values = [value for header, value in ours.headers if header.lower() == name][:1]
    return [_mailbox(*pair) for pair in email.utils.getaddresses(values) if any(pair)]


def _their_addresses(root: dict[str, Any], name: str) -> list[tuple[str, str]]:
    values = [value["Address"] for value in _values(root, name) if isinstance(value, dict) and "Address" in value]
    if not values:
        return []
    groups = values[0].get("Group") or []
    members = values[0].get("List") or [member for group in groups for member in group["addresses"]]
    return [_mailbox(member.get("name") or "", member.get("address") or "") for member in members]


def _mailbox(name: str, address: str) -> tuple[str, str]:
    """A word alone is a name to the one parser and an address to the other."""
    return (name, address) if "@" in address or name else (address, "")


def _values(part: dict[str, Any], name: str) -> list[Any]:
    return [header["value"] for header in part["headers"] if header["name"] == name]


def _media(part: dict[str, Any], name: str) -> dict[str, Any] | None:
    for value in _values(part, name):
        if isinstance(value, dict) and "ContentType" in value:
            return dict(value["ContentType"])
    return None


def _attribute(media: dict[str, Any] | None, name: str) -> str | None:
    attributes = (media or {}).get("attributes") or []
    return next((str(pair["value"]) for pair in attributes if pair["name"] == name), None)


def _body(part: dict[str, Any]) -> tuple[str, Any]:
    body = part["body"]
    return next(iter(body.items())) if isinstance(body, dict) else (body, None)


def _bare(text: str | None) -> str | None:
    return text.replace("\r\n", "\n") if text is not None else None
