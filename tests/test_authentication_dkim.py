"""DKIM: signatures made by dkimpy verify, and nothing else does; keys and tags as the RFCs have them."""

from __future__ import annotations

import re

import pytest

from core.verdicts import AuthResult, DkimSignature
from inbound.authentication.dkim import MAX_SIGNATURES
from tests.authentication_support import (
    MAIL,
    SIGNER,
    Key,
    Signing,
    ed25519_key,
    publish,
    rsa_key,
    sign,
    verify,
)
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS

KEY_NAME = f"s1._domainkey.{SIGNER}"
FORMS = [(header, body) for header in (b"simple", b"relaxed") for body in (b"simple", b"relaxed")]


@pytest.fixture
def zones(zones: ZoneServer) -> ZoneServer:
    publish(zones)
    return zones


def only(zones: ZoneServer, message: bytes, now_ms: int = NOW_MS) -> DkimSignature:
    (signature,) = verify(zones, message, now_ms, query_timeout_s=1.0).signatures
    return signature


def retag(message: bytes, old: str, new: str) -> bytes:
    """The message with something changed in its signature."""
    changed, count = re.subn(old.encode(), new.encode(), message, count=1)
    assert count == 1
    return changed


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", [rsa_key(), rsa_key(1024), ed25519_key()], ids=["rsa", "rsa1024", "ed25519"])
def test_what_others_sign_passes(zones: ZoneServer, form: tuple[bytes, bytes], key: Key) -> None:
    how = Signing(selector="Sel2", key=key, form=form)
    publish(zones, how)
    expected = DkimSignature(AuthResult.PASS, SIGNER, "sel2", key.algorithm.decode())
    assert only(zones, sign(MAIL, how)) == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"\r\n\r\n", b"x", b" \r\n", b"x \t\r\n \r\n", b"\rx\r", b"x\r\r\n", b"a\r\n.\r\nb\r\n"]
)
def test_odd_bodies_pass(zones: ZoneServer, form: tuple[bytes, bytes], body: bytes) -> None:
    message = MAIL.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + body
    assert only(zones, sign(message, Signing(form=form))).result is AuthResult.PASS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("old", "new"), [(b"Hello", b"Hallo"), (b"Bob, ", b"Bob,"), (b"a test.", b"a test.\r\n\r\nP.S.")]
)
def test_a_changed_body_fails(zones: ZoneServer, form: tuple[bytes, bytes], old: bytes, new: bytes) -> None:
    forgives = form[1] == b"relaxed" and old.strip() == new.strip()
    signature = only(zones, sign(MAIL, Signing(form=form)).replace(old, new))
    assert signature.result is (AuthResult.PASS if forgives else AuthResult.FAIL)
    assert forgives or signature.reason == "the body has changed"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("old", "new", "is_forgiven"),
    [
        (b"Subject: A", b"Subject: B", False),
        (b"From: Alice", b"From: Bob", False),
        (b"Subject: A  test", b"subject:\tA test ", True),
        (b"of\r\n\tfolding", b"of folding", True),
        (b"From: Alice", b"From : Alice", True),
    ],
)
def test_a_changed_header_fails_unless_the_form_forgives_it(
    zones: ZoneServer, form: tuple[bytes, bytes], old: bytes, new: bytes, is_forgiven: bool
) -> None:
    passes = is_forgiven and form[0] == b"relaxed"
    changed = sign(MAIL, Signing(form=form)).replace(old, new)
    assert only(zones, changed).result is (AuthResult.PASS if passes else AuthResult.FAIL)


def test_a_field_put_on_top_is_not_covered_but_oversigning_guards_it(zones: ZoneServer) -> None:
    assert only(zones, b"Subject: forged\r\n" + sign(MAIL)).result is AuthResult.PASS
    guarded = sign(MAIL, Signing(headers=(b"from", b"subject", b"subject")))
    assert only(zones, guarded).result is AuthResult.PASS
    assert only(zones, b"Subject: forged\r\n" + guarded).result is AuthResult.FAIL


