"""Address lists as they stand in headers, read in one pass."""

from __future__ import annotations

import time
from email.utils import formataddr, getaddresses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inbound.payloads.address_list import MAX_ADDRESSES, NamedAddress, read_addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann <a@example.com>", [("Ann", "a@example.com")]),
        ("a@example.com", [("", "a@example.com")]),
        ('"Müller, J" <j@example.com>, b@example.com', [("Müller, J", "j@example.com"), ("", "b@example.com")]),
        (r'"D \"q\" \\" <d@example.com>', [(r"D \"q\" \ ".replace(r"\"", '"').strip(), "d@example.com")]),
        ("b@example.com (Bob (the) Builder)", [("Bob (the) Builder", "b@example.com")]),
        (
            "Team: a@example.com, B <b@example.com>;, c@example.com",
            [("", "a@example.com"), ("B", "b@example.com"), ("", "c@example.com")],
        ),
        ("undisclosed-recipients:;", []),
        ("Ann ann@example.com", [("Ann", "ann@example.com")]),
        ('"john doe"@example.com', [("", '"john doe"@example.com')]),
        ("ann @ example . com", [("", "ann@example.com")]),
        ("<@relay.example,@b.example:u@example.com>", [("", "u@example.com")]),
        ('"x@trusted.example x"@evil.example', [("", '"x@trusted.example x"@evil.example')]),
        ('"a@trusted.example" <u@evil.example>', [("a@trusted.example", "u@evil.example")]),
        ("Ann", [("Ann", "")]),
        ("a@example.com,, ;, b@example.com", [("", "a@example.com"), ("", "b@example.com")]),
        ("<a@example.com> <b@example.com>", [("", "a@example.com")]),
        ("a <b", [("a", "b")]),
        ("", []),
        ("((((", []),
    ],
)
def test_lists(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(found.name, found.email) for found in read_addresses(text)] == expected


def test_the_text_of_an_entry_reads_back() -> None:
    entry = NamedAddress('Say "hi", \\o/', "a+tag+more@example.com")
    assert read_addresses(f"x@example.com, {entry.text}")[1] == entry
    assert entry.tag == "tag+more"
    assert NamedAddress("", "a@example.com").text == "a@example.com"


NAMES = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"], max_codepoint=0x2FF), max_size=20)
LOCALS = st.from_regex(r"[a-z0-9][a-z0-9.+_-]{0,10}", fullmatch=True)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(NAMES, LOCALS), max_size=5))
def test_lists_that_mail_programs_write_read_as_the_standard_library_reads_them(pairs: list[tuple[str, str]]) -> None:
    text = ", ".join(NamedAddress(" ".join(name.split()), f"{local}@example.com").text for name, local in pairs)
    theirs = [(" ".join(name.split()), address) for name, address in getaddresses([text]) if address]
    assert [(found.name, found.email) for found in read_addresses(text)] == theirs


def test_what_the_standard_library_writes_reads_back() -> None:
    assert read_addresses(formataddr(("O'Neil, Ann", "ann@example.com")))[0].name == "O'Neil, Ann"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet='ab@<>()",:;\\ \n\u00e9', max_size=60))
def test_nothing_raises(text: str) -> None:
    for found in read_addresses(text):
        assert found.email or found.name or found == NamedAddress("", "")


@pytest.mark.parametrize("unit", ["(", '"', "<", "a@b,", "a ", "\\", '"\\', "(\\", ":", "a("])
def test_time_grows_with_the_length(unit: str) -> None:
    short, long = (_best_of_three(unit * length) for length in (20_000, 80_000))
    assert long < max(short * 10, 0.02)


def test_a_list_has_an_end() -> None:
    assert len(read_addresses("a@example.com, " * (MAX_ADDRESSES + 500))) == MAX_ADDRESSES


def _best_of_three(text: str) -> float:
    times = []
    for _ in range(3):
        started = time.thread_time()
        read_addresses(text)
        times.append(time.thread_time() - started)
    return min(times)
