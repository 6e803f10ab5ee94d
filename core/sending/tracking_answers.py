"""What a request for a pixel or a link is answered with, and what may be kept of who made it.

The answers say nothing of whether we counted, know the delivery or found the token genuine; no cookie is ever set.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from html import escape
from typing import Final

from core.sending.tracking_hits import Hit, RequestHeaders

PIXEL: Final = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"  # one by one pixel, a palette of two colours
    b"!\xf9\x04\x01\x00\x00\x00\x00"  # of which the first is transparent
    b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
"""A transparent GIF of one pixel."""
REDIRECT_STATUS = 302
"""Not 301, which browsers keep: later clicks would not come by."""
KEPT_IPV4_BITS = 24
KEPT_IPV6_BITS = 48

_NOTHING_LOADED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_UNCACHED = {
    "Cache-Control": "no-store, no-cache, must-revalidate, max-age=0, private",
    "Pragma": "no-cache",
    "Expires": "0",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class TrackingResponse:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def open_response() -> TrackingResponse:
    """The pixel, for any token: a broken picture helps nobody, and a 404 would tell genuine tokens from others."""
    headers = {"Content-Type": "image/gif", "Cross-Origin-Resource-Policy": "cross-origin"}
    return TrackingResponse(200, _UNCACHED | headers, PIXEL)


def click_response(target: str) -> TrackingResponse:
    """The redirect to the target of a genuine token: ASCII without controls, as tokens are made of nothing else."""
    return TrackingResponse(REDIRECT_STATUS, _UNCACHED | {"Location": target}, b"")


def elsewhere_response(target: str) -> TrackingResponse:
    """For a genuine token under a name that it was not made for, perhaps another customer's: the reader is told where
    it leads, and goes there himself or does not."""
    shown = escape(target)
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Leaving</title></head><body>'
        f'<p>This link leads to another place:</p><p><a rel="noreferrer nofollow" href="{shown}">{shown}</a></p>'
        "</body></html>\n"
    )
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": _NOTHING_LOADED}
    return TrackingResponse(200, _UNCACHED | headers, page.encode())


def unknown_link_response() -> TrackingResponse:
    """For a token that is not ours: it leads nowhere."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Security-Policy": "default-src 'none'"}
    return TrackingResponse(404, _UNCACHED | headers, b"This link is damaged or does not come from us.\n")


class PrivacySignals(StrEnum):
    """What becomes of a hit whose browser asks not to be tracked (`DNT: 1`, `Sec-GPC: 1`)."""

    IGNORE = "ignore"
    FORGET_CLIENT = "forget_client"
    """It counts, but neither address nor program is kept."""
    DO_NOT_RECORD = "do_not_record"


def declines_tracking(headers: RequestHeaders) -> bool:
    """Whether the request asks not to be tracked: Tracking Preference Expression, or Global Privacy Control."""
    return any(headers.get(name, "").strip() == "1" for name in ("DNT", "Sec-GPC"))


def kept_hit(hit: Hit, headers: RequestHeaders, policy: PrivacySignals) -> Hit | None:
    """What may be kept of a hit, None for nothing. To be judged before, on the whole of it."""
    if policy is PrivacySignals.IGNORE or not declines_tracking(headers):
        return hit
    return replace(hit, user_agent="", address="") if policy is PrivacySignals.FORGET_CLIENT else None


def coarse_network(address: str) -> str:
    """The network of an address, /24 or /48, for those who are not to keep addresses; empty when it is none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    plain = getattr(found, "ipv4_mapped", None) or found
    bits = KEPT_IPV4_BITS if plain.version == 4 else KEPT_IPV6_BITS
    return str(ipaddress.ip_network((plain, bits), strict=False))


def network_address(network: str) -> str:
    """The first address of a network as `coarse_network` gives it: for those who expect an address, e.g. `192.0.2.0`.

    Empty for the empty network.
    """
    return network.partition("/")[0]
