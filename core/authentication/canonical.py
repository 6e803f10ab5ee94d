"""The forms of headers and bodies that signatures are over (RFC 6376 section 3.4), for those who sign and who verify.

All of it takes time linear in its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

CRLF = b"\r\n"
BLOCK_BYTES = 256 * 1024
"""How much of a body is brought into canonical form at once."""


class Canonical(StrEnum):
    """How much rewriting on the way a signature forgives."""

    SIMPLE = "simple"
    RELAXED = "relaxed"


def relaxed_field(name: bytes, value: bytes) -> bytes:
    """One field in "relaxed" canonical form, with CRLF; the value comes without its last line end."""
    return name + b":" + single_spaced(value.replace(CRLF, b"")).strip(b" ") + CRLF


def single_spaced(data: bytes) -> bytes:
    """Each run of spaces and tabs made one space. The rounds halve the runs, so that all of them together are linear;
    a regular expression would be, too, and several times slower."""
    data = data.replace(b"\t", b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data


def with_crlf(data: bytes) -> bytes:
    """The same lines, each bare LF made CRLF."""
    return data.replace(CRLF, b"\n").replace(b"\n", CRLF)


def has_bare_lf(data: bytes) -> bool:
    """Whether some line does not end in CRLF."""
    return data.count(b"\n") != data.count(CRLF)


def canonical_pieces(body: memoryview, canonical: Canonical) -> Iterator[bytes]:
    """The canonical body, piece by piece: no empty lines at its end, and a CRLF behind its last line.

    An empty body is CRLF in simple form and nothing in relaxed form.
    """
    held = 0
    is_empty = True
    for block in _blocks(body):
        data = _relaxed(block) if canonical is Canonical.RELAXED else block
        kept = _without_final_crlfs(data)
        if kept:
            if held:
                yield CRLF * held
            yield data[:kept]
            held = 0
            is_empty = False
        held += (len(data) - kept) // len(CRLF)
    if not is_empty or canonical is Canonical.SIMPLE:
        yield CRLF


def _blocks(body: memoryview) -> Iterator[bytes]:
    """The body in pieces that end where a line ends, so that white space before a line end is never torn from it."""
    pending: list[bytes] = []
    for start in range(0, len(body), BLOCK_BYTES):
        block = bytes(body[start : start + BLOCK_BYTES])
        cut = block.rfind(CRLF) + len(CRLF)
        if cut < len(CRLF):
            pending.append(block)
            continue
        yield b"".join([*pending, block[:cut]])
        pending = [block[cut:]]
    rest = b"".join(pending)
    if rest:
        yield rest


def _relaxed(block: bytes) -> bytes:
    """White space runs become one space, and none stays before a line end."""
    return single_spaced(block).replace(b" \r\n", CRLF).removesuffix(b" ")


def _without_final_crlfs(data: bytes) -> int:
    """How many bytes there are before the line ends at the end."""
    tail = len(data.rstrip(CRLF))
    end = data[tail:]
    broken = max(end.rfind(b"\r\r"), end.rfind(b"\n\n")) + 1  # from here on CR and LF alternate
    if not end.endswith(b"\n"):
        return len(data)
    return tail + broken + (1 if end[broken : broken + 1] == b"\n" else 0)
