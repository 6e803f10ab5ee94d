"""Writes `winmail.dat` streams for tests, from the specification and independently of the reader."""

from __future__ import annotations

import struct

MESSAGE_INTERFACE = bytes.fromhex("0703020000000000c000000000000046")


def stream(*attributes: bytes) -> bytes:
    return struct.pack("<IH", 0x223E9F78, 1) + b"".join(attributes)


def attribute(level: int, number: int, data: bytes) -> bytes:
    return struct.pack("<BII", level, number, len(data)) + data + struct.pack("<H", sum(data) & 0xFFFF)


def code_page(page: int) -> bytes:
    return attribute(1, 0x00069007, struct.pack("<II", page, 0))


def body(text: bytes) -> bytes:
    return attribute(1, 0x0002800C, text + b"\0")


def message_properties(*properties: bytes) -> bytes:
    return attribute(1, 0x00069003, struct.pack("<I", len(properties)) + b"".join(properties))


def file(title: bytes, content: bytes, *properties: bytes) -> bytes:
    out = attribute(2, 0x00069002, struct.pack("<HIIII", 1, 0xFFFFFFFF, 0, 0, 0)) + attribute(2, 0x0006800F, content)
    out += attribute(2, 0x00018010, title + b"\0")
    if properties:
        out += attribute(2, 0x00069005, struct.pack("<I", len(properties)) + b"".join(properties))
    return out


def number(tag: int, value: int) -> bytes:
    return struct.pack("<HHI", 0x0003, tag, value)


def string8(tag: int, value: bytes) -> bytes:
    return struct.pack("<HH", 0x001E, tag) + _counted(value + b"\0")


def unicode(tag: int, value: str) -> bytes:
    return struct.pack("<HH", 0x001F, tag) + _counted((value + "\0").encode("utf-16-le"))


def binary(tag: int, value: bytes) -> bytes:
    return struct.pack("<HH", 0x0102, tag) + _counted(value)


def embedded(inner: bytes) -> bytes:
    return struct.pack("<HH", 0x000D, 0x3701) + _counted(MESSAGE_INTERFACE + inner)


def named_string(name: str, value: str) -> bytes:
    encoded = (name + "\0").encode("utf-16-le")
    head = struct.pack("<HH", 0x001F, 0x8001) + b"\1" * 16 + struct.pack("<II", 1, len(encoded))
    return head + encoded + b"\0" * (-len(encoded) % 4) + _counted((value + "\0").encode("utf-16-le"))


def many_numbers(tag: int, values: list[int]) -> bytes:
    return struct.pack("<HHI", 0x1003, tag, len(values)) + struct.pack(f"<{len(values)}I", *values)


def rtf_uncompressed(rtf: bytes) -> bytes:
    return struct.pack("<IIII", len(rtf) + 12, len(rtf), 0x414C454D, 0) + rtf


def rtf_bomb(runs: int) -> bytes:
    """Eight copies of seventeen bytes, `runs` times: the most that compression allows."""
    packed = bytearray()
    position = 207  # behind what the window holds at first
    for _ in range(runs):
        packed.append(0xFF)
        for _ in range(8):
            packed += struct.pack(">H", (position - 1) % 4096 << 4 | 15)
            position += 17
    return struct.pack("<IIII", len(packed) + 12, 17 * 8 * runs, 0x75465A4C, 0) + bytes(packed)


def _counted(value: bytes) -> bytes:
    return struct.pack("<II", 1, len(value)) + value + b"\0" * (-len(value) % 4)
