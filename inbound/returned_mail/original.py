"""Which mail of ours a returned one is about: by its return path, a proof, or by its Message-ID, which is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.addresses import parse_mailbox
from core.sending.verp import RETURN_HEADER, ReturnPaths
from inbound.reading.headers import bare_id
from inbound.returned_mail.opened import Fields, OpenedMail, first_of
from inbound.returned_mail.shown import one_line

MAX_CANDIDATES = 50
_OWN_FIELDS = (RETURN_HEADER.lower(), "cfbl-feedback-id", "return-path")
"""Where our mail carries its return path; RFC 9477 has `CFBL-Feedback-ID` for what a sender wants to read again."""


def find_delivery(
    paths: ReturnPaths, recipients: Iterable[str], original: Fields, envelope_id: str | None
) -> str | None:
    """The delivery that a return path names: the one the mail came to, else one in what is returned."""
    for count, candidate in enumerate(_candidates(recipients, original, envelope_id)):
        if count >= MAX_CANDIDATES:
            break
        delivery_id = paths.read(_local_part(candidate))
        if delivery_id is not None:
            return delivery_id
    return None


def original_message_id(mail: OpenedMail, original: Fields) -> str | None:
    """The Message-ID of our mail: from its header, else from what the answer refers to."""
    for value in (first_of(original, "message-id"), mail.first("in-reply-to"), mail.first("x-original-message-id")):
        found = one_line(bare_id(value))
        if found:
            return found
    references = mail.first("references").split()
    return one_line(bare_id(references[-1])) if references else None


def _candidates(recipients: Iterable[str], original: Fields, envelope_id: str | None) -> Iterator[str]:
    yield from recipients
    for name in _OWN_FIELDS:
        yield from original.get(name, ())
    if envelope_id:
        yield envelope_id


def _local_part(candidate: str) -> str:
    bare = candidate.strip(" <>")
    mailbox = parse_mailbox(bare)
    return mailbox.local if mailbox else bare