def test_a_signature_does_not_cover_itself(zones: ZoneServer) -> None:
    guarded = sign(MAIL, Signing(headers=(b"from", b"dkim-signature")))
    assert only(zones, guarded).result is AuthResult.PASS
    zones.add(f"below._domainkey.{SIGNER}", "TXT", rsa_key().record)
    below = sign(MAIL, Signing(selector="below"))
    both = verify(zones, sign(below, Signing(headers=(b"from", b"dkim-signature", b"dkim-signature"))))
    assert [found.result for found in both.signatures] == [AuthResult.PASS, AuthResult.PASS]


def test_all_signatures_are_verified_each_for_itself(zones: ZoneServer) -> None:
    other = Signing(domain="list.example", selector="l")
    publish(zones, other)
    broken = Signing(domain="broken.example")
    signed = sign(sign(sign(MAIL), other), broken)
    results = [(found.domain, found.result) for found in verify(zones, signed).signatures]
    assert results == [
        ("broken.example", AuthResult.PERMERROR),
        ("list.example", AuthResult.PASS),
        (SIGNER, AuthResult.PASS),
    ]
    assert verify(zones, signed).result is AuthResult.PASS


def test_signatures_beyond_the_limit_are_named_but_not_verified(zones: ZoneServer) -> None:
    signed = MAIL
    for _ in range(MAX_SIGNATURES + 5):
        signed = sign(signed)
    *verified, ignored = verify(zones, signed).signatures
    assert [found.result for found in verified] == [AuthResult.PASS] * MAX_SIGNATURES
    assert (ignored.result, ignored.domain) == (AuthResult.NEUTRAL, SIGNER)
    assert "not verified" in (ignored.reason or "")


def test_without_signatures_there_is_nothing_to_say(zones: ZoneServer) -> None:
    assert verify(zones, MAIL).signatures == ()
    assert verify(zones, MAIL).result is AuthResult.NONE


def test_a_length_limit_is_flagged_and_lets_text_be_added(zones: ZoneServer) -> None:
    signed = sign(MAIL, Signing(length=True))
    for message in (signed, signed + b"added\r\n"):
        signature = only(zones, message)
        assert (signature.result, signature.is_length_limited) == (AuthResult.PASS, True)
    assert only(zones, signed[:-20]).result is not AuthResult.PASS


def test_a_length_limit_beyond_the_body_is_an_error(zones: ZoneServer) -> None:
    signed = retag(sign(MAIL, Signing(length=True)), r"l=\d+", "l=99999")
    signature = only(zones, signed)
    assert (signature.result, signature.reason) == (AuthResult.PERMERROR, "the body is shorter than l= says")


@pytest.mark.parametrize("form", FORMS)
def test_bare_line_feeds_are_read_as_they_came_or_as_line_ends(zones: ZoneServer, form: tuple[bytes, bytes]) -> None:
    signed = sign(MAIL, Signing(form=form))
    assert only(zones, signed.replace(b"\r\n", b"\n")).result is AuthResult.PASS
    header, _, body = signed.partition(b"\r\n\r\n")
    assert only(zones, header + b"\r\n\r\n" + body.replace(b"\r\n", b"\n", 2)).result is AuthResult.PASS


@pytest.mark.parametrize("form", FORMS)
def test_a_body_signed_with_bare_line_feeds_in_it_passes(zones: ZoneServer, form: tuple[bytes, bytes]) -> None:
    message = b"From: a@signer.example\r\n\r\none\ntwo  \nthree\r\n"
    assert only(zones, sign_exactly(message, form)).result is AuthResult.PASS


