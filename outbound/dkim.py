"""Signing outgoing mail: DKIM-Signature fields (RFC 6376, RFC 8301), RSA and Ed25519 (RFC 8463).

What is signed is the message as it goes over the wire, with CRLF for every line end (`outbound.wire`). A message whose
header is not plainly a list of fields is refused and not signed: readers would see different things in it, and our
signature would vouch for all of them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from core.authentication.canonical import Canonical, canonical_pieces, relaxed_field
from core.authentication.keys import MIN_RSA_BITS
from core.clock import SECOND_MS
from core.errors import PillarboxError
from core.sending.sending_domains import KeyAlgorithm
from outbound.wire import CRLF, with_crlf

OVERSIGNED = (
    b"from",
    b"subject",
    b"to",
    b"cc",
    b"date",
    b"message-id",
    b"reply-to",
    b"in-reply-to",
    b"references",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
)
"""Listed once more than they occur, absent ones too, so that none can be added (RFC 6376 sections 5.4.2 and 8.15).
RFC 8058 section 4 wants the last two covered."""
SIGNED_IF_PRESENT = (
    b"sender",
    b"resent-date",
    b"resent-from",
    b"resent-sender",
    b"resent-to",
    b"resent-cc",
    b"resent-message-id",
    b"content-id",
    b"content-description",
    b"list-id",
    b"list-help",
    b"list-subscribe",
    b"list-post",
    b"list-owner",
    b"list-archive",
    b"auto-submitted",
    b"feedback-id",
)
"""Listed as often as they occur: mailing lists and resenders may rightly add such fields (RFC 6376 section 5.4.1)."""
MAX_HEADER_BYTES = 1024 * 1024
"""Of all fields together; what our own verifier looks at."""
MAX_FIELDS = 2000
"""The same."""
LINE_LENGTH = 76
"""Of the field's lines, where there is a place to fold (RFC 5322 section 2.1.1 asks for 78)."""
KEYS_KEPT = 4096
"""Private keys that are kept in memory in usable form. Reading one of RSA takes a hundred times as long as signing: its
primes are checked."""

FIELD_NAME = b"DKIM-Signature"
_FOLD = b"\r\n\t"
_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:([^\r]*+(?:\r\n[ \t][^\r]*+)*+)\r\n")
_PREHASHED = Prehashed(SHA256())
_ALGORITHMS = {KeyAlgorithm.RSA: b"rsa-sha256", KeyAlgorithm.ED25519: b"ed25519-sha256"}


class UnsignableMessage(PillarboxError):
    """A message that must not be signed as it is; the text says why. No use in trying again."""


class UnusableKey(PillarboxError):
    """A private key that cannot sign: an error of ours, never the message's."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Whose signature to make, and with what."""

    domain: str
    """`d=`, in A-labels."""
    selector: str
    private_key: str = field(repr=False)
    """PEM, PKCS #8, without a password, as `core.sending.sending_domains.new_key` makes it."""
    algorithm: KeyAlgorithm = KeyAlgorithm.RSA


@dataclass(frozen=True, slots=True)
class _Digest:
    """What all signatures of one message share."""

    fields: dict[bytes, list[bytes]]
    """Values by lower-case name, in message order."""
    names: tuple[bytes, ...]
    """`h=`."""
    body_hash: bytes


def sign(content: bytes, key: SigningKey, now_ms: int, lifetime_s: int | None = None) -> bytes:
    """The DKIM-Signature field to put before the message, CRLF at its end.

    `lifetime_s` limits the signature (`x=`); None leaves that out. Raises `UnsignableMessage` and `UnusableKey`.
    """
    return sign_with_all(content, (key,), now_ms, lifetime_s)


def sign_with_all(content: bytes, keys: Sequence[SigningKey], now_ms: int, lifetime_s: int | None = None) -> bytes:
    """One field for each key, in their order; the message is read and hashed once. Raises as `sign` does."""
    digest = _digest(with_crlf(content))
    now_s = now_ms // SECOND_MS
    return b"".join(_signature_field(digest, key, now_s, lifetime_s) for key in keys)


def require_signable(content: bytes) -> None:
    """Raises `UnsignableMessage` if `sign` would: for refusing a message while somebody can still be told."""
    _read_header(with_crlf(content))


def _digest(content: bytes) -> _Digest:
    fields, body_start = _read_header(content)
    hasher = hashlib.sha256()
    for piece in canonical_pieces(memoryview(content)[body_start:], Canonical.RELAXED):
        hasher.update(piece)
    return _Digest(fields, tuple(_names_to_sign(fields)), hasher.digest())


def _read_header(content: bytes) -> tuple[dict[bytes, list[bytes]], int]:
    """The fields, and where the body begins. Raises `UnsignableMessage`."""
    fields: dict[bytes, list[bytes]] = {}
    position = count = 0
    while position < len(content) and not content.startswith(CRLF, position):
        match = _FIELD.match(content, position, MAX_HEADER_BYTES)
        if match is None or count == MAX_FIELDS:
            raise _unsignable(content, position, count)
        fields.setdefault(match[1].lower(), []).append(match[2])
        position = match.end()
        count += 1
    authors = len(fields.get(b"from", ()))
    if authors != 1:
        raise UnsignableMessage(f"the message has {authors or 'no'} From fields; it needs exactly one")
    return fields, min(position + len(CRLF), len(content))


