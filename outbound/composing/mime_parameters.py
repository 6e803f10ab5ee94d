"""Parameters of Content-Type and Content-Disposition: read as readers do, written in ASCII (RFC 2045, RFC 2231).

Reading is lenient and linear: what stands in headers of others is taken apart, never refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from outbound.composing.header_writing import encoded_words, unstructured_field

MAX_PARAMETER_PIECE = 60
LINE_LENGTH = 76

_PARAMETER = re.compile(r';\s*+([^\s;="]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"?+|([^;]*+))', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_HAS_PARAMETERS = frozenset({"content-type", "content-disposition"})
_FOLD = ";\r\n "


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter."""

    name: str
    """In lower case, with the marks of RFC 2231: `filename*0*`."""
    value: str
    """Without quotes, otherwise as it stood."""
    written: str
    """As it stood, `name=value`."""

    @property
    def base_name(self) -> str:
        """The name without the marks."""
        return self.name.partition("*")[0]


def read_parameters(value: str) -> Iterator[Parameter]:
    """The parameters of a field's value, in order."""
    for match in _PARAMETER.finditer(value):
        token = (match[3] or "").strip()
        text = token if match[2] is None else _QUOTED_PAIR.sub(r"\1", match[2])
        yield Parameter(match[1].lower(), text, match[0][1:].strip())


def content_field(name: str, value: str) -> bytes:
    """A `Content-…` field in ASCII, with its CRLF; parameters that are ASCII stay as they are."""
    head = value.partition(";")[0].strip()
    if name.lower() not in _HAS_PARAMETERS or not head.isascii():
        return unstructured_field(name, value)
    found = list(read_parameters(value))
    extended = {one.base_name for one in found if "*" in one.name}
    written = [head]
    for one in found:
        if one.written.isascii():
            written.append(one.written)
        elif one.name.isascii() and one.name not in extended and one.name == one.base_name:
            is_file_name = (name.lower(), one.name) == ("content-type", "name")
            written.append((encoded_parameter if is_file_name else extended_parameter)(one.name, one.value))
    return f"{name}: {_FOLD.join(written)}\r\n".encode("ascii")


def encoded_parameter(name: str, value: str) -> str:
    """An encoded word in quotes, which no RFC allows and all read where the name of a file is in Content-Type."""
    return f'{name}="' + "\r\n ".join(encoded_words(value, LINE_LENGTH - len(name) - len(' =""'))) + '"'


def extended_parameter(name: str, value: str) -> str:
    """By the standard, RFC 2231: in pieces where it is long, no character split between two."""
    pieces = [""]
    for character in value:
        escaped = quote(character, safe="")
        if len(pieces[-1]) + len(escaped) > MAX_PARAMETER_PIECE:
            pieces.append("")
        pieces[-1] += escaped
    if len(pieces) == 1:
        return f"{name}*=utf-8''{pieces[0]}"
    first = f"{name}*0*=utf-8''{pieces[0]}"
    return _FOLD.join([first, *(f"{name}*{number}*={piece}" for number, piece in enumerate(pieces) if number)])
