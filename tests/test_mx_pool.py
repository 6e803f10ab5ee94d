"""Connections that are kept: used again while they are good, given up without harm when they are not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.delivery import Verdict
from outbound.pool import ConnectionPool, PoolLimits
from tests.mx_support import DOMAIN, HOST, edge_to
from tests.raw_server import make_certificate
from tests.scripted_smtp import Peer, Script, Trick, running_peer


@dataclass
class Time:
    """A clock that stands still."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def peer() -> Iterator[Peer]:
    with running_peer(Script()) as running:
        yield running


def test_the_next_mail_uses_the_same_connection(peer: Peer) -> None:
    with edge_to(peer.port, pool=ConnectionPool()) as edge:
        for _ in range(3):
            assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert peer.verbs() == ["EHLO", *["MAIL", "RCPT", "DATA"] * 3, "QUIT"]


def test_a_transaction_that_came_to_nothing_is_reset(peer: Peer) -> None:
    peer.script.answers["RCPT"] = ["550 5.1.1 unknown", "250 ok"]
    with edge_to(peer.port, pool=ConnectionPool()) as edge:
        assert edge.send().outcome.verdict is Verdict.PERMANENT
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert peer.verbs() == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA", "QUIT"]


@pytest.mark.parametrize("trick", ["421 idle for too long", Trick.HANG_UP, Trick.RESET])
def test_a_connection_that_broke_meanwhile_costs_nothing(peer: Peer, trick: str | Trick) -> None:
    with edge_to(peer.port, pool=ConnectionPool()) as edge:
        edge.send()
        peer.script.answers["MAIL"] = [trick, "250 ok"]
        result = edge.send()
    assert result.outcome.verdict is Verdict.ACCEPTED
    assert (peer.connections, len(peer.taken)) == (2, 2)


def test_a_host_that_takes_so_many_mails_from_one_connection_gets_the_next_from_another(peer: Peer) -> None:
    """Else each further mail would meet the same refusal, while the connection is kept by that very use."""
    with edge_to(peer.port, pool=ConnectionPool()) as edge:
        edge.send()
        peer.script.answers["MAIL"] = ["452 4.3.1 too many mails in this session", "250 ok"]
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
        peer.script.answers["RCPT"] = ["550 5.1.1 unknown", "250 ok"]
        assert edge.send().outcome.verdict is Verdict.PERMANENT
        peer.script.answers["MAIL"] = ["450 4.7.1 too many errors in this session", "250 ok"]
        assert edge.send().outcome.verdict is Verdict.ACCEPTED
    assert (peer.connections, len(peer.taken)) == (3, 3)


def test_a_host_that_takes_no_mail_at_all_is_asked_once_more_and_believed(peer: Peer) -> None:
    with edge_to(peer.port, pool=ConnectionPool()) as edge:
        edge.send()
        peer.script.answers["MAIL"] = "451 4.3.0 not now"
        result = edge.send()
    assert (result.outcome.verdict, result.outcome.status, peer.connections) == (Verdict.TEMPORARY, 451, 2)


def test_a_connection_closed_by_the_host_is_not_used(peer: Peer) -> None:
    with edge_to(peer.port, pool=ConnectionPool()) as edge:
        peer.script.answers["."] = ["250 ok", "250 ok\r\n421 too long"]
        edge.send()
        edge.send()
        edge.send()
    assert [line for line in peer.lines if line.startswith(("MAIL", "<"))].count("<connected>") == 2
    assert len(peer.taken) == 3


def test_a_reply_that_nobody_asked_for_is_not_taken_for_that_to_the_next_command(peer: Peer) -> None:
    with edge_to(peer.port, pool=ConnectionPool()) as edge:
        edge.send()
        peer.say(b"250 surprise\r\n")
        peer.script.answers["."] = "554 5.7.1 spam"
        result = edge.send()
    assert (result.outcome.verdict, result.reply) == (Verdict.PERMANENT, "554 5.7.1 spam")
    assert peer.connections == 2


def test_idle_connections_end(peer: Peer) -> None:
    time = Time()
    pool = ConnectionPool(PoolLimits(idle_s=20), time)
    with edge_to(peer.port, pool=pool) as edge:
        edge.send()
        time.now += 19
        edge.send()
        assert peer.connections == 1
        time.now += 21
        pool.expire()
        assert pool.idle == 0
        edge.send()
        assert peer.connections == 2
    assert peer.verbs().count("QUIT") == 2


def test_when_no_more_mail_comes_leave_is_taken_all_the_same(peer: Peer) -> None:
    pool = ConnectionPool(PoolLimits(idle_s=0.05))
    with edge_to(peer.port, pool=pool) as edge:
        for _ in range(2):  # the second time with a thread that has ended
            assert edge.send().outcome.verdict is Verdict.ACCEPTED
            deadline = time.monotonic() + 10
            while pool.idle or peer.verbs()[-1] != "QUIT" or pool._is_tended:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert peer.verbs() == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"] * 2


def test_a_connection_serves_so_many_mails(peer: Peer) -> None:
    with edge_to(peer.port, pool=ConnectionPool(PoolLimits(messages=2))) as edge:
        for _ in range(4):
            edge.send()
    assert peer.connections == 2


def test_the_pool_is_limited_in_all_and_for_each_place() -> None:
    with running_peer(Script(), address="0.0.0.0") as peer:
        pool = ConnectionPool(PoolLimits(per_place=1, total=2))
        with edge_to(peer.port, pool=pool) as edge:
            for number in range(1, 5):
                edge.zone.add(HOST, "A", f"127.0.0.{number}")
                edge.send()
            assert pool.idle == 2
            edge.send()
            assert (peer.connections, pool.idle) == (4, 2)
        assert pool.idle == 0


def test_another_host_gets_a_connection_of_its_own() -> None:
    with running_peer(Script()) as peer, edge_to(peer.port, pool=ConnectionPool()) as edge:
        edge.zone.mx("elsewhere.test", "mx.elsewhere.test")
        edge.send()
        edge.send(recipients=("user@elsewhere.test",))
        edge.send(recipients=(f"another@{DOMAIN}",))
        assert peer.connections == 2


def test_a_connection_is_kept_over_tls(tmp_path: Path) -> None:
    script = Script(features=("STARTTLS", "PIPELINING"))
    with (
        running_peer(script, make_certificate(tmp_path)) as peer,
        edge_to(peer.port, pool=ConnectionPool()) as edge,
    ):
        assert [edge.send().tls_version for _ in range(3)] == ["TLSv1.3"] * 3
        assert peer.connections == 1
