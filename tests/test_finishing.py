"""From a stored message to the bytes for one recipient: tracking, marks of ours, signatures; what is left alone."""

from __future__ import annotations

import re
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from core.ids import new_time_ordered_id
from core.sending.send_settings import SendOptions, SendSettings
from core.sending.sending_domains import KeyAlgorithm
from core.sending.tracking_choice import TrackingChoice, tracking_choice
from core.sending.tracking_tokens import Clicked, LinkPlace, Opened, TrackingTokens, Unsubscribing
from core.sending.verp import RETURN_HEADER, ReturnPaths
from core.services.sending_domains import Sender, SenderKey
from outbound.dkim import UnsignableMessage, UnusableKey
from outbound.finishing import Finish, Finisher
from tests.dkim_judges import DOMAIN, PAST_MS, Signer, dkimpy_accepts, perl_says, signer
from tests.send_support import MESSAGE, send_settings
from tests.zone_server import running_zone

BASE = "https://track.test"
TOKENS = TrackingTokens(b"tracking")
PATHS = ReturnPaths(b"paths", lambda: PAST_MS)
FINISHER = Finisher(PATHS, TOKENS, "gateway.test", lambda: PAST_MS)
NOTHING = TrackingChoice(BASE, opens=False, clicks=False, text_clicks=False, unsubscribe=False)
EVERYTHING = TrackingChoice(BASE, opens=True, clicks=True, text_clicks=True, unsubscribe=True)
SHOP = "https://shop.test/a"
HTML = f'<html><body><p>Grüße, <a href="{SHOP}">look</a></p></body></html>'
ATTACHED = bytes(range(256)) * 40
RSA, ED = signer(KeyAlgorithm.RSA), signer(KeyAlgorithm.ED25519)


def sender(*keys: Signer, has_return_path: bool = True) -> Sender:
    """A domain that signs with these."""
    return Sender(
        sending_domain_id="0123456789abcdef",
        account_id="account",
        domain=DOMAIN,
        is_verified=True,
        has_return_path=has_return_path,
        signing_domain=DOMAIN,
        keys=tuple(SenderKey(one.key.selector, one.key.algorithm, one.key.private_key) for one in keys),
        settings=SendSettings(),
        tracking_verified=False,
        paused_because=None,
    )


BY_RSA = sender(RSA)


def wanted(choice: TrackingChoice = NOTHING, by: Sender | None = BY_RSA, stream: str = "outbound") -> Finish:
    return Finish(new_time_ordered_id(PAST_MS), by, choice, stream)


def finish(content: bytes, finish: Finish) -> bytes:
    return FINISHER.finish(content, finish).content


def rich() -> bytes:
    """Text, HTML and an attachment, as `EmailMessage` writes them."""
    mail = EmailMessage(policy=policy.SMTP)
    mail["From"], mail["To"], mail["Subject"] = f"Shop <shop@{DOMAIN}>", "user@example.test", "Your order"
    mail["Message-ID"], mail["Date"] = f"<one@{DOMAIN}>", "Mon, 21 Sep 2026 14:13:20 +0000"
    mail.set_content(f"Grüße: {SHOP}\n")
    mail.add_alternative(HTML, subtype="html")
    mail.add_attachment(ATTACHED, "application", "octet-stream", filename="a.bin")
    return mail.as_bytes()


RICH = rich()


def parts(content: bytes) -> dict[str, str]:
    """The texts of a message, by type."""
    mail = message_from_bytes(content, policy=policy.SMTP)
    return {
        part.get_content_type(): part.get_content() for part in mail.walk() if part.get_content_maintype() == "text"
    }


def tokens_in(text: str) -> list[object]:
    return [TOKENS.read(token) for token in re.findall(rf"{BASE}/[ocu]/([A-Za-z0-9_-]+)", text)]


def test_without_wishes_only_marks_and_signatures_are_put_before_it() -> None:
    given = wanted()
    content = finish(MESSAGE, given)
    assert content.endswith(MESSAGE)
    head = content.removesuffix(MESSAGE)
    assert head.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=sender.example;")
    names = re.findall(rb"^([!-9;-~]+):", head, re.MULTILINE)
    assert names == [b"DKIM-Signature", RETURN_HEADER.encode(), b"Feedback-ID"]
    assert f"{RETURN_HEADER}: {PATHS.local_part(given.delivery_id)}\r\n".encode() in head
    assert b"Feedback-ID: outbound:sender.example:pillarbox\r\n" in head
    assert b" l=" not in head
    assert dkimpy_accepts(content, RSA)


def test_the_same_at_every_attempt() -> None:
    given = wanted(EVERYTHING)
    assert FINISHER.finish(RICH, given) == FINISHER.finish(RICH, given)


def test_where_bounces_go() -> None:
    own = wanted()
    ours = replace(own, sender=sender(RSA, has_return_path=False))
    local = PATHS.local_part(own.delivery_id)
    assert FINISHER.finish(MESSAGE, own).mail_from == f"{local}@mta.{DOMAIN}"
    assert FINISHER.finish(MESSAGE, ours).mail_from == f"{local}@gateway.test"
    assert FINISHER.finish(MESSAGE, replace(own, sender=None)).mail_from == f"{local}@gateway.test"


def test_without_a_sender_nothing_is_signed() -> None:
    content = finish(MESSAGE, wanted(by=None))
    assert b"DKIM-Signature" not in content
    assert b"Feedback-ID" not in content


