"""Who came for a pixel or a link: a person, or one of the machines that stand between sender and reader.

Pure: judged from the request, the moment of the delivery and the other hits of the same delivery. It is a guess, and
docs/tracking.md says how good a one. Many scanners come as an ordinary browser from an ordinary network, to be treated
as a reader is; only their haste gives them away, and some wait. So every hit is kept, with its signals, and what counts
is decided when it is counted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from core.clock import MINUTE_MS, SECOND_MS
from core.netguard import IPNetwork
from core.sending.tracking_clients import ClientKind, client_kind

MAX_USER_AGENT_CHARACTERS = 500
"""Kept of one; those of browsers have less than 200."""
MACHINE_POINTS = 50
"""From here on a hit is taken for a machine's."""
CERTAIN_POINTS = 80
"""From here on there is little doubt; between the two it is only suspicious."""
AT_ONCE_MS = 2 * SECOND_MS
"""After the delivery: nobody is notified, looks and clicks in that time."""
SOON_MS = 10 * SECOND_MS
"""After the delivery: a few who sit in front of their mail do."""
BEFORE_ANSWER_MS = MINUTE_MS
"""So long a host may look into a mail before it accepts it. What comes earlier reads a copy of an earlier attempt whose
answer was lost, and says nothing."""
BURSTS = ((2, SECOND_MS), (3, 2 * SECOND_MS))
"""So many different links of one mail within so many milliseconds are more than a person follows."""
SETTLED_MS = 3 * SECOND_MS
"""After so long all that belongs to a burst has come, and the moment of the delivery is written down."""
READ_AGAIN_MS = 10 * SECOND_MS
"""A pixel fetched again so long after the first time was looked at again."""


class HitKind(Enum):
    """Who came."""

    PERSON = "person"
    PROXY = "proxy"
    """The mail provider, on behalf of a person who opened the mail: an open, but address and program are the
    provider's, and opening it again may not be seen."""
    PREFETCH = "prefetch"
    """A machine that fetches ahead for somebody who may never look."""
    SCANNER = "scanner"
    """A machine that looks for something: filters, crawlers, scripts."""


class Signal(Enum):
    """What speaks for a machine."""

    SECURITY_PRODUCT = "security_product"
    LIBRARY = "library"
    CRAWLER = "crawler"
    HEADLESS_BROWSER = "headless_browser"
    LINK_PREVIEW = "link_preview"
    PREFETCH_HEADER = "prefetch_header"
    SCANNER_NETWORK = "scanner_network"
    PREFETCH_NETWORK = "prefetch_network"
    EARLY_FETCH = "early_fetch"
    HEAD_REQUEST = "head_request"
    CLICKED_AT_ONCE = "clicked_at_once"
    OPENED_AT_ONCE = "opened_at_once"
    BURST = "burst"
    NO_USER_AGENT = "no_user_agent"
    SOON = "soon"
    NO_LANGUAGE = "no_language"
    IMAGE_PROXY = "image_proxy"
    PROXY_NETWORK = "proxy_network"


@dataclass(frozen=True, slots=True)
class SignalMeaning:
    """What a signal is worth."""

    kind: HitKind
    points: int
    """Out of 100, added up. Our own estimates, to be read as: sure alone (80), enough alone (50 and 60), a hint."""
    text: str


MEANINGS = {
    Signal.SECURITY_PRODUCT: SignalMeaning(HitKind.SCANNER, 80, "the user agent names a security product"),
    Signal.LIBRARY: SignalMeaning(HitKind.SCANNER, 80, "the user agent is that of a script or HTTP library"),
    Signal.CRAWLER: SignalMeaning(HitKind.SCANNER, 80, "the user agent names a crawler"),
    Signal.HEADLESS_BROWSER: SignalMeaning(HitKind.SCANNER, 80, "a browser without a screen"),
    Signal.LINK_PREVIEW: SignalMeaning(HitKind.PREFETCH, 80, "a program looks at the link to show what it is"),
    Signal.PREFETCH_HEADER: SignalMeaning(HitKind.PREFETCH, 80, "the browser says that it fetches ahead"),
    Signal.SCANNER_NETWORK: SignalMeaning(HitKind.SCANNER, 80, "a network that you listed as a scanner's"),
    Signal.PREFETCH_NETWORK: SignalMeaning(HitKind.PREFETCH, 80, "a network that you listed as one that prefetches"),
    Signal.EARLY_FETCH: SignalMeaning(HitKind.PREFETCH, 60, "the user agent of fetches on arrival, read or not"),
    Signal.HEAD_REQUEST: SignalMeaning(HitKind.SCANNER, 60, "a HEAD request, which mail programs do not make"),
    Signal.CLICKED_AT_ONCE: SignalMeaning(HitKind.SCANNER, 60, "a click within 2 seconds of the delivery"),
    Signal.OPENED_AT_ONCE: SignalMeaning(HitKind.PREFETCH, 60, "an open within 2 seconds of the delivery"),
    Signal.BURST: SignalMeaning(HitKind.SCANNER, 50, "several links of the mail at the same time"),
    Signal.NO_USER_AGENT: SignalMeaning(HitKind.SCANNER, 50, "no user agent"),
    Signal.SOON: SignalMeaning(HitKind.SCANNER, 20, "within 10 seconds of the delivery"),
    Signal.NO_LANGUAGE: SignalMeaning(HitKind.SCANNER, 10, "no Accept-Language"),
    Signal.IMAGE_PROXY: SignalMeaning(HitKind.PROXY, 0, "the mail provider's image proxy"),
    Signal.PROXY_NETWORK: SignalMeaning(HitKind.PROXY, 0, "a network that you listed as an image proxy's"),
}
"""In the order in which they decide the kind where points are equal."""
_PLACES = {signal: place for place, signal in enumerate(MEANINGS)}

