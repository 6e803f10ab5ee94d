"""DKIM: who signed a message, and whether it still is what they signed (RFC 6376, RFC 8301, RFC 8463).

Canonical forms are our own, and not dkimpy's, which are quadratic in white space (80 KB of spaces take it seven
seconds) and refuse whole messages for one odd header line; the mathematics are OpenSSL's, through cryptography.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from core.authentication.canonical import CRLF, Canonical, relaxed_field
from core.authentication.keys import KeyProblem, SignerKey, find_key
from core.authentication.tags import MalformedTags, TagList, read_tags
from core.dns_lookup import DnsLookup, LookupBudget, LookupFailed
from core.verdicts import AuthResult, DkimSignature, DkimVerdict
from inbound.authentication.body_hash import BodyHashes, BodyLimit
from inbound.authentication.header_fields import HeaderField, MessageView

MAX_SIGNATURES = 10
"""Signatures that are verified; mail through several services has four or five."""
SIGNATURE_FIELD = b"dkim-signature"
HISTORIC_ALGORITHM = "rsa-sha1"
ALGORITHMS = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519"}
"""Signature algorithm, and the kind of key it takes."""
_SHOWN = 253


@dataclass(frozen=True, slots=True)
class SignedPart:
    """What a signature of a message says it covers; DKIM-Signature and ARC-Message-Signature alike."""

    field: HeaderField
    tags: TagList
    domain: str
    selector: str
    algorithm: str
    header_form: Canonical
    body: BodyLimit
    body_hash: bytes
    signature: bytes
    covered: tuple[bytes, ...]
    """Names of the header fields, lower-case, in the order of `h=`."""


class SignatureProblem(Exception):
    """Why a signature does not pass, and what that makes of it."""

    def __init__(self, result: AuthResult, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


def check_dkim(view: MessageView, lookup: DnsLookup, budget: LookupBudget, now_s: int) -> DkimVerdict:
    """Verify the signatures of a message, the first `MAX_SIGNATURES` of them."""
    found = view.named(SIGNATURE_FIELD)
    read = [_read(field, now_s) for field in found[:MAX_SIGNATURES]]
    bodies = BodyHashes(view.body, frozenset(part.body for part in read if isinstance(part, SignedPart)))
    verdicts = [_judge(part, view, bodies, lookup, budget) for part in read]
    verdicts.extend(_ignored(field) for field in found[MAX_SIGNATURES : MAX_SIGNATURES + 1])
    return DkimVerdict(tuple(verdicts))


def read_signed_part(field: HeaderField, tags: TagList) -> SignedPart:
    """The tags that all signatures of messages share. Raises `SignatureProblem` and `MalformedTags`."""
    tags.require("a", "b", "bh", "d", "h", "s")
    algorithm = tags.text("a")
    if algorithm == HISTORIC_ALGORITHM:
        raise SignatureProblem(AuthResult.PERMERROR, "rsa-sha1 is no longer believed (RFC 8301)")
    if algorithm not in ALGORITHMS:
        raise SignatureProblem(AuthResult.PERMERROR, "the algorithm is unknown")
    header_form, _, body_form = tags.text("c", "simple/simple").partition("/")
    try:
        forms = Canonical(header_form), Canonical(body_form or "simple")
    except ValueError as error:
        raise MalformedTags("c= is unknown") from error
    return SignedPart(
        field=field,
        tags=tags,
        domain=tags.domain("d"),
        selector=tags.domain("s"),
        algorithm=algorithm,
        header_form=forms[0],
        body=BodyLimit(forms[1], tags.number("l", max_digits=76)),
        body_hash=tags.octets("bh"),
        signature=tags.octets("b"),
        covered=tuple(name.encode("ascii") for name in tags.items("h")),
    )


def verify_part(part: SignedPart, view: MessageView, bodies: BodyHashes, key: SignerKey) -> None:
    """Raises `SignatureProblem` unless body and header are what was signed."""
    matches = bodies.matches(part.body, part.body_hash)
    if matches is None:
        raise SignatureProblem(AuthResult.PERMERROR, "the body is shorter than l= says")
    if not matches:
        raise SignatureProblem(AuthResult.FAIL, "the body has changed")
    if not key.verifies(part.signature, header_digest(part, view)):
        raise SignatureProblem(AuthResult.FAIL, "the header has changed, or the signature is of another key")


def header_digest(part: SignedPart, view: MessageView) -> bytes:
    """The SHA-256 hash that the signature is over (RFC 6376 section 3.7)."""
    is_relaxed = part.header_form is Canonical.RELAXED
    hasher = hashlib.sha256()
    for field in covered_fields(part.covered, view.fields, part.field):
        hasher.update(field.relaxed if is_relaxed else field.raw)
    own = part.field
    if is_relaxed:
        hasher.update(relaxed_field(own.name, part.tags.without_b).removesuffix(CRLF))
    else:
        hasher.update(own.raw[: own.raw.index(b":") + 1] + part.tags.without_b)
    return hasher.digest()


def covered_fields(names: Sequence[bytes], fields: Sequence[HeaderField], own: HeaderField) -> list[HeaderField]:
    """The fields that `h=` means: of each name the last, then the one before it (RFC 6376 section 5.4.2)."""
    left: dict[bytes, list[HeaderField]] = {name: [] for name in names}
    for field in fields:
        if field.name in left and field is not own:
            left[field.name].append(field)
    return [left[name].pop() for name in names if left[name]]


def _read(field: HeaderField, now_s: int) -> SignedPart | DkimSignature:
    """A signature that is worth looking for its key, or the verdict on one that is not."""
    tags: TagList | None = None
    try:
        tags = read_tags(field.value)
        tags.require("v")
        part = read_signed_part(field, tags)
        _check_dkim_tags(part, now_s)
    except MalformedTags as error:
        return _unread(tags, AuthResult.PERMERROR, str(error))
    except SignatureProblem as error:
        return _unread(tags, error.result, error.reason)
    return part


def _check_dkim_tags(part: SignedPart, now_s: int) -> None:
    tags = part.tags
    if tags.text("v") != "1":
        raise MalformedTags("v= is not 1")
    if b"from" not in part.covered:
        raise SignatureProblem(AuthResult.PERMERROR, "it does not cover the From field")
    if "dns/txt" not in tags.items("q", "dns/txt"):
        raise SignatureProblem(AuthResult.PERMERROR, "its key is not in the DNS")
    identity = _identity_domain(tags)
    if identity and identity != part.domain and not identity.endswith(f".{part.domain}"):
        raise MalformedTags("i= is not within d=")
    signed_s, expires_s = tags.number("t"), tags.number("x")
    if expires_s is not None and signed_s is not None and expires_s < signed_s:
        raise MalformedTags("x= is before t=")
    if expires_s is not None and expires_s < now_s:
        raise SignatureProblem(AuthResult.FAIL, "the signature has expired")


def _judge(
    part: SignedPart | DkimSignature, view: MessageView, bodies: BodyHashes, lookup: DnsLookup, budget: LookupBudget
) -> DkimSignature:
    if isinstance(part, DkimSignature):
        return part
    try:
        key = find_key(part.domain, part.selector, ALGORITHMS[part.algorithm], lookup, budget)
    except LookupFailed as error:
        return _verdict(part, AuthResult.TEMPERROR, str(error))
    except KeyProblem as error:
        return _verdict(part, error.result, error.reason)
    if key.is_strict and _identity_domain(part.tags) not in ("", part.domain):
        return _verdict(part, AuthResult.PERMERROR, "the key allows no subdomain in i=")
    try:
        verify_part(part, view, bodies, key)
    except SignatureProblem as error:
        if key.is_testing:
            return _verdict(part, AuthResult.NEUTRAL, f"{error.reason}; the key is for testing")
        return _verdict(part, error.result, error.reason)
    return _verdict(part, AuthResult.PASS, "the key is for testing" if key.is_testing else None)


def _identity_domain(tags: TagList) -> str:
    return tags.text("i").rpartition("@")[2]


def _verdict(part: SignedPart, result: AuthResult, reason: str | None) -> DkimSignature:
    is_limited = part.body.length is not None
    return DkimSignature(result, part.domain, part.selector, part.algorithm, is_limited, reason)


def _ignored(field: HeaderField) -> DkimSignature:
    """What stands for all signatures beyond the limit."""
    try:
        tags = read_tags(field.value)
    except MalformedTags:
        tags = None
    return _unread(tags, AuthResult.NEUTRAL, f"signatures after the first {MAX_SIGNATURES} are not verified")


def _unread(tags: TagList | None, result: AuthResult, reason: str) -> DkimSignature:
    values = tags.values if tags is not None else {}

    def show(name: str) -> str:
        text = values.get(name, b"").decode("ascii", "replace").lower()[:_SHOWN]
        return "".join(character for character in text if character.isprintable())

    return DkimSignature(result, show("d"), show("s"), show("a") or None, "l" in values, reason)
