"""Who decides what is tracked, and where pixels, links and unsubscribing lead."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from core.config import Settings
from core.sending.send_settings import SendOptions, SendSettings
from core.sending.tracking_base import MAX_BASE_CHARACTERS, checked_base_url
from core.sending.tracking_choice import LEADS_NOWHERE, NEEDS_HTTPS, tracking_choice
from core.sending.tracking_tokens import TrackingTokens, Unsubscribing, unsubscribe_url
from outbound.composing.list_unsubscribe import list_unsubscribe_headers

GATEWAY = Settings(data=Path("data"), public_url="https://gateway.example/")
NOTHING, NO_OPTIONS = SendSettings(), SendOptions()
SAID = (None, True, False)
NAMES = ("track_opens", "track_clicks", "track_text_clicks")
DELIVERY = "0198f3c2-7a10-7abc-8def-0123456789ab"


def chosen(name: str, gateway: bool, *said: bool | None) -> bool:
    """What is chosen when account, domain and message have said so."""
    account, domain = (SendSettings(**{name: word}) for word in said[:2])
    options = SendOptions(**{name: said[2]})
    settings = GATEWAY if name == "unsubscribe" else replace(GATEWAY, **{name: gateway})
    choice = tracking_choice(settings, account, domain, False, options)
    return {
        "track_opens": choice.opens,
        "track_clicks": choice.clicks,
        "track_text_clicks": choice.text_clicks,
        "unsubscribe": choice.unsubscribe,
    }[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gateway", [True, False])
def test_the_message_goes_before_the_domain_the_domain_before_the_account(name: str, gateway: bool) -> None:
    for account, domain, message in product(SAID, SAID, SAID):
        first = next(word for word in (message, domain, account, gateway) if word is not None)
        assert chosen(name, gateway, account, domain, message) is first, (account, domain, message)


def test_nobody_is_unsubscribed_unless_somebody_says_so() -> None:
    for account, domain, message in product(SAID, SAID, SAID):
        first = next(word for word in (message, domain, account, False) if word is not None)
        assert chosen("unsubscribe", False, account, domain, message) is first


def test_what_is_said_of_one_does_not_change_the_others() -> None:
    choice = tracking_choice(GATEWAY, NOTHING, NOTHING, False, SendOptions(track_opens=False))
    assert (choice.opens, choice.clicks, choice.text_clicks, choice.unsubscribe) == (False, True, False, False)
    assert choice.is_tracked
    nothing = SendOptions(track_opens=False, track_clicks=False)
    assert not tracking_choice(GATEWAY, NOTHING, NOTHING, False, nothing).is_tracked


@pytest.mark.parametrize(
    ("gateway", "host", "is_verified", "base_url"),
    [
        ("https://gateway.example/", None, False, "https://gateway.example"),
        ("https://gateway.example", "click.sender.example", False, "https://gateway.example"),
        ("https://gateway.example", "click.sender.example", True, "https://click.sender.example"),
        ("https://gateway.example/track", "click.sender.example", True, "https://click.sender.example"),
        ("https://gateway.example:8443", "click.sender.example", True, "https://click.sender.example:8443"),
        ("http://127.0.0.1:8080", "click.sender.example", True, "http://click.sender.example:8080"),
        ("HTTP://gateway.example", "click.sender.example", True, "http://click.sender.example"),
        ("https://gateway.example", None, True, "https://gateway.example"),
        ("https://gateway.example", f"{'a' * 60}.{'b' * 60}.example", True, "https://gateway.example"),
    ],
)
def test_where_it_leads(gateway: str, host: str | None, is_verified: bool, base_url: str) -> None:
    settings = replace(GATEWAY, tracking_url=gateway)
    domain = SendSettings(tracking_host=host)
    assert tracking_choice(settings, NOTHING, domain, is_verified, NO_OPTIONS).base_url == base_url
    assert checked_base_url("tracking_url", base_url) == base_url


def test_an_accounts_host_is_none() -> None:
    """A name belongs to a domain, whose verification says that it leads here."""
    account = SendSettings(tracking_host="click.other.example")
    assert tracking_choice(GATEWAY, account, NOTHING, True, NO_OPTIONS).base_url == "https://gateway.example"


def test_one_click_wants_https() -> None:
    settings = replace(GATEWAY, public_url="http://gateway.example")
    wanted = SendOptions(unsubscribe=True)
    choice = tracking_choice(settings, NOTHING, NOTHING, False, wanted)
    assert (choice.unsubscribe, choice.unsubscribe_refusal) == (False, NEEDS_HTTPS)
    assert tracking_choice(settings, NOTHING, NOTHING, False, NO_OPTIONS).unsubscribe_refusal is None
    assert tracking_choice(GATEWAY, NOTHING, NOTHING, False, wanted).unsubscribe_refusal is None


def test_the_url_is_one_that_the_headers_take() -> None:
    tokens = TrackingTokens(b"secret")
    base_url = f"https://{'a' * (MAX_BASE_CHARACTERS - 8)}"
    url = unsubscribe_url(base_url, tokens, DELIVERY)
    assert url.startswith(f"{base_url}/u/")
    assert tokens.read(url.rpartition("/")[2]) == Unsubscribing(DELIVERY)
    assert list_unsubscribe_headers(url)[0] == ("List-Unsubscribe", f"<{url}>")


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080"])
def test_links_that_would_lead_to_the_readers_own_machine_are_not_made(url: str) -> None:
    serving = replace(Settings(data=Path("data")), domain="in.example.com", public_url=url)
    choice = tracking_choice(serving, NOTHING, NOTHING, False, NO_OPTIONS)
    assert (choice.is_tracked, choice.tracking_refusal) == (False, LEADS_NOWHERE)
    domain = SendSettings(tracking_host="click.example.com")
    assert tracking_choice(serving, NOTHING, domain, True, NO_OPTIONS).is_tracked
    off = SendOptions(track_opens=False, track_clicks=False)
    assert tracking_choice(serving, NOTHING, NOTHING, False, off).tracking_refusal is None


def test_on_one_machine_links_to_it_are_for_trying() -> None:
    choice = tracking_choice(Settings(data=Path("data")), NOTHING, NOTHING, False, NO_OPTIONS)
    assert (choice.is_tracked, choice.tracking_refusal) == (True, None)
