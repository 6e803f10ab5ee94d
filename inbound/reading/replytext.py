"""The new text of a reply, without what it quotes (`reply_plain`). The full text always stays beside it.

The rule is to leave a doubtful line standing. An attribution ("On … wrote:") goes only with evidence: quoted
lines behind it, or a date and a known phrase; a block of copied headers only below some text, for at the very
top it is a forwarded mail. Signatures stay, those of phones too: nothing tells them from the writer's own words.
The phrases are in `inbound.reading.replyphrases`; their patterns see a few short lines at a time and so stay linear.
"""

from __future__ import annotations

import re

from inbound.reading.htmlquotes import Region, RegionKind
from inbound.reading.htmltext import TextLine, lines_of_html
from inbound.reading.parsed import ParsedMessage
from inbound.reading.replyphrases import (
    COPIED_LABELS,
    FORWARDED,
    PACKAGE_COPIED_HEADERS,
    PACKAGE_PHRASES,
    SEPARATOR,
    WROTE,
)

MAX_REPLY_CHARACTERS = 256 * 1024
"""A longer text is no typed reply and is returned whole."""
MAX_CANDIDATES = 200
"""Places of one text that are held against the phrase lists."""
ATTRIBUTION_LINES = 3
"""Lines over which mail programs wrap an attribution."""
MAX_LINE_CHARACTERS = 300
"""Of one line when it is held against the lists; no attribution line is longer."""
MIN_COPIED_HEADERS = 3
"""From, Sent, To, Subject …: fewer lines in a row may be someone's own words."""

_MARKER = re.compile(r"###[ \t]{0,3}Reply Above This Line[ \t]{0,3}###", re.IGNORECASE)
_DATE = re.compile(r"\d{1,2}[:.h]\d{2}|\b\d{4}\b|\d{1,2}/\d{1,2}/\d{2}")
_DATE_OR_ADDRESS = re.compile(rf"{_DATE.pattern}|[^\s@<>]{{1,64}}@[^\s@<>]{{1,200}}")
_HEADER_LINE = re.compile(r"[*>_ ]{0,8}[^\W\d_][^:：@]{0,25}[:：]")
_COLON = (":", "：")

_BIDI = str.maketrans(dict.fromkeys("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"))
"""Marks that Gmail writes around names in Hebrew and Arabic attributions, behind the colon too."""
_RULE = re.compile(r"[_\-=*\s]{10,}")


def reply_plain(plain: str | None) -> str | None:
    """The newly written part of a plain body; None for None. Linear in the length of the text.

    Text above `### Reply Above This Line ###` only, without lines that begin with `>`, without the line that
    introduces them, and without a copied message below the answer.
    """
    if plain is None or len(plain) > MAX_REPLY_CHARACTERS:
        return plain
    marker = _MARKER.search(plain)
    if marker:
        plain = plain[: plain.rfind("\n", 0, marker.start()) + 1]
    elif not any(sign in plain for sign in (">", ":", "：", "--")):
        return plain.strip()
    lines = plain.replace("\r\n", "\n").split("\n")
    kept = _without_quotes(_without_copied_message(lines), is_cut=marker is not None)
    return "\n".join(kept).strip()


def reply_plain_of(message: ParsedMessage) -> str | None:
    """The newly written part of a message: of its plain text, or where it has none, of its HTML. None without both.

    Quotations in HTML are told by the marks that mail programs set (`inbound.reading.htmlquotes`), then as in text.
    Linear; the text of an HTML body ends at `inbound.reading.htmltext.MAX_TEXT_CHARACTERS`.
    """
    if message.plain is not None or message.html is None:
        return reply_plain(message.plain)
    return reply_plain("\n".join(_with_quote_signs(lines_of_html(message.html))))


def _with_quote_signs(lines: list[TextLine]) -> list[str]:
    """The lines with `>` before what is marked as quoted, and without the copied message at the end."""
    texts: dict[Region, list[str]] = {}
    for line in lines:
        if line.region is not None and line.text.strip():
            texts.setdefault(line.region, []).append(_unmarked(line.text).strip())
    out: list[str] = []
    has_own_text = False
    quoted: dict[Region, bool] = {}
    for line in lines:
        region = line.region
        if region is not None and region not in quoted:
            quoted[region] = _is_quoted(region, texts.get(region, []), has_own_text)
        if region is None or not quoted[region]:
            out.append(line.text)
            has_own_text = has_own_text or bool(line.text.strip())
        elif region.kind == RegionKind.REST:
            break
        else:
            out.append(f"> {line.text}")
    return out


def _is_quoted(region: Region, texts: list[str], has_own_text: bool) -> bool:
    """Whether a marked region is an earlier message, and not a forwarded one or the writer's own words."""
    if region.kind == RegionKind.QUOTATION:
        return True
    if not texts or texts[0].startswith("---") or FORWARDED.match(texts[0]):
        return False
    if region.kind == RegionKind.ATTRIBUTION:
        return True
    if region.kind == RegionKind.CONTAINER:
        return region.has_quotation and len(texts) <= ATTRIBUTION_LINES and texts[-1].endswith(_COLON)
    if region.kind == RegionKind.REST:
        return has_own_text and any(colon in texts[0] for colon in _COLON)
    return has_own_text