def test_pixel_and_links_are_this_deliverys_and_the_rest_stays() -> None:
    given = wanted(EVERYTHING)
    found = parts(finish(RICH, given))
    opened = Opened(given.delivery_id)
    clicked = [one for one in tokens_in(found["text/html"]) if isinstance(one, Clicked)]
    assert [(one.delivery_id, one.link.number, one.link.target) for one in clicked] == [(given.delivery_id, 1, SHOP)]
    assert tokens_in(found["text/html"])[-1] == opened
    (in_text,) = tokens_in(found["text/plain"])
    assert isinstance(in_text, Clicked)
    assert (in_text.link.number, in_text.link.place) == (2, LinkPlace.TEXT)
    assert "Grüße" in found["text/html"]
    assert found["text/plain"].startswith("Grüße: https://track.test/c/")


def test_attachments_stay_byte_for_byte() -> None:
    content = finish(RICH, wanted(EVERYTHING))
    (attached,) = message_from_bytes(content, policy=policy.SMTP).iter_attachments()
    assert attached.get_payload(decode=True) == ATTACHED
    encoded = RICH[RICH.index(b"Content-Type: application/octet-stream") :]
    assert encoded in content


def test_text_keeps_its_charset_and_parameters() -> None:
    content = MESSAGE.replace(
        b"charset=utf-8\r\n\r\nThank you.",
        b"charset=iso-8859-1; format=flowed\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGr\xfc\xdfe https://shop.test/a",
    )
    tracked = finish(content, wanted(EVERYTHING))
    mail = message_from_bytes(tracked, policy=policy.SMTP)
    assert mail["Content-Type"] == 'text/plain; charset="iso-8859-1"; format="flowed"'
    assert mail.get_content().startswith("Grüße https://track.test/c/")
    assert dkimpy_accepts(tracked, RSA)


def test_unsubscribing_by_one_click_is_signed() -> None:
    given = wanted(EVERYTHING)
    content = finish(RICH, given)
    mail = message_from_bytes(content)
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    (token,) = tokens_in(mail["List-Unsubscribe"])
    assert token == Unsubscribing(given.delivery_id)
    assert dkimpy_accepts(content, RSA)
    assert not dkimpy_accepts(content.replace(b"One-Click", b"Two-Click"), RSA)


def test_what_the_message_has_itself_stays() -> None:
    own = b"List-Unsubscribe: <https://own.test/u>\r\nfeedback-id: a:b:c:own\r\n" + MESSAGE
    content = finish(own, wanted(EVERYTHING))
    mail = message_from_bytes(content)
    assert mail.get_all("List-Unsubscribe") == ["<https://own.test/u>"]
    assert mail.get_all("Feedback-ID") == ["a:b:c:own"]


def test_a_gateway_without_https_leaves_unsubscribing_out(tmp_path: Path) -> None:
    settings = send_settings(tmp_path, public_url="http://127.0.0.1:8000")
    choice = tracking_choice(settings, SendSettings(unsubscribe=True), SendSettings(), False, SendOptions())
    assert b"List-Unsubscribe" not in finish(RICH, wanted(choice))
    badly = replace(EVERYTHING, base_url="http://127.0.0.1:8000")
    assert b"List-Unsubscribe:" not in finish(RICH, wanted(badly))


def test_a_stream_that_would_break_the_mark_is_left_out() -> None:
    assert b"Feedback-ID: sender.example:pillarbox\r\n" in finish(MESSAGE, wanted(stream="a:b\r\nX: y"))


@pytest.mark.parametrize(
    "content",
    [
        MESSAGE.replace(b"charset=utf-8", b"charset=x-unknown"),
        MESSAGE.replace(b"text/plain; charset=utf-8", b'multipart/signed; boundary="x"'),
        MESSAGE.replace(b"text/plain; charset=utf-8", b"multipart/mixed"),
        b"Subject: no body\r\nFrom: a@sender.example\r\n\r\n",
        b"From: a@sender.example\r\n\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\n\r\nhttps://shop.test/\r\n",
        b"X: " + b"y" * 300_000 + b"\r\nFrom: a@sender.example\r\n\r\nHi\r\n",
    ],
    ids=["charset", "signed", "broken", "empty", "signed text", "long header"],
)
def test_what_cannot_be_tracked_goes_as_it_is(content: bytes) -> None:
    assert finish(content, wanted(replace(EVERYTHING, unsubscribe=False))).endswith(content)


def test_messages_and_keys_that_do_not_do() -> None:
    with pytest.raises(UnsignableMessage, match="no From"):
        finish(b"Subject: x\r\n\r\nHi\r\n", wanted())
    broken = sender(RSA)
    broken = replace(broken, keys=(replace(broken.keys[0], private_pem="rubbish"),))
    with pytest.raises(UnusableKey):
        finish(MESSAGE, wanted(by=broken))


def test_others_accept_both_signatures(tmp_path: Path) -> None:
    path = tmp_path / "mail"
    content = finish(RICH, wanted(EVERYTHING, sender(RSA, ED)))
    path.write_bytes(content)
    assert dkimpy_accepts(content, RSA)
    with running_zone() as zone:
        for one in (RSA, ED):
            zone.add(one.record_name, "TXT", *(f'"{one.pair.public_record[:200]}" "{one.pair.public_record[200:]}"',))
        assert perl_says(zone.port, str(path)) == ["pass"]
