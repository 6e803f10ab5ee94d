"""How an account or one of its sending domains sends, and what a single message asks for.

What a message says goes before its domain's settings, those before the account's, those before the gateway's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import orjson


@dataclass(frozen=True, slots=True)
class SendSettings:
    """Of an account or a domain. None leaves a choice to the next one up."""

    track_opens: bool | None = None
    track_clicks: bool | None = None
    """Of links in HTML."""
    track_text_clicks: bool | None = None
    unsubscribe: bool | None = None
    """Whether mails get a List-Unsubscribe header of ours (RFC 8058)."""
    tracking_host: str | None = None
    """A name of the customer's that points to us by CNAME; of a domain only."""
    hourly_limit: int | None = None
    """Mails an hour; more wait."""
    daily_limit: int | None = None
    """Mails a day; more wait."""
    ramp: bool | None = None
    """Whether a new domain begins with few mails a day, and doubles (`core.sending.pacing`)."""
    source_ip: str | None = None
    """Of ours, that mail leaves from."""


@dataclass(frozen=True, slots=True)
class SendOptions:
    """What one message asks for."""

    track_opens: bool | None = None
    track_clicks: bool | None = None
    track_text_clicks: bool | None = None
    unsubscribe: bool | None = None

    def to_json(self) -> str:
        """Without what is None."""
        return settings_json(self)


Sent = TypeVar("Sent", SendSettings, SendOptions)


def settings_json(settings: SendSettings | SendOptions) -> str:
    """Without what is None."""
    found = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return orjson.dumps({name: value for name, value in found.items() if value is not None}).decode()


def read_send_settings(text: str) -> SendSettings:
    """What `settings_json` wrote; names that this version does not know are passed over. Raises `ValueError`."""
    return _read(SendSettings, text)


def read_send_options(text: str) -> SendOptions:
    """The same of options."""
    return _read(SendOptions, text)


def combined(*layers: SendSettings) -> SendSettings:
    """The first choice that is made of each, in this order."""
    return SendSettings(**{entry.name: _first(entry.name, layers) for entry in fields(SendSettings)})


def _first(name: str, layers: tuple[SendSettings, ...]) -> Any:
    return next((value for layer in layers if (value := getattr(layer, name)) is not None), None)


def _read(kind: type[Sent], text: str) -> Sent:
    found = orjson.loads(text)
    names = {entry.name for entry in fields(kind)}
    return kind(**{name: value for name, value in found.items() if name in names})
