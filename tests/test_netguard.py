"""Which addresses may be called, and which URLs are taken at all."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigurationError, InvalidField, TargetBlocked
from core.netguard import (
    LOOPBACK,
    MAX_URL_LENGTH,
    TargetPolicy,
    check_url,
    is_public,
    parse_networks,
    target_host,
)

PRIVATE_IPV4 = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.254", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "172.16.0.1", "172.31.255.254", "192.0.0.1", "192.0.2.1", "192.168.1.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
]  # fmt: skip
PRIVATE_IPV6 = [
    "::", "::1", "fe80::1", "febf::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "100::1", "2001:db8::1",
    "::127.0.0.1", "::10.0.0.1",  # IPv4-compatible, long deprecated
    "5f00::1", "4000::1", "e000::1",  # nothing public is assigned outside 2000::/3
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::1"]


@pytest.mark.parametrize("address", [*PRIVATE_IPV4, *PRIVATE_IPV6])
def test_an_address_that_is_not_on_the_internet_is_refused(address: str) -> None:
    with pytest.raises(TargetBlocked, match="PILLARBOX_ALLOW_PRIVATE_TARGETS"):
        TargetPolicy().check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_called(address: str) -> None:
    TargetPolicy().check(address)


@pytest.mark.parametrize("inner", PRIVATE_IPV4)
@pytest.mark.parametrize("form", ["mapped", "nat64", "6to4", "teredo"])
def test_a_private_ipv4_address_inside_an_ipv6_address_is_refused(form: str, inner: str) -> None:
    with pytest.raises(TargetBlocked):
        TargetPolicy().check(str(embed(form, inner)))


def test_a_public_ipv4_address_behind_nat64_may_be_called() -> None:
    TargetPolicy().check(str(embed("nat64", "8.8.8.8")))


def test_a_zone_does_not_hide_an_address() -> None:
    with pytest.raises(TargetBlocked):
        TargetPolicy().check("fe80::1%eth0")


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "::1"])
def test_an_allowed_network_may_be_called_in_either_form(address: str) -> None:
    TargetPolicy(LOOPBACK).check(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1"])
def test_an_allowed_network_opens_nothing_else(address: str) -> None:
    with pytest.raises(TargetBlocked):
        TargetPolicy(LOOPBACK).check(address)


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_is_judged_alike_in_all_its_ipv6_disguises(inner: ipaddress.IPv4Address) -> None:
    if not is_public(inner):
        for form in ("mapped", "nat64", "6to4", "teredo"):
            assert not is_public(embed(form, str(inner)))


@given(st.ip_addresses(v=6))
def test_only_global_unicast_and_nat64_are_public(address: ipaddress.IPv6Address) -> None:
    if is_public(address):
        first = int(address) >> 125
        assert first == 0b001 or address in ipaddress.ip_network("64:ff9b::/96")


@given(st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fd00::/8"))
def test_everything_in_an_allowed_network_may_be_called(address: ipaddress.IPv4Address) -> None:
    TargetPolicy(parse_networks("10.0.0.0/8, fd00::/8")).check(str(address))


@pytest.mark.parametrize("text", ["10.0.0.1/8", "banana", "10.0.0.0/99", "10.0.0.0/8;fd00::/8"])
def test_a_wrong_network_names_the_setting_and_the_cure(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"PILLARBOX_ALLOW_PRIVATE_TARGETS: .* 10\.0\.0\.0/8"):
        parse_networks(text, "PILLARBOX_ALLOW_PRIVATE_TARGETS")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com", "https://example.com:8443/path?query=1", "https://user:p%40ss@example.com/",
        "http://[::1]:8080/", "http://127.0.0.1/", "HTTPS://EXAMPLE.COM/", "https://bücher.example/ü",
    ],
)  # fmt: skip
def test_a_url_of_the_right_form_is_taken_as_it_is(url: str) -> None:
    assert check_url("target", url) == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must begin with http"),
        ("example.com", "must begin with http"),
        ("ftp://example.com/", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        ("http://", "must name a host"),
        ("http:///path", "must name a host"),
        ("http://user@/path", "must name a host"),
        ("http://example.com:0/", "must name a host"),
        ("http://example.com:99999/", "is not a URL"),
        ("http://example.com:x/", "is not a URL"),
        ("http://[::1/", "is not a URL"),
        ("http://exa mple.com/", "spaces or control"),
        ("http://example.com/\r\nHost: other", "spaces or control"),
        ("http://example.com/\x00", "spaces or control"),
        ("http://example.com/\x7f", "spaces or control"),
        ("http://example.com/" + "x" * MAX_URL_LENGTH, "is longer than"),
    ],
)
def test_any_other_url_is_refused_with_the_reason(url: str, problem: str) -> None:
    with pytest.raises(InvalidField, match=problem) as caught:
        check_url("target", url)
    assert caught.value.field == "target"


@given(st.text(max_size=60).map("http://".__add__) | st.text(max_size=60))
def test_any_text_is_a_url_or_a_clean_refusal(text: str) -> None:
    try:
        url = check_url("target", text)
    except InvalidField:
        return
    assert target_host(url).startswith(("http://", "https://"))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Example.COM/a", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://user:secret@example.com:444/x", "https://example.com:444"),
        ("http://[2001:DB8::1]:81/", "http://[2001:db8::1]:81"),
    ],
)
def test_fairness_counts_by_scheme_host_and_port_without_credentials(url: str, host: str) -> None:
    assert target_host(url) == host


def embed(form: str, inner: str) -> ipaddress.IPv6Address:
    """An IPv4 address inside an IPv6 one: RFC 4291 2.5.5.2, RFC 6052, RFC 3056, RFC 4380."""
    number = int(ipaddress.IPv4Address(inner))
    return ipaddress.IPv6Address(
        {
            "mapped": 0xFFFF << 32 | number,
            "nat64": 0x0064FF9B << 96 | number,
            "6to4": 0x2002 << 112 | number << 80,
            "teredo": 0x20010000 << 96 | 0x01010101 << 64 | (number ^ 0xFFFFFFFF),
        }[form]
    )
