"""The marks by which mail programs tell a quotation in HTML: data, with the program each comes from.

Read off what the programs write. A mark that is missing here costs nothing but the quotation staying in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class RegionKind(Enum):
    """What the text of a marked element is."""

    QUOTATION = "quotation"
    """Quoted, every line of it."""
    ATTRIBUTION = "attribution"
    """The line that introduces a quotation, or the heading of a forwarded mail."""
    CONTAINER = "container"
    """An attribution, without a mark of its own, and a quotation, with one; answers may stand between."""
    COPY = "copy"
    """A whole earlier message, or a forwarded one."""
    REST = "rest"
    """From here to the end of the mail: an earlier message, whose body bears no mark."""


@dataclass(slots=True, eq=False)
class Region:
    """One marked element. Only `has_quotation` changes, while its content is being read."""

    kind: RegionKind
    has_quotation: bool = False


_INDENT_ONLY = re.compile(r"border(?:-left)?\s*:\s*(?:none|0|medium none)")
_BORDER_LEFT = re.compile(r"border-left\s*:[^;]{0,40}(?:solid|\dpx)")
_OUTLOOK_HEADING = re.compile(
    r"border-top\s*:\s*(?:solid\s+#?(?:e1e1e1|b5c4df|windowtext)\s+1\.0pt|1pt solid #?(?:e1e1e1|b5c4df))"
)
_CLASSES = {
    "gmail_attr": RegionKind.ATTRIBUTION,
    "moz-cite-prefix": RegionKind.ATTRIBUTION,
    "moz-cite-header": RegionKind.ATTRIBUTION,
    "gmail_quote": RegionKind.CONTAINER,
    "gmail_quote_container": RegionKind.CONTAINER,
    "protonmail_quote": RegionKind.CONTAINER,
    "tutanota_quote": RegionKind.QUOTATION,
    "zmail_extra": RegionKind.CONTAINER,
    "yahoo_quoted": RegionKind.COPY,
    "mail-quote-collapse": RegionKind.COPY,
    "front-blockquote": RegionKind.QUOTATION,
    "ms-outlook-mobile-reference-message": RegionKind.REST,
}
"""Gmail, Thunderbird, Proton Mail, Tuta, Zoho, Yahoo, mail.ru, Front, Outlook for phones."""
_REST_IDS = frozenset(
    {"divrplyfwdmsg", "mail-editor-reference-message-container", "olk_src_body_section", "zwchr", "stopspelling"}
)
"""Outlook on the web, its new edition, Outlook for Mac, Zimbra, old Outlook on the web."""


def region_of(tag: str, attributes: dict[str, str]) -> Region | None:
    """The region an element begins, from its attributes in lower case, or None."""
    if starts_rest(attributes) or _OUTLOOK_HEADING.search(attributes.get("style", "")):
        return Region(RegionKind.REST)
    if tag == "blockquote":
        return Region(RegionKind.QUOTATION) if _is_quotation(attributes) else None
    for name in attributes.get("class", "").split()[:20]:
        # Yahoo puts a prefix of its own before each class.
        kind = RegionKind.COPY if name.endswith("yahoo_quoted") else _CLASSES.get(name)
        if kind is not None:
            return Region(kind)
    if attributes.get("name") == "quote" and _BORDER_LEFT.search(attributes.get("style", "")):
        return Region(RegionKind.COPY)  # GMX and web.de
    return None


def starts_rest(attributes: dict[str, str]) -> bool:
    """Whether an element stands right above a copied message."""
    return attributes.get("id", "") in _REST_IDS


def _is_quotation(attributes: dict[str, str]) -> bool:
    """Editors also use `blockquote` to indent; such a one has no line at its side, and says so."""
    if attributes.get("type") == "cite" or "quote" in attributes.get("class", ""):
        return True
    return not _INDENT_ONLY.search(attributes.get("style", ""))
