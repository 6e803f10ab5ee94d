"""Mails with pixel and tracked links: what changes in them, what must not, and what a hostile one costs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser, LexborNode

from core.errors import InvalidField
from core.sending.tracking_targets import trackable_target
from core.sending.tracking_tokens import Clicked, LinkPlace, Opened, TrackedLink, TrackingTokens
from outbound.html_links import attribute_text, find_html_links
from outbound.tracking import MAX_BODY_CHARACTERS, MAX_LINKS, Tracker, TrackingOptions

BASE = "https://click.example.com/track"
DELIVERY = "0198f3c2-7a10-7abc-8def-0123456789ab"
TOKENS = TrackingTokens(b"a secret of all processes")
TRACKER = Tracker(TOKENS, BASE)
CLICKS_ONLY = TrackingOptions(opens=False)
OPENS_ONLY = TrackingOptions(html_links=False)
TRACKED_URL = re.compile(re.escape(BASE) + r"/c/([A-Za-z0-9_-]+)")
PIXEL = re.compile(rf'<img src="{re.escape(BASE)}/o/([A-Za-z0-9_-]+)"[^>]*>')


def with_clicks(html: str, tracker: Tracker = TRACKER) -> str:
    filled = tracker.prepare(html, options=CLICKS_ONLY).html_for(DELIVERY)
    assert filled is not None
    return filled


def targets(html: str) -> list[str]:
    """Where the tracked links of a rewritten body lead."""
    read = [TOKENS.read(token) for token in TRACKED_URL.findall(html)]
    assert all(isinstance(clicked, Clicked) and clicked.delivery_id == DELIVERY for clicked in read)
    return [clicked.link.target for clicked in read if isinstance(clicked, Clicked)]


def readable(html: str) -> str:
    """A rewritten body with `[target]` in place of each tracked URL."""
    found = iter(targets(html))
    return TRACKED_URL.sub(lambda _: f"[{next(found)}]", html)


@pytest.mark.parametrize(
    ("html", "rewritten"),
    [
        ('<a href="https://a.test/">x</a>', '<a href="[https://a.test/]">x</a>'),
        ("<a href='https://a.test/'>x</a>", "<a href='[https://a.test/]'>x</a>"),
        ("<a href=https://a.test/>x</a>", "<a href=[https://a.test/]>x</a>"),
        ("<a href=https://a.test/?a=b&c class=d>x", "<a href=[https://a.test/?a=b&c] class=d>x"),
        ('<A\tHREF\n=\r"https://a.test/"/>', '<A\tHREF\n=\r"[https://a.test/]"/>'),
        ('<a/href="https://a.test/"title=x>', '<a/href="[https://a.test/]"title=x>'),
        ('<area shape=rect href="http://a.test/">', '<area shape=rect href="[http://a.test/]">'),
        ('<a title="href=x > y" href="https://a.test/">', '<a title="href=x > y" href="[https://a.test/]">'),
        ('<a data-href="https://no.test/" href="https://a.test/">', '<a data-href="https://no.test/" href="[https://a.test/]">'),
        ('<a href="https://a.test/1" href="https://a.test/2">', '<a href="[https://a.test/1]" href="https://a.test/2">'),
        ('<a href="#x" href="https://a.test/2">', '<a href="#x" href="https://a.test/2">'),
        ('<a href="https://a.test/?a=1&amp;b=2&#38;c&#x26;d">', '<a href="[https://a.test/?a=1&b=2&c&d]">'),
        ('<a href="https://a.test/?a=1&copy=2&reg&lt=3">', '<a href="[https://a.test/?a=1&copy=2%C2%AE&lt=3]">'),
        ('<a href="&#104;ttps&colon;//a.test&sol;">', '<a href="[https://a.test/]">'),
        ('<a href=" https://a.test/\n  b ">', '<a href="[https://a.test/%20%20b]">'),
        ('<a href="https://a.test/"<b>x</b>', '<a href="[https://a.test/]"<b>x</b>'),
        ('<p "a>b" \'><a href="https://a.test/">', '<p "a>b" \'><a href="[https://a.test/]">'),
        ('<p class=it\'s><a href="https://a.test/">', '<p class=it\'s><a href="[https://a.test/]">'),
        ('1 < 2 <3 <<a href="https://a.test/">', '1 < 2 <3 <<a href="[https://a.test/]">'),
        ('1 < 2 <3 < <a href="https://a.test/">', '1 < 2 <3 < <a href="[https://a.test/]">'),
        ('<!-- x --!><a href="https://a.test/">', '<!-- x --!><a href="[https://a.test/]">'),
        ('<a =x href="https://a.test/">', '<a =x href="[https://a.test/]">'),
        ('<a ="x>" href="https://a.test/">', '<a ="x>" href="https://a.test/">'),
        ('<!--><a href="https://a.test/">', '<!--><a href="[https://a.test/]">'),
        ('<!--[if !mso]><!--><a href="https://a.test/"><!--<![endif]-->', '<!--[if !mso]><!--><a href="[https://a.test/]"><!--<![endif]-->'),
        ('<![if !mso]><a href="https://a.test/"><![endif]>', '<![if !mso]><a href="[https://a.test/]"><![endif]>'),
        ('<script>"</script >"<a href="https://a.test/">', '<script>"</script >"<a href="[https://a.test/]">'),
        ('<scripted><a href="https://a.test/">', '<scripted><a href="[https://a.test/]">'),
        ('<base href="https://no.test/"><link href="https://no.test/"><a href="https://a.test/">',
         '<base href="https://no.test/"><link href="https://no.test/"><a href="[https://a.test/]">'),
    ],
)  # fmt: skip
def test_links_are_rewritten_where_browsers_see_them(html: str, rewritten: str) -> None:
    assert readable(with_clicks(html)) == rewritten


LINK = '<a href="https://a.test/">x</a>'


@pytest.mark.parametrize(
    "html",
    [
        "",
        "no markup at all",
        '<a href="mailto:a@a.test">',
        '<a href="tel:+49">',
        '<a href="#top">',
        '<a href="/path"><a href="//a.test/">',
        '<a href="javascript:x"><a href="data:text/html,x">',
        "<a href><a href=><a href=''><a name=x><a>",
        '<a href="https://user@a.test/">',
        '<abbr href="https://a.test/"><b href="https://a.test/"><form action="https://a.test/">',
        f"<!-- {LINK} -->",
        f"<!--[if mso]>{LINK}<v:rect href='https://a.test/'></v:rect><![endif]-->",
        f"<!-- a > b {LINK} --!>",
        f"<!-- {LINK}",
        f"<![CDATA[ {LINK} ]]>",
        f"<![CDATA[ > {LINK}",
        f"<script>{LINK}</script>",
        f"<SCRIPT>x = '{LINK}'",
        f"<script><!-- <script>x</script>{LINK}--></script>",
        f"<style>{LINK}</style>",
        f"<textarea>{LINK}</textareas></textarea>",
        f"<title>{LINK}</title>",
        f"<xmp>{LINK}</xmp><iframe>{LINK}</iframe><noembed>{LINK}</noembed><noframes>{LINK}</noframes>",
        f"<plaintext>{LINK}</plaintext>{LINK}",
        f"<p title='{LINK}'>",
        f'<p title="{LINK}',
        '<a href="https://a.test/',
        '<a href="https://a.test/"',
        '<? <a href="https://a.test/">',
        '</ <a href="https://a.test/">',
        '</a href="https://a.test/">',
        f'<a href="{BASE}/c/abc"><a href="{BASE.upper()}/u/abc">',
        '<a href="https://a.test/?u={{ id }}"><a href="{{ url }}"><a href="https://a.test/*|ID|*"><a href="https://a.test/%%x%%">',
        '<a href="https://a.test/{% x %}"><a href="https://a.test/<%= x %>"><a href="https://a.test/${x}">',
        '<a href="https://a.test/" data-pillarbox-no-track>',
        '<a clicktracking=off href="https://a.test/">',
        '<a href="https://a.test/" ClickTracking=" OFF ">',
        '<a data-pm-no-track href="https://a.test/"><a href="https://a.test/" ses:no-track>',
        '<a disable-tracking=true href="https://a.test/"><a mc:disable-tracking href="https://a.test/">',
        '<a href="https://a.test/" data-msys-clicktrack="0">',
        '<a href="https://a.test/&#0000000000000065;"><a href="https://a.test/&#1;">',
        '<a href="https://a.test/' + "x" * 1400 + '">',
        '<a href="https://a.test/\ud800">',
    ],
)
def test_left_alone(html: str) -> None:
    assert with_clicks(html) == html
    assert TRACKER.prepare(html).links == ()


def test_a_mark_with_another_value_is_none() -> None:
    assert targets(with_clicks('<a href="https://a.test/" clicktracking=on data-msys-clicktrack=1>')) == [
        "https://a.test/"
    ]


def test_prefixes_left_alone() -> None:
    tracker = Tracker(TOKENS, BASE, ("https://a.test/unsubscribe",))
    html = '<a href="https://A.test/unsubscribe?x"><a href="https://a.test/news">'
    assert targets(with_clicks(html, tracker)) == ["https://a.test/news"]


@pytest.mark.parametrize(
    ("html", "at"),
    [
        ("", ""),
        ("text", "text"),
        ("<p>x</p></body></html>\n", "<p>x</p>"),
        ("<p>x</p></BODY\n></HTML>", "<p>x</p>"),
        ("<p>x</p></html>", "<p>x</p>"),
        ("a</body>b</body>c", "a</body>b"),
        ("a</body><!-- </body> -->", "a"),
        ("a<script></body>", "a"),
        ("a<!-- </body>", "a"),
        ("a<p title='</body>", "a"),
        ("a<textarea>b</textarea>c", "a<textarea>b</textarea>c"),
        ("<bodyx></bodyx>", "<bodyx></bodyx>"),
    ],
)
def test_where_the_pixel_stands(html: str, at: str) -> None:
    mail = TRACKER.prepare(html, options=OPENS_ONLY)
    filled = mail.html_for(DELIVERY)
    assert filled is not None
    match = PIXEL.search(filled)
    assert match
    assert TOKENS.read(match[1]) == Opened(DELIVERY)
    assert (filled[: match.start()], filled[: match.start()] + filled[match.end() :]) == (at, html)
    assert mail.has_pixel


def test_links_behind_the_pixel() -> None:
    filled = TRACKER.prepare(f"a{LINK}b</body>c{LINK}d").html_for(DELIVERY) or ""
    tracked = '<a href="[https://a.test/]">x</a>'
    assert PIXEL.sub("[pixel]", readable(filled)) == f"a{tracked}b[pixel]</body>c{tracked}d"


def test_what_is_switched_off_is_left_alone() -> None:
    html, text = f"{LINK}</body>", "https://a.test/"
    nothing = TRACKER.prepare(html, text, TrackingOptions(opens=False, html_links=False))
    assert (nothing.html_for(DELIVERY), nothing.text_for(DELIVERY), nothing.links) == (html, text, ())
    assert not nothing.has_pixel
    assert TRACKER.prepare(None, None).html_for(DELIVERY) is None
    assert TRACKER.prepare(html, text).text_for(DELIVERY) == text
    assert not TRACKER.prepare(None, text).has_pixel


def test_links_are_numbered_through_both_bodies() -> None:
    mail = TRACKER.prepare(LINK * 2 + "</body>" + LINK, "see https://b.test/.", TrackingOptions(text_links=True))
    assert mail.links == (
        *(TrackedLink(number, "https://a.test/", LinkPlace.HTML) for number in (1, 2, 3)),
        TrackedLink(4, "https://b.test/", LinkPlace.TEXT),
    )
    bodies = f"{mail.html_for(DELIVERY)}{mail.text_for(DELIVERY)}"
    read = [TOKENS.read(token) for token in TRACKED_URL.findall(bodies)]
    mark = TOKENS.host_mark("click.example.com")
    assert read == [Clicked(DELIVERY, link, mark) for link in mail.links]


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("https://a.test/", "[https://a.test/]"),
        ("See https://a.test/x, or <HTTP://b.test/y>.", "See [https://a.test/x], or <[http://b.test/y]>."),
        ("(https://a.test/a_(b)) https://a.test/c).", "([https://a.test/a_(b)]) [https://a.test/c])."),
        ("https://a.test/?a=1&copy=2&amp;c!", "[https://a.test/?a=1&copy=2&amp;c]!"),
        ("xhttps://a.test/ mailto:a@a.test https:// https://.", "xhttps://a.test/ mailto:a@a.test https:// https://."),
        ("“https://a.test/u”\nhttps://{{host}}/", "“[https://a.test/u]”\nhttps://{{host}}/"),
        (
            "詳細はhttps://a.test/xをご覧ください。 https://a.test/x。",
            "詳細はhttps://a.test/xをご覧ください。 https://a.test/x。",
        ),
        (f"{BASE}/x/abc", f"{BASE}/x/abc"),
    ],
)
def test_links_in_plain_text(text: str, rewritten: str) -> None:
    filled = TRACKER.prepare(None, text, TrackingOptions(text_links=True)).text_for(DELIVERY)
    assert filled is not None
    assert readable(filled) == rewritten


def test_doing_it_twice_leaves_the_links() -> None:
    once = with_clicks(LINK * 3)
    assert with_clicks(once) == once


def test_each_delivery_has_tokens_of_its_own() -> None:
    mail, other = TRACKER.prepare(LINK), "0198f3c2-7a10-7abc-8def-ffffffffffff"
    tokens = TRACKED_URL.findall(f"{mail.html_for(DELIVERY)}{mail.html_for(other)}")
    assert [read.delivery_id for read in map(TOKENS.read, tokens) if read] == [DELIVERY, other]


def test_limits() -> None:
    mail = TRACKER.prepare(LINK * (MAX_LINKS + 5) + "</body>", "https://a.test/", TrackingOptions(text_links=True))
    assert [link.number for link in mail.links] == list(range(1, MAX_LINKS + 1))
    assert mail.has_pixel
    too_long = LINK + " " * MAX_BODY_CHARACTERS
    assert TRACKER.prepare(too_long).html_for(DELIVERY) == too_long


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "click.example.com",
        "ftp://click.example.com",
        "https://a@b.test/",
        "https://a.test/?x",
        "https://a.test/#x",
        'https://a.test/"x',
        "https://a.test/&x",
        "https://a.test/'x",
        "https://a.test/" + "x" * 90,
    ],
)
def test_base_urls_that_are_none(base_url: str) -> None:
    with pytest.raises(InvalidField, match="tracking_url"):
        Tracker(TOKENS, base_url)


def test_a_slash_at_the_end_of_the_base_url_does_no_harm() -> None:
    assert with_clicks(LINK, Tracker(TOKENS, f"{BASE}/")) == with_clicks(LINK)


# What a browser's parser (lexbor) sees before and after.

URLS = st.sampled_from(
    [
        "https://a.test/",
        "https://a.test/?a=1&amp;b=2",
        "http://b.test/?x=1&copy=2",
        "mailto:a@a.test",
        "#x",
        "/p",
        "",
        "https://a.test/ b",
        "HTTPS://c.test",
        "https://ü.test/ü",
        "{{x}}",
        "https://a.test/&quot;&lt;",
        f"{BASE}/c/x",
    ]
)
ATTRIBUTES = st.builds(
    "{}{}{}".format,
    st.sampled_from(
        [" href", " HREF", "\nhref", "/href", " title", " data-pm-no-track", " href ", " =href", " x'y", ""]
    ),
    st.sampled_from(["=", " = ", "=\n", ""]),
    st.builds(lambda url, quote: f"{quote}{url}{quote}", URLS, st.sampled_from(['"', "'", ""])) | st.just(""),
)
PIECES = (
    st.builds(
        "<{}{}{}>".format,
        st.sampled_from(["a", "A", "area", "p", "abbr", "td", "table", "svg", "div", "b", "body", "html", "tr", "br"]),
        st.lists(ATTRIBUTES, max_size=4).map("".join),
        st.sampled_from(["", "/", " /", "\n", " '", ' "']),
    )
    | st.sampled_from(["</a>", "</p>", "</body>", "</html>", "</table>", "</div>", "</b", "</svg>", "</ >", "</>"])
    | st.sampled_from(["<!--", "-->", "--!>", "<!-->", "<!--->", "<!-", "<!", "<?x", "<!DOCTYPE html>", "<![if x]>"])
    | st.sampled_from(["<script>", "</script>", "<style>", "</style>", "<textarea>", "</textarea\n>", "<title>", ">"])
    | st.sampled_from(['"', "'", "=", "&", "&amp;", "text", " ", "\n", "<!--[if mso]>", "<![endif]-->", "<", "<<"])
    | st.sampled_from(["<a", ' href="', "\r", "\f", "</title/>", "</a x='>'>"])
    | URLS
)  # fmt: skip
DOCUMENTS = st.lists(PIECES, max_size=25).map("".join)


def nodes(html: str) -> Iterator[tuple[str, dict[str, str | None], str]]:
    """All elements and texts that a browser makes of a body. `\\0`, which parsers drop, is in none of ours."""
    root = LexborHTMLParser(html).root
    assert root is not None
    for node in root.traverse(include_text=True):
        yield str(node.tag), dict(node.attributes), text_of(node)


def text_of(node: LexborNode) -> str:
    return node.text(deep=False) or "" if node.tag == "-text" else ""


@given(DOCUMENTS)
@example("<a href=https://a.test/><table><a href=https://a.test/></table>")
@example("<svg><a href=https://a.test/></svg>")
def test_a_parser_sees_nothing_change_but_the_links(html: str) -> None:
    rewritten = TRACKER.prepare(html).html_for(DELIVERY)
    assert rewritten is not None
    end = find_html_links(html).end_of_body
    probe = f"{html[:end]}{(PIXEL.search(rewritten) or [''])[0]}{html[end:]}"
    for before, after in zip(nodes(probe), nodes(rewritten), strict=True):
        if before == after:
            continue
        (tag, old, _), (_, new, _) = before, after
        assert (before[0], before[2]) == (after[0], after[2])
        assert tag in ("a", "area")
        assert {**old, "href": None} == {**new, "href": None}
        assert targets(new["href"] or "") == [trackable_target(old["href"] or "")]


@given(DOCUMENTS)
def test_a_parser_finds_one_more_picture(html: str) -> None:
    def pictures(text: str) -> int:
        return sum(tag == "img" for tag, _, _ in nodes(text))

    assert pictures(TRACKER.prepare(html).html_for(DELIVERY) or "") == pictures(html) + 1


@given(DOCUMENTS)
def test_every_byte_outside_of_the_links_stays(html: str) -> None:
    rewritten = with_clicks(html)
    texts = TRACKED_URL.split(rewritten)[::2] if BASE not in html else None
    if texts is not None:
        match = re.fullmatch("(.*?)".join(map(re.escape, texts)), html, re.DOTALL)
        assert match
        assert [trackable_target(attribute_text(value)) for value in match.groups()] == targets(rewritten)


@given(st.text(max_size=200) | st.text("<>\"'=/!-a hrefscript[]&;#x", max_size=80))
def test_any_text_is_prepared(html: str) -> None:
    assert TRACKER.prepare(html, html, TrackingOptions(text_links=True)).html_for(DELIVERY) is not None


HOSTILE = (
    *("<", "<<", "<a ", "<a>", "<a/", "<a =", '<a href="', "<a href=https://a.test/>", "<a" + " " * 50, "<p a b c "),
    *("<a b='\"'", "<a x='<!--'", '<a href="&amp&#1&x', "=' ", "</", "</body>", "<?", "<!", "{", "https://a.test/)"),
    *("<!--", "<!-- - ", "--!", "<![CDATA[", "<![CDATA[]", "<script>", "<script><!--<script></script>", "https://((("),
    *("<style></styl", "<title></title>"),
)
STEPS = (40_000, 80_000, 160_000)
MAX_RATIO = 2.5
MEASURABLE_S = 0.004


@pytest.mark.parametrize("unit", HOSTILE)
def test_linear_time(unit: str) -> None:
    """Twice the input takes about twice the time; the least of many runs, as the machine does other things too."""
    bodies = [(unit * (size // len(unit) + 1))[:size] for size in STEPS]

    def ratios() -> list[float]:
        return [
            long / max(short, MEASURABLE_S)
            for short, long in pairwise(min(map(seconds, [body] * 5)) for body in bodies)
        ]

    assert any(max(ratios()) < MAX_RATIO for _ in range(3))


def seconds(body: str) -> float:
    begin = time.thread_time()  # of this thread: others that tests have left behind may wake
    mail = TRACKER.prepare(body, body, TrackingOptions(text_links=True))
    mail.html_for(DELIVERY)
    mail.text_for(DELIVERY)
    return time.thread_time() - begin
