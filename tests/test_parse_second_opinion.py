"""mail-parser's reading of ordinary mail beside ours: a second opinion by somebody else's code."""

from __future__ import annotations

import base64
from email.message import EmailMessage
from email.policy import SMTP

import mailparser
import pytest

from inbound.reading.parse import parse_message

TEXTS = ["plain ascii\n", "Grüße aus Köln — bald mehr\n", "日本語のメール\n" * 20]
PICTURE = bytes(range(256)) * 40


@pytest.mark.parametrize("text", TEXTS)
def test_text_html_and_attachments_of_ordinary_mail_agree_with_mail_parser(text: str) -> None:
    message = EmailMessage()
    message["Subject"] = f"Betreff: {text.splitlines()[0]}"
    message["From"] = "Jörg <joerg@example.com>"
    message.set_content(text, cte="base64")
    message.add_alternative(f"<p>{text}</p>", subtype="html")
    message.add_attachment(PICTURE, maintype="image", subtype="png", filename="Bild ä.png")
    raw = message.as_bytes(policy=SMTP)

    ours, theirs = parse_message(raw), mailparser.parse_from_bytes(raw)

    assert ours.subject == theirs.subject
    assert (ours.plain or "").split() == theirs.text_plain[0].split()
    assert (ours.html or "").split() == theirs.text_html[0].split()
    (attachment,) = ours.attachments
    assert attachment.file_name == theirs.attachments[0]["filename"]
    assert attachment.content_type == theirs.attachments[0]["mail_content_type"]
    assert attachment.content == base64.b64decode(theirs.attachments[0]["payload"])
