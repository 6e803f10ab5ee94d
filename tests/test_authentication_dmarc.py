"""DMARC: alignment, organizational domains, records, and what happens when the DNS is silent."""

from __future__ import annotations

import pytest

from core.authentication.dmarc_record import organizational_domain, read_policy
from core.dns_lookup import LookupBudget
from core.verdicts import AuthResult, DkimSignature, DkimVerdict, DmarcPolicy, DmarcVerdict, SpfVerdict
from inbound.authentication.dmarc import Evidence, check_dmarc, sample_of
from tests.authentication_support import lookup_at
from tests.authentication_zones import ZoneServer

AUTHOR = "mail.author.example"


def judge(
    zones: ZoneServer,
    domain: str | None = AUTHOR,
    spf: tuple[str, AuthResult] = ("other.example", AuthResult.PASS),
    signatures: tuple[DkimSignature, ...] = (),
    sample: int = 50,
    relayed: Evidence | None = None,
) -> DmarcVerdict:
    return check_dmarc(
        domain,
        SpfVerdict(spf[1], spf[0]),
        DkimVerdict(signatures),
        relayed,
        sample,
        lookup_at(zones, 0.2),
        LookupBudget(5),
    )


def signed(domain: str, result: AuthResult = AuthResult.PASS, *, is_limited: bool = False) -> DkimSignature:
    return DkimSignature(result, domain, "s", "rsa-sha256", is_limited)


@pytest.mark.parametrize(
    ("domain", "organization"),
    [
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.com", "example.com"),
        ("co.uk", "co.uk"),
        ("a.example.github.io", "example.github.io"),
        ("a.b.xn--fiqs8s", "b.xn--fiqs8s"),
        ("a.b.unknown-top-level", "b.unknown-top-level"),
        ("a.city.kawasaki.jp", "city.kawasaki.jp"),
    ],
)
def test_the_organizational_domain_is_below_a_public_suffix(domain: str, organization: str) -> None:
    assert organizational_domain(domain) == organization


@pytest.mark.parametrize(
    ("shown", "mode", "is_aligned"),
    [
        (AUTHOR, "r", True),
        ("author.example", "r", True),
        ("other.author.example", "r", True),
        ("author.example", "s", False),
        (AUTHOR, "s", True),
        ("notauthor.example", "r", False),
        ("example", "r", False),
    ],
)
def test_alignment_is_relaxed_or_strict(zones: ZoneServer, shown: str, mode: str, is_aligned: bool) -> None:
    zones.add(f"_dmarc.{AUTHOR}", "TXT", f"v=DMARC1; p=reject; aspf={mode}; adkim={mode}")
    result = AuthResult.PASS if is_aligned else AuthResult.FAIL
    by_spf = judge(zones, spf=(shown, AuthResult.PASS))
    assert (by_spf.result, by_spf.is_spf_aligned, by_spf.is_dkim_aligned) == (result, is_aligned, False)
    by_dkim = judge(zones, signatures=(signed("x.example"), signed(shown)))
    assert (by_dkim.result, by_dkim.is_spf_aligned, by_dkim.is_dkim_aligned) == (result, False, is_aligned)


def test_each_mode_is_for_its_own_check(zones: ZoneServer) -> None:
    zones.add(f"_dmarc.{AUTHOR}", "TXT", "v=DMARC1; p=reject; aspf=s")
    verdict = judge(zones, spf=("author.example", AuthResult.PASS), signatures=(signed("author.example"),))
    assert (verdict.is_spf_aligned, verdict.is_dkim_aligned) == (False, True)


def test_a_public_suffix_is_not_aligned_with_what_is_below_it(zones: ZoneServer) -> None:
    zones.add("_dmarc.a.co.uk", "TXT", "v=DMARC1; p=reject")
    assert judge(zones, "a.co.uk", spf=("b.co.uk", AuthResult.PASS)).result is AuthResult.FAIL
    assert judge(zones, "a.co.uk", spf=("co.uk", AuthResult.PASS)).result is AuthResult.FAIL


@pytest.mark.parametrize("result", [result for result in AuthResult if result is not AuthResult.PASS])
def test_only_a_pass_counts(zones: ZoneServer, result: AuthResult) -> None:
    zones.add(f"_dmarc.{AUTHOR}", "TXT", "v=DMARC1; p=reject")
    verdict = judge(zones, spf=(AUTHOR, result), signatures=(signed(AUTHOR, result),))
    expected = AuthResult.TEMPERROR if result is AuthResult.TEMPERROR else AuthResult.FAIL
    assert (verdict.result, verdict.is_spf_aligned, verdict.is_dkim_aligned) == (expected, False, False)


def test_a_signature_with_a_length_limit_is_no_evidence(zones: ZoneServer) -> None:
    zones.add(f"_dmarc.{AUTHOR}", "TXT", "v=DMARC1; p=reject")
    verdict = judge(zones, signatures=(signed(AUTHOR, is_limited=True),))
    assert (verdict.result, verdict.is_dkim_aligned) == (AuthResult.FAIL, False)


