"""What the User-Agent of a hit on a pixel or link gives away: a table.

Names are looked for anywhere in it, in lower case; the first that is found decides. Most are names that their makers
put there to be recognised. A missing name makes a machine look like a person, a wrong one a person like a machine:
therefore only names that no mail program or browser has.
"""

from __future__ import annotations

from enum import Enum


class ClientKind(Enum):
    """What kind of program it is."""

    BROWSER = "browser"
    """A browser or mail program, or what passes itself off as one."""
    IMAGE_PROXY = "image_proxy"
    EARLY_FETCH = "early_fetch"
    LINK_PREVIEW = "link_preview"
    SECURITY_PRODUCT = "security_product"
    HEADLESS_BROWSER = "headless_browser"
    LIBRARY = "library"
    CRAWLER = "crawler"
    NAMELESS = "nameless"
    """There is no user agent."""


_APPLE_PRIVACY = "mozilla/5.0"
"""All there is of it: what the fetches of Apple's Mail Privacy Protection (since iOS 15) look like."""

_NAMES_BY_KIND = {
    # Gmail, Yahoo and AOL, Seznam; others name theirs in the same way.
    ClientKind.IMAGE_PROXY: "googleimageproxy, yahoomailproxy, seznamemailproxy, imageproxy, mailproxy",
    # Fetches for Gmail before anybody has opened the mail, always as this outdated browser.
    ClientKind.EARLY_FETCH: "edge/12.246 mozilla/5.0",
    ClientKind.LINK_PREVIEW: """slackbot, slack-imgproxy, facebookexternalhit, facebot, twitterbot, whatsapp/, viber,
        telegrambot, discordbot, linkedinbot, skypeuripreview, pinterestbot, redditbot, vkshare, bingpreview, iframely,
        google-pagerenderer, google web preview, embedly, googlemessages, mastodon/, microsoft office existence
        discovery, microsoft office protocol discovery""",
    ClientKind.SECURITY_PRODUCT: """barracuda, proofpoint, mimecast, safelinks, ironport, ciscosecureemail, trendmicro,
        trend micro, symantec, messagelabs, forcepoint, websense, fireeye, fortimail, fortiguard, sophos, zscaler,
        netcraft, virustotal, urlscan, checkphish, phishtank, bitdefender, kaspersky, cloudmark, vadesecure, paloalto,
        palo alto, sonicwall""",
    ClientKind.HEADLESS_BROWSER: "headlesschrome, phantomjs, puppeteer, playwright, selenium, slimerjs",
    ClientKind.LIBRARY: """curl/, libcurl, wget/, python, aiohttp, httpx/, scrapy, go-http-client, java/, okhttp,
        apache-httpclient, jakarta commons, libwww-perl, lwp::, ruby, faraday, node-fetch, axios/, undici, got (,
        guzzlehttp, php/, winhttp, restsharp, reqwest, hyper/, lua-resty, ahc/, postmanruntime, insomnia/, httpie/,
        powershell""",
    ClientKind.CRAWLER: """bot/, bot;, bot), -bot, googlebot, bingbot, crawler, crawl/, spider, scanner, monitor/,
        pingdom, uptimerobot, +http""",
}
_NAMES = tuple(
    (kind, tuple(" ".join(name.split()) for name in names.split(","))) for kind, names in _NAMES_BY_KIND.items()
)
_PICTURES_ONLY = frozenset({ClientKind.IMAGE_PROXY, ClientKind.EARLY_FETCH})
_LIBRARIES_OF_MAIL_APPS = ("okhttp", "apache-httpclient/unavailable")
"""With these, mail programs on Android fetch pictures. Links they hand to a browser."""


def client_kind(user_agent: str, *, is_open: bool) -> ClientKind:
    """What kind of program came for a pixel (`is_open`) or a link."""
    name = user_agent.strip().lower()
    if not name:
        return ClientKind.NAMELESS
    if name == _APPLE_PRIVACY:
        # Apple's proxies fetch pictures only: for a link it is a script that took the shortest name.
        return ClientKind.EARLY_FETCH if is_open else ClientKind.LIBRARY
    if is_open and name.startswith(_LIBRARIES_OF_MAIL_APPS):
        return ClientKind.BROWSER
    for kind, names in _NAMES:
        if any(known in name for known in names):
            return ClientKind.CRAWLER if kind in _PICTURES_ONLY and not is_open else kind
    return ClientKind.BROWSER
