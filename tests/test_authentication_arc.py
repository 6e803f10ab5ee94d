"""ARC: chains that dkimpy seals pass, broken ones fail, and only a trusted sealer's record counts for DMARC."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from core.authentication.canonical import Canonical, canonical_pieces, relaxed_field
from core.authentication.tags import read_tags
from core.config import Settings
from core.dns_lookup import LookupBudget
from core.verdicts import ArcVerdict, AuthResult, DmarcVerdict, Verdicts
from inbound.authentication import ClientFacts
from inbound.authentication.arc import MAX_SETS, check_arc
from inbound.authentication.dkim import header_digest, read_signed_part
from inbound.authentication.header_fields import view_message
from tests.authentication_support import (
    CLIENT_IP,
    MAIL,
    SIGNER,
    authenticate,
    lookup_at,
    publish,
    publish_sealer,
    rsa_key,
    seal,
    sign,
)
from tests.authentication_zones import ZoneServer

LIST = "list.example"
LAST = "last.example"
SPF_PASSED = f"spf=pass smtp.mailfrom=alice@{SIGNER}"
TRUSTING = Settings(trusted_sealers=f"other.example, {LAST}")


@pytest.fixture
def zones(zones: ZoneServer) -> ZoneServer:
    publish(zones)
    publish_sealer(zones, LIST)
    publish_sealer(zones, LAST)
    zones.add(f"_dmarc.{SIGNER}", "TXT", "v=DMARC1; p=reject")
    zones.add(SIGNER, "TXT", "v=spf1 -all")
    return zones


@pytest.fixture(scope="module")
def chain() -> bytes:
    """Sealed twice."""
    return seal(seal(MAIL, LIST, SPF_PASSED, "none"), LAST, SPF_PASSED, "pass")


def validate(zones: ZoneServer, message: bytes, trusted: frozenset[str] = frozenset()) -> ArcVerdict:
    return check_arc(view_message(message), lookup_at(zones, 0.3), LookupBudget(5), trusted).verdict


def test_a_whole_chain_passes_and_names_its_sealers(zones: ZoneServer, chain: bytes) -> None:
    assert validate(zones, chain) == ArcVerdict(AuthResult.PASS, (LIST, LAST), is_trusted=False)


def test_only_the_last_sealer_makes_a_chain_trusted(zones: ZoneServer, chain: bytes) -> None:
    assert validate(zones, chain, frozenset({LAST})).is_trusted
    assert not validate(zones, chain, frozenset({LIST})).is_trusted


def test_without_sets_there_is_no_chain(zones: ZoneServer) -> None:
    assert validate(zones, MAIL) == ArcVerdict(AuthResult.NONE)


def drop(name: bytes, instance: bytes) -> Callable[[bytes], bytes]:
    def change(message: bytes) -> bytes:
        fields = view_message(message).fields
        lost = [field for field in fields if field.name == name and b"i=" + instance in field.value[:12]]
        assert len(lost) == 1
        return message.replace(lost[0].raw, b"")

    return change


def twice(message: bytes) -> bytes:
    return view_message(message).fields[0].raw + message


BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "body": lambda message: message + b"added\r\n",
    "covered header": lambda message: message.replace(b"Subject: A", b"Subject: B"),
    "recorded results": lambda message: message.replace(b"spf=pass", b"spf=fail", 1),
    "older results": lambda message: message.replace(b"i=1; list.example", b"i=1; fake.example"),
    "missing seal": drop(b"arc-seal", b"1"),
    "missing signature": drop(b"arc-message-signature", b"1"),
    "missing results": drop(b"arc-authentication-results", b"1"),
    "set twice": twice,
    "seal says fail": lambda message: message.replace(b"cv=pass", b"cv=fail"),
    "first says pass": lambda message: message.replace(b"cv=none", b"cv=pass"),
    "no instance": lambda message: message.replace(b"ARC-Seal: i=2; ", b"ARC-Seal: "),
    "instance 0": lambda message: message.replace(b"ARC-Seal: i=2", b"ARC-Seal: i=0"),
    "unknown algorithm": lambda message: message.replace(b"a=rsa-sha256", b"a=rsa-sha512"),
    "seal with h=": lambda message: message.replace(b"ARC-Seal: i=2; ", b"ARC-Seal: i=2; h=from; "),
    "body limit": lambda message: message.replace(b"-Signature: i=2; ", b"-Signature: i=2; l=1; "),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_chain_fails(zones: ZoneServer, chain: bytes, what: str) -> None:
    changed = BREAKS[what](chain)
    assert changed != chain
    verdict = validate(zones, changed, frozenset({LIST, LAST}))
    assert (verdict.result, verdict.is_trusted) == (AuthResult.FAIL, False)


def test_what_older_handlers_signed_may_be_broken_but_their_seals_may_not(zones: ZoneServer) -> None:
    changed = seal(MAIL, LIST, SPF_PASSED, "none").replace(b"Hello", b"[list] Hello")
    assert validate(zones, seal(changed, LAST, SPF_PASSED, "pass")).result is AuthResult.PASS


def test_a_missing_key_fails_and_a_silent_dns_does_not(zones: ZoneServer, chain: bytes) -> None:
    zones.remove(f"arc._domainkey.{LIST}", "TXT")
    assert validate(zones, chain).result is AuthResult.FAIL
    zones.make_silent(f"arc._domainkey.{LIST}")
    assert validate(zones, chain).result is AuthResult.TEMPERROR


def test_more_sets_than_the_rfc_allows_fail(zones: ZoneServer) -> None:
    sets = b"".join(
        b"ARC-Seal: i=%d; cv=pass; a=rsa-sha256; d=x.example; s=s; b=\r\n"
        b"ARC-Message-Signature: i=%d; a=rsa-sha256; d=x.example; s=s; h=from; bh=; b=\r\n"
        b"ARC-Authentication-Results: i=%d; x.example; none\r\n" % (number, number, number)
        for number in range(1, MAX_SETS + 2)
    )
    assert validate(zones, sets + MAIL).result is AuthResult.FAIL
    assert zones.asked == []


def check(zones: ZoneServer, message: bytes, settings: Settings) -> Verdicts:
    """As it comes from the last sealer, who is not in the SPF record of the author."""
    client = ClientFacts(CLIENT_IP, LAST, f"alice@{SIGNER}")
    return authenticate(zones, message, client, settings)


@pytest.mark.parametrize(
    "results",
    [
        SPF_PASSED,
        f"spf=pass (all is well) smtp.mailfrom={SIGNER}",
        f"spf=fail smtp.mailfrom=x.example; dkim=pass header.i=@mail.{SIGNER} header.s=s1",
        f"dkim=pass header.d={SIGNER}",
        f"dmarc=pass (p=REJECT) header.from={SIGNER}",
    ],
)
def test_what_a_trusted_sealer_saw_makes_dmarc_pass(zones: ZoneServer, results: str) -> None:
    message = seal(sign(MAIL).replace(b"Hello", b"[list] Hello"), LAST, results, "none")
    assert check(zones, message, Settings()).dmarc.result is AuthResult.FAIL  # type: ignore[union-attr]
    verdicts = check(zones, message, TRUSTING)
    assert verdicts.arc == ArcVerdict(AuthResult.PASS, (LAST,), is_trusted=True)
    assert (verdicts.spf.result, verdicts.dkim.result) == (AuthResult.FAIL, AuthResult.FAIL)  # type: ignore[union-attr]
    assert verdicts.dmarc is not None
    assert (verdicts.dmarc.result, verdicts.dmarc.policy) == (AuthResult.PASS, "reject")
    assert (verdicts.dmarc.is_spf_aligned, verdicts.dmarc.is_dkim_aligned) == (False, False)


@pytest.mark.parametrize(
    "results",
    [
        "spf=pass smtp.mailfrom=alice@x.example",
        f"spf=softfail smtp.mailfrom=alice@{SIGNER}",
        f"dkim=fail header.d={SIGNER}",
        f"dkim=pass header.d={SIGNER}.x.example",
        "dmarc=pass header.from=x.example",
        f"dmarc=fail header.from={SIGNER}",
        f"dkim=none (dkim=pass header.d={SIGNER})",
    ],
)
def test_what_a_trusted_sealer_did_not_see_does_not(zones: ZoneServer, results: str) -> None:
    verdicts = check(zones, seal(MAIL, LAST, results, "none"), TRUSTING)
    assert verdicts.arc is not None
    assert verdicts.arc.is_trusted
    assert verdicts.dmarc == DmarcVerdict(AuthResult.FAIL, SIGNER, verdicts.dmarc.policy)  # type: ignore[union-attr]


@pytest.mark.parametrize(("covered", "result"), [(b"subject", AuthResult.FAIL), (b"subject:from", AuthResult.PASS)])
def test_a_seal_that_leaves_the_author_open_says_nothing_about_him(
    zones: ZoneServer, covered: bytes, result: AuthResult
) -> None:
    verdicts = check(zones, seal_covering(covered), TRUSTING)
    assert verdicts.arc is not None
    assert verdicts.dmarc is not None
    assert verdicts.arc.is_trusted
    assert verdicts.dmarc.result is result


def seal_covering(names: bytes) -> bytes:
    """A set that dkimpy would not make, put together from our own parts."""
    tags = b"i=1; a=rsa-sha256; d=last.example; s=arc; "
    results = f"ARC-Authentication-Results: i=1; {LAST}; {SPF_PASSED}\r\n".encode()
    canonical = b"".join(canonical_pieces(view_message(MAIL).body, Canonical.RELAXED))
    body_hash = base64.b64encode(hashlib.sha256(canonical).digest())
    unsigned = b"ARC-Message-Signature: " + tags + b"c=relaxed/relaxed; h=" + names + b"; bh=" + body_hash + b"; b="
    view = view_message(unsigned + b"AAAA\r\n" + MAIL)
    part = read_signed_part(view.fields[0], read_tags(view.fields[0].value))
    signature = unsigned + signed_digest(header_digest(part, view)) + b"\r\n"
    seal_value = tags + b"cv=none; b="
    sealed = b"".join(view_message(field).fields[0].relaxed for field in (results, signature))
    digest = hashlib.sha256(sealed + relaxed_field(b"arc-seal", seal_value).removesuffix(b"\r\n")).digest()
    return b"ARC-Seal: " + seal_value + signed_digest(digest) + b"\r\n" + signature + results + MAIL


def signed_digest(digest: bytes) -> bytes:
    private = serialization.load_pem_private_key(rsa_key().private, None)
    assert isinstance(private, rsa.RSAPrivateKey)
    return base64.b64encode(private.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256())))
