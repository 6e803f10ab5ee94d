"""Many domains behind one mail host that is slow: the rest of the mail does not wait for it, and none of it is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.clock import system_clock
from core.delivery import DeliveryKind, Verdict
from core.sending.priority import Priority
from core.sending.sending_domains import KeyAlgorithm
from core.services.accounts import NewAccount
from core.services.send_claims import ClaimedSend, FinishedSend, load_sends
from core.services.send_outcomes import SendFollow
from core.store.db import Database
from outbound.host_slots import HostSlots
from outbound.mx import MxTransport
from outbound.policy import SEND_POLICIES
from outbound.pool import ConnectionPool
from tests.dkim_judges import signer
from tests.mx_support import Edge, edge_to
from tests.scripted_smtp import Answer, Peer, Script, running_peer
from tests.send_support import Sends
from workers.engine import Engine, EngineLimits, Line

SLOW_DOMAINS = 200
FAST_DOMAINS = 20
PLACES = 4
PATIENCE_S = 60.0
SWEEP_S = 0.1
"""How often the scheduler looks, more or less."""


class Gate(Script):
    """A host that takes no message until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def pick(self, verb: str, line: str) -> Answer | None:
        if verb == ".":
            self.opened.wait(PATIENCE_S)
        return super().pick(verb, line)


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path, now_ms=system_clock())
    made.add_domain([signer(KeyAlgorithm.RSA)])
    return made


def engine_for(
    sends: Sends,
    way: MxTransport,
    kind: DeliveryKind = DeliveryKind.SEND,
    threads: int = 32,
    seen: list[FinishedSend] | None = None,
) -> Engine[ClaimedSend]:
    """An engine as `workers.sending` makes it; `seen` is given what its attempts give."""
    real = sends.attempt_with(way)

    def attempt(claimed: ClaimedSend) -> FinishedSend:
        finished = real(claimed)
        if seen is not None:
            seen.append(finished)
        return finished

    line = Line(attempt, SEND_POLICIES[kind], load_sends, SendFollow(3), machine_of=way.machines.machine_of)
    return Engine(sends.database, line, EngineLimits(kind, threads, PLACES, 300_000), system_clock)


@contextmanager
def running(*engines: Engine[Any]) -> Iterator[None]:
    """Engines that somebody rings for now and then, as the scheduler does."""
    is_over = threading.Event()

    def sweep() -> None:
        while not is_over.wait(SWEEP_S):
            for engine in engines:
                engine.drain(0.0)

    for engine in engines:
        engine.start()
    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        yield
    finally:
        is_over.set()
        sweeper.join()
        for engine in engines:
            engine.stop(5)


@contextmanager
def two_hosts(slow: Script) -> Iterator[tuple[Edge, Peer, Peer]]:
    """A host behind which many domains are, and another."""
    with (
        running_peer(slow) as crowded,
        running_peer(Script(), address="127.0.0.2", port=crowded.port) as other,
        edge_to(crowded.port, pool=ConnectionPool()) as edge,
    ):
        edge.zone.add("mx.crowded.test", "A", "127.0.0.1")
        edge.zone.add("mx.other.test", "A", "127.0.0.2")
        for number in range(SLOW_DOMAINS):
            edge.zone.mx(f"slow{number}.test", "mx.crowded.test")
        for number in range(FAST_DOMAINS):
            edge.zone.mx(f"fast{number}.test", "mx.other.test")
        yield edge, crowded, other


def wait_for(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def arrived(peer: Peer) -> Counter[str]:
    return Counter(taken.recipients[0].removeprefix("RCPT TO:<").rstrip(">") for taken in peer.taken)


def dispatches(sends: Sends) -> int:
    ((count,),) = sends.execute("SELECT count(*) FROM event WHERE kind LIKE 'dispatch%'")
    return int(count)


def test_a_crowded_host_holds_up_no_other_and_its_own_mail_is_tried_once(sends: Sends) -> None:
    script = Gate()
    slow = [sends.store(f"user@slow{number}.test")[0] for number in range(SLOW_DOMAINS)]
    fast = [sends.store(f"user@fast{number}.test")[0] for number in range(FAST_DOMAINS)]
    with two_hosts(script) as (edge, crowded, other):
        engine = engine_for(sends, sends.transport(edge, slots=HostSlots(PLACES)))
        with running(engine):
            # The crowd is older, and its host says nothing yet.
            wait_for(lambda: len(other.taken) == FAST_DOMAINS, 15)
            assert (len(crowded.taken), crowded.connections) == (PLACES, PLACES)
            wait_for(lambda: dispatches(sends) == FAST_DOMAINS)
            script.opened.set()
            wait_for(lambda: len(crowded.taken) == SLOW_DOMAINS)
            wait_for(lambda: set(sends.states("state")) == {("delivered",)})
        assert crowded.connections <= PLACES
        assert arrived(crowded) == Counter(f"user@slow{number}.test" for number in range(SLOW_DOMAINS))
    assert sends.states("state, attempts, cycle_attempts, last_error") == [("delivered", 1, 1, None)] * (
        SLOW_DOMAINS + FAST_DOMAINS
    )
    told = sends.execute("SELECT delivery_id, kind, count(*) FROM event WHERE kind <> 'registration' GROUP BY 1, 2")
    assert sorted(told) == sorted((one, kind, 1) for one in slow + fast for kind in ("dispatch", "delivery"))
    assert sends.execute("SELECT count(*) FROM attempt") == [(SLOW_DOMAINS + FAST_DOMAINS,)]


def test_mail_of_another_kind_does_not_ask_a_busy_host_again_and_again(sends: Sends) -> None:
    """Each time it would be read and signed, for nothing."""
    script = Gate()
    digest: list[FinishedSend] = []
    for number in range(SLOW_DOMAINS):
        sends.store(f"user@slow{number}.test")
    with two_hosts(script) as (edge, crowded, _):
        way = sends.transport(edge, slots=HostSlots(PLACES))
        standard = engine_for(sends, way)
        late = engine_for(sends, way, DeliveryKind.SEND_DIGEST, threads=8, seen=digest)
        with running(standard, late):
            domains = [f"slow{number}.test" for number in range(SLOW_DOMAINS)]
            wait_for(lambda: all(way.machines.machine_of(f"mailto://{domain}") for domain in domains))
            for domain in domains:
                sends.store(f"digest@{domain}", priority=Priority.DIGEST)
            sends.execute("UPDATE delivery SET due_ms = 1 WHERE kind = 'send_digest' AND lease_token IS NULL")
            wait_for(lambda: bool(digest))
            time.sleep(1.5)  # a hundred and more in vain
            assert {one.outcome.verdict for one in digest} == {Verdict.BUSY}
            assert len(digest) <= 4 * PLACES
            script.opened.set()
            wait_for(lambda: set(sends.states("state")) == {("delivered",)})
    assert set(arrived(crowded).values()) == {1}
    assert set(sends.states("attempts, cycle_attempts")) == {(1, 1)}
