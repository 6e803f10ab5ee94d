"""Content as it goes over the wire after DATA: lines end with CRLF, dots are doubled, the last dot ends it.

What we relay on never holds a bare CR or LF: a host that takes one of them for a line end would see another message
than we did (CVE-2023-51764 and its kin).
"""

from __future__ import annotations

CRLF = b"\r\n"
END_OF_CONTENT = b".\r\n"
_DOT = b"."


def with_crlf(content: bytes) -> bytes:
    """The content with every bare CR and bare LF made a CRLF, and one at the end; itself where nothing is to do."""
    pairs = content.count(CRLF)
    if content.count(b"\r") != pairs or content.count(b"\n") != pairs:
        content = content.replace(CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", CRLF)
    return content if content.endswith(CRLF) or not content else content + CRLF


def stuffed(content: bytes) -> bytes:
    """Content from `with_crlf`, dots at the beginning of lines doubled, and its end (RFC 5321 section 4.5.2)."""
    doubled = content.replace(b"\r\n.", b"\r\n..")
    return (_DOT if doubled.startswith(_DOT) else b"") + doubled + END_OF_CONTENT


def is_eight_bit(content: bytes) -> bool:
    """Whether any byte is beyond ASCII, so that BODY=8BITMIME is to be declared (RFC 6152)."""
    return not content.isascii()
