"""What is tracked in one message, and whether it gets a List-Unsubscribe header of ours.

The message's own word goes first, then its domain's settings, its account's, the gateway's.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from core.config import Settings
from core.sending.send_settings import SendOptions, SendSettings, combined
from core.sending.tracking_base import MAX_BASE_CHARACTERS

UNSUBSCRIBE_UNLESS_SAID = False
"""What the gateway says of List-Unsubscribe: who leaves a newsletter by it gets no password resets either, so it is
for those mails that ask for it, or whose domain or account does."""
NEEDS_HTTPS = (
    "mails get no List-Unsubscribe header: one-click unsubscribing (RFC 8058) needs https; "
    "set PILLARBOX_TRACKING_URL or PILLARBOX_PUBLIC_URL to an https URL"
)

LEADS_NOWHERE = (
    "mails are not tracked: their links would lead to this machine's own address, which nobody else can open; "
    "set PILLARBOX_PUBLIC_URL or PILLARBOX_TRACKING_URL to the URL at which others reach the API"
)


@dataclass(frozen=True, slots=True)
class TrackingChoice:
    """What one message gets."""

    base_url: str
    """Where its pixel, links and unsubscribing lead, without a slash at its end."""
    opens: bool
    clicks: bool
    """Of links in HTML."""
    text_clicks: bool
    unsubscribe: bool
    unsubscribe_refusal: str | None = None
    """Why it gets no List-Unsubscribe header although it should, for the log of the operator."""
    tracking_refusal: str | None = None
    """Why nothing of it is tracked although it should be, for the same log."""

    @property
    def is_tracked(self) -> bool:
        """Whether anything in its bodies is."""
        return self.opens or self.clicks or self.text_clicks


def tracking_choice(
    settings: Settings, account: SendSettings, domain: SendSettings, tracking_verified: bool, options: SendOptions
) -> TrackingChoice:
    """What a message with these options gets, from a domain and an account with these settings.

    `tracking_verified` says whether the domain's `tracking_host` leads to us; until it does, its mails use the
    gateway's own address.
    """
    said = combined(_of_message(options), domain, account, _of_gateway(settings))
    base_url = _base_url(settings, domain.tracking_host if tracking_verified else None)
    can_unsubscribe = base_url.lower().startswith("https://")
    wants = bool(said.unsubscribe)
    is_reachable = settings.is_for_trying or not _is_own_machine(base_url)
    wants_tracking = bool(said.track_opens or said.track_clicks or said.track_text_clicks)
    return TrackingChoice(
        base_url,
        opens=bool(said.track_opens) and is_reachable,
        clicks=bool(said.track_clicks) and is_reachable,
        text_clicks=bool(said.track_text_clicks) and is_reachable,
        unsubscribe=wants and can_unsubscribe,
        unsubscribe_refusal=NEEDS_HTTPS if wants and not can_unsubscribe else None,
        tracking_refusal=LEADS_NOWHERE if wants_tracking and not is_reachable else None,
    )


def _is_own_machine(base_url: str) -> bool:
    """Whether whoever opens it comes to his own machine: each link of a mail would be dead."""
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _of_message(options: SendOptions) -> SendSettings:
    return SendSettings(
        track_opens=options.track_opens,
        track_clicks=options.track_clicks,
        track_text_clicks=options.track_text_clicks,
        unsubscribe=options.unsubscribe,
    )


def _of_gateway(settings: Settings) -> SendSettings:
    return SendSettings(
        track_opens=settings.track_opens,
        track_clicks=settings.track_clicks,
        track_text_clicks=settings.track_text_clicks,
        unsubscribe=UNSUBSCRIBE_UNLESS_SAID,
    )


def _base_url(settings: Settings, tracking_host: str | None) -> str:
    """The gateway's own, or the customer's name with the scheme and port of that: it leads to the same server.

    A name that is too long is passed over: mail must not fail for want of tracking.
    """
    own = settings.tracking_base
    if not tracking_host:
        return own
    parts = urlsplit(own)
    port = "" if parts.port is None else f":{parts.port}"
    customers = f"{parts.scheme.lower()}://{tracking_host}{port}"
    return customers if len(customers) <= MAX_BASE_CHARACTERS else own
