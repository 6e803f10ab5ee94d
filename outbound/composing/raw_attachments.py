"""Files in messages that come whole: none may be of a forbidden type, however deep it lies and its name is written.

Every reading that some mail program has of a name is looked at: parameters of both headers, encoded words (RFC 2047),
RFC 2231 with and without pieces. Signed parts and messages inside the message are looked into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from urllib.parse import unquote

from core.errors import InvalidField
from outbound.composing.attachment_rules import extension
from outbound.composing.message_tree import see_entities
from outbound.composing.mime_parameters import Parameter, read_parameters
from outbound.composing.raw_fields import RawField
from outbound.composing.word_decoding import decoded

MAX_LOOKED_AT = 8_000
"""Characters of one field; names of files are far shorter."""
MAX_SHOWN = 100

_FIELDS = frozenset({"content-type", "content-disposition"})
_NAMES = frozenset({"name", "filename"})
_MARK = b"name"
"""Without it there is no name, and nothing to look for: most mail."""
_PATH = re.compile(r"(?:.*[/\\])?(?:[A-Za-z]:)?", re.DOTALL)
_PIECE_NUMBER = re.compile(r"\*([0-9]{1,4})")


def check_attached_names(fields: Sequence[RawField], body: bytes, forbidden_extensions: frozenset[str]) -> None:
    """Raises `InvalidField`, field `raw`."""

    def see(part: Sequence[RawField]) -> None:
        for name in _names(part):
            if extension(name) in forbidden_extensions:
                shown = "".join(one for one in name[-MAX_SHOWN:] if one.isprintable())
                problem = f"holds the file {shown!r}, which is of a forbidden type (.{extension(name)})"
                raise InvalidField("raw", f"{problem}; programs are not sent, give a link instead")

    if any(_MARK in one.value.lower() for one in fields if one.lowered in _FIELDS) or _MARK in body.lower():
        see_entities(fields, body, see)


def _names(part: Sequence[RawField]) -> Iterator[str]:
    """All readings of the names of a part."""
    for field in part:
        if field.lowered not in _FIELDS:
            continue
        found = [one for one in read_parameters(_text(field)) if one.base_name in _NAMES]
        for one in found:
            yield from _readings(one.value)
        pieces = sorted((one for one in found if _PIECE_NUMBER.search(one.name)), key=_place)
        for _, group in groupby(pieces, key=lambda one: one.base_name):
            yield from _readings("".join(one.value for one in group))


def _place(piece: Parameter) -> tuple[str, int]:
    found = _PIECE_NUMBER.search(piece.name)
    return piece.base_name, int(found[1]) if found else 0


def _readings(value: str) -> Iterator[str]:
    """As it stands, with its escapes resolved, and decoded; of a path the end, as mail programs save it."""
    for reading in (value, unquote(value), decoded(value)):
        yield _PATH.sub("", reading, count=1).rstrip("\"' ")


def _text(field: RawField) -> str:
    return field.value[:MAX_LOOKED_AT].decode("utf-8", "replace")
