"""Sent mail in the engines of a real worker: the urgent jump ahead of a full queue, and what follows is rung for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.clock import system_clock
from core.delivery import DeliveryKind
from core.sending.priority import Priority
from core.sending.sending_domains import KeyAlgorithm
from core.services.accounts import NewAccount
from core.services.send_claims import ClaimedSend, FinishedSend, load_sends
from core.services.send_outcomes import SendFollow
from core.store.db import Database
from outbound.policy import SMTP_POLICY
from tests.dkim_judges import signer
from tests.scripted_smtp import Answer, Peer, Script, running_peer
from tests.send_support import Sends, send_settings
from tests.test_send_outcomes import ACCEPTED, ended
from workers.engine import Engine, EngineLimits, Line
from workers.worker import build_engines

BACKLOG = 300
URGENT = 10
PATIENCE_S = 60


class SlowScript(Script):
    """Takes its time over each message."""

    def pick(self, verb: str, line: str) -> Answer | None:
        if verb == ".":
            time.sleep(0.02)
        return super().pick(verb, line)


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path, now_ms=system_clock())
    made.add_domain([signer(KeyAlgorithm.RSA)])
    return made


@contextmanager
def running(engines: dict[DeliveryKind, Engine[Any]]) -> Iterator[None]:
    for engine in engines.values():
        engine.start()
    try:
        yield
    finally:
        for engine in engines.values():
            engine.stop(5)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def arrived(peer: Peer) -> list[str]:
    """The recipients of what arrived, in order."""
    return [taken.recipients[0].removeprefix("RCPT TO:<").partition("@")[0] for taken in peer.taken]


def test_the_urgent_jump_ahead_of_a_full_queue_at_a_busy_host(sends: Sends, tmp_path: Path) -> None:
    with running_peer(SlowScript()) as peer:
        settings = send_settings(tmp_path, smart_host=f"127.0.0.1:{peer.port}", connections_per_host=4)
        engines = build_engines(settings, sends.database, "0" * 16)
        for number in range(0, BACKLOG, 20):
            sends.store(*(f"standard{one}@d{one % 40}.test" for one in range(number, number + 20)))
        with running({kind: engines[kind] for kind in (DeliveryKind.SEND, DeliveryKind.SEND_PRIORITY)}):
            threading.Thread(target=engines[DeliveryKind.SEND].drain, args=(PATIENCE_S,), daemon=True).start()
            wait_for(lambda: len(peer.taken) > 20)
            sends.store(*(f"priority{one}@d{one}.test" for one in range(URGENT)), priority=Priority.PRIORITY)
            before = len(peer.taken)
            engines[DeliveryKind.SEND_PRIORITY].drain(PATIENCE_S)
            wait_for(lambda: len(peer.taken) >= BACKLOG + URGENT)
        order = arrived(peer)
        last_urgent = max(place for place, name in enumerate(order) if name.startswith("priority"))
        assert peer.connections <= 4
    overtaking = [name for name in order[before:last_urgent] if name.startswith("standard")]
    assert len(overtaking) < BACKLOG // 3, order  # those on their way; without jumping ahead it would be all the others
    assert len(set(order)) == BACKLOG + URGENT


def test_events_are_rung_for_when_there_are_some(sends: Sends) -> None:
    rung: list[DeliveryKind] = []
    line = Line(attempt, SMTP_POLICY, load_sends, SendFollow(0), rings=(DeliveryKind.EVENTS,))
    limits = EngineLimits(DeliveryKind.SEND, 4, 4, 10_000)
    engine = Engine(sends.database, line, limits, system_clock, rung.append)
    with running({DeliveryKind.SEND: engine}):
        sends.store("user@example.test")
        engine.drain(PATIENCE_S)
        wait_for(lambda: sends.states("state") == [("delivered",)])
        time.sleep(0.05)
        assert rung == []
        sends.execute(
            "INSERT INTO delivery (id, kind, account_id, recipients, target_host, state, attempts, cycle_attempts, "
            "cycle_started_ms, due_ms, created_ms) VALUES ('x', 'events', ?, '[]', 'x', 'pending', 0, 0, 0, 0, 0)",
            (sends.account.account_id,),
        )
        sends.store("user@example.test")
        engine.drain(PATIENCE_S)
        wait_for(lambda: bool(rung))
    assert set(rung) == {DeliveryKind.EVENTS}


def attempt(claimed: ClaimedSend) -> FinishedSend:
    return ended(claimed, **ACCEPTED)
