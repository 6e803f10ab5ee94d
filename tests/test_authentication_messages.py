"""Whole messages: what the receiver learns, within its time, whatever the DNS and the sender do."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import Settings
from core.verdicts import (
    ArcVerdict,
    AuthResult,
    DkimSignature,
    DkimVerdict,
    DmarcPolicy,
    DmarcVerdict,
    SpfVerdict,
    Verdicts,
    read_verdicts,
)
from inbound.authentication import Authenticator, ClientFacts, results_header
from tests.authentication_support import CLIENT_IP, MAIL, SIGNER, authenticate, lookup_at, publish, sign
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS

CLIENT = ClientFacts(CLIENT_IP, "mail.signer.example", f"alice@{SIGNER}")
FORWARDER = ClientFacts("198.51.100.1", "fwd.example", f"alice@{SIGNER}")
FORWARDED = Settings(trusted_forwarders="198.51.100.0/24")
RECEIVED = (
    f"Received: from mail.signer.example (unknown [{CLIENT_IP}]) by fwd.example (Postfix) with ESMTP\r\n".encode()
)


@pytest.fixture
def zones(zones: ZoneServer) -> ZoneServer:
    publish(zones)
    zones.add(SIGNER, "TXT", f"v=spf1 ip4:{CLIENT_IP} -all")
    zones.add(f"_dmarc.{SIGNER}", "TXT", "v=DMARC1; p=reject")
    return zones


def test_an_honest_message_passes_everything(zones: ZoneServer) -> None:
    verdicts = authenticate(zones, sign(MAIL), CLIENT)
    assert verdicts == Verdicts(
        spf=SpfVerdict(AuthResult.PASS, SIGNER),
        dkim=DkimVerdict((DkimSignature(AuthResult.PASS, SIGNER, "s1", "rsa-sha256"),)),
        dmarc=DmarcVerdict(AuthResult.PASS, SIGNER, DmarcPolicy.REJECT, True, True),
        arc=ArcVerdict(AuthResult.NONE),
        checked_ms=NOW_MS,
    )
    assert read_verdicts(verdicts.to_json()) == verdicts


def test_a_forged_message_fails(zones: ZoneServer) -> None:
    verdicts = authenticate(zones, MAIL, ClientFacts("203.0.113.9", "evil.example", f"alice@{SIGNER}"))
    assert verdicts.spf == SpfVerdict(AuthResult.FAIL, SIGNER)
    assert verdicts.dmarc == DmarcVerdict(AuthResult.FAIL, SIGNER, DmarcPolicy.REJECT)


@pytest.mark.parametrize("extra", [b"From: eve@evil.example\r\n", b"From : eve@evil.example\r\n"])
def test_a_second_author_makes_the_author_unknown(zones: ZoneServer, extra: bytes) -> None:
    assert authenticate(zones, extra + sign(MAIL), CLIENT).dmarc == DmarcVerdict(AuthResult.PERMERROR, "")


def test_behind_a_trusted_forwarder_its_client_is_judged(zones: ZoneServer) -> None:
    verdicts = authenticate(zones, RECEIVED + MAIL, FORWARDER, FORWARDED)
    assert verdicts.spf == SpfVerdict(AuthResult.PASS, SIGNER)
    assert (verdicts.judged_ip, verdicts.judged_helo) == (CLIENT_IP, "mail.signer.example")


def test_a_forwarder_we_do_not_trust_is_judged_itself(zones: ZoneServer) -> None:
    verdicts = authenticate(zones, RECEIVED + MAIL, FORWARDER)
    assert verdicts.spf == SpfVerdict(AuthResult.FAIL, SIGNER)
    assert (verdicts.judged_ip, verdicts.judged_helo) == (None, None)


def test_a_trusted_forwarder_that_does_not_say_leaves_spf_open(zones: ZoneServer) -> None:
    verdicts = authenticate(zones, b"Received: by fwd.example with HTTP\r\n" + RECEIVED + MAIL, FORWARDER, FORWARDED)
    assert verdicts.spf is not None
    assert (verdicts.spf.result, verdicts.spf.domain) == (AuthResult.NONE, SIGNER)
    assert "trusted forwarder" in (verdicts.spf.explanation or "")
    assert verdicts.judged_ip is None


def test_before_there_is_a_message_a_trusted_forwarder_cannot_be_judged(zones: ZoneServer) -> None:
    forwarded = Authenticator(FORWARDED, lookup_at(zones), lambda: NOW_MS)
    assert forwarded.check_spf(FORWARDER).result is AuthResult.NONE
    assert forwarded.check_spf(CLIENT).result is AuthResult.PASS
    assert forwarded.check_spf(ClientFacts("::ffff:198.51.100.1", "h", f"alice@{SIGNER}")).result is AuthResult.NONE


def test_a_silent_dns_makes_temporary_errors_within_the_time(zones: ZoneServer) -> None:
    for name in (SIGNER, f"_dmarc.{SIGNER}", f"s1._domainkey.{SIGNER}"):
        zones.remove(name, "TXT")
        zones.make_silent(name)
    authenticator = Authenticator(Settings(authentication_timeout=1), lookup_at(zones, 5.0), lambda: NOW_MS)
    begun = time.monotonic()
    verdicts = authenticator.check(sign(MAIL), CLIENT)
    assert 0.9 < time.monotonic() - begun < 3
    assert verdicts.spf is not None
    assert verdicts.dkim is not None
    assert verdicts.dmarc is not None
    results = (verdicts.spf.result, verdicts.dkim.result, verdicts.dmarc.result)
    assert set(results) == {AuthResult.TEMPERROR}


def test_an_error_of_ours_is_temporary_and_logged(
    zones: ZoneServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of order")

    for name in ("check_spf", "check_dkim", "check_arc", "check_dmarc"):
        monkeypatch.setattr(f"inbound.authentication.authenticator.{name}", broken)
    verdicts = authenticate(zones, MAIL, CLIENT)
    assert verdicts.spf == SpfVerdict(AuthResult.TEMPERROR, SIGNER, explanation="the check failed here")
    assert verdicts.dkim is not None
    assert verdicts.arc is not None
    assert verdicts.dmarc is not None
    assert {verdicts.dkim.result, verdicts.arc.result, verdicts.dmarc.result} == {AuthResult.TEMPERROR}


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"\x00", b"From", b"From: a@b.example", b"DKIM-Signature:\r\n\r\n"])
def test_scraps_of_messages_get_a_verdict(zones: ZoneServer, raw: bytes) -> None:
    verdicts = authenticate(zones, raw, CLIENT)
    assert verdicts.spf == SpfVerdict(AuthResult.PASS, SIGNER)
    assert results_header(verdicts, "mx.pillarbox.test").isascii()


FIELDS = st.sampled_from(
    [b"DKIM-Signature", b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results", b"From", b"Received"]
)
PIECES = st.sampled_from(
    b"v=1; |a=rsa-sha256; |d=signer.example; |s=s1; |h=from:to; |bh=; |b=AAAA; |i=1; |t=1; |cv=none; |l=5; ".split(b"|")
)
SCRAPS = st.sampled_from([b"x@y.example", b"<", b'"', b"(", b"\r\n ", b"\n", b"\x00", b"\xff", b"=", b"["])
FIELD = st.tuples(FIELDS, st.lists(st.one_of(PIECES, SCRAPS), max_size=12).map(b"".join)).map(b": ".join)
MESSAGES = st.lists(FIELD, max_size=6).map(lambda fields: b"\r\n".join(fields) + b"\r\n\r\nbody\r\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(raw=st.one_of(MESSAGES, st.binary(max_size=200)), helo=st.text(max_size=20), mail_from=st.text(max_size=20))
def test_any_bytes_get_a_verdict_without_an_error_of_ours(
    zones: ZoneServer, monkeypatch: pytest.MonkeyPatch, raw: bytes, helo: str, mail_from: str
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(
        "inbound.authentication.authenticator.log.exception", lambda _, **about: errors.append(about["check"])
    )
    verdicts = authenticate(zones, raw, ClientFacts("198.51.100.1", helo, mail_from), FORWARDED)
    assert errors == []
    assert read_verdicts(verdicts.to_json()) == verdicts
    assert results_header(verdicts, "mx.pillarbox.test").isprintable()
