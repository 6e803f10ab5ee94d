"""What pixel, links and unsubscribe URL of a mail carry: for whom, and where a click leads, under a signature.

A token is base64url without padding (RFC 4648 section 5) of

    delivery id (16 octets) [ link number (2) host mark (6) target (ASCII) ] tag (16) kind (1)

where the tag is the first half of HMAC-SHA256 over kind and everything before the tag, and kind is a version in the
upper four bits and what is tracked in the lower four. The kind stands last, so that a token always ends in a letter:
programs that find links in plain text leave a final `-` or `_` out.

The target is inside, and nothing outside a token says where a click leads: the redirect is not an open one, and it
works without a database and for as long as the secret lives, however long ago the delivery was purged. The host mark
says for which host name the link was made: customers have names of their own for their links, and one must not be able
to send people to a page of his under the name of another.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import uuid
from dataclasses import dataclass
from enum import Enum

from core.sending.tracking_targets import MAX_TARGET_CHARACTERS

SECRET_NAME = "tracking"  # noqa: S105 (the name under which processes share it)
MAX_TOKEN_CHARACTERS = 1_900
"""With scheme, host and path below 2,000: what mail programs, proxies and filters are known to take."""
MAX_LINK_NUMBER = (1 << 16) - 1
OPEN_PATH = "o"
"""`<base URL>/o/<token>` is the pixel."""
CLICK_PATH = "c"
"""`<base URL>/c/<token>` is a link."""
UNSUBSCRIBE_PATH = "u"
"""`<base URL>/u/<token>` is where the recipient unsubscribes."""

_VERSION = 1
_ID_OCTETS = 16
_NUMBER_OCTETS = 2
_MARK_OCTETS = 6  # keyed, and too long to meet by chance one with the mark of another's name
_TAG_OCTETS = 16  # 128 bits: out of reach, and each link is 21 characters shorter than with 256
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+\Z")


class LinkPlace(Enum):
    """In which body a link stands."""

    HTML = "html"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class TrackedLink:
    """A link of a mail that is tracked."""

    number: int
    """From 1, in the order of the mail, the HTML body first. The same URL twice is two links."""
    target: str
    """As `core.sending.tracking_targets.trackable_target` gives it."""
    place: LinkPlace = LinkPlace.HTML


@dataclass(frozen=True, slots=True)
class Opened:
    """What the pixel's token says."""

    delivery_id: str


@dataclass(frozen=True, slots=True)
class Clicked:
    """What the token of a link says."""

    delivery_id: str
    link: TrackedLink
    host_mark: bytes
    """Of the host name that the link was made for: `TrackingTokens.host_mark`."""


@dataclass(frozen=True, slots=True)
class Unsubscribing:
    """What the token to unsubscribe says."""

    delivery_id: str


_OPEN_KIND = _VERSION << 4 | 1
_UNSUBSCRIBE_KIND = _VERSION << 4 | 4
_CLICK_KINDS = {LinkPlace.HTML: _VERSION << 4 | 2, LinkPlace.TEXT: _VERSION << 4 | 3}
_PLACES = {kind: place for place, kind in _CLICK_KINDS.items()}


class TrackingTokens:
    """Makes and reads tokens. Holds no state but the secret, which all processes share."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def for_open(self, delivery_id: str) -> str:
        """The token of the pixel; 44 characters. Raises `ValueError` when the id is no UUID."""
        return self._sealed(_OPEN_KIND, _id_octets(delivery_id))

    def for_unsubscribe(self, delivery_id: str) -> str:
        """The token to unsubscribe; 44 characters. Raises `ValueError` when the id is no UUID."""
        return self._sealed(_UNSUBSCRIBE_KIND, _id_octets(delivery_id))

    def host_mark(self, host: str) -> bytes:
        """What a link's token holds of the host name in its URL; case does not matter."""
        return hmac.digest(self._secret, b"host " + host.lower().encode(), "sha256")[:_MARK_OCTETS]

    def for_click(self, delivery_id: str, link: TrackedLink, host: str = "") -> str:
        """The token of a link whose URL has this host name.

        Raises `ValueError` when the id is no UUID, or number or target do not fit: those of links made with
        `trackable_target` do.
        """
        if len(link.target) > MAX_TARGET_CHARACTERS or not 0 < link.number <= MAX_LINK_NUMBER:
            raise ValueError(f"link {link.number} with {len(link.target)} characters does not fit into a token")
        number = link.number.to_bytes(_NUMBER_OCTETS, "big")
        content = b"".join((_id_octets(delivery_id), number, self.host_mark(host), link.target.encode("ascii")))
        return self._sealed(_CLICK_KINDS[link.place], content)

    def read(self, token: str) -> Opened | Clicked | Unsubscribing | None:
        """What a token of ours says; None for anything else. The comparison takes the same time for any tag."""
        octets = _octets(token) if len(token) <= MAX_TOKEN_CHARACTERS else None
        if octets is None or len(octets) < _ID_OCTETS + _TAG_OCTETS + 1:
            return None
        content, tag, kind = octets[: -_TAG_OCTETS - 1], octets[-_TAG_OCTETS - 1 : -1], octets[-1]
        if not hmac.compare_digest(tag, self._tag(kind, content)):
            return None
        return _understood(kind, content)

    def _sealed(self, kind: int, content: bytes) -> str:
        return _text(content + self._tag(kind, content) + bytes((kind,)))

    def _tag(self, kind: int, content: bytes) -> bytes:
        return hmac.digest(self._secret, bytes((kind,)) + content, "sha256")[:_TAG_OCTETS]


def unsubscribe_url(base_url: str, tokens: TrackingTokens, delivery_id: str) -> str:
    """Where the recipient of a delivery unsubscribes: by POST at once (RFC 8058), by GET after a question.

    For List-Unsubscribe the base URL must be https. Raises `ValueError` when the id is no UUID.
    """
    return f"{base_url}/{UNSUBSCRIBE_PATH}/{tokens.for_unsubscribe(delivery_id)}"


def _understood(kind: int, content: bytes) -> Opened | Clicked | Unsubscribing | None:
    """A genuine token's content; None for a kind that only a newer version of us makes."""
    delivery_id = str(uuid.UUID(bytes=content[:_ID_OCTETS]))
    if kind == _OPEN_KIND:
        return Opened(delivery_id)
    if kind == _UNSUBSCRIBE_KIND:
        return Unsubscribing(delivery_id)
    if kind not in _PLACES:
        return None
    rest = content[_ID_OCTETS:]
    number, rest = int.from_bytes(rest[:_NUMBER_OCTETS], "big"), rest[_NUMBER_OCTETS:]
    mark, target = rest[:_MARK_OCTETS], rest[_MARK_OCTETS:].decode("ascii")
    return Clicked(delivery_id, TrackedLink(number, target, _PLACES[kind]), mark)


def _id_octets(delivery_id: str) -> bytes:
    octets = bytes.fromhex(delivery_id.replace("-", ""))
    if len(octets) != _ID_OCTETS:
        raise ValueError(f"{delivery_id!r} is no UUID")
    return octets


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def _octets(token: str) -> bytes | None:
    """The octets of a text that is the one right spelling of them."""
    if not _BASE64URL.match(token):
        return None
    try:
        octets = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except binascii.Error:
        return None
    return octets if _text(octets) == token else None
