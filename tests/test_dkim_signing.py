"""DKIM signing: three verifiers accept what we sign, and none of them accepts it changed."""

from __future__ import annotations

import re
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.dns_lookup import DnsLookup, LookupBudget
from core.sending.sending_domains import KeyAlgorithm, new_key
from core.verdicts import AuthResult
from inbound.authentication.dkim import check_dkim
from inbound.authentication.header_fields import view_message
from outbound import dkim
from outbound.dkim import (
    MAX_FIELDS,
    MAX_HEADER_BYTES,
    OVERSIGNED,
    SIGNED_IF_PRESENT,
    SigningKey,
    UnsignableMessage,
    UnusableKey,
    require_signable,
    sign,
    sign_with_all,
)
from outbound.wire import with_crlf
from tests.authentication_support import lookup_at
from tests.authentication_zones import ZoneServer, running_zones
from tests.dkim_judges import DOMAIN, PAST_MS, Signer, dkimpy_accepts, perl_says, signer
from tests.programs import need_program

HEADER = (
    b"From: Alice <alice@sender.example>\r\n"
    b"To: bob@pillarbox.test\r\n"
    b"Subject: A  test of\r\n\tfolding\r\n"
    b"Date: Mon, 21 Sep 2026 10:00:00 +0000\r\n"
    b"Message-ID: <1@sender.example>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"List-Unsubscribe: <https://sender.example/u/1>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
)
MAIL = HEADER + b"\r\nHello  Bob, \r\n\r\nthis is\ta test.\r\n.\r\n\r\n\r\n"
RSA = signer(KeyAlgorithm.RSA)
ED25519 = signer(KeyAlgorithm.ED25519)
BOTH = pytest.mark.parametrize("by", [RSA, ED25519], ids=["rsa", "ed25519"])


@pytest.fixture(scope="module")
def zones() -> Iterator[ZoneServer]:
    with running_zones() as server:
        for by in (RSA, ED25519):
            server.add(by.record_name, "TXT", by.pair.public_record)
        yield server


@pytest.fixture(scope="module")
def lookup(zones: ZoneServer) -> DnsLookup:
    return lookup_at(zones)


