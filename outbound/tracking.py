"""Puts the open pixel into a mail and the redirect into its links.

In two steps, because the first costs five times the second and is the same for all recipients of a mail: `prepare`
looks for what is tracked, `html_for` and `text_for` fill in one delivery's tokens. Nothing but the values of those
`href`s changes, and the pixel is added. To be done once, on the final body, before it is encoded and signed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.sending.tracking_base import checked_base_url
from core.sending.tracking_targets import trackable_target
from core.sending.tracking_tokens import CLICK_PATH, OPEN_PATH, LinkPlace, TrackedLink, TrackingTokens
from outbound.html_links import find_html_links
from outbound.text_links import find_text_links

MAX_BODY_CHARACTERS = 4 * 1024 * 1024
"""A longer body is left as it is; Gmail shows the first 102 KB of one."""
MAX_LINKS = 1_000
"""Of one mail; those after are left alone."""
_PLACEHOLDER = re.compile(r"\{\{|\{%|<%|\[%|\$\{|\*\||%%")
"""Handlebars, Mustache, Liquid, Jinja, ERB, Template Toolkit, shell, Mailchimp, Marketing Cloud: a link that still
holds one is filled in by somebody after us, who would not find it inside a token."""


@dataclass(frozen=True, slots=True)
class TrackingOptions:
    """What is tracked in a mail."""

    opens: bool = True
    html_links: bool = True
    text_links: bool = False
    """Off: the reader sees each long URL."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """A body with gaps: text, gap, text, gap … text."""

    texts: tuple[str, ...]
    gaps: tuple[TrackedLink | None, ...]
    """None is the pixel."""


@dataclass(frozen=True, slots=True)
class _Gap:
    start: int
    end: int
    link: TrackedLink | None


class TrackedMail:
    """The bodies of a mail, ready to be filled in for each delivery of it."""

    def __init__(self, tokens: TrackingTokens, base_url: str, html: _Frame | None, text: _Frame | None) -> None:
        self._tokens = tokens
        self._base_url = base_url
        self._host = urlsplit(base_url).hostname or ""
        self._html = html
        self._text = text

    @property
    def links(self) -> tuple[TrackedLink, ...]:
        """All that are tracked, by number: the same for every delivery, to be kept with the mail for reports."""
        return tuple(link for frame in (self._html, self._text) if frame for link in frame.gaps if link is not None)

    @property
    def has_pixel(self) -> bool:
        """Whether opens are tracked."""
        return self._html is not None and None in self._html.gaps

    def html_for(self, delivery_id: str) -> str | None:
        """The HTML body of one delivery. Raises `ValueError` when the id is no UUID."""
        return self._filled(self._html, delivery_id)

    def text_for(self, delivery_id: str) -> str | None:
        """The text body of one delivery. Raises `ValueError` when the id is no UUID."""
        return self._filled(self._text, delivery_id)

    def _filled(self, frame: _Frame | None, delivery_id: str) -> str | None:
        if frame is None:
            return None
        pieces = [frame.texts[0]]
        for gap, text in zip(frame.gaps, frame.texts[1:], strict=True):
            pieces += (self._pixel(delivery_id) if gap is None else self._click_url(delivery_id, gap), text)
        return "".join(pieces)

    def _pixel(self, delivery_id: str) -> str:
        """Not hidden: some programs do not load what is not displayed."""
        url = f"{self._base_url}/{OPEN_PATH}/{self._tokens.for_open(delivery_id)}"
        return (
            f'<img src="{url}" width="1" height="1" border="0" alt="" '
            'style="width:1px;height:1px;border:0;margin:0;padding:0">'
        )

    def _click_url(self, delivery_id: str, link: TrackedLink) -> str:
        return f"{self._base_url}/{CLICK_PATH}/{self._tokens.for_click(delivery_id, link, self._host)}"


class Tracker:
    """Prepares mails whose pixel and links are at one base URL, e.g. `https://click.example.com/track`.

    Links under the base URL itself are left alone, and those under the prefixes given, such as pages to unsubscribe.
    """

    def __init__(self, tokens: TrackingTokens, base_url: str, untracked_prefixes: tuple[str, ...] = ()) -> None:
        self._tokens = tokens
        self._base_url = checked_base_url("tracking_url", base_url)
        self._untracked = tuple(prefix.lower() for prefix in (f"{self._base_url}/", *untracked_prefixes))

    def prepare(self, html: str | None, text: str | None = None, options: TrackingOptions | None = None) -> TrackedMail:
        """Find out what will be tracked. Total: any text is prepared, if only to come out as it went in."""
        wanted = options or TrackingOptions()
        html_gaps = [] if html is None or len(html) > MAX_BODY_CHARACTERS else self._html_gaps(html, wanted)
        count = sum(gap.link is not None for gap in html_gaps)
        wants_text = text is not None and len(text) <= MAX_BODY_CHARACTERS and wanted.text_links
        text_gaps = self._text_gaps(text, count) if text is not None and wants_text else []
        return TrackedMail(self._tokens, self._base_url, _frame(html, html_gaps), _frame(text, text_gaps))

    def _html_gaps(self, html: str, options: TrackingOptions) -> list[_Gap]:
        if not options.opens and not options.html_links:
            return []
        found = find_html_links(html)
        spots = ((link.start, link.end, link.url) for link in found.links) if options.html_links else ()
        gaps = list(self._link_gaps(spots, LinkPlace.HTML, 0))
        if options.opens:
            gaps.append(_Gap(found.end_of_body, found.end_of_body, None))
            gaps.sort(key=lambda gap: gap.start)
        return gaps

    def _text_gaps(self, text: str, count: int) -> list[_Gap]:
        spots = ((start, end, text[start:end]) for start, end in find_text_links(text))
        return list(self._link_gaps(spots, LinkPlace.TEXT, count))

    def _link_gaps(
        self, spots: Iterator[tuple[int, int, str]] | tuple[()], place: LinkPlace, count: int
    ) -> Iterator[_Gap]:
        """Those of the places found that are tracked; so many links have been before."""
        for start, end, url in spots:
            if count >= MAX_LINKS:
                return
            target = self._target(url)
            if target is not None:
                count += 1
                yield _Gap(start, end, TrackedLink(count, target, place))

    def _target(self, url: str) -> str | None:
        target = None if _PLACEHOLDER.search(url) else trackable_target(url)
        return None if target is None or target.lower().startswith(self._untracked) else target


def _frame(body: str | None, gaps: list[_Gap]) -> _Frame | None:
    if body is None:
        return None
    starts = [0, *(gap.end for gap in gaps)]
    ends = [*(gap.start for gap in gaps), len(body)]
    texts = tuple(body[start:end] for start, end in zip(starts, ends, strict=True))
    return _Frame(texts, tuple(gap.link for gap in gaps))
