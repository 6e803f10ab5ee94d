"""Sender Rewriting Scheme: a sender of our own for mail that is forwarded, so that SPF passes and bounces find back.

A forwarded mail leaves with `SRS0=hash=day=example.com=user@` our domain instead of `user@example.com`; a bounce to
that is sent on to `user@example.com`. Where the sender was rewritten before us, `SRS1` keeps the first rewriter's
domain and his opaque rest, so that addresses do not grow with each forwarder. The hash keeps others from making such
addresses, the day lets them end. (Shevek, "The Sender Rewriting Scheme", 2004; the form is that of its `Mail::SRS`.)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

from core.addresses import Mailbox, parse_mailbox
from core.clock import DAY_MS, Clock

VALIDITY_DAYS = 21
"""For how long a bounce finds back; what `Mail::SRS` and postsrsd have. Hosts give up after 5 days or less."""
CLOCK_SKEW_DAYS = 1
"""Another node's midnight may come before ours."""
HASH_LENGTH = 8
"""Characters of 5 bits each. `Mail::SRS` has four of base64 without case, which a patient sender guesses."""
SHORT_HASH_LENGTH = 5
"""Where that brings an address down to `MAX_LOCAL_OCTETS`."""
MAX_LOCAL_OCTETS = 64
"""RFC 5321 section 4.5.3.1.1. Longer ones are made all the same when the sender is long itself: most hosts take
them, and without them there is no sender at all."""
SECRET_NAME = "srs"  # noqa: S105 (the name under which processes share it)

_DAYS = 1024  # two characters of base32
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_QUOTED = re.compile(r'["\\]')
_PLAIN_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\u0080-\U0010ffff-]+\Z")
_FLAGS = re.IGNORECASE | re.DOTALL | re.ASCII  # ASCII: else the Kelvin sign is a K
_SRS0 = re.compile(r"SRS0[=+-]([A-Z2-7]+)=([A-Z2-7]{2})=([^=]+)=(.*)\Z", _FLAGS)
_SRS1 = re.compile(r"SRS1[=+-]([A-Z2-7]+)=([^=]+)=([=+-].*)\Z", _FLAGS)
_FOREIGN_SRS0 = re.compile(r"SRS0([=+-].*)\Z", _FLAGS)
_FOREIGN_SRS1 = re.compile(r"SRS1[=+-][^=]*=([^=]+)=([=+-].*)\Z", _FLAGS)


@dataclass(frozen=True, slots=True)
class _Form:
    """What an address of ours consists of, apart from its hash."""

    tag: str
    sealed: tuple[str, ...]

    def local(self, digest: str) -> str:
        """The local part."""
        return "=".join((self.tag, digest, *self.sealed))


class SrsRewriter:
    """Rewrites senders into addresses at our domain, and back. Holds no state but the secret."""

    def __init__(self, secret: bytes, domain: str, clock: Clock) -> None:
        self._secret = secret
        self.domain = domain
        self._clock = clock

    def forward(self, mail_from: str) -> str:
        """The sender with which a mail is forwarded.

        The null sender stays null, and a sender at our own domain stays, as our SPF record covers it. One that is no
        address becomes the null sender: nothing could be sent back to it.
        """
        mailbox = parse_mailbox(mail_from) if mail_from else None
        if mailbox is None:
            return ""
        if mailbox.domain == self.domain:
            return mail_from
        return f"{_quoted(self._seal(self._form(mailbox)))}@{self.domain}"

    def reverse(self, address: str) -> str | None:
        """The sender that `forward` made this address of; None when it did not, or too long ago."""
        mailbox = parse_mailbox(address)
        return None if mailbox is None else self.reverse_mailbox(mailbox)

    def reverse_mailbox(self, mailbox: Mailbox) -> str | None:
        """The same for an address that was read before."""
        if mailbox.domain != self.domain:
            return None
        if match := _SRS0.match(mailbox.local):
            digest, day, domain, user = match.groups()
            is_genuine = self._is_sealed(_Form("SRS0", (day, domain, user)), digest)
            return _address(user, domain) if is_genuine and self._is_current(day) else None
        if match := _SRS1.match(mailbox.local):
            digest, domain, rest = match.groups()
            is_genuine = self._is_sealed(_Form("SRS1", (domain, rest)), digest)
            return _address(f"SRS0{rest}", domain) if is_genuine else None
        return None

    def _form(self, mailbox: Mailbox) -> _Form:
        if match := _FOREIGN_SRS0.match(mailbox.local):
            return _Form("SRS1", (mailbox.domain, match[1]))
        if match := _FOREIGN_SRS1.match(mailbox.local):
            return _Form("SRS1", match.groups())
        return _Form("SRS0", (_day_text(self._today), mailbox.domain, mailbox.local))

    def _seal(self, form: _Form) -> str:
        return form.local(self._digest(form))

    def _is_sealed(self, form: _Form, digest: str) -> bool:
        """Whether the hash is ours, in whatever case hosts on the way have left it."""
        return hmac.compare_digest(self._digest(form), digest.upper())

    def _digest(self, form: _Form) -> str:
        """The hash in its one right length. Case does not count: some hosts change that of local parts."""
        text = "=".join((form.tag, *form.sealed)).lower().encode()
        letters = base64.b32encode(hmac.new(self._secret, text, hashlib.sha256).digest()).decode()
        too_long = len(form.local(letters[:HASH_LENGTH]).encode()) > MAX_LOCAL_OCTETS
        fits_short = len(form.local(letters[:SHORT_HASH_LENGTH]).encode()) <= MAX_LOCAL_OCTETS
        return letters[: SHORT_HASH_LENGTH if too_long and fits_short else HASH_LENGTH]

    @property
    def _today(self) -> int:
        return self._clock() // DAY_MS % _DAYS

    def _is_current(self, day: str) -> bool:
        made = _BASE32.index(day[0].upper()) * 32 + _BASE32.index(day[1].upper())
        age = (self._today - made + CLOCK_SKEW_DAYS) % _DAYS
        return age <= VALIDITY_DAYS + CLOCK_SKEW_DAYS


def bounce_destination(rewriter: SrsRewriter, recipient: Mailbox, mail_from: str) -> Mailbox | None:
    """At RCPT: to whom a mail for one of our SRS addresses goes on, as mail; None when it is not for such an address.

    Only for the null sender: bounces are to find back, but whoever has once seen such an address must not be able to
    write through us to the one behind it.
    """
    original = None if mail_from else rewriter.reverse_mailbox(recipient)
    return None if original is None else parse_mailbox(original)


def _day_text(day: int) -> str:
    return _BASE32[day // 32] + _BASE32[day % 32]


def _address(local: str, domain: str) -> str:
    return f"{_quoted(local)}@{domain}"


def _quoted(local: str) -> str:
    """A local part as it is written: in quotes where it needs them."""
    if _PLAIN_LOCAL.match(local):
        return local
    escaped = _QUOTED.sub(lambda match: f"\\{match[0]}", local)
    return f'"{escaped}"'
