"""Tokens of pixels and links: what goes in comes out, and nothing that was changed is taken for ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string
import uuid
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.sending.tracking_targets import MAX_TARGET_CHARACTERS, trackable_target
from core.sending.tracking_tokens import (
    MAX_LINK_NUMBER,
    MAX_TOKEN_CHARACTERS,
    Clicked,
    LinkPlace,
    Opened,
    TrackedLink,
    TrackingTokens,
    Unsubscribing,
)

SECRET = b"a secret of all processes"
TOKENS = TrackingTokens(SECRET)
DELIVERY = "0198f3c2-7a10-7abc-8def-0123456789ab"
LINK = TrackedLink(7, "https://example.com/a?b=1&c=2#d")
BASE64URL = string.ascii_letters + string.digits + "-_"

deliveries = st.uuids().map(str)
targets = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=300).map(
    "https://example.com/".__add__
)
links = st.builds(TrackedLink, st.integers(1, MAX_LINK_NUMBER), targets, st.sampled_from(LinkPlace))


@given(deliveries)
def test_an_open_is_read_back(delivery_id: str) -> None:
    token = TOKENS.for_open(delivery_id)
    assert TOKENS.read(token) == Opened(delivery_id)
    assert len(token) == 44


@given(deliveries, links)
def test_a_click_is_read_back(delivery_id: str, link: TrackedLink) -> None:
    token = TOKENS.for_click(delivery_id, link)
    assert TOKENS.read(token) == Clicked(delivery_id, link, TOKENS.host_mark(""))
    assert set(token) <= set(BASE64URL)
    assert token[-1].isalpha(), "a link in plain text must not end in - or _"


def test_the_form_that_mails_in_the_world_have() -> None:
    """Built by hand: a change of it makes all links that were ever sent dead."""
    target = b"https://example.com/"
    mark = hmac.new(SECRET, b"host click.example.com", hashlib.sha256).digest()[:6]
    content = uuid.UUID(DELIVERY).bytes + b"\x00\x07" + mark + target
    tag = hmac.new(SECRET, b"\x12" + content, hashlib.sha256).digest()[:16]
    token = base64.urlsafe_b64encode(content + tag + b"\x12").decode().rstrip("=")
    assert TOKENS.for_click(DELIVERY, TrackedLink(7, target.decode()), "Click.example.com") == token


@given(deliveries, links, st.data())
def test_whatever_is_changed_is_not_ours(delivery_id: str, link: TrackedLink, data: st.DataObject) -> None:
    token = TOKENS.for_click(delivery_id, link)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(BASE64URL).filter(lambda letter: letter != token[at]))
    changed = [
        token[:at] + other + token[at + 1 :],
        token[:at] + token[at + 1 :],
        token[:at] + other + token[at:],
        token[:at],
        token + other,
    ]
    assert [TOKENS.read(one) for one in changed if one != token] == [None] * len(changed)


def test_every_spelling_but_one_is_refused() -> None:
    """Base64 decoders overlook the last bits, padding, line breaks and foreign characters."""
    for tail in ("", "x", "xx"):
        check_spellings(TOKENS.for_click(DELIVERY, TrackedLink(1, f"https://example.com/{tail}")))


def check_spellings(token: str) -> None:
    spellings = [token[:-1] + letter for letter in BASE64URL if letter != token[-1]]
    spellings += [token + "=", token + "==", token + "\n", " " + token, token[:9] + "\n" + token[9:], token + "!"]
    spellings += [token.replace("-", "+").replace("_", "/") + "+", token + "\u0661", "\ud800"]
    assert [TOKENS.read(one) for one in spellings] == [None] * len(spellings)


@given(st.text(max_size=300) | st.text(BASE64URL, max_size=300) | st.binary(max_size=99).map(lambda raw: raw.hex()))
def test_anything_else_is_none(text: str) -> None:
    assert TOKENS.read(text) is None


def test_another_secret_and_another_kind() -> None:
    click = TOKENS.for_click(DELIVERY, LINK)
    assert TrackingTokens(b"another secret").read(click) is None
    octets = base64.urlsafe_b64decode(click + "=" * (-len(click) % 4))
    for kind in range(256):
        retagged = base64.urlsafe_b64encode(octets[:-1] + bytes((kind,))).decode().rstrip("=")
        assert (TOKENS.read(retagged) is not None) == (kind == octets[-1])


def test_a_kind_of_a_later_version_is_not_understood() -> None:
    content = uuid.UUID(DELIVERY).bytes
    tag = hmac.new(SECRET, b"\x21" + content, hashlib.sha256).digest()[:16]
    assert TOKENS.read(base64.urlsafe_b64encode(content + tag + b"\x21").decode().rstrip("=")) is None


def test_the_longest_target_fits_and_no_longer_one() -> None:
    longest = "https://example.com/".ljust(MAX_TARGET_CHARACTERS, "x")
    assert trackable_target(longest) == longest
    token = TOKENS.for_click(DELIVERY, TrackedLink(MAX_LINK_NUMBER, longest))
    assert MAX_TOKEN_CHARACTERS - 4 <= len(token) <= MAX_TOKEN_CHARACTERS
    assert TOKENS.read(token) is not None
    assert trackable_target(longest + "x") is None
    with pytest.raises(ValueError, match="does not fit"):
        TOKENS.for_click(DELIVERY, TrackedLink(1, longest + "x"))


@pytest.mark.parametrize("number", [0, -1, MAX_LINK_NUMBER + 1])
def test_numbers_that_do_not_fit(number: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        TOKENS.for_click(DELIVERY, TrackedLink(number, "https://example.com/"))


@pytest.mark.parametrize("delivery_id", ["", "17", DELIVERY + "00", DELIVERY[:-1] + "g"])
def test_ids_that_are_none(delivery_id: str) -> None:
    with pytest.raises(ValueError):
        TOKENS.for_open(delivery_id)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTP://Example.COM:8080/A?b#c", "http://Example.COM:8080/A?b#c"),
        (" \n https://example.com/a\t\r\nb \x00", "https://example.com/ab"),
        ("https://example.com/a b?q=\"<é>\"&r='%20'", "https://example.com/a%20b?q=%22%3C%C3%A9%3E%22&r='%20'"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://BÜCHER。example/", "https://xn--bcher-kva.example/"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("https://example.com?x", "https://example.com?x"),
        ("https://example.com/%zz%", "https://example.com/%zz%"),
    ],
)
def test_targets(url: str, target: str) -> None:
    assert trackable_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "#top",
        "/path",
        "//example.com/",
        "mailto:a@example.com",
        "tel:+49",
        "javascript:alert(1)",
        "ftp://example.com/",
        "data:text/html,x",
        "cid:1@example.com",
        "https:",
        "https://",
        "https:///path",
        "https:example.com",
        "http:/x",
        "https:\\\\example.com",
        "https://example.com\\@evil.test/",
        "https://user@example.com/",
        "https://a:b@c.test/",
        "https://exa mple.com/",
        "https://example.com:80a/",
        "https://exa%6dple.com/",
        "https://[::1/",
        "https://a[b]/",
        "https://example.com/\x01b",
        "https://example.com/\x7f",
        "https://example.com/\ud800",
        "https://" + "a" * 254 + "/",
        "https://\u2024\u2024/",
        "https://ex\ud800.test/",
        "javascript:x\nhttps://example.com/",
        "xhttps://example.com/",
    ],
)
def test_no_targets(url: str) -> None:
    assert trackable_target(url) is None


@given(st.text(max_size=200) | st.text(max_size=200).map("https://".__add__) | targets)
def test_a_target_can_stand_in_a_header_and_leads_to_the_web(url: str) -> None:
    target = trackable_target(url)
    if target is not None:
        assert target.isascii()
        assert target.isprintable()
        assert " " not in target
        assert urlsplit(target).scheme in ("http", "https")
        assert urlsplit(target).hostname
        assert trackable_target(target) == target


@given(deliveries)
def test_unsubscribing_is_read_back(delivery_id: str) -> None:
    token = TOKENS.for_unsubscribe(delivery_id)
    assert TOKENS.read(token) == Unsubscribing(delivery_id)
    assert len(token) == 44


def test_a_pixel_does_not_unsubscribe() -> None:
    """Whoever sees the pixel of a mail must not be able to make a token of the other kind from it."""
    token = TOKENS.for_open(DELIVERY)
    octets = base64.urlsafe_b64decode(token)
    forged = base64.urlsafe_b64encode(octets[:-1] + b"\x14").decode()
    assert TOKENS.read(forged.rstrip("=")) is None
