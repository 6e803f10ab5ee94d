"""The domain of a From header is the one that every reader sees, or there is none (CVE-2023-27043)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound.authentication import from_domain
from inbound.reading.parse import parse_message


@pytest.mark.parametrize(
    "value",
    [
        "a@b.example",
        " <a@B.Example> ",
        "Alice B. Carol <a@b.example>",
        '"Carol, Alice" <a@b.example>',
        '"ceo@bank.example" <a@b.example>',
        '"a@b" <a@b.example>',
        "a@b.example (Alice (at (home)))",
        "(<x@evil.example>) a@b.example",
        '"x@evil.example x"@b.example',
        "a@b.example, Bob <c@b.example>",
        "a@b.example <a@b.example>",
        "Shop, Inc. <a@b.example>",
        "[List] Alice <a@b.example>",
        "=?utf-8?q?x=40evil=2Eexample?= <a@b.example>",
        "Al\r\n ice\r\n\t<a@b.example>",
        "Al\\(ice <a@b.example>".replace("\\(", ""),
        "a@b.example.",
        "a@b.example,",
        "(\\)) a@b.example",
        "Müller <a@b.example>",
    ],
)
def test_what_everybody_reads_alike_has_a_domain(value: str) -> None:
    assert from_domain([value]) == "b.example"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Alice",
        "a@b.example, c@d.example",
        "alice@example.org)bob@b.example",
        "alice@example.org(<bob@b.example>",
        "alice@example.org <bob@b.example",
        "alice@example.org<bob@b.example>",
        "ceo@bank.example <a@b.example>",
        "<a@b.example> x@evil.example",
        "<a@b.example> <c@b.example>",
        "<<a@b.example>>",
        "<@evil.example:a@b.example>",
        "a@evil.example@b.example",
        "a@b. example.evil c",
        "a b@b.example",
        "a@b.exam ple",
        "friends: a@b.example;",
        "O'Neil: <a@b.example>",
        "a@[192.0.2.1]",
        "a@localhost",
        "a@b..example",
        '"unclosed <a@b.example>',
        "a@b.example\x00",
        "a@b.example\\",
        "a@" + "b" * 64 + ".example",
        "x" * 70_000 + " <a@b.example>",
    ],
)
def test_what_could_be_read_in_two_ways_has_none(value: str) -> None:
    assert from_domain([value]) is None


def test_there_must_be_exactly_one_header() -> None:
    assert from_domain([]) is None
    assert from_domain(["a@b.example", "a@b.example"]) is None


def test_names_are_told_in_ascii() -> None:
    assert from_domain(["a@MÜNCHEN.example"]) == "xn--mnchen-3ya.example"
    assert from_domain(["a@münchen.example".encode().decode("ascii", "surrogateescape")]) == "xn--mnchen-3ya.example"


@given(st.text('ab@.,<>()[]:;"\\ \r\n=?', max_size=30).map(lambda text: f"{text}x@y.example"))
def test_raw_and_shown_values_have_the_same_domain_or_none(value: str) -> None:
    """Rules judge the value that is shown, DMARC the raw one."""
    message = parse_message(f"From: {value}\r\n\r\n".encode())
    shown = [text for name, text in message.headers if name == "From"]
    unfolded = value.replace("\r\n ", " ")
    if len(shown) == 1 and not {"\r", "\n"} & set(unfolded):
        assert from_domain(shown) == from_domain([value])