def test_the_own_record_goes_before_that_of_the_organization(zones: ZoneServer) -> None:
    zones.add("_dmarc.author.example", "TXT", "v=DMARC1; p=reject; sp=quarantine")
    assert judge(zones).policy is DmarcPolicy.QUARANTINE
    assert judge(zones, "author.example").policy is DmarcPolicy.REJECT
    zones.add(f"_dmarc.{AUTHOR}", "TXT", "v=DMARC1; p=none; sp=reject")
    assert judge(zones).policy is DmarcPolicy.NONE


def test_without_a_policy_for_subdomains_the_general_one_holds(zones: ZoneServer) -> None:
    zones.add("_dmarc.author.example", "TXT", "v=DMARC1; p=reject; sp=nonsense")
    assert judge(zones).policy is DmarcPolicy.REJECT


@pytest.mark.parametrize(
    ("percent", "sample", "policy"),
    [
        ("100", 99, DmarcPolicy.REJECT),
        ("30", 29, DmarcPolicy.REJECT),
        ("30", 30, DmarcPolicy.QUARANTINE),
        ("0", 0, DmarcPolicy.QUARANTINE),
        ("x", 99, DmarcPolicy.REJECT),
        ("999", 99, DmarcPolicy.REJECT),
    ],
)
def test_outside_the_percentage_the_next_weaker_policy_is_in_force(
    zones: ZoneServer, percent: str, sample: int, policy: DmarcPolicy
) -> None:
    zones.add(f"_dmarc.{AUTHOR}", "TXT", f"v=DMARC1; p=reject; pct={percent}")
    assert judge(zones, sample=sample).policy is policy


def test_a_message_is_always_in_the_same_sample() -> None:
    samples = [sample_of(b"Subject: %d\r\n" % number) for number in range(2000)]
    assert samples == [sample_of(b"Subject: %d\r\n" % number) for number in range(2000)]
    assert set(samples) == set(range(100))


@pytest.mark.parametrize(
    "texts",
    [
        ["v=spf1 -all", "something"],
        ["v=DMARC1; p=reject", "v=DMARC1; p=none"],
        ["p=reject; v=DMARC1"],
        ["v=DMARC1; p=nonsense"],
        ["v=DMARC1"],
        ["v=DMARC10; p=reject"],
        ["v=DMARC1; p=reject; p=none"],
        ["v=DMARC1; p=reject; nonsense"],
        [],
    ],
)
def test_without_one_usable_record_there_is_no_policy(zones: ZoneServer, texts: list[str]) -> None:
    zones.add(f"_dmarc.{AUTHOR}", "TXT", *texts)
    assert judge(zones) == DmarcVerdict(AuthResult.NONE, AUTHOR)


def test_records_are_read_leniently_where_the_rfc_is() -> None:
    for text in (b"v=DMARC1;p=REJECT", b" V = dmarc1 ; p = reject ; ", b"v=DMARC1; p=reject; unknown=1;"):
        record = read_policy([text, b"other"])
        assert record is not None
        assert record.policy is DmarcPolicy.REJECT
    fallback = read_policy([b"v=DMARC1; p=nonsense; rua=mailto:a@b.example"])
    assert fallback is not None
    assert fallback.policy is DmarcPolicy.NONE


def test_without_one_author_there_is_nothing_to_judge(zones: ZoneServer) -> None:
    assert judge(zones, None) == DmarcVerdict(AuthResult.PERMERROR, "")
    assert zones.asked == []


@pytest.mark.parametrize("kind", ["silent", "fail"])
@pytest.mark.parametrize("name", [f"_dmarc.{AUTHOR}", "_dmarc.author.example"])
def test_a_failing_dns_is_a_temporary_error(zones: ZoneServer, kind: str, name: str) -> None:
    (zones.make_fail if kind == "fail" else zones.make_silent)(name)
    assert judge(zones) == DmarcVerdict(AuthResult.TEMPERROR, AUTHOR)


def test_what_could_not_be_judged_matters_only_when_it_is_aligned_and_nothing_else_passes(zones: ZoneServer) -> None:
    zones.add(f"_dmarc.{AUTHOR}", "TXT", "v=DMARC1; p=reject")
    unknown = signed("other.example", AuthResult.TEMPERROR)
    assert judge(zones, signatures=(unknown,)).result is AuthResult.FAIL
    assert judge(zones, signatures=(signed(AUTHOR), signed(AUTHOR, AuthResult.TEMPERROR))).result is AuthResult.PASS


def test_what_a_sealer_saw_is_aligned_like_anything_else(zones: ZoneServer) -> None:
    zones.add(f"_dmarc.{AUTHOR}", "TXT", "v=DMARC1; p=reject; aspf=s")
    assert judge(zones, relayed=Evidence(spf="author.example")).result is AuthResult.FAIL
    assert judge(zones, relayed=Evidence(dkim=("author.example",))).result is AuthResult.PASS
