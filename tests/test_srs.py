"""Senders rewritten and found back (Sender Rewriting Scheme), by us and together with its reference implementation."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.addresses import parse_mailbox
from core.clock import DAY_MS, HOUR_MS
from core.srs import MAX_LOCAL_OCTETS, SrsRewriter, bounce_destination
from tests.programs import missing, need_program

SECRET = b"a secret of all processes"
OURS = "in.us.test"
START_MS = 20_000 * DAY_MS


@dataclass
class Time:
    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms


def rewriter(time: Time | None = None, secret: bytes = SECRET, domain: str = OURS) -> SrsRewriter:
    return SrsRewriter(secret, domain, time or Time())


@pytest.mark.parametrize(
    ("sender", "forwarded"),
    [
        ("user@example.com", "SRS0=ISXMX55R=RA=example.com=user@in.us.test"),
        ("User.Name+tag@Example.COM", "SRS0=BDDVQEQE=RA=example.com=User.Name+tag@in.us.test"),
        (
            "SRS0=abcd=XY=first.test=user@second.test",
            "SRS1=E75DU6JS=second.test==abcd=XY=first.test=user@in.us.test",
        ),
        (
            "SRS1=abcd=first.test==efgh=XY=origin.test=user@third.test",
            "SRS1=PRUX5S3O=first.test==efgh=XY=origin.test=user@in.us.test",
        ),
    ],
)
def test_known_addresses(sender: str, forwarded: str) -> None:
    """The hashes are what `openssl dgst -sha256 -hmac` and `base32` make of the lower-case text without the hash."""
    assert rewriter().forward(sender) == forwarded


@pytest.mark.parametrize(
    "sender",
    [
        "user@example.com",
        "first.last+tag@sub.example.com",
        "a=b=c@example.com",
        "=@example.com",
        "srs@example.com",
        '"two words"@example.com',
        '"a\\"b\\\\c"@example.com',
        "δοκιμή@example.com",
        "bounces+12345678-9abc-user=their-domain.example@em1234.some-large-sender.example",
        f"{'x' * 64}@{'y' * 60}.example",
    ],
)
def test_a_sender_is_found_back(sender: str) -> None:
    forwarded = rewriter().forward(sender)
    mailbox = parse_mailbox(forwarded)
    assert mailbox is not None
    assert mailbox.domain == OURS
    assert rewriter().reverse(forwarded) == sender


@given(st.from_regex(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,70}", fullmatch=True))
def test_any_local_part_is_found_back(local: str) -> None:
    sender = f"{local}@example.com"
    found = rewriter().reverse(rewriter().forward(sender))
    assert found == sender or (local.upper().startswith(("SRS0", "SRS1")) and found is not None)


def test_what_has_no_way_back_stays_or_becomes_the_null_sender() -> None:
    assert rewriter().forward("") == ""
    assert rewriter().forward("no address") == ""
    assert rewriter().forward(f"someone@{OURS}") == f"someone@{OURS}"


def test_the_domain_is_written_in_ascii() -> None:
    assert "=xn--bcher-kva.test=user@" in rewriter().forward("user@Bücher.test")


def test_hosts_may_change_the_case() -> None:
    forwarded = rewriter().forward("User@example.com")
    assert rewriter().reverse(forwarded.lower()) == "user@example.com"
    assert rewriter().reverse(forwarded.upper()) == "USER@EXAMPLE.COM"


@pytest.mark.parametrize("separator", "=+-")
def test_the_first_separator_may_differ(separator: str) -> None:
    forwarded = rewriter().forward("user@example.com").replace("SRS0=", f"SRS0{separator}", 1)
    assert rewriter().reverse(forwarded) == "user@example.com"


def test_nobody_else_makes_such_addresses() -> None:
    good = rewriter().forward("user@example.com")
    digest = good.split("=")[1]
    forged = [
        good.replace("user", "other"),
        good.replace("example.com", "example.net"),
        good.replace(digest, "A" * len(digest)),
        good.replace(digest, digest[:5]),
        good.replace(digest, digest[:-1]),
        good.replace(digest, ""),
        good.replace(digest, digest.replace(digest[0], "\N{KELVIN SIGN}")),
        good.replace("in.us.test", "elsewhere.test"),
        f"SRS0@{OURS}",
        f"SRS0=@{OURS}",
        f"SRS0=a=b=c@{OURS}",
        f"SRS1={digest}=example.com==x@{OURS}",
        "SRS0",
    ]
    assert [rewriter().reverse(address) for address in forged] == [None] * len(forged)
    assert rewriter(secret=b"another").reverse(good) is None


@pytest.mark.parametrize(
    ("later_ms", "is_good"),
    [
        (0, True), (-HOUR_MS, True), (21 * DAY_MS, True), (22 * DAY_MS, False), (500 * DAY_MS, False),
        (-2 * DAY_MS, False),
    ],
)  # fmt: skip
def test_an_address_is_good_for_three_weeks(later_ms: int, is_good: bool) -> None:
    time = Time()
    forwarded = rewriter(time).forward("user@example.com")
    time.now_ms += later_ms
    assert (rewriter(time).reverse(forwarded) is not None) == is_good


def test_the_day_counter_may_begin_anew() -> None:
    time = Time(1023 * DAY_MS)
    forwarded = rewriter(time).forward("user@example.com")
    time.now_ms += 10 * DAY_MS
    assert rewriter(time).reverse(forwarded) == "user@example.com"


def test_addresses_do_not_grow_with_forwarders() -> None:
    """Four hops; the bounce goes from the last to the first directly, and from there to the sender."""
    hops = [rewriter(domain=f"hop{number}.test", secret=b"%d" % number) for number in range(4)]
    address = "user@origin.test"
    addresses = [address := hop.forward(address) for hop in hops]
    assert addresses[0].startswith("SRS0=")
    assert all(one.startswith("SRS1=") and "=hop0.test==" in one for one in addresses[1:])
    assert len(addresses[3]) == len(addresses[1])
    assert hops[3].reverse(addresses[3]) == addresses[0]
    assert hops[0].reverse(addresses[0]) == "user@origin.test"


def test_a_shorter_hash_makes_room_where_that_is_enough() -> None:
    sizes = {}
    for length in range(20, 60):
        forwarded = rewriter().forward(f"{'u' * length}@example.com")
        local = forwarded.rpartition("@")[0]
        sizes[length] = (len(local), len(local.split("=")[1]))
        assert rewriter().reverse(forwarded) == f"{'u' * length}@example.com"
    assert {digest for size, digest in sizes.values() if size < MAX_LOCAL_OCTETS - 3} == {8}
    assert any(digest == 5 and size <= MAX_LOCAL_OCTETS for size, digest in sizes.values())
    assert all(digest == 8 for size, digest in sizes.values() if size > MAX_LOCAL_OCTETS)


def test_a_bounce_is_known_at_rcpt() -> None:
    address = parse_mailbox(rewriter().forward("user@example.com"))
    assert address is not None
    original = bounce_destination(rewriter(), address, "")
    assert original is not None
    assert (original.text, original.domain) == ("user@example.com", "example.com")
    assert bounce_destination(rewriter(), address, "spammer@example.net") is None
    plain = parse_mailbox(f"0123456789abcdef0123@{OURS}")
    assert plain is not None
    assert bounce_destination(rewriter(), plain, "") is None


REFERENCE = """
use Mail::SRS; my $srs = Mail::SRS->new(Secret => "theirs", MaxAge => 21, AlwaysRewrite => 1);
my ($verb, @arguments) = @ARGV; print $srs->$verb(@arguments);
"""


def reference(verb: str, *arguments: str) -> str:
    """Ask the implementation by the author of the scheme."""
    perl = need_program("perl")
    if subprocess.run([perl, "-MMail::SRS", "-e1"], capture_output=True, check=False).returncode:
        missing("Mail::SRS is not installed (Debian package libmail-srs-perl)")
    command = [perl, "-e", REFERENCE, verb, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_reference_forwards_what_we_forwarded_and_back() -> None:
    ours = rewriter().forward("user@origin.test")
    theirs = reference("forward", ours, "theirs.test")
    assert theirs.startswith("SRS1=")
    assert rewriter().reverse(reference("reverse", theirs)) == "user@origin.test"
    last = rewriter(domain="last.test").forward(theirs)
    assert rewriter(domain="last.test").reverse(last) == ours


def test_we_forward_what_the_reference_forwarded_and_back() -> None:
    theirs = reference("forward", "user@origin.test", "theirs.test")
    ours = rewriter().forward(theirs)
    assert ours.startswith("SRS1=")
    assert reference("reverse", rewriter().reverse(ours) or "") == "user@origin.test"
