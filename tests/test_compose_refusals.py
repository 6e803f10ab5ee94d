"""What is refused of a draft: each error names the field as the API has it, and says what to do."""

from __future__ import annotations

import pytest

from core.errors import InvalidField
from outbound.composing.attachment_rules import FORBIDDEN_EXTENSIONS, DraftAttachment
from outbound.composing.compose import ComposedMessage, ComposeOptions, compose
from outbound.composing.drafts import DraftLimits, MessageDraft

NOW_MS = 1_795_211_355_000
OPTIONS = ComposeOptions("0199f3a2-1111-7abc-8def-0123456789ab", NOW_MS, "mx.example.net")


def draft(**given: object) -> MessageDraft:
    return MessageDraft(**{"from_": "a@example.com", "to": ("b@example.org",), "plain": "Hi", **given})  # type: ignore[arg-type]


def composed(**given: object) -> ComposedMessage:
    return compose(draft(**given), OPTIONS)


@pytest.mark.parametrize(
    ("given_fields", "field", "words"),
    [
        ({"plain": None}, "plain", "Body not found"),
        ({"plain": "", "html": "", "attachments": (DraftAttachment("a.txt", b"x"),)}, "plain", "Body not found"),
        ({"to": ("a@example.com", "b@example.com", "c@")}, "to[2]", "'c@' is no address"),
        ({"to": ()}, "to", "no recipient"),
        ({"to": ("",)}, "to", "nothing is no address"),
        ({"cc": ("a@example.com, ",)}, "cc", "nothing is no address"),
        ({"to": ("webmaster@localhost",)}, "to", "full domain"),
        ({"to": ("a@[192.0.2.1]",)}, "to", "full domain"),
        ({"to": ("Shop, Inc. <a@example.com>",)}, "to", "no address"),
        ({"from_": "a@bank.example <x@evil.example>"}, "from", "double quotes"),
        ({"from_": "a@example.com, b@example.com"}, "from", "exactly one"),
        ({"from_": "a@example.com> <b@example.com>"}, "from", "angle brackets"),
        ({"from_": "a <b@example.com"}, "from", "nothing closes"),
        ({"from_": "Team: a@example.com;"}, "from", "is no address"),
        ({"from_": "a@exam\u200bple.com\u200b x"}, "from", "no address"),
        ({"from_": "a\u200b@example.com"}, "from", "invisible"),
        ({"subject": "a\r\nBcc: x@example.com"}, "subject", "U+000D"),
        ({"subject": "a\ud83d"}, "subject", "half of a character"),
        ({"plain": "a\ud83d"}, "plain", "half of a character"),
        ({"headers": (("X-A", "a\nb"),)}, "headers.X-A", "U+000A"),
        ({"headers": (("X-A\r\nBcc", "a"),)}, "headers.X-A??Bcc", "no header name"),
        ({"headers": (("X A", "a"),)}, "headers.X?A", "no header name"),
        ({"headers": (("", "a"),)}, "headers.", "no header name"),
        ({"headers": (("bcc", "a"),)}, "headers.bcc", "use the field bcc"),
        ({"headers": (("Content-Type", "a"),)}, "headers.Content-Type", "gateway writes it"),
        ({"headers": (("DKIM-Signature", "a"),)}, "headers.DKIM-Signature", "gateway writes it"),
        ({"headers": (("MIME-VERSION", "a"),)}, "headers.MIME-VERSION", "gateway writes it"),
        ({"headers": (("Message-ID", "a b"),)}, "headers.Message-ID", "<unique@example.com>"),
        ({"headers": (("References", "<ü@example.com>"),)}, "headers.References", "ASCII"),
        ({"headers": (("References", "<a@b>"), ("references", "<c@d>"))}, "headers.references", "once"),
        ({"headers": (("Reply-To", "nobody"),)}, "headers.Reply-To", "no address"),
        ({"headers": (("Reply-To", "a@b.example"),), "reply_to": ("b@b.example",)}, "headers.Reply-To", "reply_to too"),
        ({"attachments": (DraftAttachment("a.EXE. .", b""),)}, "attachments[0].file_name", "forbidden type (.exe)"),
        (
            {"attachments": (DraftAttachment("a", b""), DraftAttachment("b.\uff45xe", b""))},
            "attachments[1].file_name",
            "exe",
        ),
        ({"attachments": (DraftAttachment("a.exe::$DATA", b""),)}, "attachments[0].file_name", ".exe"),
        ({"attachments": (DraftAttachment("a.ex\u200be", b""),)}, "attachments[0].file_name", ".exe"),
        ({"attachments": (DraftAttachment("../a.txt", b""),)}, "attachments[0].file_name", "without a path"),
        ({"attachments": (DraftAttachment(" .", b""),)}, "attachments[0].file_name", "must be given"),
        ({"attachments": (DraftAttachment("a.txt", b"", "text"),)}, "attachments[0].content_type", "media type"),
        ({"attachments": (DraftAttachment("a.txt", b"", "a/b; c"),)}, "attachments[0].content_type", "parameters"),
        ({"attachments": (DraftAttachment("a", b"", "a/b", "x y"),)}, "attachments[0].content_id", "without blanks"),
        ({"attachments": (DraftAttachment("a", b"", "a/b", "x"),) * 2}, "attachments[0].content_id", "another"),
        ({"raw": b"From: a@example.com\r\n\r\n"}, "raw", "beside plain"),
    ],
)
def test_what_is_wrong_is_named(given_fields: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(InvalidField) as caught:
        composed(**given_fields)
    assert caught.value.field == field
    assert words in caught.value.problem


@pytest.mark.parametrize("extension", sorted(FORBIDDEN_EXTENSIONS))
def test_every_program_of_the_list_is_refused(extension: str) -> None:
    assert {"exe", "vbs", "msi"} < FORBIDDEN_EXTENSIONS
    with pytest.raises(InvalidField, match="forbidden type"):
        composed(attachments=(DraftAttachment(f"x.{extension.upper()} ", b""),))


def test_limits_on_recipients_and_size() -> None:
    options = ComposeOptions("id", NOW_MS, "h.example", DraftLimits(max_recipients=2, max_bytes=3000))
    compose(draft(to=("a@example.com, A <a@example.com>",), cc=("b@example.com",)), options)
    with pytest.raises(InvalidField, match=r"to: has 3 recipients .* 2 are allowed"):
        compose(draft(to=("a@example.com",), cc=("b@example.com",), bcc=("c@example.com",)), options)
    with pytest.raises(InvalidField, match="message: takes"):
        compose(draft(attachments=(DraftAttachment("a.pdf", b"x" * 2500),)), options)
    with pytest.raises(InvalidField, match="message: takes"):
        compose(draft(plain="x" * 2900), options)  # only with its headers is it too large
