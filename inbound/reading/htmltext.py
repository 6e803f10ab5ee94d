"""The words of an HTML body, each line with what is known of it from the marks mail programs put around a quotation.

One pass of a regular expression whose runs never give anything back, and a bounded stack: linear for any input. It
builds no tree and judges no validity; the parsers that do are quadratic on one input or another (docs/parsing.md).
"""

from __future__ import annotations

import html as entities
import re
from dataclasses import dataclass

from inbound.reading.htmlquotes import Region, RegionKind, region_of, starts_rest

MAX_HTML_CHARACTERS = 8 * 1024 * 1024
"""Read of one body; pictures inside `data:` addresses make large ones."""
MAX_TOKENS = 400_000
"""Tags and runs of text read of one body; a newsletter of 100 KB has some 5,000."""
MAX_TEXT_CHARACTERS = 256 * 1024
"""Handed out of one body."""
MAX_OPEN = 5000
"""Elements that are kept track of at a time; deeper ones belong to the last that counted."""

_TOKEN = re.compile(
    r"(?P<text>[^<]++)"
    r"|<!--(?:.*?-->|.*+)"
    r"|<(?P<end>/?+)(?P<tag>[A-Za-z][^\s/>]{0,40}+)"
    r"(?P<attributes>(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+'|))*+)>?+"
    r"|<(?:[!?/][^>]*+>?+)?+",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(
    r"(?:^|[\s\"'/])(class|id|style|name|type)\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s\"'>]++))", re.IGNORECASE
)
_LONG_REFERENCE = re.compile(r"&#[0-9]{8,}+;?+")
_SPACE = re.compile(r"[ \t\r\n\f\xa0]+")
_RAW_ENDS = {
    tag: re.compile(rf"</{tag}(?=[\s/>])", re.IGNORECASE)
    for tag in ("script", "style", "title", "textarea", "xmp", "iframe", "noframes", "template")
}
_NESTING = frozenset({"div", "blockquote", "span"})
"""The elements that carry marks, and so must be closed in the right order."""
_LINES = frozenset(
    {"address", "article", "aside", "center", "dd", "div", "dl", "dt", "fieldset", "figure", "footer", "form", "h1"}
    | {"h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "pre", "section", "table", "tr", "ul"}
    | {"blockquote", "body", "html"}
)
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "pre"})
_NO_MARGIN = re.compile(r"\bMso|margin(?:-top|-bottom)?\s*:\s*0", re.IGNORECASE)
_MAX_ATTRIBUTES = 40


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text, and the marked region it stands in, if any."""

    text: str
    region: Region | None


def lines_of_html(html: str) -> list[TextLine]:
    """The lines a reader would see. Total: any string gives lines, and no more than the limits allow."""
    return _Reading(html[:MAX_HTML_CHARACTERS]).lines()


class _Reading:
    def __init__(self, html: str) -> None:
        self._html = html
        self._lines: list[TextLine] = []
        self._line: list[str] = []
        self._characters = 0
        self._open: list[tuple[str, Region | None]] = []
        self._open_of: dict[str, int] = dict.fromkeys(_NESTING, 0)
        self._unseen = 0
        self._region: Region | None = None
        self._preformatted = 0
        self._is_spaced = False

    def lines(self) -> list[TextLine]:
        position = 0
        for _ in range(MAX_TOKENS):
            token = _TOKEN.match(self._html, position)
            if token is None or self._characters > MAX_TEXT_CHARACTERS:
                break
            position = token.end()
            if token["text"] is not None:
                self._text(token["text"])
            elif token["tag"] is None:
                if token[0] == "<":
                    self._text("<")
            elif token["end"]:
                self._close(token["tag"].lower())
            else:
                tag = token["tag"].lower()
                self._begin(tag, token["attributes"])
                position = self._after_raw_text(tag, position)
        self._break()
        return self._lines

    def _after_raw_text(self, tag: str, position: int) -> int:
        """Behind the content of an element that holds no markup, and no words of the writer either."""
        pattern = _RAW_ENDS.get(tag)
        if pattern is None:
            return position
        end = pattern.search(self._html, position)
        return end.start() if end else len(self._html)

    def _text(self, text: str) -> None:
        if "&" in text:
            text = entities.unescape(_LONG_REFERENCE.sub("\ufffd", text))
        if self._preformatted:
            first, *others = text.replace("\r\n", "\n").split("\n")
            self._add(first)
            for line in others:
                self._break(keep_empty=True)
                self._add(line)
            return
        text = _SPACE.sub(" ", text)
        if text.startswith(" ") and (not self._line or self._line[-1].endswith(" ")):
            text = text[1:]
        self._add(text)

    def _add(self, text: str) -> None:
        if text:
            self._line.append(text)
            self._characters += len(text)

    def _begin(self, tag: str, raw_attributes: str) -> None:
        if tag == "br":
            self._break(keep_empty=True)
        elif tag in ("td", "th"):
            self._text(" ")
        elif tag in _LINES or tag == "p":
            self._break()
        if tag == "pre":
            self._preformatted += 1
        if tag == "li":
            self._add("- ")
        attributes = _attributes(raw_attributes) if tag in _NESTING or tag in ("p", "hr", "a") else {}
        if tag in _PARAGRAPHS:
            self._is_spaced = not _NO_MARGIN.search(f"{attributes.get('class')} {attributes.get('style')}")
            self._blank()
        if tag in _NESTING:
            self._push(tag, attributes)
        elif attributes and starts_rest(attributes):
            self._enter(Region(RegionKind.REST))

    def _close(self, tag: str) -> None:
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        if tag in _LINES or tag == "p":
            self._break()
        if tag in _PARAGRAPHS:
            self._blank()
        if tag in _NESTING:
            self._pop(tag)

    def _push(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= MAX_OPEN:
            self._unseen += 1
            return
        self._open.append((tag, self._region))
        self._open_of[tag] += 1
        region = region_of(tag, attributes) if attributes or tag == "blockquote" else None
        if region is not None:
            self._enter(region)

    def _enter(self, region: Region) -> None:
        """A region inside one that is quoted as a whole changes nothing; the rest of a message never ends."""
        if self._region is not None and self._region.kind != RegionKind.CONTAINER:
            return
        self._break()
        if self._region is not None and region.kind == RegionKind.QUOTATION:
            self._region.has_quotation = True
        self._region = region

    def _pop(self, tag: str) -> None:
        if self._unseen:
            self._unseen -= 1
            return
        while self._open_of[tag]:
            closed, region = self._open.pop()
            self._open_of[closed] -= 1
            self._leave(region)
            if closed == tag:
                break

    def _leave(self, outer: Region | None) -> None:
        if self._region is None or self._region is outer or self._region.kind == RegionKind.REST:
            return
        self._break()
        # What stands in a container behind its quotation does not introduce it any more.
        self._region = None if outer is not None and outer.has_quotation else outer

    def _break(self, *, keep_empty: bool = False) -> None:
        text = "".join(self._line).rstrip()
        if text or keep_empty:
            self._lines.append(TextLine(text, self._region))
            self._characters += 1
        self._line.clear()

    def _blank(self) -> None:
        """An empty line between paragraphs; Outlook's have none, because it makes each line one."""
        if self._is_spaced and self._lines and self._lines[-1].text:
            self._break(keep_empty=True)


def _attributes(raw: str) -> dict[str, str]:
    """The attributes that can mark something, in lower case, the first of each."""
    found: dict[str, str] = {}
    if "=" not in raw:
        return found
    for count, match in enumerate(_ATTRIBUTE.finditer(raw)):
        if count >= _MAX_ATTRIBUTES:
            break
        value = match[2] or match[3] or match[4] or ""
        found.setdefault(match[1].lower(), entities.unescape(_LONG_REFERENCE.sub("", value[:500])).lower())
    return found
