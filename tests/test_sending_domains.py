"""Keys and records of sending domains: what is made fits what is published, and survives being copied."""

from __future__ import annotations

import re

import dns.rdatatype
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from core.authentication.keys import read_key
from core.errors import InvalidField
from core.mta_sts import DnsRecord
from core.sending.sending_domains import (
    MAX_DOMAIN_LENGTH,
    TXT_STRING_OCTETS,
    KeyAlgorithm,
    KeyRecord,
    Purpose,
    RequiredRecord,
    SendingHosts,
    key_name,
    key_record,
    mta_domain,
    new_key,
    operator_records,
    public_octets,
    records_without_cname,
    required_records,
    selector_for,
    sending_domain,
    signing_domains,
    txt_strings,
    zone_line,
)
from tests.conftest import NOW_MS

HOSTS = SendingHosts("returns.gateway.example", "mx.gateway.example", ("192.0.2.1", "2001:db8::1"), "d@gateway.example")


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_a_new_key_fits_its_record(algorithm: KeyAlgorithm) -> None:
    pair = new_key(algorithm)
    private = load_pem_private_key(pair.private_pem.encode(), None)
    assert isinstance(private, RSAPrivateKey | Ed25519PrivateKey)
    published = read_key(pair.public_record.encode(), algorithm.value)
    assert public_octets(published.public) == public_octets(private.public_key())
    assert key_record(private.public_key()) == pair.public_record
    assert pair.private_pem.startswith("-----BEGIN PRIVATE KEY-----")
    assert not published.is_testing
    assert not published.is_strict


def test_keys_are_rsa_with_2048_bits_unless_asked_otherwise() -> None:
    pair = new_key()
    private = load_pem_private_key(pair.private_pem.encode(), None)
    assert isinstance(private, RSAPrivateKey)
    assert private.key_size == 2048
    assert pair.public_record.startswith("v=DKIM1; k=rsa; p=MII")


def test_selectors_say_when_and_differ_by_key() -> None:
    first, second = (selector_for(new_key(KeyAlgorithm.ED25519).public_record, NOW_MS) for _ in range(2))
    assert re.fullmatch(r"pb20260921[a-z2-7]{4}", first)
    assert first != second


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        (" Example.COM. ", "example.com"),
        ("mail.bücher.example", "mail.xn--bcher-kva.example"),
        ("a-b.co.uk", "a-b.co.uk"),
        ("x" * 60 + ".example.com", "x" * 60 + ".example.com"),
    ],
)
def test_domains_are_read_as_people_write_them(text: str, domain: str) -> None:
    assert sending_domain(text) == domain


NO_DOMAINS = ["", "com", "co.uk", "github.io", "192.0.2.1", "[192.0.2.1]", "alice@example.com", "https://example.com"]
ODD_DOMAINS = ["a_b.example.com", "-a.example.com", "a-.example.com", "a..example.com", "*.example.com", "a b.example"]
UNREADABLE = ["example.com\nfoo", "\udcff.example", "a." * 120 + "example.com"]


@pytest.mark.parametrize("text", [*NO_DOMAINS, *ODD_DOMAINS, *UNREADABLE])
def test_what_is_no_domain_to_send_from_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^domain: "):
        sending_domain(text)


def test_the_longest_domain_leaves_room_for_its_records() -> None:
    domain = ("a" * 49 + ".") * 4 + "b" * (MAX_DOMAIN_LENGTH - 200 - 4) + ".com"
    assert len(sending_domain(domain)) == MAX_DOMAIN_LENGTH
    assert len(key_name(selector_for("x", NOW_MS), domain)) == 253
    assert len(mta_domain(domain)) <= 253
    with pytest.raises(InvalidField, match="at most"):
        sending_domain("c" + domain)


@pytest.mark.parametrize(
    ("domain", "signers"),
    [
        ("example.com", ("example.com",)),
        ("mail.example.com", ("mail.example.com", "example.com")),
        ("a.b.example.com", ("a.b.example.com", "b.example.com")),
        ("example.co.uk", ("example.co.uk",)),
        ("me.github.io", ("me.github.io",)),
    ],
)
def test_a_parent_signs_for_its_child_unless_strangers_register_there(domain: str, signers: tuple[str, ...]) -> None:
    assert signing_domains(domain) == signers


