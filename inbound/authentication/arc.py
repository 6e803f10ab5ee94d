"""ARC: the chain of those who handled a message before and recorded what they saw (RFC 8617)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.authentication.canonical import CRLF, relaxed_field
from core.authentication.keys import KeyProblem, find_key
from core.authentication.tags import MalformedTags, TagList, read_tags
from core.dns_lookup import DnsLookup, LookupBudget, LookupFailed
from core.verdicts import ArcVerdict, AuthResult
from inbound.authentication.body_hash import BodyHashes
from inbound.authentication.dkim import (
    ALGORITHMS,
    SignatureProblem,
    SignedPart,
    read_signed_part,
    verify_part,
)
from inbound.authentication.dmarc import Evidence
from inbound.authentication.header_fields import HeaderField, MessageView
from inbound.authentication.results_reader import Result, read_results

MAX_SETS = 50
"""RFC 8617 section 4.2.1."""
RESULTS_FIELD = b"arc-authentication-results"
SIGNATURE_FIELD = b"arc-message-signature"
SEAL_FIELD = b"arc-seal"
_KINDS = (RESULTS_FIELD, SIGNATURE_FIELD, SEAL_FIELD)
_INSTANCE = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([1-9][0-9]?)[ \t\r\n]*;", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ArcSet:
    """The three fields that one handler added."""

    results: HeaderField
    signature: HeaderField
    seal: HeaderField
    seal_tags: TagList


@dataclass(frozen=True, slots=True)
class ArcFindings:
    """The verdict, and what a trusted last sealer recorded."""

    verdict: ArcVerdict
    relayed: tuple[Result, ...] = ()


class _BrokenChain(Exception):
    """The chain is not whole, in words."""


def check_arc(view: MessageView, lookup: DnsLookup, budget: LookupBudget, trusted: frozenset[str]) -> ArcFindings:
    """Validate the chain of a message (RFC 8617 section 5.2). A failing DNS gives `temperror`."""
    fields = [field for field in view.fields if field.name in _KINDS]
    if not fields:
        return ArcFindings(ArcVerdict(AuthResult.NONE))
    sealers: tuple[str, ...] = ()
    try:
        sets = _read_sets(fields)
        sealers = tuple(arc_set.seal_tags.domain("d") for arc_set in sets)
        covered = _check_signature(sets[-1], view, lookup, budget)
        _check_seals(sets, lookup, budget)
    except LookupFailed:
        return ArcFindings(ArcVerdict(AuthResult.TEMPERROR, sealers))
    except (_BrokenChain, MalformedTags, SignatureProblem, KeyProblem):
        return ArcFindings(ArcVerdict(AuthResult.FAIL, sealers))
    is_trusted = sealers[-1] in trusted
    relayed = _recorded(sets[-1]) if is_trusted and b"from" in covered else ()
    return ArcFindings(ArcVerdict(AuthResult.PASS, sealers, is_trusted), relayed)


def evidence_from(results: Sequence[Result], domain: str | None) -> Evidence | None:
    """What a sealer's record shows about a From domain: SPF and DKIM that passed, or its DMARC verdict on the very
    domain. None when it shows nothing."""
    passed = [result for result in results if result.result == AuthResult.PASS]
    spf = [result.domain("smtp.mailfrom") or result.domain("smtp.helo") for result in passed if result.method == "spf"]
    dkim = [result.domain("header.d") or result.domain("header.i") for result in passed if result.method == "dkim"]
    if any(result.method == "dmarc" and result.domain("header.from") == domain for result in passed):
        dkim.append(domain)
    found = Evidence(next(filter(None, spf), None), tuple(filter(None, dkim)))
    return found if found.spf or found.dkim else None


def _read_sets(fields: list[HeaderField]) -> list[ArcSet]:
    """The sets in order. Raises `_BrokenChain` and `MalformedTags`."""
    if len(fields) > len(_KINDS) * MAX_SETS:
        raise _BrokenChain("there are too many sets")
    found: dict[tuple[int, bytes], HeaderField] = {}
    for field in fields:
        key = (_instance(field), field.name)
        if key in found:
            raise _BrokenChain("an instance occurs twice")
        found[key] = field
    count = max(instance for instance, _ in found)
    if len(found) != count * len(_KINDS):
        raise _BrokenChain("the sets are not complete")
    return [_read_set(found, instance) for instance in range(1, count + 1)]


def _instance(field: HeaderField) -> int:
    if field.name == RESULTS_FIELD:
        match = _INSTANCE.match(field.value)
        instance = int(match[1]) if match else None
    else:
        instance = read_tags(field.value).number("i", max_digits=2)
    if instance is None or not 1 <= instance <= MAX_SETS:
        raise _BrokenChain("i= is missing or out of range")
    return instance


def _read_set(found: dict[tuple[int, bytes], HeaderField], instance: int) -> ArcSet:
    results, signature, seal = (found.get((instance, kind)) for kind in _KINDS)
    if results is None or signature is None or seal is None:
        raise _BrokenChain("a set is not complete")
    tags = read_tags(seal.value)
    tags.require("a", "b", "d", "s", "cv")
    if "h" in tags.values or tags.text("cv") != ("none" if instance == 1 else "pass"):
        raise _BrokenChain("a seal says that the chain is broken")
    return ArcSet(results, signature, seal, tags)


def _check_signature(last: ArcSet, view: MessageView, lookup: DnsLookup, budget: LookupBudget) -> tuple[bytes, ...]:
    """Verify the last message signature: the older ones may well have been broken by those who sealed after them.

    Gives the names of the fields it covers.
    """
    part: SignedPart = read_signed_part(last.signature, read_tags(last.signature.value))
    if SEAL_FIELD in part.covered:
        raise _BrokenChain("a message signature covers a seal")
    key = find_key(part.domain, part.selector, ALGORITHMS[part.algorithm], lookup, budget)
    if part.body.length is not None:
        raise _BrokenChain("a message signature covers only a part of the body")
    verify_part(part, view, BodyHashes(view.body, frozenset({part.body})), key)
    return part.covered


def _check_seals(sets: list[ArcSet], lookup: DnsLookup, budget: LookupBudget) -> None:
    """Verify all seals. Each is over all sets up to its own, so one hash goes along (RFC 8617 section 5.1.1)."""
    hasher = hashlib.sha256()
    for arc_set in sets:
        tags = arc_set.seal_tags
        algorithm = ALGORITHMS.get(tags.text("a"))
        if algorithm is None:
            raise _BrokenChain("the algorithm of a seal is unknown")
        hasher.update(arc_set.results.relaxed + arc_set.signature.relaxed)
        sealed = hasher.copy()
        sealed.update(relaxed_field(SEAL_FIELD, tags.without_b).removesuffix(CRLF))
        key = find_key(tags.domain("d"), tags.domain("s"), algorithm, lookup, budget)
        if not key.verifies(tags.octets("b"), sealed.digest()):
            raise _BrokenChain("a seal is broken")
        hasher.update(arc_set.seal.relaxed)


def _recorded(last: ArcSet) -> tuple[Result, ...]:
    value = last.results.value
    match = _INSTANCE.match(value)
    found = read_results(value[match.end() if match else 0 :].decode("utf-8", "replace"))
    return found.results if found is not None else ()
