"""Parsing never raises and never hands out anything that cannot be sent on, whatever the bytes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inbound import parse
from inbound.headers import read_summary
from inbound.parse import parse_message
from inbound.parsed import DefectKind, ParsedMessage

SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").glob("*.eml"))]
PIECES = [b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b"--", b"--b", b"--b--", b":", b";", b"=", b'"', b"<", b">"]
PIECES += [b"=?utf-8?q?", b"?=", b"charset=utf-7", b"+2AA-", b"filename*0*=", b"%00", b"\x1b$B", b"\xff\xfe"]
PIECES += [b"Content-Type: multipart/mixed; boundary=b\r\n\r\n", b"Content-Type: message/rfc822\r\n\r\n"]
PIECES += [b"Content-Transfer-Encoding: base64\r\n"]
bounded = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@bounded
@given(st.binary(max_size=2000))
def test_random_bytes_give_a_message(raw: bytes) -> None:
    _assert_presentable(parse_message(raw))


@bounded
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=60))
def test_pieces_of_mail_in_any_order_give_a_message(pieces: list[bytes]) -> None:
    _assert_presentable(parse_message(b"".join(pieces)))


@bounded
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(st.integers(0, 4000), st.integers(0, 40), st.sampled_from(PIECES) | st.binary(max_size=8)), max_size=8
    ),
)
def test_damaged_messages_give_a_message(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    raw = seed
    for position, length, insertion in edits:
        at = position % (len(raw) + 1)
        raw = raw[:at] + insertion + raw[at + length :]
    _assert_presentable(parse_message(raw))


@bounded
@given(st.binary(max_size=1000), st.sampled_from(SEEDS))
def test_summary_agrees_with_the_parsed_message(noise: bytes, seed: bytes) -> None:
    for raw in (noise, seed, noise + seed):
        summary = read_summary(raw)
        message = parse_message(raw)
        senders = [value for name, value in message.headers if name.lower() == "from"]
        assert summary.subject == message.subject or not str(summary.subject).isascii()
        assert summary.message_id == message.message_id or not str(summary.message_id).isascii()
        assert (summary.from_ is None) == (not senders)


def test_an_error_of_our_own_costs_no_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    # The error is planted, because no input is known that makes the parser fail.
    def fail(raw: bytes) -> None:
        raise RecursionError

    monkeypatch.setattr(parse, "split_message", fail)
    message = parse_message(b"Subject: x\r\n\r\nbody")
    assert [defect.kind for defect in message.defects] == [DefectKind.PARSER_FAILED]
    assert message.attachments[0].file_name == "message.eml"
    assert message.attachments[0].content == b"Subject: x\r\n\r\nbody"


def _assert_presentable(message: ParsedMessage) -> None:
    for name, value in message.headers:
        assert not set("\x00\r\n") & set(name + value)
    texts = [message.plain, message.html, message.subject, message.message_id]
    texts += [text for header in message.headers for text in header]
    texts += [defect.detail for defect in message.defects]
    for attachment in message.attachments:
        texts += [attachment.file_name, attachment.content_type, attachment.content_id]
        assert attachment.file_name
        assert not set("/\\\x00\r\n;|&$`<>\"'") & set(attachment.file_name)
    orjson.dumps(texts)  # refuses lone surrogates
    names = [attachment.file_name.casefold() for attachment in message.attachments]
    assert len(set(names)) == len(names)
