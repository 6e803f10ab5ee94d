"""Where the links of an HTML body stand, and where the body ends: found without building a tree.

Tags, attributes, comments and elements that hold no markup are told apart as browsers do it (WHATWG HTML, section
13.2.5 "Tokenization"), so that what looks like a link in a comment, a script or a quoted attribute is not taken for
one. Every run of the expressions is possessive: linear for any input. Where the tokenizer would end in the middle of
something (an open comment, quote or script), reading stops there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from html.entities import html5

MAX_TAGS = 20_000
"""Links, ends of bodies and elements without markup looked at in one body."""

_SPACE = r"[\t\n\f\r ]"
_VALUE = r"""(?:"[^"]*+"|'[^']*+'|["'][\s\S]*+|[^\t\n\f\r >"'][^\t\n\f\r >]*+)?+"""  # the third: a quote left open
_ATTRIBUTE = rf"[^\t\n\f\r />][^\t\n\f\r />=]*+(?:{_SPACE}*+={_SPACE}*+{_VALUE})?+"
_TAG_REST = rf"(?:[\t\n\f\r /]++|{_ATTRIBUTE})*+>"
_WITHOUT_MARKUP = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
_OPEN_ENDED = "plaintext"
_LOOKED_AT = rf"(?i:(?:a|area|{_OPEN_ENDED}|{'|'.join(_WITHOUT_MARKUP)}|/body|/html)(?=[\t\n\f\r />]))"
_OTHERS = re.compile(
    r"(?:[^<]++|<(?![A-Za-z/!?])"
    rf"|<(?!{_LOOKED_AT})/?+[A-Za-z][^\t\n\f\r />]*+{_TAG_REST}"
    r"|<!--(?:-?>|(?:[^-]++|-(?!-!?>))*+--!?>)"
    r"|<!\[CDATA\[(?:[^\]]++|\](?!\]>))*+\]\]>"
    r"|<(?:\?|!(?!--|\[CDATA\[)|/(?![A-Za-z]))[^>]*+>)*+",
    re.ASCII,
)
"""Everything up to the next tag that is looked at. `<![CDATA[` in HTML is a comment that ends at the first `>`, in SVG
text that ends at `]]>`; it is left alone up to the latter."""
_TAG = re.compile(rf"<(/?+[A-Za-z][^\t\n\f\r />]*+)({_TAG_REST})")
_NAMED_VALUES = re.compile(
    rf"([^\t\n\f\r />][^\t\n\f\r />=]*+)(?:{_SPACE}*+={_SPACE}*+"
    r"""(?:"([^"]*+)"|'([^']*+)'|([^\t\n\f\r >"'][^\t\n\f\r >]*+))?)?"""
)
"""Its last two quantifiers give back, at no cost here: Python before 3.11.5 loses groups within possessive ones."""
_ENDS = {name: re.compile(rf"</{name}(?=[\t\n\f\r />])", re.IGNORECASE | re.ASCII) for name in _WITHOUT_MARKUP}
_SCRIPT_BEGINS = re.compile(r"<script(?=[\t\n\f\r />])", re.IGNORECASE | re.ASCII)
_REFERENCE = re.compile(r"&(?:#(?:[xX][0-9A-Fa-f]++|[0-9]++);?+|([A-Za-z][A-Za-z0-9]*+)(;?+))")
_MAX_NUMERIC_REFERENCE = 12  # `&#x0010FFFF;`
_DOUBTFUL_CHARACTER = "\x7f"  # with it, nothing is a URL that is tracked

_NO_TRACK_MARKS: dict[str, str | None] = {
    "data-pillarbox-no-track": None,
    "clicktracking": "off",  # SendGrid
    "data-pm-no-track": None,  # Postmark
    "disable-tracking": "true",  # Mailgun
    "mc:disable-tracking": None,  # Mandrill
    "data-msys-clicktrack": "0",  # SparkPost
    "ses:no-track": None,  # Amazon SES
}
"""Attributes by which a sender keeps a link out of tracking, ours and those mail written for others has; with the
value that says so, None where any does."""


