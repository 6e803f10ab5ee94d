"""Whether mail can be sent to an address at all, asked wherever one is taken: by the API, and of each RCPT."""

from __future__ import annotations

import re
import unicodedata

from core.addresses import Mailbox
from core.mailto import MAX_ADDRESS_OCTETS

_ENCODED_WORD = re.compile(r"=\?[^?]*\?[bBqQ]\?[^?]*\?=")
"""RFC 2047. In an address it is none, and yet decoded by some: `=?utf-8?b?…?=@example.com` shows another sender."""


def why_unreachable(mailbox: Mailbox) -> str | None:
    """What is wrong with the address, and the cure; None when it can be sent to."""
    if '"' not in mailbox.text and any(_is_unseen(one) for one in mailbox.local):
        return "holds a blank or an invisible character; take it out"
    if len(mailbox.text.encode()) > MAX_ADDRESS_OCTETS:
        return f"is longer than {MAX_ADDRESS_OCTETS} bytes"
    if _ENCODED_WORD.search(mailbox.local):
        return "is an encoded word, which some programs show decoded; write it plainly"
    if mailbox.domain.startswith("[") or "." not in mailbox.domain:
        return "has no full domain behind the @, like example.com"
    return None


def _is_unseen(character: str) -> bool:
    """Blanks, and what comes along when an address is copied from a web page; joiners belong to some scripts."""
    return character.isspace() or (unicodedata.category(character) == "Cf" and character not in "\u200c\u200d")
