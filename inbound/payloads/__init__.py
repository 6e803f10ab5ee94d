"""What is POSTed to a target: one module a format behind one function. A new format is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from core.envelope import Envelope
from core.formats import TargetFormat
from inbound.payloads import json_hash, json_n, multipart_hash, multipart_n, original, postmark, raw
from inbound.payloads.fields import Payload, RenderOptions
from inbound.reading.parsed import ParsedMessage

__all__ = ["Payload", "RenderOptions", "render"]

_Renderer = Callable[[bytes, Callable[[], ParsedMessage], Envelope, RenderOptions], Payload]

_RENDERERS: dict[TargetFormat, _Renderer] = {
    TargetFormat.JSON_N: json_n.render,
    TargetFormat.MULTIPART_N: multipart_n.render,
    TargetFormat.RAW: raw.render,
    TargetFormat.JSON: json_hash.render,
    TargetFormat.MULTIPART: multipart_hash.render,
    TargetFormat.ORIGINAL: original.render,
    TargetFormat.POSTMARK: postmark.render,
}


def render(
    format: TargetFormat,
    raw: bytes,
    message: Callable[[], ParsedMessage],
    envelope: Envelope,
    options: RenderOptions,
) -> Payload:
    """Build the POST for one message.

    `message` gives the parsed message; it is called only by formats that need one, so `raw` parses nothing.
    Pass a cached function to parse once for several targets.
    """
    return _RENDERERS[format](raw, message, envelope, options)
