"""Text that may come from anywhere, made fit to be written: valid Unicode, and one printable line for a header."""

from __future__ import annotations


def valid_text(text: str) -> str:
    """Valid Unicode: what an SMTP client or a header held outside UTF-8 reaches us as lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """Text for a header we write: no line break or other control character, so that it ends where we end it."""
    valid = valid_text(text)
    return valid if valid.isprintable() else "".join(c if c.isprintable() else " " for c in valid)