_CLIENT_SIGNALS = {
    ClientKind.SECURITY_PRODUCT: Signal.SECURITY_PRODUCT,
    ClientKind.LIBRARY: Signal.LIBRARY,
    ClientKind.CRAWLER: Signal.CRAWLER,
    ClientKind.HEADLESS_BROWSER: Signal.HEADLESS_BROWSER,
    ClientKind.LINK_PREVIEW: Signal.LINK_PREVIEW,
    ClientKind.EARLY_FETCH: Signal.EARLY_FETCH,
    ClientKind.IMAGE_PROXY: Signal.IMAGE_PROXY,
    ClientKind.NAMELESS: Signal.NO_USER_AGENT,
}
_NETWORK_SIGNALS = {
    HitKind.SCANNER: Signal.SCANNER_NETWORK,
    HitKind.PREFETCH: Signal.PREFETCH_NETWORK,
    HitKind.PROXY: Signal.PROXY_NETWORK,
}
_PREFETCH_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
"""The first is of the Fetch standard, the others those of older browsers."""
_PREFETCH_VALUES = ("prefetch", "preview", "prerender")


class RequestHeaders(Protocol):
    """The headers of a request; names are found in whatever case, as with Flask's."""

    def get(self, name: str, default: str, /) -> str:
        """The value of a header, or the default."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One request for a pixel or a link."""

    at_ms: int
    link: int | None
    """The number of the link; None for the pixel."""
    user_agent: str = ""
    address: str = ""
    """Whence it came, as text; empty when it is not known or not kept."""
    is_head: bool = False
    has_language: bool = True
    is_prefetch: bool = False
    """Whether the browser said so."""


@dataclass(frozen=True, slots=True)
class KnownNetwork:
    """A network that is known to the operator. None are shipped: such lists are other people's, and grow old."""

    network: IPNetwork
    kind: HitKind


@dataclass(frozen=True, slots=True)
class HitJudgement:
    """Who it was, most likely."""

    kind: HitKind
    machine_points: int
    """0 to 100, see `MACHINE_POINTS` and `CERTAIN_POINTS`."""
    signals: tuple[Signal, ...]
    """The weightiest first."""

    @property
    def reason(self) -> str:
        """The weightiest signal in words; empty when nothing speaks for a machine."""
        return MEANINGS[self.signals[0]].text if self.signals else ""

    @property
    def counts(self) -> bool:
        """Whether a person opened or clicked, by himself or through his provider."""
        return self.kind in (HitKind.PERSON, HitKind.PROXY)


def hit_from_request(at_ms: int, link: int | None, method: str, address: str, headers: RequestHeaders) -> Hit:
    """What is looked at of a request."""
    purposes = " ".join(headers.get(name, "") for name in _PREFETCH_HEADERS).lower()
    return Hit(
        at_ms,
        link,
        headers.get("User-Agent", "")[:MAX_USER_AGENT_CHARACTERS].strip(),
        address,
        method.upper() == "HEAD",
        bool(headers.get("Accept-Language", "").strip()),
        any(value in purposes for value in _PREFETCH_VALUES),
    )


def judge_hit(
    hit: Hit, delivered_ms: int | None = None, others: Sequence[Hit] = (), networks: Sequence[KnownNetwork] = ()
) -> HitJudgement:
    """Who came, most likely.

    `delivered_ms` is when the recipient's host took the mail, None while that is not known. `others` are other hits of
    the same delivery, before and after: the first of a burst is known as such only when the next has come, so judge
    what came when some seconds have passed. `networks` are gone through one by one: some hundreds, not a whole table.
    """
    return judge_signals((*request_signals(hit, networks), *timing_signals(hit, delivered_ms, others)))