@dataclass(frozen=True, slots=True)
class HtmlLink:
    """The value of the `href` of an `a` or `area`."""

    start: int
    end: int
    """Offsets of what stands between the quotes, or of the whole value where there are none."""
    url: str
    """The value with its character references resolved."""


@dataclass(frozen=True, slots=True)
class HtmlLinks:
    """What was found in a body."""

    links: tuple[HtmlLink, ...]
    """Without those that bear a mark against tracking."""
    end_of_body: int
    """Offset of the last `</body>`, or else `</html>`, or else of the end of what could be read."""


def find_html_links(html: str) -> HtmlLinks:
    """Look through a body. Total: any string gives an answer."""
    links: list[HtmlLink] = []
    ends: dict[str, int] = {}
    position = 0
    for _ in range(MAX_TAGS):
        position = _after_others(html, position)
        tag = _TAG.match(html, position)
        if tag is None:
            break
        name = tag[1].lower()
        following: int | None = tag.end()
        if name in ("a", "area"):
            links.extend(_link_of(html, tag.start(2), tag.end(2) - 1))
        elif name.startswith("/"):
            ends[name] = position
        else:
            following = _end_of_raw_text(html, name, tag.end())
        if following is None:
            break
        position = following
    else:
        position = _after_others(html, position)
    return HtmlLinks(tuple(links), ends.get("/body", ends.get("/html", position)))


def _after_others(html: str, position: int) -> int:
    match = _OTHERS.match(html, position)
    return match.end() if match else position


def _end_of_raw_text(html: str, name: str, start: int) -> int | None:
    """Where the content of an element without markup ends; None when it does not."""
    end = _ENDS[name].search(html, start) if name != _OPEN_ENDED else None
    if end is None:
        return None
    if name == "script" and _holds_a_script(html, start, end.start()):
        comment_end = html.find("-->", end.start())
        end = _ENDS[name].search(html, comment_end) if comment_end >= 0 else None
    return end.start() if end else None


def _holds_a_script(html: str, start: int, end: int) -> bool:
    """Whether the end found may be that of a script inside a comment inside the script ("double escaped state")."""
    comment = html.find("<!--", start, end)
    return comment >= 0 and _SCRIPT_BEGINS.search(html, comment, end) is not None


def _link_of(html: str, start: int, end: int) -> Iterator[HtmlLink]:
    """The link of a tag whose attributes stand there, if it has one that may be tracked. The first `href` counts."""
    link: HtmlLink | None = None
    for match in _NAMED_VALUES.finditer(html, start, end):
        name = match[1].lower()
        group = match.lastindex or 1
        value = match[group] if group > 1 else ""
        if name == "href":
            link = link or HtmlLink(*_span(match, group), attribute_text(value))
        elif name in _NO_TRACK_MARKS and _NO_TRACK_MARKS[name] in (None, value.strip().lower()):
            return
    if link is not None:
        yield link


def _span(match: re.Match[str], group: int) -> tuple[int, int]:
    return match.span(group) if group > 1 else (match.end(), match.end())


def attribute_text(value: str) -> str:
    """An attribute's value with its character references resolved, by the rules for attributes.

    They differ from those for text: in `?a=1&copy=2` the `&copy` is no ©, as it is followed by `=` and has no `;`
    (WHATWG HTML, section 13.2.5.73 "Named character reference state").
    """
    return _REFERENCE.sub(_resolved, value) if "&" in value else value


def _resolved(match: re.Match[str]) -> str:
    name, semicolon = match[1], match[2]
    if name is None:
        character = unescape(match[0]) if len(match[0]) <= _MAX_NUMERIC_REFERENCE else ""
        return character or _DOUBTFUL_CHARACTER
    if semicolon:
        return html5.get(f"{name};", match[0])
    return match[0] if match.string[match.end() : match.end() + 1] == "=" else html5.get(name, match[0])
