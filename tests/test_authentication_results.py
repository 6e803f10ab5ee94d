"""Authentication-Results: ours can be read by others, and nobody else's is taken for ours."""

from __future__ import annotations

import email.policy
from email import message_from_bytes

import authres
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.verdicts import (
    ArcVerdict,
    AuthResult,
    DkimSignature,
    DkimVerdict,
    DmarcPolicy,
    DmarcVerdict,
    SpfVerdict,
    Verdicts,
)
from inbound.authentication import results_header, with_trace, without_forged
from inbound.authentication.results_reader import read_results

HERE = "mx.pillarbox.test"
VERDICTS = Verdicts(
    spf=SpfVerdict(AuthResult.SOFTFAIL, "sender.example"),
    dkim=DkimVerdict(
        (
            DkimSignature(AuthResult.PASS, "sender.example", "s1", "rsa-sha256"),
            DkimSignature(AuthResult.FAIL, "list.example", "l", "ed25519-sha256", reason="the body has changed"),
        )
    ),
    dmarc=DmarcVerdict(AuthResult.PASS, "sender.example", DmarcPolicy.REJECT, is_dkim_aligned=True),
    arc=ArcVerdict(AuthResult.PASS, ("a.example", "b.example")),
)


def test_all_verdicts_are_told() -> None:
    assert results_header(VERDICTS, HERE) == (
        "mx.pillarbox.test; spf=softfail smtp.mailfrom=sender.example; "
        "dkim=pass header.d=sender.example header.s=s1 header.a=rsa-sha256; "
        'dkim=fail reason="the body has changed" header.d=list.example header.s=l header.a=ed25519-sha256; '
        "dmarc=pass policy.published-domain-policy=reject header.from=sender.example; arc=pass header.d=b.example"
    )


def test_what_was_not_checked_is_not_told() -> None:
    assert results_header(Verdicts(), HERE) == "mx.pillarbox.test; none"
    assert results_header(Verdicts(dkim=DkimVerdict()), HERE) == "mx.pillarbox.test; dkim=none"
    bounce = Verdicts(spf=SpfVerdict(AuthResult.NONE, "h.example", is_helo=True))
    assert results_header(bounce, HERE) == "mx.pillarbox.test; spf=none smtp.helo=h.example"


def test_a_pass_by_arc_says_so() -> None:
    verdicts = Verdicts(dmarc=DmarcVerdict(AuthResult.PASS, "sender.example", DmarcPolicy.NONE))
    assert 'dmarc=pass reason="by a trusted ARC sealer"' in results_header(verdicts, HERE)


def test_another_reader_understands_it() -> None:
    parsed = authres.AuthenticationResultsHeader.parse(f"Authentication-Results: {results_header(VERDICTS, HERE)}")
    assert parsed.authserv_id == HERE
    assert [(result.method, result.result) for result in parsed.results] == [
        ("spf", "softfail"),
        ("dkim", "pass"),
        ("dkim", "fail"),
        ("dmarc", "pass"),
        ("arc", "pass"),
    ]


HOSTILE = st.text(st.sampled_from('a;="\\() \r\n\t\x00é\udcff@./'), max_size=12)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_whatever_others_chose_stays_a_value(domain: str, selector: str, reason: str) -> None:
    verdicts = Verdicts(
        spf=SpfVerdict(AuthResult.FAIL, domain),
        dkim=DkimVerdict((DkimSignature(AuthResult.FAIL, domain, selector, reason=reason),)),
    )
    header = results_header(verdicts, HERE)
    assert header.isascii()
    assert header.isprintable()
    read = read_results(header)
    assert read is not None
    assert [(result.method, result.result) for result in read.results] == [("spf", "fail"), ("dkim", "fail")]


FORGED = [
    "mx.pillarbox.test; spf=pass",
    "MX.Pillarbox.TEST; spf=pass",
    "mx.pillarbox.test.; spf=pass",
    " mx.pillarbox.test 1; spf=pass",
    "mx.pillarbox.test/1; spf=pass",
    "mx.pillarbox.test",
    "(hello) mx.pillarbox.test (there); spf=pass",
    "(a (nested; one) \\)) mx.pillarbox.test; spf=pass",
    '"mx.pillarbox.test"; spf=pass',
    '"mx.\\pillarbox.test"; spf=pass',
    "\r\n\tmx.pillarbox.test;\r\n\tspf=pass",
    "mx.pillar\r\n box.test; spf=pass",
    "mx.pillarbox\r\n\t.test 1; spf=pass",
    "mx.(x)pillarbox.test; spf=pass",
    "(unclosed mx.pillarbox.test; spf=pass",
    'mx.pillarbox.test; spf=pass reason="unclosed',
    '"mx.pillarbox.test; spf=pass',
    ") mx.pillarbox.test; spf=pass",
    "=?utf-8?q?mx=2Epillarbox=2Etest?=; spf=pass",
    "=?utf-8?b?bXgucGlsbGFyYm94LnRlc3Q=?= ; spf=pass",
]
OTHERS = [
    "mx.google.com; spf=pass",
    "mx.pillarbox.test.evil.example; spf=pass",
    "evil-mx.pillarbox.test; spf=pass",
    "mx.pillarbox.test1; spf=pass",
    "mx.google.com; spf=pass smtp.mailfrom=mx.pillarbox.test",
    "mx.google.com; dkim=pass (mx.pillarbox.test) header.d=x.example",
    "",
    ";",
]


