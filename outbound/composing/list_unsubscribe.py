"""The headers by which a mail program unsubscribes its reader with one click (RFC 2369 section 3.2, RFC 8058).

Both must be covered by a DKIM signature, or mail programs ignore them (RFC 8058 section 4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from core.errors import InvalidField
from outbound.composing.drafts import MessageDraft
from outbound.composing.header_writing import structured_field
from outbound.composing.raw_fields import RawField, field_of

HEADER = "List-Unsubscribe"
POST_HEADER = "List-Unsubscribe-Post"
ONE_CLICK = "List-Unsubscribe=One-Click"
"""RFC 8058 section 3.2: the value of the header, and the body of the POST."""
MAX_URL_LENGTH = 800
"""It cannot be folded."""

_HTTPS = re.compile(r"https://[!-;=?-~]+")
_MAILTO = re.compile(r"mailto:[!-;=?-~]+")


def list_unsubscribe_headers(url: str, mailto: str | None = None) -> tuple[tuple[str, str], ...]:
    """Names and values for `MessageDraft.headers`. The URL takes the POST; `mailto` is a `mailto:` URL for the others.

    Raises `InvalidField`: one-click wants https, and neither may hold blanks or angle brackets.
    """
    if len(url) > MAX_URL_LENGTH or not _HTTPS.fullmatch(url):
        raise InvalidField("unsubscribe_url", f"must be an https URL in ASCII of at most {MAX_URL_LENGTH} characters")
    if mailto is not None and (len(mailto) > MAX_URL_LENGTH or not _MAILTO.fullmatch(mailto)):
        raise InvalidField("unsubscribe_mailto", "must be a mailto: URL in ASCII, like mailto:leave@example.com")
    ways = [f"<{url}>", *([f"<{mailto}>"] if mailto else [])]
    return (HEADER, ", ".join(ways)), (POST_HEADER, ONE_CLICK)


def with_list_unsubscribe(draft: MessageDraft, url: str, mailto: str | None = None) -> MessageDraft:
    """The draft with both headers, unless it has its own."""
    if any(name.lower() == HEADER.lower() for name, _ in draft.headers):
        return draft
    return replace(draft, headers=(*draft.headers, *list_unsubscribe_headers(url, mailto)))


def fields_with_list_unsubscribe(fields: Sequence[RawField], url: str, mailto: str | None = None) -> list[RawField]:
    """The same for the fields of a whole message (`outbound.composing.raw_fields.split_message`)."""
    if any(one.lowered == HEADER.lower() for one in fields):
        return list(fields)
    headers = list_unsubscribe_headers(url, mailto)
    return [*fields, *(field_of(structured_field(name, value)) for name, value in headers)]
