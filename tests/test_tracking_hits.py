"""Who came for a pixel or link, what is kept of them, and what they are answered."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from core.sending.tracking_answers import (
    PIXEL,
    PrivacySignals,
    click_response,
    coarse_network,
    declines_tracking,
    kept_hit,
    open_response,
    unknown_link_response,
)
from core.sending.tracking_hits import (
    CERTAIN_POINTS,
    MACHINE_POINTS,
    MEANINGS,
    Hit,
    HitJudgement,
    HitKind,
    KnownNetwork,
    ReadEvidence,
    ReadMark,
    Signal,
    hit_from_request,
    judge_hit,
    read_mark,
)

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
)
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
OUTLOOK = "Mozilla/4.0 (compatible; ms-office; MSOffice 16)"
THUNDERBIRD = "Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Thunderbird/115.10.1"
GMAIL = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
YAHOO = "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html"
GMAIL_EARLY = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0"
)
DELIVERED = 1_760_000_000_000
LATER = DELIVERED + 3_600_000
OPEN, CLICK = None, 1


@pytest.mark.parametrize(
    ("user_agent", "link", "kind", "signal"),
    [
        (CHROME, OPEN, HitKind.PERSON, None),
        (CHROME, CLICK, HitKind.PERSON, None),
        (IPHONE, OPEN, HitKind.PERSON, None),
        (OUTLOOK, OPEN, HitKind.PERSON, None),
        (THUNDERBIRD, CLICK, HitKind.PERSON, None),
        ("okhttp/4.9.3", OPEN, HitKind.PERSON, None),
        ("okhttp/4.9.3", CLICK, HitKind.SCANNER, Signal.LIBRARY),
        ("Apache-HttpClient/UNAVAILABLE (java 1.4)", OPEN, HitKind.PERSON, None),
        (GMAIL, OPEN, HitKind.PROXY, Signal.IMAGE_PROXY),
        (GMAIL, CLICK, HitKind.SCANNER, Signal.CRAWLER),
        (YAHOO, OPEN, HitKind.PROXY, Signal.IMAGE_PROXY),
        ("Mozilla/5.0", OPEN, HitKind.PREFETCH, Signal.EARLY_FETCH),
        ("Mozilla/5.0", CLICK, HitKind.SCANNER, Signal.LIBRARY),
        (GMAIL_EARLY, OPEN, HitKind.PREFETCH, Signal.EARLY_FETCH),
        ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", CLICK, HitKind.PREFETCH, Signal.LINK_PREVIEW),
        ("facebookexternalhit/1.1", CLICK, HitKind.PREFETCH, Signal.LINK_PREVIEW),
        ("Microsoft Office Existence Discovery", CLICK, HitKind.PREFETCH, Signal.LINK_PREVIEW),
        (f"{CHROME} BingPreview/1.0b", CLICK, HitKind.PREFETCH, Signal.LINK_PREVIEW),
        ("Barracuda Sentinel (EE)", CLICK, HitKind.SCANNER, Signal.SECURITY_PRODUCT),
        ("Mozilla/5.0 (compatible; Mimecast)", CLICK, HitKind.SCANNER, Signal.SECURITY_PRODUCT),
        (f"{CHROME} Proofpoint", OPEN, HitKind.SCANNER, Signal.SECURITY_PRODUCT),
        ("MSIE 9.0 SafeLinks/1.0", CLICK, HitKind.SCANNER, Signal.SECURITY_PRODUCT),
        (CHROME.replace("Chrome", "HeadlessChrome"), OPEN, HitKind.SCANNER, Signal.HEADLESS_BROWSER),
        ("curl/8.5.0", CLICK, HitKind.SCANNER, Signal.LIBRARY),
        ("python-requests/2.32.3", OPEN, HitKind.SCANNER, Signal.LIBRARY),
        ("Go-http-client/2.0", CLICK, HitKind.SCANNER, Signal.LIBRARY),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://google.test)", CLICK, HitKind.SCANNER, Signal.CRAWLER),
        ("", CLICK, HitKind.SCANNER, Signal.NO_USER_AGENT),
        ("  ", OPEN, HitKind.SCANNER, Signal.NO_USER_AGENT),
    ],
)  # fmt: skip
def test_user_agents(user_agent: str, link: int | None, kind: HitKind, signal: Signal | None) -> None:
    judged = judge_hit(Hit(LATER, link, user_agent), DELIVERED)
    assert judged.kind is kind
    assert judged.signals == (() if signal is None else (signal,))
    assert judged.reason == ("" if signal is None else MEANINGS[signal].text)
    assert judged.counts == (kind in (HitKind.PERSON, HitKind.PROXY))


@pytest.mark.parametrize(
    ("after_ms", "link", "user_agent", "kind", "points"),
    [
        (-60_001, CLICK, CHROME, HitKind.PERSON, 0),  # of an earlier attempt whose answer was lost
        (-60_000, CLICK, CHROME, HitKind.SCANNER, 60),
        (0, CLICK, CHROME, HitKind.SCANNER, 60),
        (1_999, OPEN, CHROME, HitKind.PREFETCH, 60),
        (2_000, CLICK, CHROME, HitKind.PERSON, 20),
        (9_999, OPEN, CHROME, HitKind.PERSON, 20),
        (10_000, CLICK, CHROME, HitKind.PERSON, 0),
        (500, OPEN, GMAIL, HitKind.PREFETCH, 60),
        (5_000, OPEN, GMAIL, HitKind.PROXY, 20),
    ],
)
def test_haste(after_ms: int, link: int | None, user_agent: str, kind: HitKind, points: int) -> None:
    judged = judge_hit(Hit(DELIVERED + after_ms, link, user_agent), DELIVERED)
    assert (judged.kind, judged.machine_points) == (kind, points)


def test_nothing_is_hasty_while_the_delivery_is_not_known() -> None:
    assert judge_hit(Hit(DELIVERED, CLICK, CHROME)).kind is HitKind.PERSON


@pytest.mark.parametrize(
    ("others", "is_burst"),
    [
        ([], False),
        ([(0, 1), (300, 1), (-300, 1)], False),  # a double click
        ([(0, 2)], True),
        ([(999, 2)], True),
        ([(-999, 2)], True),
        ([(1_000, 2)], False),
        ([(-1_500, 2), (400, 3)], True),
        ([(-1_500, 2), (1_500, 3)], False),
        ([(1_500, 2), (1_900, 3)], True),
        ([(1_500, 2), (1_900, 2)], False),
        ([(100, None), (200, None)], False),  # pixels
    ],
)
def test_bursts(others: list[tuple[int, int | None]], is_burst: bool) -> None:
    hits = [Hit(LATER + offset, link, CHROME) for offset, link in others]
    judged = judge_hit(Hit(LATER, CLICK, CHROME), DELIVERED, hits)
    assert judged.kind is (HitKind.SCANNER if is_burst else HitKind.PERSON)
    assert (Signal.BURST in judged.signals) == is_burst


def test_an_open_is_never_part_of_a_burst() -> None:
    assert judge_hit(Hit(LATER, OPEN, CHROME), DELIVERED, [Hit(LATER, 1), Hit(LATER, 2)]).kind is HitKind.PERSON


def test_hints_add_up() -> None:
    hasty = Hit(DELIVERED + 3_000, CLICK, CHROME, has_language=False)
    assert judge_hit(hasty, DELIVERED) == HitJudgement(HitKind.PERSON, 30, (Signal.SOON, Signal.NO_LANGUAGE))
    head = Hit(DELIVERED + 3_000, CLICK, CHROME, is_head=True, has_language=False)
    assert judge_hit(head, DELIVERED).machine_points == 90 >= CERTAIN_POINTS
    both = Hit(DELIVERED, CLICK, "curl/8", is_head=True)
    assert judge_hit(both, DELIVERED).machine_points == 100


def test_a_head_request_and_a_prefetch_alone_are_machines() -> None:
    assert judge_hit(Hit(LATER, CLICK, CHROME, is_head=True)).kind is HitKind.SCANNER
    assert judge_hit(Hit(LATER, CLICK, CHROME, is_prefetch=True)).kind is HitKind.PREFETCH


NETWORKS = (
    KnownNetwork(ipaddress.ip_network("203.0.113.0/24"), HitKind.SCANNER),
    KnownNetwork(ipaddress.ip_network("2001:db8::/32"), HitKind.PREFETCH),
    KnownNetwork(ipaddress.ip_network("198.51.100.0/24"), HitKind.PROXY),
    KnownNetwork(ipaddress.ip_network("192.0.2.0/24"), HitKind.PERSON),
)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("203.0.113.9", HitKind.SCANNER),
        ("::ffff:203.0.113.9", HitKind.SCANNER),
        ("2001:db8::1%eth0", HitKind.PREFETCH),
        ("198.51.100.1", HitKind.PROXY),
        ("192.0.2.1", HitKind.PERSON),
        ("203.0.114.1", HitKind.PERSON),
        ("", HitKind.PERSON),
        ("unix:", HitKind.PERSON),
    ],
)
def test_networks_that_the_operator_knows(address: str, kind: HitKind) -> None:
    assert judge_hit(Hit(LATER, CLICK, CHROME, address), DELIVERED, networks=NETWORKS).kind is kind


def test_every_signal_has_a_meaning_and_the_order_is_that_of_weight() -> None:
    assert set(MEANINGS) == set(Signal)
    points = [meaning.points for meaning in MEANINGS.values()]
    assert points == sorted(points, reverse=True)
    assert all((meaning.kind is HitKind.PROXY) == (meaning.points == 0) for meaning in MEANINGS.values())


@given(
    st.text(max_size=80),
    st.none() | st.integers(1, 9),
    st.integers(-100_000, 100_000),
    st.lists(
        st.builds(Hit, st.integers(DELIVERED - 5000, DELIVERED + 5000), st.none() | st.integers(1, 4)), max_size=9
    ),
)
def test_any_hit_is_judged(user_agent: str, link: int | None, after_ms: int, others: list[Hit]) -> None:
    judged = judge_hit(Hit(DELIVERED + after_ms, link, user_agent), DELIVERED, others, NETWORKS)
    assert 0 <= judged.machine_points <= 100
    assert judged.counts == (judged.machine_points < MACHINE_POINTS)


@pytest.mark.parametrize(
    "headers", [{"Accept-Language": "de", "User-Agent": " x "}, {}, {"Sec-Purpose": "prefetch;prerender"}]
)
def test_hits_are_made_of_requests(headers: dict[str, str]) -> None:
    hit = hit_from_request(LATER, 3, "head", "192.0.2.1", Headers(headers))
    assert (hit.at_ms, hit.link, hit.address, hit.is_head) == (LATER, 3, "192.0.2.1", True)
    assert hit.user_agent == headers.get("User-Agent", "").strip()
    assert (hit.has_language, hit.is_prefetch) == ("Accept-Language" in headers, "Sec-Purpose" in headers)
    assert len(hit_from_request(LATER, 3, "GET", "", {"User-Agent": "x" * 9999}).user_agent) == 500


def marked(*hits: tuple[int, int | None, HitKind]) -> ReadMark | None:
    return read_mark([(Hit(at_ms, link), HitJudgement(kind, 0, ())) for at_ms, link, kind in hits])


def test_what_says_that_a_mail_was_read() -> None:
    person, proxy, scanner = HitKind.PERSON, HitKind.PROXY, HitKind.SCANNER
    assert marked() is None
    assert marked((5, OPEN, person)) is None
    assert marked((5, OPEN, person), (10_004, OPEN, person)) is None
    assert marked((10_005, OPEN, person), (5, OPEN, person)) == ReadMark(10_005, ReadEvidence.OPENED_AGAIN)
    assert marked((5, OPEN, proxy), (99_999, OPEN, proxy), (99_999, OPEN, person)) is None
    assert marked((5, CLICK, scanner), (9, CLICK, person)) == ReadMark(9, ReadEvidence.CLICKED)
    both = marked((5, OPEN, person), (20_000, OPEN, person), (19_000, CLICK, person))
    assert both == ReadMark(19_000, ReadEvidence.CLICKED)


def test_the_pixel() -> None:
    answer = open_response()
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "image/gif", PIXEL)
    assert PIXEL[:6] == b"GIF89a"
    assert struct.unpack("<HH", PIXEL[6:10]) == (1, 1)
    assert PIXEL[-1:] == b";"
    assert len(PIXEL) == 43


def test_no_answer_is_kept_by_caches_or_sets_a_cookie() -> None:
    for answer in (open_response(), click_response("https://a.test/"), unknown_link_response()):
        assert "no-store" in answer.headers["Cache-Control"]
        assert "Set-Cookie" not in answer.headers
    assert "Location" not in unknown_link_response().headers
    assert unknown_link_response().status == 404


def test_the_redirect_is_one_that_browsers_do_not_remember() -> None:
    answer = click_response("https://a.test/?a=1&b=2#c")
    assert (answer.status, answer.headers["Location"], answer.body) == (302, "https://a.test/?a=1&b=2#c", b"")


@pytest.mark.parametrize(
    ("headers", "declines"),
    [({}, False), ({"DNT": "0"}, False), ({"DNT": "1"}, True), ({"Sec-GPC": " 1 "}, True), ({"dnt": "null"}, False)],
)
def test_who_asks_not_to_be_tracked(headers: Mapping[str, str], declines: bool) -> None:
    hit = Hit(LATER, CLICK, CHROME, "192.0.2.1")
    given_headers = Headers(dict(headers))
    assert declines_tracking(given_headers) is declines
    assert kept_hit(hit, given_headers, PrivacySignals.IGNORE) == hit
    forgotten = Hit(LATER, CLICK)
    assert kept_hit(hit, given_headers, PrivacySignals.FORGET_CLIENT) == (forgotten if declines else hit)
    assert kept_hit(hit, given_headers, PrivacySignals.DO_NOT_RECORD) == (None if declines else hit)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("::ffff:203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_networks_in_place_of_addresses(address: str, network: str) -> None:
    assert coarse_network(address) == network