@pytest.mark.parametrize("value", FORGED)
def test_a_claim_to_be_ours_is_dropped(value: str) -> None:
    headers = [("Subject", value), ("authentication-RESULTS", value), ("ARC-Authentication-Results", value)]
    assert without_forged(headers, HERE) == [headers[0], headers[2]]
    assert without_forged(headers, HERE.upper()) == [headers[0], headers[2]]


@pytest.mark.parametrize("value", OTHERS)
def test_results_of_others_stay(value: str) -> None:
    assert without_forged([("Authentication-Results", value)], HERE) == [("Authentication-Results", value)]


@pytest.mark.parametrize("value", FORGED)
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("name", [b"Authentication-Results:", b"authentication-results \t:"])
def test_forged_fields_are_cut_out_of_the_raw_message(value: str, line_end: bytes, name: bytes) -> None:
    field = (name + value.encode().lstrip() + b"\r\n").replace(b"\r\n", line_end)
    before, after = b"A: b" + line_end, b"C: d" + line_end * 2 + field + b"\x00\xff\r"
    assert with_trace(before + field + after, None, None, HERE) == before + after


@pytest.mark.parametrize("value", OTHERS)
def test_fields_of_others_stay_byte_by_byte(value: str) -> None:
    raw = b"Authentication-Results:" + value.encode() + b"\r\nA: b\r\n\r\nbody"
    assert with_trace(raw, None, None, HERE) == raw


@pytest.mark.parametrize("before", [b"no field\r\nno field\r\n", b"X: y\r", b"\rX: y\r", b"A:\x00\r\n"])
def test_forged_fields_are_found_where_only_careless_readers_see_fields(before: bytes) -> None:
    raw = before + b"Authentication-Results: mx.pillarbox.test; spf=pass\r\nB: c\r\n\r\nbody"
    assert with_trace(raw, None, None, HERE) == before + b"B: c\r\n\r\nbody"


def test_the_trace_stands_on_top_and_is_folded() -> None:
    raw = b"From: a@b.example\r\n\r\nbody"
    traced = with_trace(raw, "from h ([192.0.2.1]) by mx.pillarbox.test; Mon", results_header(VERDICTS, HERE), HERE)
    assert traced.endswith(raw)
    assert traced.startswith(
        b"Received: from h ([192.0.2.1]) by mx.pillarbox.test;\r\n\tMon\r\nAuthentication-Results: mx"
    )
    message = message_from_bytes(traced, policy=email.policy.default)
    assert message.keys() == ["Received", "Authentication-Results", "From"]
    assert (
        authres.AuthenticationResultsHeader.parse(
            f"Authentication-Results: {message['Authentication-Results']}"
        ).authserv_id
        == HERE
    )
    assert max(map(len, traced.split(b"\r\n"))) < 200


def test_what_goes_on_top_can_add_no_field_of_its_own() -> None:
    traced = with_trace(b"A: b\r\n\r\n", "from x\r\nBcc: evil@example.com\n\nbody", 'x; y="a; b"', HERE)
    message = message_from_bytes(traced, policy=email.policy.default)
    assert message.keys() == ["Received", "Authentication-Results", "A"]
    assert b'y="a; b"\r\n' in traced


def test_a_line_of_an_mbox_stays_in_front() -> None:
    assert with_trace(b"From x\r\nA: b\r\n\r\n", "by h", None, HERE) == b"From x\r\nReceived: by h\r\nA: b\r\n\r\n"


def test_a_message_without_header_gets_one() -> None:
    assert with_trace(b"\r\nbody", "by h", None, HERE) == b"Received: by h\r\n\r\nbody"


@given(st.binary(max_size=120), st.text(max_size=20))
def test_any_message_keeps_its_bytes_unless_it_claims_to_be_ours(raw: bytes, received: str) -> None:
    assert with_trace(raw, None, None, HERE) == raw
    traced = with_trace(raw, received, None, HERE)
    assert len(traced) >= len(raw) + len("Received: \r\n")
