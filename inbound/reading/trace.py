"""What a message's header tells of its way: how often it was relayed, whether it was here before, and whether a person
or a program sent it (RFC 5321 section 6.3, RFC 3834).

Reads the head that the receiver has at hand (64 KiB), in linear time; what stands behind it is not seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from core.loop_mark import FORWARDED_HEADER, forwarded_mark
from inbound.reading.headers import split_header

MARK_LIMIT = 2
"""The same address passed so often is a loop: once may be a round trip that somebody has set up on purpose."""
_FORWARDED = FORWARDED_HEADER.lower()
_MAX_VALUE = 998  # the part of a value that is looked at; RFC 5322 section 2.1.1
_BULK = frozenset({"bulk", "junk", "list"})
_FIRST_TOKEN = re.compile(r"[^\s;(,]*")


def find_loop(head: bytes, own_hostname: str, max_hops: int, address_ids: Iterable[str] = ()) -> str | None:
    """Why a message is in a loop, in words for the reply; None when it is not.

    `address_ids` are those it is about to be forwarded for: to have been forwarded for one of them already is enough.
    """
    hops = 0
    marks: Counter[str] = Counter()
    for name, value in _fields(head):
        if name == "received":
            hops += 1
        elif name == _FORWARDED:
            marks[value] += 1
    if hops > max_hops:
        return f"it has passed {hops} hosts, more than {max_hops}"
    if any(forwarded_mark(address_id, own_hostname) in marks for address_id in address_ids):
        return "it has been forwarded for this address before"
    own = f"@{own_hostname.lower()}"
    if any(count >= MARK_LIMIT and mark.endswith(own) for mark, count in marks.items()):
        return "it has been forwarded from here before"
    return None


def is_automatic(head: bytes) -> bool:
    """Whether a program sent it, so that no program should answer (RFC 3834 section 2, RFC 2919, MS-OXCMAIL).

    The null sender, which says the same in the envelope, is for the caller to look at.
    """
    return any(_says_automatic(name, value) for name, value in _fields(head))


def _says_automatic(name: str, value: str) -> bool:
    match = _FIRST_TOKEN.match(value)
    token = match[0] if match else ""
    if name == "auto-submitted":
        return token not in ("no", "")
    if name == "precedence":
        return token in _BULK
    if name == "x-auto-response-suppress":
        return token not in ("none", "")
    if name == "content-type":
        return value.startswith("multipart/report")
    return name.startswith("list-") and value != ""


def _fields(head: bytes) -> Iterable[tuple[str, str]]:
    """Names and values in lower case."""
    block = split_header(head, 0, len(head), len(head))
    return ((name.lower(), value[:_MAX_VALUE].strip().lower()) for name, value in block.fields)
