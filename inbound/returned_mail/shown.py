"""Text of strangers made fit to be kept and shown: one line, printable, of bounded length."""

from __future__ import annotations

MAX_LINE = 1000
"""Characters of one value."""
MAX_EXCERPT = 2000
"""Characters of the text that a person would read."""


def one_line(text: str | None, limit: int = MAX_LINE) -> str | None:
    """A value in one line; None when nothing is left of it."""
    if not text:
        return None
    joined = " ".join(text[: 2 * limit].split())[:limit].strip()
    return _printable(joined) or None


def excerpt(text: str) -> str:
    """The beginning of a text, its lines kept."""
    lines = (_printable(line.rstrip()) for line in text[:MAX_EXCERPT].splitlines())
    return "\n".join(lines).strip()


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in text)
