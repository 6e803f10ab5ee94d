"""Bodies of whole messages, encoded anew: to 7 bits and short lines, or with another HTML.

RFC 6376 section 5.3: whoever signs sends 7 bits, because a host on the way may recode the rest and break the
signature. Parts that are fit to go stay byte for byte; so do signed parts (RFC 1847), whatever is in them.
"""

from __future__ import annotations

import binascii
import codecs
from collections.abc import Callable, Sequence

from core.errors import InvalidField
from outbound.composing.header_writing import MAX_LINE
from outbound.composing.message_tree import Leaf, replace_leaves
from outbound.composing.mime_parameters import content_field
from outbound.composing.mime_writing import encode_base64, encode_text
from outbound.composing.raw_fields import RawField, field_of

_NO_CHARSETS = frozenset(
    codecs.lookup(name).name for name in ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined")
)
"""Python knows them, mail does not. Punycode takes time with the square of the length: an hour for 10 MB."""
_IDENTITY = frozenset({"7bit", "8bit", "binary"})


def recode(fields: Sequence[RawField], body: bytes) -> tuple[list[RawField], bytes]:
    """Fields and body with all parts in 7 bits and lines of at most 998 octets."""
    if is_fit(body):
        return list(fields), body
    new_fields, new_body = replace_leaves(fields, body, _recoded, is_fit, _in_ascii)
    if new_body == body and new_fields == tuple(fields):
        return list(fields), body
    return _with_version(new_fields), new_body


def rewrite_html(
    fields: Sequence[RawField], body: bytes, transform: Callable[[str], str]
) -> tuple[list[RawField], bytes]:
    """The message with its HTML changed: the first part that is HTML and no attachment. For layouts and tracking.

    A part whose charset is unknown stays as it is.
    """
    return _rewrite_first(fields, body, "text/html", transform, _with_html)


def rewrite_plain(
    fields: Sequence[RawField], body: bytes, transform: Callable[[str], str]
) -> tuple[list[RawField], bytes]:
    """The same with its plain text, whose charset and other parameters stay: what is put in must be ASCII."""
    return _rewrite_first(fields, body, "text/plain", transform, _with_plain)


def _rewrite_first(
    fields: Sequence[RawField],
    body: bytes,
    media_type: str,
    transform: Callable[[str], str],
    with_text: Callable[[Leaf, str], Leaf],
) -> tuple[list[RawField], bytes]:
    is_done = False

    def visit(leaf: Leaf) -> Leaf:
        nonlocal is_done
        if is_done or leaf.media_type != media_type or leaf.is_attachment:
            return leaf
        is_done = True
        text = _text(leaf)
        changed = text if text is None else transform(text)
        return leaf if changed is None or changed == text else with_text(leaf, changed)

    new_fields, new_body = replace_leaves(fields, body, visit)
    return list(new_fields), new_body


def is_fit(body: bytes) -> bool:
    """Whether every host takes it as it is."""
    return body.isascii() and b"\0" not in body and max(map(len, body.split(b"\r\n"))) <= MAX_LINE


def _recoded(leaf: Leaf) -> Leaf:
    if is_fit(leaf.body):
        return leaf
    data = _decoded(leaf)
    if data is None:
        return leaf
    content_type = None if leaf.content_type or leaf.body.isascii() else f"text/plain; charset={_guess(data)}"
    is_text = leaf.media_type.startswith("text/") and b"\r" not in data.replace(b"\r\n", b"")
    if not is_text:
        return leaf.with_body(encode_base64(data), "base64", content_type)
    return _with_text(leaf, data.replace(b"\r\n", b"\n"), content_type)


def _in_ascii(field: RawField) -> RawField:
    """A field of a part; its name for a file is often in plain UTF-8. Of other charsets nobody can say which."""
    if not field.lowered.startswith("content-") or all(line.isascii() for line in field.lines):
        return field
    try:
        return field_of(content_field(field.name, field.text))
    except InvalidField:
        return field


def _with_text(leaf: Leaf, data: bytes, content_type: str | None) -> Leaf:
    """`data` has LF line ends. A soft line break must not make a delimiter of what was in the middle of a line."""
    encoding, body = encode_text(data)
    if any(b"--" + one in body for one in leaf.boundaries):
        encoding, body = "base64", encode_base64(data.replace(b"\n", b"\r\n"))
    return leaf.with_body(body, encoding, content_type)


def _with_html(leaf: Leaf, html: str) -> Leaf:
    data = html.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace")
    return _with_text(leaf, data, "text/html; charset=utf-8")


def _with_plain(leaf: Leaf, text: str) -> Leaf:
    data = text.replace("\r\n", "\n").replace("\r", "\n").encode(leaf.charset or "utf-8", "replace")
    return _with_text(leaf, data, None)


def _decoded(leaf: Leaf) -> bytes | None:
    """The body without its transfer encoding; None where that is unknown."""
    if leaf.encoding in _IDENTITY:
        return leaf.body
    if leaf.encoding == "quoted-printable":
        return binascii.a2b_qp(leaf.body)
    if leaf.encoding == "base64":
        try:
            return binascii.a2b_base64(leaf.body)
        except binascii.Error:
            return None
    return None


def _text(leaf: Leaf) -> str | None:
    data = _decoded(leaf)
    try:
        charset = codecs.lookup(leaf.charset or "utf-8").name
        return None if data is None or charset in _NO_CHARSETS else data.decode(charset)
    except (LookupError, ValueError):  # also of a name with NUL in it
        return None


def _guess(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError:
        return "unknown-8bit"  # RFC 1428 section 3
    return "utf-8"


def _with_version(fields: Sequence[RawField]) -> list[RawField]:
    if any(one.lowered == "mime-version" for one in fields):
        return list(fields)
    return [*fields, RawField("MIME-Version", (b" 1.0",))]