def test_the_records_can_be_copied() -> None:
    records = required_records("example.com", [KeyRecord("s1", "v=DKIM1; k=rsa; p=AAAA")], HOSTS)
    assert [(needed.purpose, needed.is_required) for needed in records] == [
        (Purpose.RETURN_PATH, True),
        (Purpose.DKIM, True),
        (Purpose.DMARC, False),
    ]
    assert [needed.record for needed in records] == [
        DnsRecord("mta.example.com", "CNAME", "returns.gateway.example"),
        DnsRecord("s1._domainkey.example.com", "TXT", "v=DKIM1; k=rsa; p=AAAA"),
        DnsRecord("_dmarc.example.com", "TXT", "v=DMARC1; p=none; rua=mailto:d@gateway.example"),
    ]


def test_every_key_and_the_tracking_host_have_a_record() -> None:
    links = DnsRecord("links.example.com", "CNAME", "gateway.example")
    keys = [KeyRecord("s1", "v=DKIM1; k=rsa; p=AAAA"), KeyRecord("s2", "v=DKIM1; k=ed25519; p=BBBB")]
    records = required_records("example.com", keys, HOSTS, links)
    assert [needed.record.name for needed in records] == [
        "mta.example.com",
        "s1._domainkey.example.com",
        "s2._domainkey.example.com",
        "links.example.com",
        "_dmarc.example.com",
    ]
    assert records[3] == RequiredRecord(Purpose.TRACKING, links, is_required=False)


def test_the_gateways_own_domain_has_no_alias_of_itself() -> None:
    hosts = SendingHosts("mta.gateway.example", "mx.gateway.example", ("192.0.2.1",))
    records = required_records("gateway.example", [], hosts)
    assert [needed.record for needed in records[:2]] == list(operator_records(hosts))
    assert records_without_cname("gateway.example", hosts) == ()


def test_there_is_a_way_without_a_cname() -> None:
    assert [needed.record for needed in records_without_cname("example.com", HOSTS)] == [
        DnsRecord("mta.example.com", "MX", "10 mx.gateway.example"),
        DnsRecord("mta.example.com", "TXT", "v=spf1 include:returns.gateway.example -all"),
    ]


def test_the_operator_is_told_his_own_records() -> None:
    assert operator_records(HOSTS) == (
        DnsRecord("returns.gateway.example", "MX", "10 mx.gateway.example"),
        DnsRecord("returns.gateway.example", "TXT", "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 -all"),
        DnsRecord("*._report._dmarc.gateway.example", "TXT", "v=DMARC1"),
    )
    unnamed = SendingHosts("returns.gateway.example", "mx.gateway.example")
    assert [record.value for record in operator_records(unnamed)] == [
        "10 mx.gateway.example",
        "v=spf1 a:mx.gateway.example -all",
    ]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=700))
def test_zone_files_give_texts_back_as_they_were(text: str) -> None:
    strings = txt_strings(text)
    assert "".join(strings) == text
    assert max(map(len, strings)) <= TXT_STRING_OCTETS
    (record,) = read_zone(zone_line(DnsRecord("s1._domainkey.example.com", "TXT", text)), "TXT")
    assert b"".join(record.strings).decode() == text


def test_zone_files_hold_all_kinds_of_records() -> None:
    pair = new_key()
    keys = [KeyRecord("s1", pair.public_record)]
    links = DnsRecord("links.example.com", "A", "192.0.2.1")
    lines = [zone_line(needed.record) for needed in required_records("example.com", keys, HOSTS, links)]
    lines += [zone_line(needed.record) for needed in records_without_cname("b.example.com", HOSTS)]
    text = "\n".join(lines)
    assert [str(record.target) for record in read_zone(text, "CNAME")] == ["returns.gateway.example."]
    assert [str(record.exchange) for record in read_zone(text, "MX")] == ["mx.gateway.example."]
    assert [record.address for record in read_zone(text, "A")] == ["192.0.2.1"]
    assert max(len(string) for record in read_zone(text, "TXT") for string in record.strings) == TXT_STRING_OCTETS


def read_zone(lines: str, kind: str) -> list[dns.rdata.Rdata]:
    head = "@ 60 IN SOA ns.example.com. a.example.com. 1 1 1 1 1\n@ 60 IN NS ns.example.com.\n"
    zone = dns.zone.from_text("$TTL 60\n" + head + lines + "\n", origin="example.com.", relativize=False)
    return [record for _, records in zone.iterate_rdatasets(dns.rdatatype.from_text(kind)) for record in records]
