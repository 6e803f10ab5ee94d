"""Verifying sending domains against a real DNS server: what is right, what is wrong, and what nobody can tell yet."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.authentication.keys import KeyProblem, read_key
from core.authentication.tags import MalformedTags
from core.dns_lookup import DnsLookup, LookupBudget, RecordType
from core.mta_sts import DnsRecord
from core.sending.domain_questions import MAX_SHOWN, MAX_SHOWN_LENGTH
from core.sending.domain_status import CheckResult, CheckState, DomainStatus, Expectation
from core.sending.domain_verification import DomainVerifier
from core.sending.sending_domains import (
    KeyAlgorithm,
    KeyRecord,
    SendingHosts,
    key_name,
    new_key,
    operator_records,
    records_without_cname,
    required_records,
)
from core.verdicts import DmarcPolicy
from tests.authentication_support import lookup_at
from tests.authentication_zones import ZoneServer
from tests.conftest import NOW_MS

VERIFIED, MISSING, WRONG, UNKNOWN = CheckState
DOMAIN = "mail.customer.example"
PARENT = "customer.example"
MTA = f"mta.{DOMAIN}"
RETURNS = "returns.gateway.example"
MX = "mx.gateway.example"
IP = "192.0.2.1"
REPORTS = "dmarc@gateway.example"
HOSTS = SendingHosts(RETURNS, MX, (IP, "2001:db8::1"), REPORTS)
KEY = new_key()
OTHER = new_key(KeyAlgorithm.ED25519)
WANTED = Expectation(DOMAIN, "s1", KEY.public_record, HOSTS)
NAME = key_name("s1", DOMAIN)
PARENT_NAME = key_name("s1", PARENT)


@pytest.fixture
def zones(zones: ZoneServer) -> ZoneServer:
    for record in operator_records(HOSTS):
        publish(zones, record)
    return zones


@pytest.fixture
def lookup(zones: ZoneServer) -> DnsLookup:
    return lookup_at(zones, query_timeout_s=1.0)


def publish(zones: ZoneServer, record: DnsRecord) -> None:
    """What a customer does by copy and paste."""
    preference, _, host = record.value.partition(" ")
    zones.add(record.name, record.type, (int(preference), host) if record.type == "MX" else record.value)


def publish_all(zones: ZoneServer, *leaving_out: str) -> None:
    for needed in required_records(DOMAIN, [KeyRecord("s1", KEY.public_record)], HOSTS):
        if needed.record.name not in leaving_out:
            publish(zones, needed.record)


def verify(lookup: DnsLookup, wanted: Expectation = WANTED) -> DomainStatus:
    return DomainVerifier(lookup, lambda: NOW_MS).verify(wanted)


def states(status: DomainStatus) -> tuple[CheckState, ...]:
    return tuple(check.state for check in (status.dkim, status.return_path, status.spf, status.dmarc))


def test_what_we_ask_for_is_what_we_verify(zones: ZoneServer, lookup: DnsLookup) -> None:
    publish_all(zones)
    status = verify(lookup)
    assert states(status) == (VERIFIED,) * 4
    assert [check.cure for check in (status.dkim, status.return_path, status.spf, status.dmarc)] == [""] * 4
    assert (status.signing_domain, status.dmarc_policy) == (DOMAIN, DmarcPolicy.NONE)
    assert status.dkim.found == (DnsRecord(NAME, "TXT", KEY.public_record),)
    assert status.return_path.found == (DnsRecord(MTA, "CNAME", RETURNS),)


def test_the_way_without_a_cname_is_verified_too(zones: ZoneServer, lookup: DnsLookup) -> None:
    publish_all(zones, MTA)
    for needed in records_without_cname(DOMAIN, HOSTS):
        publish(zones, needed.record)
    status = verify(lookup)
    assert states(status) == (VERIFIED,) * 4
    assert status.return_path.found == (DnsRecord(MTA, "MX", f"10 {MX}"),)


def test_nothing_published_is_missing_and_says_what_to_add(zones: ZoneServer, lookup: DnsLookup) -> None:
    status = verify(lookup)
    assert states(status) == (MISSING,) * 4
    assert status.signing_domain is None
    assert [record.name for record in status.dkim.looked_for] == [NAME, PARENT_NAME]
    assert NAME in status.dkim.cure
    assert f"Make {MTA} a CNAME of {RETURNS}" in status.return_path.cure
    assert f"v=spf1 include:{RETURNS} -all" in status.spf.cure
    assert "Not required" in status.dmarc.cure


def test_a_record_just_added_is_seen_whatever_was_remembered(zones: ZoneServer, lookup: DnsLookup) -> None:
    assert not lookup.find(NAME, RecordType.TXT, LookupBudget(5)).exists
    assert verify(lookup).dkim.state is MISSING
    publish_all(zones)
    assert not lookup.find(NAME, RecordType.TXT, LookupBudget(5)).exists  # remembered
    assert states(verify(lookup)) == (VERIFIED,) * 4


def test_one_verification_asks_each_question_once(zones: ZoneServer, lookup: DnsLookup) -> None:
    publish_all(zones)
    verify(lookup)
    asked = [(name, kind) for name, kind, _ in zones.asked]
    assert len(asked) == len(set(asked)) <= 8


# The key


def key_check(lookup: DnsLookup, wanted: Expectation = WANTED) -> CheckResult:
    return DomainVerifier(lookup).check_key(wanted.domain, wanted.selector, wanted.public_record).check


POINTS = KEY.public_record.partition("p=")[2]


@pytest.mark.parametrize(
    "value",
    [
        f"p={POINTS}",
        f"k=rsa; p={POINTS}; v2=x",
        f"v=DKIM1;k=rsa;p={POINTS};",
        f"v=DKIM1; k=rsa; p={POINTS[:100]}  {POINTS[100:200]}\t{POINTS[200:]} ; s=email; h=sha256:sha1; t=s",
        [piece.encode() for piece in (KEY.public_record[:3], KEY.public_record[3:200], KEY.public_record[200:])],
        [bytes([octet]) for octet in KEY.public_record.encode()],
    ],
    ids=["short", "no version", "tight", "white space and more tags", "split", "split finely"],
)
def test_the_same_key_in_other_words_is_verified(
    zones: ZoneServer, lookup: DnsLookup, value: str | list[bytes]
) -> None:
    zones.add(NAME, "TXT", value)
    check = key_check(lookup)
    assert (check.state, check.cure) == (VERIFIED, "")


def test_a_key_behind_aliases_is_verified(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "CNAME", "s1.keys.gateway.example")
    zones.add("s1.keys.gateway.example", "CNAME", "real.gateway.example")
    zones.add("real.gateway.example", "TXT", KEY.public_record)
    assert key_check(lookup).state is VERIFIED


def test_an_ed25519_key_is_verified(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "TXT", OTHER.public_record)
    assert key_check(lookup, dataclasses.replace(WANTED, public_record=OTHER.public_record)).state is VERIFIED
    assert "not one for rsa" in key_check(lookup).cure


def test_a_key_of_the_parent_signs_for_the_parent(zones: ZoneServer, lookup: DnsLookup) -> None:
    publish_all(zones, NAME)
    zones.add(PARENT_NAME, "TXT", KEY.public_record)
    status = verify(lookup)
    assert states(status) == (VERIFIED,) * 4
    assert status.signing_domain == PARENT
    zones.remove(f"_dmarc.{DOMAIN}", "TXT")
    zones.add(f"_dmarc.{DOMAIN}", "TXT", f"v=DMARC1; p=reject; adkim=s; rua=mailto:{REPORTS}")
    status = verify(lookup)
    assert status.dmarc.state is VERIFIED
    assert f"adkim=s does not let signatures of {PARENT} count" in status.dmarc.cure


def test_a_wrong_key_of_the_domain_does_not_hide_the_right_one_of_its_parent(
    zones: ZoneServer, lookup: DnsLookup
) -> None:
    zones.add(NAME, "TXT", "v=spf1 -all")
    zones.add(PARENT_NAME, "TXT", KEY.public_record)
    assert key_check(lookup).state is VERIFIED


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([new_key().public_record], "is another one"),
        ([OTHER.public_record], "not one for rsa"),
        ([KEY.public_record[:255]], "cut off"),
        (["v=DKIM1; k=rsa; p="], "revoked"),
        (["v=spf1 -all"], "is no key"),
        ([""], "is no key"),
        ([f'"{KEY.public_record[:255]}" "{KEY.public_record[255:]}"'], "quotation marks"),
        ([KEY.public_record.replace(";", "\\;")], "backslashes"),
        ([KEY.public_record + "; h=sha1"], "does not allow sha256"),
        ([KEY.public_record, "v=spf1 -all"], "2 TXT records"),
    ],
    ids=["another", "kind", "cut", "revoked", "spf", "empty", "quoted", "escaped", "sha1", "two"],
)
def test_a_key_that_does_not_do_is_wrong_and_says_why(
    zones: ZoneServer, lookup: DnsLookup, values: list[str], words: str
) -> None:
    zones.add(NAME, "TXT", *values)
    check = key_check(lookup)
    assert check.state is WRONG
    assert words in check.cure
    assert {record.value for record in check.found} == {value[:500] for value in values}


def test_a_key_for_testing_is_verified_with_advice(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "TXT", KEY.public_record + "; t=y")
    check = key_check(lookup)
    assert check.state is VERIFIED
    assert "t=y" in check.cure


@pytest.mark.parametrize("zone", [DOMAIN, PARENT])
def test_a_domain_that_was_appended_twice_is_found_out(zones: ZoneServer, lookup: DnsLookup, zone: str) -> None:
    zones.add(f"{NAME}.{zone}", "TXT", KEY.public_record)
    zones.add(f"{MTA}.{zone}", "CNAME", RETURNS)
    status = verify(lookup)
    assert (status.dkim.state, status.return_path.state) == (MISSING, MISSING)
    assert f"The record is at {NAME}.{zone}: your DNS provider appends the domain" in status.dkim.cure
    assert f"The record is at {MTA}.{zone}" in status.return_path.cure


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300), st.text(max_size=60).map(lambda text: KEY.public_record.encode()[:-1] + text.encode())
    )
)
def test_whatever_is_published_is_judged_as_receivers_do(zones: ZoneServer, lookup: DnsLookup, text: bytes) -> None:
    zones.remove(NAME, "TXT")
    zones.add(NAME, "TXT", text)
    check = key_check(lookup)
    try:
        found = read_key(text, "rsa").public
    except (KeyProblem, MalformedTags):
        assert check.state is WRONG
    else:
        assert check.verified is (found == read_key(KEY.public_record.encode(), "rsa").public)
    assert all(record.value.isprintable() for record in check.found)


def test_what_is_shown_is_bounded(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(NAME, "TXT", *(f"{number}\x1b[2J" + "x" * 2000 for number in range(20)))
    found = key_check(lookup).found
    assert len(found) == MAX_SHOWN
    assert all(len(record.value) <= MAX_SHOWN_LENGTH + 1 and record.value.isprintable() for record in found)


# The return path


def path_check(lookup: DnsLookup) -> CheckResult:
    return verify(lookup).return_path


def test_a_chain_of_aliases_leads_to_us(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(MTA, "CNAME", "customers.gateway.example")
    zones.add("customers.gateway.example", "CNAME", RETURNS.upper())
    assert path_check(lookup).state is VERIFIED


@pytest.mark.parametrize(
    ("kind", "value", "state"),
    [
        ("MX", (10, MX), VERIFIED),
        ("MX", (10, "another.gateway.example"), VERIFIED),
        ("A", "192.0.2.7", VERIFIED),
        ("AAAA", "2001:db8::7", VERIFIED),
        ("MX", (0, ""), WRONG),
        ("PTR", "somewhere.example", WRONG),
        (None, None, WRONG),
    ],
    ids=["our mx", "the operator's choice", "address", "address with IPv6", "null mx", "no mail", "nothing"],
)
def test_what_an_alias_leads_to_must_take_mail(
    zones: ZoneServer, lookup: DnsLookup, kind: str | None, value: str | tuple[int, str], state: CheckState
) -> None:
    publish_all(zones)
    zones.remove(RETURNS, "MX")
    if kind is not None:
        zones.add(RETURNS, kind, value)
    status = verify(lookup)
    assert (status.return_path.state, status.spf.state) == (state, VERIFIED)
    assert [(record.type, record.value) for record in status.return_path.found] == [("CNAME", RETURNS)]
    assert ("for the operator of this gateway" in status.return_path.cure) is (state is WRONG)
    assert (f"{RETURNS} MX 10 {MX}" in status.return_path.cure) is (state is WRONG)


def test_a_dns_that_fails_behind_an_alias_makes_it_unknown(zones: ZoneServer, lookup: DnsLookup) -> None:
    publish_all(zones)
    zones.remove(RETURNS, "MX")
    zones.make_fail(RETURNS)
    assert path_check(lookup).state is UNKNOWN


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([("CNAME", "elsewhere.example")], "points elsewhere"),
        ([("MX", (10, "mx.elsewhere.example"))], "must be mx.gateway.example alone"),
        ([("MX", (10, MX)), ("MX", (5, "mx.elsewhere.example"))], "must be mx.gateway.example alone"),
        ([("MX", (10, MX)), ("MX", (10, "mx.elsewhere.example"))], "must be mx.gateway.example alone"),
        ([("MX", (0, ""))], "must be mx.gateway.example alone"),
        ([("A", "198.51.100.1")], "switch that off"),
        ([("AAAA", "2001:db8::9")], "switch that off"),
    ],
    ids=["alias", "mx", "better mx", "equal mx", "null mx", "proxy", "proxy with IPv6"],
)
def test_a_return_path_to_others_is_wrong(
    zones: ZoneServer, lookup: DnsLookup, records: list[tuple[str, str | tuple[int, str]]], words: str
) -> None:
    for kind, value in records:
        zones.add(MTA, kind, value)
    check = path_check(lookup)
    assert check.state is WRONG
    assert words in check.cure
    assert check.found


def test_a_second_mx_behind_ours_does_no_harm(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(MTA, "MX", (10, MX), (20, "backup.customer.example"))
    assert path_check(lookup).state is VERIFIED


def test_aliases_that_lead_in_a_circle_are_a_dns_that_fails(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(MTA, "CNAME", "a.example")
    zones.add("a.example", "CNAME", MTA)
    assert path_check(lookup).state is UNKNOWN


# SPF


def spf_check(lookup: DnsLookup, hosts: SendingHosts = HOSTS) -> CheckResult:
    return verify(lookup, dataclasses.replace(WANTED, hosts=hosts)).spf


GOOD_POLICIES = [
    f"v=spf1 include:{RETURNS} -all",
    f"V=SPF1 include:_spf.other.example include:{RETURNS} ~all",
    f"v=spf1 redirect={RETURNS}",
    f"v=spf1 ip4:{IP} ip6:2001:db8::/64 -all",
    "v=spf1 include:deep.customer.example ?all",
]
BAD_POLICIES = [
    ("v=spf1 -all", "'fail' for 192.0.2.1"),
    ("v=spf1 ~all", "'softfail'"),
    (f"v=spf1 ip4:{IP} -all", "'fail' for 2001:db8::1"),
    (f"v=spf1 -all include:{RETURNS}", "'fail'"),
    ("v=spf1 include:nowhere.example -all", "in error"),
    ("v=spf1 ip4:300.1.1.1 -all", "cannot be read"),
    ("v=spf1 " + " ".join(f"a:{number}.example" for number in range(11)), "in error"),
]


@pytest.mark.parametrize("policy", GOOD_POLICIES)
def test_a_policy_that_lets_our_addresses_send_is_verified(zones: ZoneServer, lookup: DnsLookup, policy: str) -> None:
    zones.add("_spf.other.example", "TXT", "v=spf1 ip4:203.0.113.1 -all")
    zones.add("deep.customer.example", "TXT", f"v=spf1 include:{RETURNS} -all")
    zones.add(MTA, "TXT", "something else", policy)
    check = spf_check(lookup)
    assert (check.state, check.cure) == (VERIFIED, "")
    assert [record.value for record in check.found] == [policy]


@pytest.mark.parametrize(("policy", "words"), BAD_POLICIES)
def test_a_policy_that_does_not_is_wrong(zones: ZoneServer, lookup: DnsLookup, policy: str, words: str) -> None:
    zones.add(MTA, "TXT", policy)
    check = spf_check(lookup)
    assert check.state is WRONG
    assert words in check.cure
    assert f"CNAME of {RETURNS}" in check.cure


def test_two_policies_are_an_error(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(MTA, "TXT", GOOD_POLICIES[0], GOOD_POLICIES[2])
    assert "more than one" in spf_check(lookup).cure


def test_a_policy_for_everybody_gets_advice(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(MTA, "TXT", "v=spf1 +all")
    check = spf_check(lookup)
    assert check.state is VERIFIED
    assert "anybody" in check.cure


def test_a_fault_of_the_operator_is_not_put_on_the_customer(zones: ZoneServer, lookup: DnsLookup) -> None:
    publish_all(zones)
    zones.remove(RETURNS, "TXT")
    check = spf_check(lookup)
    assert check.state is MISSING
    assert "for the operator of this gateway" in check.cure
    zones.add(RETURNS, "TXT", "v=spf1 -all")
    check = spf_check(lookup)
    assert check.state is WRONG
    assert "for the operator of this gateway" in check.cure


UNNAMED = dataclasses.replace(HOSTS, sending_ips=())


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        (f"v=spf1 include:{RETURNS} -all", VERIFIED),
        (f"v=spf1 ip4:203.0.113.1 INCLUDE:{RETURNS.upper()} ~all", VERIFIED),
        (f"v=spf1 redirect={RETURNS}", VERIFIED),
        (f"v=spf1 a:{MX} -all", VERIFIED),
        (f"v=spf1 mx:{RETURNS} -all", VERIFIED),
        ("v=spf1 +all", VERIFIED),
        (f"v=spf1 -include:{RETURNS} -all", WRONG),
        (f"v=spf1 -all include:{RETURNS}", WRONG),
        ("v=spf1 include:other.example -all", WRONG),
        ("v=spf1", WRONG),
    ],
)
def test_without_addresses_our_names_count(
    zones: ZoneServer, lookup: DnsLookup, policy: str, state: CheckState
) -> None:
    zones.add(MTA, "TXT", policy)
    assert spf_check(lookup, UNNAMED).state is state


def test_without_addresses_a_record_of_ours_by_alias_counts(zones: ZoneServer, lookup: DnsLookup) -> None:
    publish_all(zones)
    assert spf_check(lookup, UNNAMED).state is VERIFIED


# DMARC


@pytest.mark.parametrize(
    ("name", "policy", "expected"),
    [
        (DOMAIN, "v=DMARC1; p=reject", DmarcPolicy.REJECT),
        (DOMAIN, "v=DMARC1;p=quarantine;sp=none", DmarcPolicy.QUARANTINE),
        (PARENT, "v=DMARC1; p=reject", DmarcPolicy.REJECT),
        (PARENT, "v=DMARC1; p=reject; sp=none", DmarcPolicy.NONE),
    ],
)
def test_the_policy_in_force_is_shown(
    zones: ZoneServer, lookup: DnsLookup, name: str, policy: str, expected: DmarcPolicy
) -> None:
    zones.add(f"_dmarc.{name}", "TXT", policy, "something else")
    status = verify(lookup)
    assert (status.dmarc.state, status.dmarc_policy) == (VERIFIED, expected)
    assert f"mailto:{REPORTS}" in status.dmarc.cure
    assert status.dmarc.found == (DnsRecord(f"_dmarc.{name}", "TXT", policy),)


@pytest.mark.parametrize(
    "policies", [["v=DMARC1"], ["v=DMARC1; p=maybe"], ["v=DMARC1; p=none", "v=DMARC1; p=reject"], ["v=DMARC1; =;"]]
)
def test_a_policy_that_receivers_ignore_is_wrong(zones: ZoneServer, lookup: DnsLookup, policies: list[str]) -> None:
    zones.add(f"_dmarc.{DOMAIN}", "TXT", *policies)
    zones.add(f"_dmarc.{PARENT}", "TXT", "v=DMARC1; p=none")
    status = verify(lookup)
    assert (status.dmarc.state, status.dmarc_policy) == (WRONG, None)
    assert "leave one like v=DMARC1; p=none" in status.dmarc.cure


# A DNS that fails


@pytest.mark.parametrize(
    ("name", "place"),
    [(NAME, 0), (PARENT_NAME, 0), (MTA, 1), (MTA, 2), (f"_dmarc.{DOMAIN}", 3), (f"_dmarc.{PARENT}", 3)],
)
@pytest.mark.parametrize("how", ["fail", "silent"])
def test_a_dns_that_fails_says_nothing(zones: ZoneServer, lookup: DnsLookup, name: str, place: int, how: str) -> None:
    publish_all(zones, NAME, MTA, f"_dmarc.{DOMAIN}")
    (zones.make_fail if how == "fail" else zones.make_silent)(name)
    status = verify(lookup)
    result = (status.dkim, status.return_path, status.spf, status.dmarc)[place]
    assert result.state is UNKNOWN
    assert "try again" in result.cure
    assert not result.verified
    assert (result.kept(True), result.kept(False)) == (True, False)


def test_a_failing_dns_behind_what_was_found_does_not_matter(zones: ZoneServer, lookup: DnsLookup) -> None:
    publish_all(zones)
    for name in (PARENT_NAME, f"_dmarc.{PARENT}"):
        zones.make_fail(name)
    assert states(verify(lookup)) == (VERIFIED,) * 4


def test_spf_of_others_that_fails_is_unknown(zones: ZoneServer, lookup: DnsLookup) -> None:
    zones.add(MTA, "TXT", f"v=spf1 include:silent.example include:{RETURNS} -all")
    zones.make_fail("silent.example")
    assert spf_check(lookup).state is UNKNOWN


def test_answers_are_kept_as_they_are() -> None:
    for state, kept in ((VERIFIED, True), (MISSING, False), (WRONG, False)):
        assert CheckResult(state, ()).kept(not kept) is kept
