"""Claims that are given back, and looks behind the window that find nothing: neither goes on for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from core.delivery import HTTP_POLICY, DeliveryKind
from core.services import claims
from core.services.accounts import NewAccount
from core.services.claims import give_back, lease_token
from core.services.leases import FinishedAttempt
from core.services.notices import follow_received
from core.services.received import ClaimedDelivery, load_received
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.deliveries import LEASE_MS, Deliveries, finished
from workers import engine as engine_module
from workers.engine import Engine, EngineLimits, Line

TARGET = "https://one.example/in"
OTHER = "https://two.example/in"
PATIENCE_S = 20.0


@pytest.fixture
def mail(database: Database, account: NewAccount) -> Deliveries:
    return Deliveries(database, account)


def test_what_a_worker_leased_and_never_had_in_hand_was_no_attempt(mail: Deliveries) -> None:
    """Else an outage that lasts would use up the schedule of what is claimed while it does."""
    mail.accept(TARGET, 2)
    (lost,) = mail.claim(free_places=1, lease_token=lease_token("aaaa", 1)).deliveries
    mail.claim(free_places=1, lease_token=lease_token("aaaa", 11))

    with mail.database.transaction():
        assert give_back(mail.database, DeliveryKind.INBOUND, lost.lease_token, NOW_MS + 1) == 1
        assert give_back(mail.database, DeliveryKind.INBOUND, lost.lease_token, NOW_MS + 1) == 0

    columns = "attempts, cycle_attempts, lease_token IS NULL, due_ms"
    (row,) = mail.execute(f"SELECT {columns} FROM delivery WHERE id = ?", (lost.delivery_id,))
    assert row == (0, 0, True, NOW_MS + 1)
    assert sorted(mail.rows("attempts")) == [(0,), (1,)]


def test_a_claim_tells_whether_looking_behind_the_window_was_in_vain_and_need_not_look(mail: Deliveries) -> None:
    mail.accept(TARGET, 200, NOW_MS - 10)
    mail.set_health(TARGET, failures=9, open_until_ms=NOW_MS + 60_000)
    assert mail.claim().looked_in_vain
    mail.accept(OTHER, 2)
    unseen = mail.claim(looks_behind=False)
    assert (list(unseen.deliveries), unseen.is_blocked, unseen.looked_in_vain) == ([], True, False)
    found = mail.claim()
    assert (len(found.deliveries), found.looked_in_vain) == (2, False)


def test_after_a_look_behind_the_window_in_vain_there_is_a_pause_unless_somebody_rings(
    mail: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each attempt that ends is followed by one: beside a relay, which is behind all hosts, that was half the
    work."""
    monkeypatch.setattr(engine_module, "LOOK_PAUSE_S", 60.0)
    looks: list[float] = []
    real = claims._look_behind_the_window

    def look(*parameters: Any) -> str:
        looks.append(time.monotonic())
        return real(*parameters)

    monkeypatch.setattr(claims, "_look_behind_the_window", look)
    mail.accept(TARGET, 200, NOW_MS - 10)
    begun: list[str] = []
    goes_on = threading.Event()

    def attempt(delivery: ClaimedDelivery) -> FinishedAttempt:
        begun.append(delivery.target)
        if len(begun) == 100:
            goes_on.wait(PATIENCE_S)
        return finished(delivery, 200)

    line = Line(attempt, HTTP_POLICY, load_received, follow_received)
    engine = Engine(mail.database, line, EngineLimits(DeliveryKind.INBOUND, 8, 1, LEASE_MS - 15_000), lambda: NOW_MS)
    engine.start()
    try:
        assert engine.drain(PATIENCE_S)
        wait_for(lambda: len(begun) == 100)
        assert len(looks) == 1
        mail.accept(OTHER)
        assert engine.drain(PATIENCE_S)
        wait_for(lambda: begun[-1] == OTHER)
    finally:
        goes_on.set()
        engine.stop(PATIENCE_S)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
