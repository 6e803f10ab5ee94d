"""Markdown as HTML (CommonMark, with tables and strikethrough).

HTML inside of it is shown as text, and links to `javascript:` and the like are not made: a mail is often built from
what strangers typed into a form. The plain part of such a mail is the Markdown itself, which is made to be read so.
"""

from __future__ import annotations

from markdown_it import MarkdownIt

from core.errors import InvalidField

MAX_MARKDOWN_LENGTH = 256 * 1024
"""Characters. The worst text that was found takes 20 µs a character, prose 1 µs."""

_RENDERER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def markdown_to_html(text: str) -> str:
    """A fragment of HTML. Raises `InvalidField` for a text beyond the limit."""
    if len(text) > MAX_MARKDOWN_LENGTH:
        raise InvalidField("markdown", f"is longer than {MAX_MARKDOWN_LENGTH:,} characters; give html and plain")
    return str(_RENDERER.render(text))
