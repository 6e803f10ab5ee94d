"""MAPI property lists as TNEF carries them ([MS-OXTNEF] section 2.1.3.4): total, linear and bounded.

A list is a count and that many properties, each a type, an id and one or more values, in little-endian order and
padded to four bytes. Reading stops at the first thing that makes no sense; what came before it stands.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

MAX_PROPERTIES = 5000
"""Read of one list; Outlook writes some two hundred for a message."""
MAX_VALUES = 20_000
"""Read of one list: a property may have many values."""
MAX_STRING_BYTES = 4 * 1024 * 1024
"""Read of one string; a longer one is cut."""

_NAMED_FROM = 0x8000
_MULTIPLE = 0x1000
_NAME_IS_STRING = 1
_UINT32 = struct.Struct("<I")
_TAG = struct.Struct("<HH")
_FIXED_SIZES = {0x02: 4, 0x03: 4, 0x04: 4, 0x05: 8, 0x06: 8, 0x07: 8, 0x0A: 4, 0x0B: 4, 0x14: 8, 0x40: 8, 0x48: 16}
"""Bytes of a value, by property type, padding included ([MS-OXCDATA] section 2.11.1)."""


class Type(IntEnum):
    """The property types whose values have a length of their own."""

    OBJECT = 0x0D
    STRING8 = 0x1E
    UNICODE = 0x1F
    BINARY = 0x102


class Property(IntEnum):
    """The properties we read ([MS-OXPROPS] section 2); the names are Microsoft's without PidTag."""

    MESSAGE_CLASS = 0x001A
    SUBJECT = 0x0037
    SENT_REPRESENTING_NAME = 0x0042
    SENT_REPRESENTING_ADDRESS = 0x0065
    SENDER_NAME = 0x0C1A
    SENDER_ADDRESS = 0x0C1F
    DISPLAY_TO = 0x0E04
    BODY = 0x1000
    RTF_COMPRESSED = 0x1009
    HTML = 0x1013
    INTERNET_MESSAGE_ID = 0x1035
    DISPLAY_NAME = 0x3001
    ATTACH_DATA = 0x3701
    ATTACH_FILENAME = 0x3704
    ATTACH_METHOD = 0x3705
    ATTACH_LONG_FILENAME = 0x3707
    ATTACH_MIME_TAG = 0x370E
    ATTACH_CONTENT_ID = 0x3712
    INTERNET_CODEPAGE = 0x3FDE


_WANTED = frozenset(Property)
_LENGTHY = frozenset(Type)


@dataclass(frozen=True, slots=True)
class Value:
    """One value as it stood: the property's type and the value's bytes without padding."""

    type: int
    data: memoryview
    """A view of the stream: what is not used is not copied."""

    @property
    def number(self) -> int:
        """The value as an unsigned 32-bit number; 0 where it is shorter."""
        return int(_UINT32.unpack_from(self.data)[0]) if len(self.data) >= _UINT32.size else 0


@dataclass(frozen=True, slots=True)
class PropertyList:
    """The first value of each property we know, and whether the whole list could be read."""

    values: dict[Property, Value]
    is_whole: bool


def read_properties(data: memoryview) -> PropertyList:
    """Read a property list. Never raises; an odd or overlong list comes back in part, and says so."""
    values: dict[Property, Value] = {}
    try:
        count = _UINT32.unpack_from(data)[0]
        reader = _Reader(data, _UINT32.size)
        for _ in range(min(count, MAX_PROPERTIES)):
            tag, value = reader.next()
            if value is not None and tag in _WANTED:
                values.setdefault(Property(tag), value)
    except (struct.error, _BrokenList):
        return PropertyList(values, is_whole=False)
    return PropertyList(values, is_whole=count <= MAX_PROPERTIES)


class _BrokenList(ValueError):
    """A length or type that cannot be."""


class _Reader:
    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self._position = position
        self._values_left = MAX_VALUES

    def next(self) -> tuple[int, Value | None]:
        """The next property: its id (0 for a named one, which we have no use for) and its first value."""
        kind, tag = _TAG.unpack_from(self._data, self._position)
        self._position += _TAG.size
        if tag >= _NAMED_FROM:
            self._skip_name()
            tag = 0
        base = kind & ~_MULTIPLE
        has_count = bool(kind & _MULTIPLE) or base in _LENGTHY
        count = self._number() if has_count else 1
        self._values_left -= count
        if self._values_left < 0:
            raise _BrokenList
        first: Value | None = None
        for _ in range(count):
            value = self._value(base)
            first = first or value
        return tag, first

    def _skip_name(self) -> None:
        self._take(16)
        if self._number() == _NAME_IS_STRING:
            self._take_padded(self._number())
        else:
            self._take(_UINT32.size)

    def _value(self, kind: int) -> Value:
        size = _FIXED_SIZES.get(kind)
        if size is not None:
            return Value(kind, self._take(size))
        if kind not in _LENGTHY:
            raise _BrokenList
        return Value(kind, self._take_padded(self._number()))

    def _number(self) -> int:
        number = int(_UINT32.unpack_from(self._data, self._position)[0])
        self._position += _UINT32.size
        return number

    def _take_padded(self, size: int) -> memoryview:
        taken = self._take(size)
        self._position += -size % 4
        return taken

    def _take(self, size: int) -> memoryview:
        end = self._position + size
        if end > len(self._data):
            raise _BrokenList
        taken = self._data[self._position : end]
        self._position = end
        return taken
