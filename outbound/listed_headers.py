"""What lists show of a message to be sent, read from its header as it goes out: author, recipients, subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header

from core.errors import InvalidField
from outbound.composing.header_writing import UNPRINTABLE
from outbound.composing.mailboxes import NamedMailbox, read_mailboxes
from outbound.composing.raw_fields import RawField, split_message

MAX_LISTED = 100
"""Mailboxes kept of one header: a message that came by SMTP may name thousands."""
MAX_SUBJECT_LENGTH = 2_000
MAX_UNREADABLE_LENGTH = 1_000
"""Of an address header that cannot be read."""


@dataclass(frozen=True, slots=True)
class ListedHeaders:
    """Decoded; mailboxes as `Name <user@example.com>`, or bare without a name."""

    from_: str
    to: tuple[str, ...]
    cc: tuple[str, ...]
    subject: str | None


def read_listed(content: bytes) -> ListedHeaders:
    """Read them from a message that was composed or prepared by us."""
    fields, _ = split_message(content[: content.find(b"\r\n\r\n") + 4])
    return ListedHeaders(
        from_=", ".join(_mailboxes(fields, "from")),
        to=_mailboxes(fields, "to"),
        cc=_mailboxes(fields, "cc"),
        subject=next((_decoded(one.text) for one in fields if one.lowered == "subject"), None),
    )


def shown(one: NamedMailbox) -> str:
    """A mailbox as people read it; the address is what stands last."""
    return f"{one.name} <{one.address}>" if one.name else one.address


def _mailboxes(fields: Sequence[RawField], lowered: str) -> tuple[str, ...]:
    found: list[str] = []
    for one in fields:
        if one.lowered == lowered and len(found) < MAX_LISTED:
            found += _read(lowered, one)
    return tuple(found[:MAX_LISTED])


def _read(lowered: str, field: RawField) -> list[str]:
    """A header that cannot be read is shown as it is: mail by SMTP goes to its envelope, whatever To says."""
    try:
        return [shown(one) for one in read_mailboxes(lowered, field.text, in_header=True)[:MAX_LISTED]]
    except InvalidField:
        return [UNPRINTABLE.sub(" ", field.value.decode("utf-8", "replace"))[:MAX_UNREADABLE_LENGTH]]


def _decoded(text: str) -> str:
    cut = text[:MAX_SUBJECT_LENGTH]
    if "=?" in cut:
        try:
            cut = str(make_header(decode_header(cut)))
        except (HeaderParseError, LookupError, ValueError):
            return cut
    return UNPRINTABLE.sub(" ", cut)
