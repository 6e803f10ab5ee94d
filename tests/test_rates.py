"""Rates: how many messages a minute, counted by client and by sender domain, with a clock of our own."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import MINUTE_MS, SECOND_MS
from core.config import load_settings
from inbound.clients import client_group, client_ip, is_within
from inbound.smtp.rates import RateLimit, Rates
from inbound.smtp.replies import Reply
from tests.memory_transport import EHLO, KNOWN, MAIL, Receiver, run

START_MS = 30_000_000 * MINUTE_MS


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def test_no_more_than_the_rate_within_a_minute_and_then_as_many_again() -> None:
    clock = Clock()
    limit = RateLimit(3, clock)

    assert [limit.allow("a") for _ in range(5)] == [True, True, True, False, False]
    clock.now_ms += MINUTE_MS - 1
    assert not limit.allow("a")
    clock.now_ms += 1
    assert not limit.allow("a")  # all three were less than a minute ago, give or take
    clock.now_ms += MINUTE_MS // 3
    assert [limit.allow("a") for _ in range(2)] == [True, False]
    clock.now_ms += 2 * MINUTE_MS
    assert [limit.allow("a") for _ in range(4)] == [True, True, True, False]


def test_each_key_has_its_own_rate_and_zero_is_none() -> None:
    limit = RateLimit(1, Clock())
    assert [limit.allow(key) for key in ("a", "b", "a", "b", "c")] == [True, True, False, False, True]
    unlimited = RateLimit(0, Clock())
    assert all(unlimited.allow("a") for _ in range(1_000))
    assert not unlimited._windows


@given(
    per_minute=st.integers(1, 20),
    steps=st.lists(st.integers(0, 40 * SECOND_MS), min_size=1, max_size=200),
)
def test_in_no_minute_of_the_clock_is_there_more_than_the_rate_and_who_waits_is_let_in(
    per_minute: int, steps: list[int]
) -> None:
    clock = Clock()
    limit = RateLimit(per_minute, clock)
    allowed: list[int] = []
    for step in steps:
        clock.now_ms += step
        if limit.allow("a"):
            allowed.append(clock.now_ms)

    for minute in {moment // MINUTE_MS for moment in allowed}:
        assert sum(moment // MINUTE_MS == minute for moment in allowed) <= per_minute
    for moment in allowed:  # in a minute that begins anywhere, the estimate may be off by one half at the worst
        assert sum(moment <= other < moment + MINUTE_MS for other in allowed) <= 2 * per_minute - (per_minute > 1)
    clock.now_ms += 2 * MINUTE_MS
    assert limit.allow("a")


def test_a_clock_that_is_set_back_shuts_nobody_out() -> None:
    clock = Clock()
    limit = RateLimit(1, clock)
    assert limit.allow("a")
    clock.now_ms -= 60 * MINUTE_MS

    assert limit.allow("a")


def test_memory_is_bounded_and_who_was_silent_longest_is_forgotten_first() -> None:
    limit = RateLimit(1, Clock(), max_keys=100)
    for number in range(10_000):
        limit.allow(f"key-{number}")

    assert len(limit._windows) == 100
    assert not limit.allow("key-9999")
    assert limit.allow("key-0")
    one = sys.getsizeof(next(iter(limit._windows.values())))
    assert one < 100


def test_ipv6_counts_by_the_64_and_mapped_ipv4_as_ipv4() -> None:
    rates = Rates(load_settings({"PILLARBOX_RATE_PER_IP": "1"}), Clock())

    assert rates.allow_client("2001:db8::1")
    assert not rates.allow_client("2001:db8::ffff:1")
    assert rates.allow_client("2001:db8:0:1::1")
    assert rates.allow_client("192.0.2.1")
    assert not rates.allow_client("::ffff:192.0.2.1")
    assert rates.allow_client("192.0.2.2")


@pytest.mark.parametrize(
    ("text", "ip", "group"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::1", "fe80::/64"),
        ("::1", "::1", "::/64"),
        ("", "", ""),
        ("nonsense", "nonsense", "nonsense"),
    ],
)
def test_a_client_has_one_spelling(text: str, ip: str, group: str) -> None:
    assert (client_ip(text), client_group(ip)) == (ip, group)


def test_networks_hold_only_their_own_kind() -> None:
    networks = load_settings({"PILLARBOX_PROXY_NETWORKS": "10.0.0.0/8,fd00::/8"}).proxy_sources

    assert [is_within(ip, networks) for ip in ("10.9.9.9", "fd00::1", "11.0.0.1", "::10.0.0.1", "", "x")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


# --- in a session ---


def test_a_client_over_its_rate_is_put_off_at_mail_and_others_are_not() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_RATE_PER_IP="2")
        peer, neighbour, stranger = (
            receiver.connect(address) for address in (("2001:db8::1", 1), ("2001:db8::2", 1), ("2001:db8:0:1::1", 1))
        )
        for one in (peer, neighbour, stranger):
            await one.say(EHLO)
        assert [reply[:3] for reply in await peer.say(MAIL)] == ["250", "250", "354", "250"]
        assert [reply[:3] for reply in await neighbour.say(MAIL)] == ["250", "250", "354", "250"]
        assert await peer.say(b"MAIL FROM:<b@example.org>\r\n") == [Reply.CLIENT_TOO_FAST]
        assert (await peer.say(f"RCPT TO:<{KNOWN}>\r\n".encode()))[0].startswith("503 5.5.1 ")
        assert await neighbour.say(b"MAIL FROM:<>\r\n") == [Reply.CLIENT_TOO_FAST]
        assert [reply[:3] for reply in await stranger.say(MAIL)] == ["250", "250", "354", "250"]
        await peer.wait(120)
        assert await peer.say(b"MAIL FROM:<b@example.org>\r\n") == [Reply.SENDER_OK]

    run(walk())


def test_a_sender_domain_over_its_rate_is_put_off_however_it_is_written_and_bounces_are_not() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_RATE_PER_DOMAIN="1")
        peer = receiver.connect()
        await peer.say(EHLO)

        async def mail(sender: str) -> str:
            reply = (await peer.say(f"MAIL FROM:<{sender}> SMTPUTF8\r\n".encode()))[0]
            await peer.say(b"RSET\r\n")
            return reply

        assert await mail("a@bücher.example") == Reply.SENDER_OK
        assert await mail("b@BÜCHER.example") == Reply.DOMAIN_TOO_FAST
        assert await mail("b@xn--bcher-kva.example.") == Reply.DOMAIN_TOO_FAST
        assert await mail("b@x.xn--bcher-kva.example") == Reply.SENDER_OK
        assert [await mail("") for _ in range(5)] == [Reply.SENDER_OK] * 5

    run(walk())


def test_connections_are_counted_by_the_64_too() -> None:
    async def walk() -> None:
        receiver = Receiver(PILLARBOX_MAX_CONNECTIONS_PER_IP="2")
        peers = [receiver.connect((f"2001:db8::{number}", 1)) for number in range(1, 4)]
        peers.append(receiver.connect(("2001:db8:0:1::1", 1)))
        peers += [receiver.connect((ip, 1)) for ip in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2")]
        await peers[0].say()
        assert [peer.codes[0] for peer in peers] == ["220", "220", "421", "220", "220", "220", "421", "220"]

        await peers[0].finish()
        another = receiver.connect(("2001:db8::9", 1))
        await another.say()
        assert another.codes == ["220"]

    run(walk())
