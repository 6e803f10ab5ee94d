"""Messages built by the standard library come back exactly, and other parsers see the same in them."""

from __future__ import annotations

import email
import email.policy
import random
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart

import pytest
from fast_mail_parser import parse_email_tree, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from inbound.reading.filenames import safe_name
from inbound.reading.parse import parse_message

bounded = settings(max_examples=100, deadline=None, derandomize=True)
NAME_CHARACTERS = st.characters(
    codec="utf-8",
    exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Zs", "Cn"],
    exclude_characters="/\\;|&$<>\"`*?:'.-~",
)
file_names = st.text(NAME_CHARACTERS, min_size=1, max_size=40).map(lambda stem: safe_name(stem + ".bin"))


@bounded
@given(st.lists(st.tuples(file_names, st.binary(max_size=3000)), max_size=5), st.text(max_size=300))
def test_attachments_of_any_bytes_and_names_come_back_exactly(files: list[tuple[str, bytes]], body: str) -> None:
    message = EmailMessage()
    message.set_content(body)
    for name, content in files:
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    parsed = parse_message(message.as_bytes(policy=email.policy.SMTP))
    assert [attachment.content for attachment in parsed.attachments] == [content for _, content in files]
    given_names = [name for name, _ in files]
    if len({name.casefold() for name in given_names}) == len(given_names):
        assert [attachment.file_name for attachment in parsed.attachments] == given_names
    assert parsed.defects == ()


@bounded
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=200))
def test_subjects_come_back_as_they_were_written(subject: str) -> None:
    message = EmailMessage()
    message["Subject"] = subject
    parsed = parse_message(message.as_bytes(policy=email.policy.SMTP))
    assert (parsed.subject or "").split() == subject.split()


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-15", "koi8-r", "iso-2022-jp", "gb18030", "cp1255"])
@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
def test_text_of_every_charset_and_encoding_comes_back(charset: str, encoding: str) -> None:
    text = {"koi8-r": "Привет", "iso-2022-jp": "会議", "gb18030": "会议𠀀", "cp1255": "שלום"}.get(charset, "Grüße €")
    message = EmailMessage(policy=email.policy.SMTP)
    message.set_content(f"{text}\n", charset=charset, cte=encoding)
    parsed = parse_message(message.as_bytes())
    assert parsed.plain is not None
    assert parsed.plain.replace("\r\n", "\n") == f"{text}\n"
    assert parsed.defects == ()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 56, 57, 58, 10_000, 1_000_003])
def test_attachment_of_any_size_is_byte_exact(size: int) -> None:
    content = random.Random(size).randbytes(size)
    message = MIMEMultipart()
    message.attach(MIMEApplication(content))
    assert parse_message(message.as_bytes()).attachments[0].content == content


@bounded
@given(st.binary(max_size=500), st.sampled_from([b"\r\n", b"\n"]))
def test_an_attached_message_is_kept_byte_for_byte(noise: bytes, line_end: bytes) -> None:
    inner = b"Subject: inner" + line_end + line_end + noise.replace(b"-", b"").rstrip(b"\r")
    raw = line_end.join(
        [b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"Content-Type: message/rfc822", b""]
    )
    parsed = parse_message(raw + line_end + inner + line_end + b"--b--" + line_end)
    assert parsed.attachments[0].content == inner


@bounded
@given(st.lists(st.tuples(st.sampled_from(["plain", "html", "pdf"]), st.binary(max_size=300)), min_size=1, max_size=6))
def test_other_parsers_see_the_same_parts(parts: list[tuple[str, bytes]]) -> None:
    message = MIMEMultipart()
    for kind, content in parts:
        part = MIMEApplication(content, kind)
        part.replace_header("Content-Type", f"{'application' if kind == 'pdf' else 'text'}/{kind}")
        part["Content-Disposition"] = "attachment"
        message.attach(part)
    raw = message.as_bytes()
    ours = [(attachment.content_type, attachment.content) for attachment in parse_message(raw).attachments]
    fast = [(node.content_type, node.content) for node in walk(parse_email_tree(raw)) if not node.children]
    standard = [
        (leaf.get_content_type(), leaf.get_payload(decode=True))
        for leaf in email.message_from_bytes(raw).walk()
        if not leaf.is_multipart()
    ]
    assert ours == standard
    assert ours == fast
