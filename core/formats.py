"""The formats in which a message can be POSTed to a target."""

from __future__ import annotations

from enum import StrEnum


class TargetFormat(StrEnum):
    """The `target_format` of an address; the values are the ones the API speaks."""

    JSON_N = "json+n"
    MULTIPART_N = "multipart+n"
    RAW = "raw"
    JSON = "json"
    MULTIPART = "multipart"
    ORIGINAL = "original"
    POSTMARK = "postmark"