def _without_quotes(lines: list[str], is_cut: bool) -> list[str]:
    """Drop quoted lines and the attributions that introduce them.

    `is_cut` says that a marker ended the text, which makes an attribution at its end introduce the marker.
    """
    kept: list[str] = []
    candidates = MAX_CANDIDATES
    in_quote = False
    for line in lines:
        if not line.lstrip().startswith(">"):
            kept.append(line)
            in_quote = in_quote and not line.strip()
            continue
        if not in_quote and candidates > 0:
            candidates -= 1
            _drop_attribution(kept)
        in_quote = True
    if is_cut:
        _drop_attribution(kept)
    return kept


def _drop_attribution(kept: list[str]) -> None:
    """Remove the attribution at the end of `kept`, if there is one, with the blank lines behind it."""
    end = len(kept)
    while end and not kept[end - 1].strip():
        end -= 1
    start = _attribution_start(kept, end, is_quote_behind=True)
    if start is not None:
        del kept[start:]


def _attribution_start(lines: list[str], end: int, is_quote_behind: bool) -> int | None:
    """Index of the first line of an attribution that ends right before `end`, or None.

    With a quotation behind it, a known opening or a bare date and sender is evidence enough; without one, there
    must be a phrase and a date or an address. The fewest lines that make an attribution are taken.
    """
    if not end or not _unmarked(lines[end - 1]).rstrip().endswith(_COLON):
        return None
    found: int | None = None
    has_date = False
    for start in range(end - 1, max(0, end - ATTRIBUTION_LINES) - 1, -1):
        if not lines[start].strip():
            break
        window = (line[:MAX_LINE_CHARACTERS] for line in lines[start:end])
        text = " ".join(_unmarked(" ".join(window)).split())
        is_dated = _DATE_OR_ADDRESS.search(text) is not None
        if (is_dated or is_quote_behind) and any(phrase.match(text) for phrase in PACKAGE_PHRASES):
            return start
        is_loose = is_dated and (WROTE.search(text) or (is_quote_behind and _is_bare(text)))
        if is_loose and (found is None or not has_date):
            found = start
        has_date = has_date or _DATE.search(text) is not None
    return found


def _is_bare(text: str) -> bool:
    """Whether the line has a date and ends in a sender, as `2024-05-06 10:11 Ann <ann@example.com>:`."""
    return text.endswith((">:", ">：")) and _DATE.search(text) is not None


def _without_copied_message(lines: list[str]) -> list[str]:
    """Cut at the first copied message that stands, unquoted, below some text of the writer's own.

    Nothing is cut from a forwarded mail: one that says so, or one that begins with the copy.
    """
    candidates = MAX_CANDIDATES
    first_text: int | None = None
    for index, line in enumerate(lines):
        stripped = _unmarked(line).strip()
        if not stripped or not candidates:
            continue
        if _may_begin_copy(stripped):
            candidates -= 1
            if FORWARDED.match(stripped):
                return lines
            start = _copy_start(lines, index)
            if start is not None:
                return lines if first_text is None or first_text >= start else lines[:start]
        if first_text is None and not _RULE.fullmatch(stripped[:MAX_LINE_CHARACTERS]):
            first_text = index
    return lines


def _may_begin_copy(stripped: str) -> bool:
    return stripped.startswith("-") or stripped.endswith(_COLON) or _HEADER_LINE.match(stripped) is not None


def _copy_start(lines: list[str], index: int) -> int | None:
    """Where the copied message begins whose first telling line is `lines[index]`, or None if it is none."""
    line = lines[index][:MAX_LINE_CHARACTERS]
    if SEPARATOR.fullmatch(line):
        return index
    if line.lstrip().startswith(">"):
        return None
    if _is_copied_header(lines, index):
        return _above_rule(lines, index)
    if _next_text(lines, index + 1).startswith(">"):
        return None  # quoted lines follow, and are dropped one by one: an answer may stand between them
    return _attribution_start(lines, index + 1, is_quote_behind=False)


def _is_copied_header(lines: list[str], index: int) -> bool:
    """At least three header lines of one language in a row, with an address or a time among them."""
    window = [" ".join(_unmarked(line[:MAX_LINE_CHARACTERS]).split()) for line in lines[index : index + 6]]
    count = next((at for at, line in enumerate(window) if not _HEADER_LINE.match(line)), len(window))
    text = "\n".join(window[:count])
    if count < MIN_COPIED_HEADERS or not _DATE_OR_ADDRESS.search(text):
        return False
    labels = {_label(line) for line in window[:count]}
    if any(len(labels & known) >= MIN_COPIED_HEADERS for known in COPIED_LABELS):
        return True
    return any(_spans(pattern, text) for pattern in PACKAGE_COPIED_HEADERS)


def _label(line: str) -> str:
    return line.replace("：", ":").partition(":")[0].strip("*_ \u00a0").casefold()


def _spans(pattern: re.Pattern[str], text: str) -> bool:
    found = pattern.match(text)
    return found is not None and found[0].count("\n") >= MIN_COPIED_HEADERS - 1


def _above_rule(lines: list[str], index: int) -> int:
    """The line of underscores that Outlook draws above a copied header goes with it."""
    at = index
    while at and not lines[at - 1].strip():
        at -= 1
    return at - 1 if at and _RULE.fullmatch(lines[at - 1][:MAX_LINE_CHARACTERS].strip()) else index


def _unmarked(text: str) -> str:
    return text if text.isascii() else text.translate(_BIDI)


def _next_text(lines: list[str], start: int) -> str:
    for line in lines[start : start + 4]:
        if line.strip():
            return line.lstrip()
    return ""
