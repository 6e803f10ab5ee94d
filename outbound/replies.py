"""Replies of other people's hosts: read within bounds, and what they mean (RFC 5321 section 4.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.delivery import RESPONSE_EXCERPT_BYTES, Verdict
from outbound.mail import Judgement

MAX_LINE_BYTES = 4096
"""RFC 5321 section 4.5.3.1.5 allows 512; some hosts put long URLs into their refusals."""
MAX_LINES = 200
"""An EHLO reply of the largest hosts has some twenty."""
CLOSING = 421
START_CONTENT = 354
NO_MAIL_HERE = 521
"""A host that takes no mail at all (RFC 7504)."""
TOO_MANY_RECIPIENTS_821 = 552
"""What RFC 821 had hosts say to one recipient too many, where 452 is meant (RFC 5321 section 4.5.3.1.10)."""

_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?\Z", re.DOTALL)
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?!\S)")
_GENERIC = {2: "2.0.0", 4: "4.0.0", 5: "5.0.0"}


class MalformedReply(Exception):
    """What came is no reply, or more than a reply may be; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole reply."""

    code: int
    lines: tuple[str, ...]
    """The text of each line, without code and line end."""

    @property
    def is_positive(self) -> bool:
        """2xx."""
        return self.code // 100 == 2

    @property
    def text(self) -> str:
        """All of it in one line, as far as it is kept: `550 5.1.1 No such user`."""
        return f"{self.code} {' '.join(filter(None, self.lines))}".strip()[:RESPONSE_EXCERPT_BYTES]

    @property
    def enhanced(self) -> str:
        """The status of RFC 3463: the one in the text if its class is that of the code, else the general one."""
        match = _ENHANCED.match(self.lines[0]) if self.lines else None
        if match and int(match[1][0]) == self.code // 100:
            return match[1]
        return _GENERIC.get(self.code // 100, "4.5.0")

    def judge(self) -> Judgement:
        """What it means for a recipient: 2xx accepts, 5xx refuses for good, everything else is tried again."""
        if self.is_positive:
            verdict = Verdict.ACCEPTED
        else:
            verdict = Verdict.PERMANENT if self.code // 100 == 5 else Verdict.TEMPORARY
        return Judgement(verdict, self.code, self.enhanced, self.text)

    def judge_as_temporary(self) -> Judgement:
        """The same, whatever the code says: where a host refuses to talk with us, another time it may not."""
        enhanced = f"4{self.enhanced[1:]}"
        return Judgement(Verdict.TEMPORARY, self.code, enhanced, self.text)


class ReplyReader:
    """Puts replies together from the pieces that a connection gives. Never holds more than one reply may have."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._lines: list[str] = []

    @property
    def has_unread(self) -> bool:
        """Whether something came that belongs to no reply yet."""
        return bool(self._unread or self._lines)

    def feed(self, piece: bytes) -> None:
        """Take what came."""
        self._unread += piece

    def next_reply(self) -> Reply | None:
        """The next whole reply, None while it is not all there. Raises `MalformedReply`."""
        while (end := self._unread.find(b"\n")) >= 0:
            if end > MAX_LINE_BYTES:
                break
            line = bytes(self._unread[:end]).rstrip(b"\r")
            del self._unread[: end + 1]
            code, is_last = self._take(line)
            if is_last:
                lines, self._lines = tuple(self._lines), []
                return Reply(code, lines)
        if len(self._unread) > MAX_LINE_BYTES and (end < 0 or end > MAX_LINE_BYTES):
            raise MalformedReply(f"a line of the reply is longer than {MAX_LINE_BYTES} bytes")
        return None

    def _take(self, line: bytes) -> tuple[int, bool]:
        match = _LINE.match(line)
        if match is None:
            raise MalformedReply(f"this is no reply: {printable(line[:80])!r}")
        if len(self._lines) == MAX_LINES:
            raise MalformedReply(f"the reply has more than {MAX_LINES} lines")
        self._lines.append(printable(match[3] or b"").strip())
        return int(match[1]), match[2] != b"-"


def printable(text: bytes) -> str:
    """Text that may be shown and stored: what is no UTF-8, and what cannot be printed, is replaced."""
    decoded = text.decode("utf-8", "replace")
    if decoded.isprintable():
        return decoded
    return "".join(character if character.isprintable() else "\ufffd" for character in decoded)