def results(lookup: DnsLookup, message: bytes, now_ms: int = PAST_MS) -> list[AuthResult]:
    verdict = check_dkim(view_message(message), lookup, LookupBudget(10), now_ms // 1000)
    return [signature.result for signature in verdict.signatures]


def accepts(lookup: DnsLookup, message: bytes, by: Signer) -> bool:
    """What all that need no process of their own agree on."""
    ours = results(lookup, message) == [AuthResult.PASS]
    assert dkimpy_accepts(message, by) is ours
    return ours


@BOTH
@pytest.mark.parametrize(
    "body",
    [b"", b"\r\n", b"\r\n\r\n", b"x", b" \r\n", b"x \t\r\n \r\n", b"a\nb\r\nc", b"a\r\n.\r\n..b\r\n", b"\xe9\r\n"],
)
def test_what_we_sign_verifies(lookup: DnsLookup, by: Signer, body: bytes) -> None:
    message = HEADER + b"\r\n" + body
    assert accepts(lookup, with_crlf(sign(message, by.key, PAST_MS) + message), by)


def test_a_message_without_a_body_verifies(lookup: DnsLookup) -> None:
    assert accepts(lookup, sign(HEADER, RSA.key, PAST_MS) + HEADER, RSA)


def test_a_third_verifier_agrees(zones: ZoneServer, tmp_path: Path) -> None:
    signature = sign(MAIL, RSA.key, PAST_MS)
    odd = HEADER + b"\r\n" + b" x \t y\r\n" * 300 + b"\r\n \r\n\r\n"
    versions = {
        "signed": signature + MAIL,
        "odd": sign(odd, RSA.key, PAST_MS) + odd,
        "body": signature + MAIL.replace(b"Hello", b"Hallo"),
        "subject": signature + b"Subject: another\r\n" + MAIL,
        "from": b"From: eve@evil.example\r\n" + signature + MAIL,
    }
    for name, content in versions.items():
        (tmp_path / name).write_bytes(content)
    said = perl_says(zones.port, *(str(tmp_path / name) for name in versions))
    assert said[:2] == ["pass", "pass"]
    assert [words.partition(" ")[0] for words in said[2:]] == ["fail"] * 3


def test_both_kinds_of_keys_sign_together(lookup: DnsLookup) -> None:
    message = sign_with_all(MAIL, (RSA.key, ED25519.key), PAST_MS) + MAIL
    assert results(lookup, message) == [AuthResult.PASS, AuthResult.PASS]
    assert dkimpy_accepts(message, RSA, 0)
    assert dkimpy_accepts(message, ED25519, 1)
    assert re.findall(rb" a=([a-z0-9-]+);", message) == [b"rsa-sha256", b"ed25519-sha256"]


@BOTH
@pytest.mark.parametrize("name", OVERSIGNED)
@pytest.mark.parametrize("place", ["on top", "below the signature", "last"])
def test_a_field_that_is_added_breaks_it(lookup: DnsLookup, by: Signer, name: bytes, place: str) -> None:
    signature, added = sign(MAIL, by.key, PAST_MS), name.title() + b": forged\r\n"
    message = {
        "on top": added + signature + MAIL,
        "below the signature": signature + added + MAIL,
        "last": signature + HEADER + added + MAIL.removeprefix(HEADER),
    }[place]
    assert not accepts(lookup, message, by)


@BOTH
@pytest.mark.parametrize("line", HEADER.replace(b"\r\n\t", b" ").splitlines())
def test_a_field_that_is_changed_or_removed_breaks_it(lookup: DnsLookup, by: Signer, line: bytes) -> None:
    plain = MAIL.replace(b"\r\n\t", b" ")
    signature = sign(MAIL, by.key, PAST_MS)
    assert accepts(lookup, signature + plain, by)
    assert not accepts(lookup, signature + plain.replace(line, line + b"x"), by)
    assert not accepts(lookup, signature + plain.replace(line + b"\r\n", b""), by)


@BOTH
@pytest.mark.parametrize(
    ("old", "new"), [(b"Hello", b"Hallo"), (b"a test.", b"atest."), (b".\r\n\r\n\r\n", b".\r\nPS")]
)
def test_a_body_that_is_changed_breaks_it(lookup: DnsLookup, by: Signer, old: bytes, new: bytes) -> None:
    changed = HEADER + MAIL.removeprefix(HEADER).replace(old, new)
    assert not accepts(lookup, sign(MAIL, by.key, PAST_MS) + changed, by)


def test_what_lists_and_resenders_add_does_no_harm(lookup: DnsLookup) -> None:
    signature = sign(MAIL, RSA.key, PAST_MS)
    for name in (b"list-id", b"resent-from", b"sender", b"received", b"x-spam-status", b"authentication-results"):
        assert accepts(lookup, name.title() + b": added\r\n" + signature + MAIL, RSA)


@pytest.mark.parametrize("name", SIGNED_IF_PRESENT)
def test_further_fields_are_covered_where_they_occur(lookup: DnsLookup, name: bytes) -> None:
    message = name + b": one\r\n" + name + b": two\r\n" + MAIL
    signature = sign(message, ED25519.key, PAST_MS)
    assert accepts(lookup, signature + message, ED25519)
    assert not accepts(lookup, signature + message.replace(b"one", b"eins"), ED25519)
    assert not accepts(lookup, signature + message.replace(b"two", b"zwei"), ED25519)


# One field, in the words of RFC 6376 section 3.5


def tags(field: bytes) -> dict[str, str]:
    value = field.decode().removeprefix("DKIM-Signature:")
    pairs = (re.sub(r"\s", "", tag).partition("=") for tag in value.split(";"))
    return {name: text for name, _, text in pairs}


def test_the_tags_are_those_we_promise() -> None:
    found = tags(sign(MAIL, RSA.key, PAST_MS))
    assert list(found) == ["v", "a", "c", "d", "s", "t", "h", "bh", "b"]
    assert (found["v"], found["a"], found["c"]) == ("1", "rsa-sha256", "relaxed/relaxed")
    assert (found["d"], found["s"], found["t"]) == (DOMAIN, "rsa", str(PAST_MS // 1000))
    covered = found["h"].split(":")
    assert [covered.count(name) for name in ("from", "subject", "list-unsubscribe", "cc")] == [2, 2, 2, 1]


def test_a_signature_may_have_an_end(lookup: DnsLookup) -> None:
    message = sign(MAIL, RSA.key, PAST_MS, lifetime_s=3600) + MAIL
    assert tags(message.partition(b"From:")[0])["x"] == str(PAST_MS // 1000 + 3600)
    assert results(lookup, message, PAST_MS + 3_600_000) == [AuthResult.PASS]
    assert results(lookup, message, PAST_MS + 3_601_000) == [AuthResult.FAIL]


@BOTH
def test_the_field_is_folded(by: Signer) -> None:
    key = SigningKey(f"{'a' * 50}.{DOMAIN}", "s" * 40, by.key.private_key, by.key.algorithm)
    field = sign(b"To: x\r\nResent-To: y\r\n" * 40 + MAIL, key, PAST_MS, lifetime_s=1)
    lines = field.removesuffix(b"\r\n").split(b"\r\n")
    assert max(map(len, lines)) <= 78
    assert all(line.startswith(b"\t") and line.strip() for line in lines[1:])


def test_line_ends_are_signed_as_the_wire_will_have_them(lookup: DnsLookup) -> None:
    loose = MAIL.replace(b"\r\n", b"\n") + b"a\rb"
    assert accepts(lookup, with_crlf(sign(loose, RSA.key, PAST_MS) + loose), RSA)


# Whatever is composed, and however it is relayed

WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=9).map(str.encode)
GAPS = st.sampled_from([b" ", b"  ", b"\t", b"\r\n ", b"\r\n\t ", b" \r\n "])
VALUES = st.lists(st.tuples(WORDS, GAPS), min_size=1, max_size=5).map(
    lambda pairs: b"".join(word + gap for word, gap in pairs).strip()
)
NAMES = st.sampled_from([*(name.title() for name in (*OVERSIGNED[1:], *SIGNED_IF_PRESENT)), b"X-Other", b"Received"])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
TEXT_LINES = st.text(st.sampled_from("ab \t.é-="), max_size=12).map(str.encode)
BODIES = st.lists(TEXT_LINES, max_size=8).map(lambda lines: b"".join(line + b"\r\n" for line in lines))


def relayed(fields: list[tuple[bytes, bytes]], body: bytes, how: int) -> bytes:
    """The message after hosts that refold, respace and prepend."""
    changed = []
    for name, value in fields:
        if how & 1:
            value = re.sub(rb"(?:\r\n)?[ \t]+", b"\r\n\t ", value)
        if how & 2:
            value = re.sub(rb"(?:\r\n)?[ \t]+", b" ", value)
        trailing = b" \t" if how & 4 else b""
        changed.append((name.upper() if how & 8 else name) + b": " + value + trailing + b"\r\n")
    if how & 16:
        changed.insert(0, b"Received: from a by b; some day\r\n")
    if how & 32:
        body = re.sub(rb"[ \t]*\r\n", b"  \r\n", body) if body.strip() else body
        body += b"\r\n\r\n" if body.strip() else b""
    return b"".join(changed) + b"\r\n" + body


@settings(max_examples=150, deadline=None)
@given(VALUES, FIELDS, st.integers(0, 8), BODIES, st.integers(0, 63))
def test_whatever_is_composed_verifies_after_relaying(
    zone_lookup: DnsLookup, author: bytes, fields: list[tuple[bytes, bytes]], place: int, body: bytes, how: int
) -> None:
    fields = [*fields[:place], (b"From", author), *fields[place:]]
    message = b"".join(name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n" + body
    signature = sign(message, ED25519.key, PAST_MS)
    assert accepts(zone_lookup, signature + message, ED25519)
    assert accepts(zone_lookup, signature + relayed(fields, body, how), ED25519)


@pytest.fixture(scope="module", name="zone_lookup")
def _zone_lookup(lookup: DnsLookup) -> DnsLookup:
    return lookup


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([b"From: a", b"A: b", b" c", b"\t", b"no field", b"\xff: x", b"A :b", b""]), max_size=7)
)
def test_what_is_signed_is_read_alike_by_those_who_verify(zone_lookup: DnsLookup, lines: list[bytes]) -> None:
    message = b"".join(line + b"\r\n" for line in lines) + b"\r\nbody\r\n"
    try:
        signature = sign(message, ED25519.key, PAST_MS)
    except UnsignableMessage:
        return
    assert results(zone_lookup, signature + message) == [AuthResult.PASS]


# What is not signed


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "no From"),
        (b"\r\nbody", "no From"),
        (b"To: a\r\n\r\nFrom: b\r\n", "no From"),
        (b"From: a\r\n" + MAIL, "2 From"),
        (b"To: a\r\nnot a field\r\n" + MAIL, r"line 2 of the header is no field: 'not a field'"),
        (b"From alice Mon Sep 21\r\n" + MAIL, "line 1"),
        (b" folded\r\n" + MAIL, "line 1"),
        (b"Subject: a\rb\r\n" + MAIL, "line 2 of the header is no field: 'b'"),
        (b"S\xc3\xbc: a\r\n" + MAIL, "line 1"),
        (b"A: b\r\n" * MAX_FIELDS + MAIL, "more than 2000 fields"),
        (b"A: " + b"x" * MAX_HEADER_BYTES + b"\r\n" + MAIL, "does not end within"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_header_that_is_no_list_of_fields_is_not_signed(message: bytes, words: str) -> None:
    with pytest.raises(UnsignableMessage, match=words):
        sign(message, RSA.key, PAST_MS)
    with pytest.raises(UnsignableMessage, match=words):
        require_signable(message)


def test_what_can_be_signed_is_said_to_be() -> None:
    require_signable(MAIL)
    require_signable(b"A: b\r\n" * (MAX_FIELDS - 1) + b"From: a")


@pytest.mark.parametrize(
    ("pem", "algorithm", "words"),
    [
        ("", KeyAlgorithm.RSA, "no PEM key"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", KeyAlgorithm.RSA, "no PEM key"),
        (RSA.pair.private_pem, KeyAlgorithm.ED25519, "not one for ed25519"),
        (ED25519.pair.private_pem, KeyAlgorithm.RSA, "not one for rsa"),
    ],
    ids=["empty", "broken", "rsa as ed25519", "ed25519 as rsa"],
)
def test_a_key_that_cannot_sign_is_our_error(pem: str, algorithm: KeyAlgorithm, words: str) -> None:
    with pytest.raises(UnusableKey, match=words):
        sign(MAIL, SigningKey(DOMAIN, "s", pem, algorithm), PAST_MS)


def test_a_key_that_nobody_believes_is_our_error() -> None:
    command = [need_program("openssl"), "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1016"]
    pem = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    with pytest.raises(UnusableKey):  # in our words, or in those of a library that no longer reads such keys
        sign(MAIL, SigningKey(DOMAIN, "s", pem), PAST_MS)


def test_a_key_is_read_once_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = new_key(KeyAlgorithm.ED25519)
    key = SigningKey(DOMAIN, "s", pair.private_pem, KeyAlgorithm.ED25519)
    sign(MAIL, key, PAST_MS)
    monkeypatch.setattr(dkim, "load_pem_private_key", None)
    sign(MAIL, SigningKey(DOMAIN, "t", pair.private_pem, KeyAlgorithm.ED25519), PAST_MS)
    assert "PRIVATE" not in repr(key) + repr(pair)


# Size


@pytest.mark.parametrize(
    "filling",
    [b"word " * 14 + b"\r\n", b" ", b"\r\n", b"\r", b"\n", b" \r\n", b"\r\n ", b"x"],
    ids=["text", "spaces", "empty lines", "CR", "LF", "blank lines", "folds", "one line"],
)
def test_time_grows_with_size_and_no_faster(filling: bytes) -> None:
    def seconds(size: int) -> float:
        message = HEADER + b"\r\n" + filling * (size // len(filling))
        begun = time.thread_time()
        sign(message, ED25519.key, PAST_MS)
        return time.thread_time() - begun

    small = min(seconds(1_000_000) for _ in range(3))
    assert min(seconds(8_000_000) for _ in range(2)) < 30 * max(small, 0.002)


def test_a_large_header_takes_no_more_than_its_share() -> None:
    message = b"To: x\r\n" * (MAX_FIELDS - 20) + b"X: " + b"\r\n y" * 200_000 + b"\r\n" + MAIL
    begun = time.thread_time()
    field = sign(message, ED25519.key, PAST_MS)
    assert time.thread_time() - begun < 1
    assert len(field) < 16_000


def test_a_large_body_is_not_copied_as_a_whole() -> None:
    message = HEADER + b"\r\n" + b"some words here\r\n" * 600_000
    sign(MAIL, ED25519.key, PAST_MS)
    tracemalloc.start()
    try:
        sign(message, ED25519.key, PAST_MS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
