"""Nothing accepted is ever lost: `kill -9` of every process of `pillarbox up` during a burst of mail."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from core.delivery import DeliveryState
from core.store.db import Database
from tests.http_target import HttpTarget, running_target
from tests.mail_burst import Burst, running_burst
from tests.up_process import Up, end, running_up, start_up, wait_until

MANY_KILLS = {"smtp": 5, "worker": 4, "redis": 3, "web": 2}
FEW_KILLS = {"smtp": 2, "worker": 1, "redis": 1, "web": 1}
SEED = 20_260_901
AHEAD = 60
"""So many mails past the moment of a kill may be on their way, so that it hits senders in full flow."""
KILL_JITTER_S = 0.05
ACK_S = 60.0
DRAIN_S = 60.0
TARGET_TIMEOUT_S = "2"
ANSWER = "/sleep/0.02"
"""A target that takes a moment, so that kills find POSTs in flight."""


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a burst."""

    ids: dict[str, set[str]]
    """The `webhook-id`s that arrived for each transmission, by its subject."""
    posts: int

    @property
    def duplicates(self) -> int:
        """POSTs beyond the first of each transmission."""
        return self.posts - len(self.ids)


def test_kills_at_random_moments_lose_no_accepted_mail(tmp_path: Path, target: HttpTarget) -> None:
    with running_up(tmp_path, PILLARBOX_TARGET_TIMEOUT=TARGET_TIMEOUT_S) as up:
        mailbox = up.add_address(target.url(ANSWER))
        with running_burst(up.settings.smtp.port, mailbox, mails=2_000) as burst:
            kill_during(burst, target, up, MANY_KILLS)

        tally = wait_for_delivery(burst, target, up, up.settings.database_location)
        wait_until(lambda: up.health() == (200, []), 20, up.health)
    report(burst, tally, sum(MANY_KILLS.values()))
    assert len(burst.acked) == 2_000
    assert burst.acked <= tally.ids.keys()
    assert set(map(len, tally.ids.values())) == {1}


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_kills_lose_no_accepted_mail_on_postgresql(tmp_path: Path, target: HttpTarget, database_url: str) -> None:
    with running_up(tmp_path, PILLARBOX_TARGET_TIMEOUT=TARGET_TIMEOUT_S, DATABASE_URL=database_url) as up:
        mailbox = up.add_address(target.url(ANSWER))
        with running_burst(up.settings.smtp.port, mailbox, mails=400) as burst:
            kill_during(burst, target, up, FEW_KILLS)

        tally = wait_for_delivery(burst, target, up, database_url)
    report(burst, tally, sum(FEW_KILLS.values()))
    assert len(burst.acked) == 400
    assert burst.acked <= tally.ids.keys()
    assert set(map(len, tally.ids.values())) == {1}


def test_a_killed_supervisor_leaves_no_process_and_its_successor_delivers_the_rest(
    tmp_path: Path, target: HttpTarget
) -> None:
    first = start_up(tmp_path, PILLARBOX_TARGET_TIMEOUT=TARGET_TIMEOUT_S)
    second: Up | None = None
    try:
        first.wait_until_ready()
        mailbox = first.add_address(target.url(ANSWER))
        with running_burst(first.settings.smtp.port, mailbox, mails=300) as burst:
            burst.allow(300)
            burst.wait_for_acked(150, ACK_S, first.log)
            first.process.kill()
            first.process.wait()
            wait_until(lambda: not first.remaining_processes(), 10, first.remaining_processes)
            socket_path = first.settings.data / "redis.sock"
            assert socket_path.is_socket()  # stale: its server was killed

            same = {name: first.environment[name] for name in ("PILLARBOX_SMTP", "PILLARBOX_HTTP")}
            second = start_up(tmp_path, PILLARBOX_TARGET_TIMEOUT=TARGET_TIMEOUT_S, **same)
            second.wait_until_ready()
            burst.wait_for_acked(300, ACK_S, second.log)

        tally = wait_for_delivery(burst, target, second, second.settings.database_location)
    finally:
        end(first)
        if second is not None:
            end(second)
    report(burst, tally, 1)
    assert len(burst.acked) == 300
    assert burst.acked <= tally.ids.keys()
    assert set(map(len, tally.ids.values())) == {1}


def kill_during(burst: Burst, target: HttpTarget, up: Up, kills: dict[str, int]) -> None:
    """Kill each as often as told, in random order, at random moments while mail comes in and goes out."""
    choice = random.Random(SEED)
    victims = list(Counter(kills).elements())
    choice.shuffle(victims)
    moments = sorted(choice.sample(range(20, burst.mails - AHEAD), len(victims)))
    for moment, victim in zip(moments, victims, strict=True):
        posts = len(target.received)
        burst.allow(moment + AHEAD)
        burst.wait_for_acked(moment, ACK_S, up.log)
        target.wait_for(posts + 1, DRAIN_S)  # what was killed before works again
        wait_until(lambda victim=victim: bool(up.pids(victim)), 30, up.log)
        time.sleep(choice.uniform(0, KILL_JITTER_S))
        up.kill_one(victim)
    burst.allow(burst.mails)
    burst.wait_for_acked(burst.mails, ACK_S, up.log)


def wait_for_delivery(burst: Burst, target: HttpTarget, up: Up, database_url: str) -> Tally:
    """Wait until the database has nothing left to deliver; what arrived by then."""
    database = Database(database_url)
    try:
        wait_until(lambda: set(_states(database)) == {DeliveryState.DELIVERED}, DRAIN_S, lambda: _states(database))
        stored = {row[0] for row in database.execute("SELECT id FROM delivery")}
    finally:
        database.close()
    ids: dict[str, set[str]] = defaultdict(set)
    for request in target.received:
        ids[orjson.loads(request.body)["headers"]["subject"]].add(request.headers["webhook-id"])
    assert set().union(*ids.values()) == stored, up.log()[-3000:]
    return Tally(dict(ids), len(target.received))


def _states(database: Database) -> dict[str, int]:
    with database.reading():
        return Counter(row[0] for row in database.execute("SELECT state FROM delivery"))


def report(burst: Burst, tally: Tally, kills: int) -> None:
    """Shown by `pytest -s`, and with a failure."""
    print(
        f"\n{kills} kills; {len(burst.acked)} mails acknowledged ({burst.resent} sent again before that), "
        f"{len(burst.acked & tally.ids.keys())} of them delivered, {tally.duplicates} duplicate POSTs, "
        f"{len(tally.ids.keys() - burst.acked)} delivered without a 250"
    )
