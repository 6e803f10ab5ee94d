"""Tag lists: `a=b; c=d` of signatures, keys and policies (RFC 6376 section 3.2)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_TAGS = 100
"""Signatures have about a dozen."""
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\Z")
_WHITE = re.compile(rb"[ \t\r\n]+")
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*\Z")


class MalformedTags(Exception):
    """A tag list or a value in it that cannot be read, in words."""


@dataclass(frozen=True, slots=True)
class TagList:
    """Tags by name, values without white space around them."""

    values: Mapping[str, bytes]
    order: tuple[str, ...]
    without_b: bytes
    """The list as it stood, the value of `b=` left out, with all white space around it (RFC 6376 section 3.5)."""

    def text(self, name: str, default: str = "") -> str:
        """A value as lower-case text. Raises `MalformedTags` when it is not ASCII."""
        value = self.values.get(name)
        if value is None:
            return default
        if not value.isascii():
            raise MalformedTags(f"{name}= is not in ASCII")
        return value.decode("ascii").lower()

    def require(self, *names: str) -> None:
        """Raises `MalformedTags` unless all these tags are there."""
        missing = [name for name in names if name not in self.values]
        if missing:
            raise MalformedTags(f"{missing[0]}= is missing")

    def domain(self, name: str) -> str:
        """A value that is a domain name, or a selector. Raises `MalformedTags`."""
        found = self.text(name)
        if not _DOMAIN.match(found):
            raise MalformedTags(f"{name}= is no domain name")
        return found

    def octets(self, name: str) -> bytes:
        """A value in base64, folds allowed. Raises `MalformedTags`."""
        try:
            return base64.b64decode(_WHITE.sub(b"", self.values.get(name, b"")), validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedTags(f"{name}= is no base64") from error

    def number(self, name: str, max_digits: int = 20) -> int | None:
        """A count, or None without the tag. Raises `MalformedTags`."""
        value = self.values.get(name)
        if value is None:
            return None
        if not value.isdigit() or len(value) > max_digits:
            raise MalformedTags(f"{name}= is no number")
        return int(value)

    def items(self, name: str, default: str = "") -> list[str]:
        """A list separated by colons, lower-case, white space removed."""
        return [item.strip() for item in self.text(name, default).split(":")]


def read_tags(data: bytes) -> TagList:
    """Read a tag list. Raises `MalformedTags`."""
    values: dict[str, bytes] = {}
    pieces = data.split(b";", MAX_TAGS)
    if len(pieces) > MAX_TAGS:
        raise MalformedTags(f"there are more than {MAX_TAGS} tags")
    for index, piece in enumerate(pieces):
        name, equals, value = piece.partition(b"=")
        bare = name.strip(b" \t\r\n")
        if not equals and not bare and index == len(pieces) - 1:
            continue  # a final semicolon
        if not equals or not _NAME.match(bare):
            raise MalformedTags("the tag list is malformed")
        key = bare.decode("ascii")
        if key in values:
            raise MalformedTags(f"{key}= occurs twice")
        values[key] = value.strip(b" \t\r\n")
        if key == "b":
            pieces[index] = name + b"="
    return TagList(values, tuple(values), b";".join(pieces))