def sign_exactly(message: bytes, form: tuple[bytes, bytes]) -> bytes:
    """dkimpy makes CRLF of every line end; a signer that does not is played by giving it the hash it would make."""
    import base64
    import hashlib

    import dkim
    import dkim.canonicalization as forms

    body = message.partition(b"\r\n\r\n")[2]
    canonical = forms.CanonicalizationPolicy.from_c_value(b"/".join(form)).canonicalize_body(body)
    digest = base64.b64encode(hashlib.sha256(canonical).digest())
    signer = dkim.DKIM(message)
    signer.body = body
    header = signer.sign(b"s1", SIGNER.encode(), rsa_key().private, canonicalize=form)
    assert digest in header.replace(b"\r\n ", b"")
    return bytes(header) + message


@pytest.mark.parametrize(
    ("record", "result", "reason"),
    [
        ("v=DKIM1; p=", AuthResult.PERMERROR, "revoked"),
        ("v=DKIM2; p=x", AuthResult.PERMERROR, "DKIM1"),
        ("k=rsa; v=DKIM1; p=x", AuthResult.PERMERROR, "first place"),
        ("v=DKIM1; k=ed25519; p=x", AuthResult.PERMERROR, "not one for rsa"),
        ("v=DKIM1; k=rsa", AuthResult.PERMERROR, "p= is missing"),
        ("v=DKIM1; p=AAAA", AuthResult.PERMERROR, "no public key"),
        ("v=DKIM1; p=!!!", AuthResult.PERMERROR, "no base64"),
        ("not a tag list", AuthResult.PERMERROR, "malformed"),
        (rsa_key().record.replace("k=rsa", "h=sha1"), AuthResult.PERMERROR, "sha256"),
        (rsa_key().record.replace("k=rsa", "s=tlsrpt"), AuthResult.PERMERROR, "email"),
        (rsa_key(1024).record, AuthResult.FAIL, "another key"),
        (rsa_key().record.replace("k=rsa", "s=email; h=sha1:sha256; g=*; x=y"), AuthResult.PASS, ""),
        (rsa_key().record.replace("v=DKIM1; k=rsa; ", ""), AuthResult.PASS, ""),
        (rsa_key().record.replace("k=rsa", "t=y"), AuthResult.PASS, "testing"),
    ],
)
def test_keys_are_read_as_the_rfc_has_them(zones: ZoneServer, record: str, result: AuthResult, reason: str) -> None:
    zones.remove(KEY_NAME, "TXT")
    zones.add(KEY_NAME, "TXT", record)
    signature = only(zones, sign(MAIL))
    assert signature.result is result
    assert reason in (signature.reason or "")


def test_a_short_rsa_key_is_a_matter_of_policy(zones: ZoneServer) -> None:
    zones.remove(KEY_NAME, "TXT")
    zones.add(KEY_NAME, "TXT", SHORT_KEY)
    signature = only(zones, sign(MAIL))
    assert (signature.result, signature.reason) == (AuthResult.POLICY, "an RSA key of 512 bits is not believed")


SHORT_KEY = (
    "p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAL51ic1JKzatoInhbrXU6Z9hSQgN"
    "TBVOpOe6OvmIgOIq0qPcSZw/dPNCgO3/bMi58WNBiZ0pG+WHiSI/JtMVBj0CAwEAAQ=="
)


def test_a_key_for_testing_takes_the_blame_out_of_a_failure(zones: ZoneServer) -> None:
    zones.remove(KEY_NAME, "TXT")
    zones.add(KEY_NAME, "TXT", rsa_key().record.replace("k=rsa", "t=y:s"))
    signature = only(zones, sign(MAIL) + b"added\r\n")
    assert signature.result is AuthResult.NEUTRAL
    assert "testing" in (signature.reason or "")


def test_one_good_key_among_several_records_is_found(zones: ZoneServer) -> None:
    zones.add(KEY_NAME, "TXT", "v=spf1 -all", "something else")
    assert only(zones, sign(MAIL)).result is AuthResult.PASS


def test_a_missing_key_is_permanent_and_a_silent_dns_is_not(zones: ZoneServer) -> None:
    zones.remove(KEY_NAME, "TXT")
    assert only(zones, sign(MAIL)).result is AuthResult.PERMERROR
    for misbehave in (zones.make_silent, zones.make_fail):
        zones.clear()
        misbehave(KEY_NAME)
        assert only(zones, sign(MAIL)).result is AuthResult.TEMPERROR