def judge_signals(found: Iterable[Signal]) -> HitJudgement:
    """Who came, by what speaks for a machine: by `request_signals` and `timing_signals` of a hit together."""
    signals = tuple(sorted(set(found), key=lambda signal: (-MEANINGS[signal].points, _PLACES[signal])))
    points = min(100, sum(MEANINGS[signal].points for signal in signals))
    if points >= MACHINE_POINTS:
        return HitJudgement(MEANINGS[signals[0]].kind, points, signals)
    is_proxy = any(MEANINGS[signal].kind is HitKind.PROXY for signal in signals)
    return HitJudgement(HitKind.PROXY if is_proxy else HitKind.PERSON, points, signals)


def request_signals(hit: Hit, networks: Sequence[KnownNetwork] = ()) -> tuple[Signal, ...]:
    """What the request says by itself: to be asked before anything of it is forgotten."""
    client = client_kind(hit.user_agent, is_open=hit.link is None)
    signals = [_CLIENT_SIGNALS[client]] if client in _CLIENT_SIGNALS else []
    if hit.is_head:
        signals.append(Signal.HEAD_REQUEST)
    if hit.is_prefetch:
        signals.append(Signal.PREFETCH_HEADER)
    if not hit.has_language:
        signals.append(Signal.NO_LANGUAGE)
    return (*signals, *_network_signals(hit.address, networks))


def timing_signals(hit: Hit, delivered_ms: int | None, others: Sequence[Hit]) -> tuple[Signal, ...]:
    """What its moment says, beside the delivery and other hits of it: only moments and links are looked at."""
    burst = [Signal.BURST] if hit.link is not None and _is_in_burst(hit, others) else []
    age_ms = hit.at_ms - delivered_ms if delivered_ms is not None else None
    if age_ms is None or age_ms < -BEFORE_ANSWER_MS or age_ms >= SOON_MS:
        return tuple(burst)
    if age_ms >= AT_ONCE_MS:
        return (*burst, Signal.SOON)
    return (*burst, Signal.OPENED_AT_ONCE if hit.link is None else Signal.CLICKED_AT_ONCE)


def _is_in_burst(hit: Hit, others: Sequence[Hit]) -> bool:
    """Whether there is a stretch of time with this hit in it and too many different links."""
    clicks = sorted((other.at_ms, other.link) for other in (*others, hit) if other.link is not None)
    for count, span_ms in BURSTS:
        near = [click for click in clicks if abs(click[0] - hit.at_ms) < span_ms]
        starts = [at_ms for at_ms, _ in near if at_ms <= hit.at_ms]
        if any(len({link for at_ms, link in near if start <= at_ms < start + span_ms}) >= count for start in starts):
            return True
    return False


def _network_signals(address: str, networks: Sequence[KnownNetwork]) -> list[Signal]:
    if not networks:
        return []
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return []
    plain = getattr(found, "ipv4_mapped", None) or found
    kinds = (known.kind for known in networks if known.network.version == plain.version and plain in known.network)
    return [_NETWORK_SIGNALS[kind] for kind in kinds if kind in _NETWORK_SIGNALS]


class ReadEvidence(Enum):
    """Why a mail is said to have been read, not only opened."""

    CLICKED = "clicked"
    """A person followed a link."""
    OPENED_AGAIN = "opened_again"
    """A person's own program fetched the pixel again, `READ_AGAIN_MS` or more after the first time."""


@dataclass(frozen=True, slots=True)
class ReadMark:
    """That a delivery was read: at most one for each."""

    at_ms: int
    evidence: ReadEvidence


def read_mark(hits: Sequence[tuple[Hit, HitJudgement]]) -> ReadMark | None:
    """The earliest evidence that the mail of these hits, all of one delivery, was read; None without any.

    A pixel is fetched in a moment and says nothing of how long it was looked at. Holding its answer back until the
    reader goes away would, for those few whose program fetches it itself, at the price of a connection for each.
    """
    persons = sorted((hit for hit, judged in hits if judged.kind is HitKind.PERSON), key=lambda hit: hit.at_ms)
    opens = [hit.at_ms for hit in persons if hit.link is None]
    marks = [ReadMark(hit.at_ms, ReadEvidence.CLICKED) for hit in persons if hit.link is not None][:1]
    again = [at_ms for at_ms in opens if at_ms - opens[0] >= READ_AGAIN_MS][:1]
    marks += [ReadMark(at_ms, ReadEvidence.OPENED_AGAIN) for at_ms in again]
    return min(marks, key=lambda mark: mark.at_ms, default=None)
