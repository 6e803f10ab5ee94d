"""One reading of a mailbox, whatever is written between the brackets."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.addresses import MAX_PATH_OCTETS, normalise_domain, parse_mailbox, strip_source_route


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("a@example.com", "a", "example.com"),
        ("A.b+Tag@Example.COM", "A.b+Tag", "example.com"),
        ("a@example.com.", "a", "example.com"),
        ("a..b.@example.com", "a..b.", "example.com"),  # some providers hand these out
        ("!#$%&'*+/=?^_`{|}~-@example.com", "!#$%&'*+/=?^_`{|}~-", "example.com"),
        ('"a b"@example.com', "a b", "example.com"),
        (r'"a\"b\\c"@example.com', 'a"b\\c', "example.com"),
        ('"a@evil.example"@example.com', "a@evil.example", "example.com"),
        ('"x@gmail.com x"@internal.example', "x@gmail.com x", "internal.example"),
        ("ü@bücher.example", "ü", "xn--bcher-kva.example"),
        ("a@faß.example", "a", "xn--fa-hia.example"),  # IDNA 2008, where 2003 said "fass"
        ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
        ("a@[IPv6:2001:db8::1]", "a", "[ipv6:2001:db8::1]"),
        ("a@my_host.example", "a", "my_host.example"),  # no host name, but such names receive mail
        ("a@localhost", "a", "localhost"),
    ],
)
def test_a_mailbox_is_taken_apart(text: str, local: str, domain: str) -> None:
    mailbox = parse_mailbox(text)
    assert mailbox is not None
    assert (mailbox.text, mailbox.local, mailbox.domain) == (text, local, domain)


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "a", "a@", "@example.com", "a b@example.com", "a@b@example.com", "a@example .com", "a@-example.com",
        "a@example..com", "a@.example.com", f"a@{'x' * 64}.example", f"a@{'x.' * 127}example", '"a@example.com',
        'a"b"@example.com', '"a"b@example.com', '"a\r\nb"@example.com', "a\r\n@example.com", "a@example.com\r\n",
        "a\x00@example.com", "<a@example.com>", "a@example.com, b@example.com", "a@[192.0.2.1", "a@[]",
        "a@ex\udcffample",
        "\udcff@example.com", "\ud800@example.com",  # noqa: PT014 (two different surrogates)
        "a@xn--\u3002", "a@exa%mple.com", "a@127.0.0.1:25",
        f"{'x' * (MAX_PATH_OCTETS - 11)}@example.com",
    ],
)  # fmt: skip
def test_anything_else_is_no_mailbox(text: str) -> None:
    assert parse_mailbox(text) is None


def test_a_mailbox_may_have_as_many_octets_as_the_limit_says() -> None:
    assert parse_mailbox(f"{'x' * (MAX_PATH_OCTETS - 12)}@example.com") is not None
    assert parse_mailbox(f"{'ü' * (MAX_PATH_OCTETS // 2 - 6)}@example.com") is not None
    assert parse_mailbox(f"{'ü' * (MAX_PATH_OCTETS // 2 - 5)}@example.com") is None


@pytest.mark.parametrize(
    ("local", "untagged"), [("Abc", "abc"), ("abc+x", "abc"), ("abc+x+y", "abc"), ("+x", ""), ('"abc+x"', "abc")]
)
def test_the_tag_ends_the_local_part(local: str, untagged: str) -> None:
    mailbox = parse_mailbox(f"{local}@example.com")
    assert mailbox is not None
    assert mailbox.untagged_local == untagged


@pytest.mark.parametrize(
    ("path", "mailbox"),
    [
        ("a@example.com", "a@example.com"),
        ("@one.example:a@example.com", "a@example.com"),
        ("@one.example,@two.example:a@example.com", "a@example.com"),
        ("@one.example a@example.com", "@one.example a@example.com"),
        ("@", "@"),
    ],
)
def test_a_source_route_is_dropped_and_never_acted_on(path: str, mailbox: str) -> None:
    assert strip_source_route(path) == mailbox


@pytest.mark.parametrize("sign", ["%", "!", "=", "/"])
def test_old_routing_characters_in_a_local_part_mean_nothing(sign: str) -> None:
    mailbox = parse_mailbox(f"user{sign}other.example@example.com")
    assert mailbox is not None
    assert mailbox.domain == "example.com"


@given(st.text(st.characters(codec=None), max_size=80))
def test_reading_is_total_and_what_is_read_has_one_at_sign_outside_quotes(text: str) -> None:
    mailbox = parse_mailbox(text)
    if mailbox is not None:
        assert mailbox.domain.isascii()
        assert mailbox.domain == mailbox.domain.lower()
        assert normalise_domain(mailbox.text.rpartition("@")[2]) == mailbox.domain


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,8}){1,3}", fullmatch=True))
def test_a_normal_domain_stays_itself(domain: str) -> None:
    if "--" not in domain:
        assert normalise_domain(domain) == normalise_domain(domain.upper()) == domain


@pytest.mark.parametrize("piece", ["a.", "@a,", '\\"', "+", '"', "ü."])
def test_a_hostile_path_takes_no_more_than_linear_time(piece: str) -> None:
    long = piece * 50_000
    started = time.thread_time()
    for text in (long, f"@{long}", f'"{long}', f"{long}@{long}", f"@{long}:a@b"):
        parse_mailbox(text)
        strip_source_route(text[:MAX_PATH_OCTETS])
    assert time.thread_time() - started < 0.5