@pytest.mark.parametrize(
    ("old", "new", "result", "reason"),
    [
        (r"v=1", "v=2", AuthResult.PERMERROR, "v= is not 1"),
        (r"v=1; ", "", AuthResult.PERMERROR, "v= is missing"),
        (r"a=rsa-sha256", "a=rsa-sha1", AuthResult.PERMERROR, "RFC 8301"),
        (r"a=rsa-sha256", "a=rsa-md5", AuthResult.PERMERROR, "unknown"),
        (r"c=relaxed/relaxed", "c=nofws", AuthResult.PERMERROR, "c= is unknown"),
        (r"i=@signer.example", "i=@evil.example", AuthResult.PERMERROR, "not within"),
        (r"i=@signer.example", "i=@xsigner.example", AuthResult.PERMERROR, "not within"),
        (r"q=dns/txt", "q=http/well-known", AuthResult.PERMERROR, "not in the DNS"),
        (r"d=signer.example", "d=sig ner.example", AuthResult.PERMERROR, "no domain name"),
        (r"d=signer.example", "d=[192.0.2.1]", AuthResult.PERMERROR, "no domain name"),
        (r"s=s1", "s=../s1", AuthResult.PERMERROR, "no domain name"),
        (r"t=\d+", "t=yesterday", AuthResult.PERMERROR, "t= is no number"),
        (r"t=\d+", "t=5; x=4", AuthResult.PERMERROR, "x= is before t="),
        (r"t=\d+", "t=5; x=1000", AuthResult.FAIL, "expired"),
        (r"t=\d+", "t=5; t=6", AuthResult.PERMERROR, "twice"),
        (r"h=from", "h=xfrom", AuthResult.PERMERROR, "From"),
        (r"bh=", "bh=%%", AuthResult.PERMERROR, "bh= is no base64"),
        (r"; b=", "; b=!", AuthResult.PERMERROR, "b= is no base64"),
        (r"v=1", "v=1; =", AuthResult.PERMERROR, "malformed"),
    ],
)
def test_signatures_are_read_as_the_rfc_has_them(
    zones: ZoneServer, old: str, new: str, result: AuthResult, reason: str
) -> None:
    signed = sign(MAIL, Signing(headers=(b"from", b"subject", b"to"))).replace(b"\r\n ", b" ", 10)
    assert only(zones, signed).result is AuthResult.PASS
    signature = only(zones, retag(signed, old, new))
    assert signature.result is result
    assert reason in (signature.reason or "")


def test_a_signature_is_good_until_it_expires(zones: ZoneServer) -> None:
    signed = retag(sign(MAIL), r"t=\d+", f"t=1; x={NOW_MS // 1000}")
    assert "expired" not in (only(zones, signed).reason or "")
    assert only(zones, signed, NOW_MS + 1000).reason == "the signature has expired"


def test_a_strict_key_allows_no_subdomain(zones: ZoneServer) -> None:
    zones.remove(KEY_NAME, "TXT")
    zones.add(KEY_NAME, "TXT", rsa_key().record.replace("k=rsa", "t=s"))
    assert only(zones, sign(MAIL)).result is AuthResult.PASS
    signature = only(zones, retag(sign(MAIL), "i=@signer", "i=@mail.signer"))
    assert (signature.result, signature.reason) == (AuthResult.PERMERROR, "the key allows no subdomain in i=")


def test_unreadable_values_are_shown_harmlessly(zones: ZoneServer) -> None:
    header = b"DKIM-Signature: v=1; d=\x01\xff<b>" + b"x" * 1000 + b"; s=s; a=rsa-sha256; b=; bh=; h=from\r\n"
    signature = only(zones, header + MAIL)
    assert signature.result is AuthResult.PERMERROR
    assert signature.domain.isprintable()
    assert len(signature.domain) <= 253