def _unsignable(content: bytes, position: int, count: int) -> UnsignableMessage:
    if count == MAX_FIELDS:
        return UnsignableMessage(f"the header has more than {MAX_FIELDS} fields")
    if content.find(CRLF, position, MAX_HEADER_BYTES) < 0 or content.find(CRLF * 2, 0, MAX_HEADER_BYTES) < 0:
        return UnsignableMessage(
            f"the header does not end within {MAX_HEADER_BYTES} bytes, or a line in it is no field"
        )
    line = content[position : content.index(CRLF, position)][:80].decode("ascii", "backslashreplace")
    return UnsignableMessage(f"line {content.count(CRLF, 0, position) + 1} of the header is no field: {line!r}")


def _names_to_sign(fields: dict[bytes, list[bytes]]) -> Iterator[bytes]:
    occurrences = Counter({name: len(values) for name, values in fields.items()})
    for name in OVERSIGNED:
        yield from [name] * (occurrences[name] + 1)
    for name in SIGNED_IF_PRESENT:
        yield from [name] * occurrences[name]


def _signature_field(digest: _Digest, key: SigningKey, now_s: int, lifetime_s: int | None) -> bytes:
    unsigned = _tags(digest, key, now_s, lifetime_s)
    hasher = hashlib.sha256()
    left = {name: list(values) for name, values in digest.fields.items()}
    for name in digest.names:
        if left.get(name):
            hasher.update(relaxed_field(name, left[name].pop()))  # the last one first (section 5.4.2)
    hasher.update(relaxed_field(FIELD_NAME.lower(), unsigned).removesuffix(CRLF))
    signature = base64.b64encode(_sign_digest(key, hasher.digest()))
    return FIELD_NAME + b":" + unsigned + _folded_base64(signature, len(" b=")) + CRLF


def _tags(digest: _Digest, key: SigningKey, now_s: int, lifetime_s: int | None) -> bytes:
    """The field's value up to `b=`, folded."""
    times = [b"t=%d;" % now_s] + ([b"x=%d;" % (now_s + lifetime_s)] if lifetime_s is not None else [])
    words = [
        b"v=1;",
        b"a=%s;" % _ALGORITHMS[key.algorithm],
        b"c=relaxed/relaxed;",
        b"d=%s;" % key.domain.encode("ascii"),
        b"s=%s;" % key.selector.encode("ascii"),
        *times,
    ]
    tags = _filled(words, b" ", len(FIELD_NAME) + 1)
    names = [name + b":" for name in digest.names[:-1]] + [digest.names[-1] + b";"]
    names[0] = b"h=" + names[0]
    body_hash = b"bh=%s;" % base64.b64encode(digest.body_hash)
    return b" " + _FOLD.join((tags, _filled(names, b"", 1), body_hash, b"b="))


def _filled(words: Sequence[bytes], glue: bytes, indent: int) -> bytes:
    """Words on lines of at most `LINE_LENGTH`, a word that is longer on one of its own; `indent` is already used of
    the first line."""
    lines: list[list[bytes]] = [[]]
    length = indent
    for word in words:
        if lines[-1] and length + len(glue) + len(word) > LINE_LENGTH:
            lines.append([])
            length = 1
        lines[-1].append(word)
        length += len(glue) + len(word)
    return _FOLD.join(glue.join(line) for line in lines)


def _folded_base64(data: bytes, indent: int) -> bytes:
    first, width = LINE_LENGTH - indent, LINE_LENGTH - 1
    rest = (data[at : at + width] for at in range(first, len(data), width))
    return _FOLD.join((data[:first], *rest))


def _sign_digest(key: SigningKey, digest: bytes) -> bytes:
    private = _usable(key.private_key, key.algorithm)
    if isinstance(private, RSAPrivateKey):
        return private.sign(digest, PKCS1v15(), _PREHASHED)
    return private.sign(digest)


@lru_cache(maxsize=KEYS_KEPT)
def _usable(pem: str, algorithm: KeyAlgorithm) -> RSAPrivateKey | Ed25519PrivateKey:
    """Raises `UnusableKey`, and never shows anything of the key."""
    try:
        private = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKey("the private key of a sending domain is no PEM key without a password") from error
    if algorithm is KeyAlgorithm.ED25519 and isinstance(private, Ed25519PrivateKey):
        return private
    if algorithm is KeyAlgorithm.RSA and isinstance(private, RSAPrivateKey):
        if private.key_size < MIN_RSA_BITS:
            raise UnusableKey(f"an RSA key of {private.key_size} bits is believed by nobody; make a new one")
        return private
    raise UnusableKey(f"the private key is not one for {algorithm.value}")
