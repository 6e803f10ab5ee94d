"""Encoded words in headers (RFC 2047), read as leniently as mail is written.

Linear in the length of the value: one pass of a regular expression whose runs stop at the next question mark.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable

from inbound.reading.charsets import CharsetDetector, decode

_WORD = re.compile(r"=\?([^?*\s]{1,60})(?:\*[^?\s]{0,60})?\?([bBqQ])\?([^?]*)\?=")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,"]')
_NO_DETECTOR = CharsetDetector(budget=0)


def decode_words(value: str) -> str:
    """Replace every encoded word in an unfolded value by its text; white space between two words goes."""
    return _decode_with(value, _as_is) if "=?" in value else value


def decode_address_words(value: str) -> str:
    """As `decode_words`, but a decoded name that holds address syntax is quoted.

    `=?utf-8?q?a=40bank.example=2C?= <x@evil.example>` must not turn into two addresses for whoever parses the
    decoded value (RFC 2047 section 5: an encoded word stands for a phrase, never for syntax).
    """
    return _decode_with(value, _as_phrase) if "=?" in value else value


def _decode_with(value: str, render: Callable[[str, bool], str]) -> str:
    out: list[str] = []
    run: list[tuple[str, bytes]] = []
    end = 0
    quoted = False
    for match in _WORD.finditer(value):
        between = value[end : match.start()]
        if not run or (between and not between.isspace()):
            out.append(_render_run(run, render, quoted))
            run = []
            out.append(between)
            quoted ^= _count_quotes(between) % 2 == 1
        _add_word(run, match[1], match[2], match[3])
        end = match.end()
    out.append(_render_run(run, render, quoted))
    out.append(value[end:])
    return "".join(out)


def _add_word(run: list[tuple[str, bytes]], charset: str, encoding: str, text: str) -> None:
    data = _unbase64(text) if encoding in "bB" else _unq(text)
    charset = charset.lower()
    run.append((charset, data))


def _render_run(run: list[tuple[str, bytes]], render: Callable[[str, bool], str], quoted: bool) -> str:
    """Decode neighbouring words; those of one charset as one, because senders split inside a character."""
    if not run:
        return ""
    texts: list[str] = []
    chunks: list[bytes] = []
    current = run[0][0]
    for charset, data in run:
        if charset != current:
            texts.append(decode(b"".join(chunks), current, _NO_DETECTOR).text)
            chunks = []
            current = charset
        chunks.append(data)
    texts.append(decode(b"".join(chunks), current, _NO_DETECTOR).text)
    return render("".join(texts), quoted)


def _as_is(text: str, quoted: bool) -> str:
    return text


def _as_phrase(text: str, quoted: bool) -> str:
    if not _SPECIALS.search(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return escaped if quoted else f'"{escaped}"'


def _count_quotes(text: str) -> int:
    return text.count('"') - text.count('\\"')


def _unbase64(text: str) -> bytes:
    data = _NOT_BASE64.sub(b"", text.encode("ascii", "ignore"))
    if len(data) % 4 == 1:
        data = data[:-1]
    return binascii.a2b_base64(data + b"=" * (-len(data) % 4))


def _unq(text: str) -> bytes:
    return binascii.a2b_qp(text.encode("utf-8", "surrogateescape"), header=True)
