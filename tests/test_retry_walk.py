"""A whole schedule of retries against a real target on a real database, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from core.clock import DAY_MS, HOUR_MS, SECOND_MS
from core.delivery import HTTP_POLICY, DeliveryKind
from core.fairness import BREAKER_LONGEST_PAUSE_MS
from core.netguard import LOOPBACK, TargetPolicy
from core.services.accounts import NewAccount
from core.services.claims import has_due
from core.services.recording import record
from core.services.replay import replay_one
from core.store.blobs import DiskBlobs
from core.store.db import Database
from inbound.attempt import InboundAttempt
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from tests.attempt_parts import make_attempt
from tests.conftest import NOW_MS
from tests.deliveries import Deliveries
from tests.http_target import HttpTarget, reply, running_target

ATTEMPTS = len(HTTP_POLICY.schedule_ms) + 1


@dataclass
class Walk:
    """A worker without threads or patience: the clock jumps to whatever is due next."""

    mail: Deliveries
    target: HttpTarget
    now_ms: int = NOW_MS
    moments: list[int] = field(default_factory=list)

    def start(self, attempt: InboundAttempt) -> None:
        self.attempt = attempt

    def step(self) -> str:
        """Claim what is due, attempt it, record it; the new state."""
        (claimed,) = self.mail.claim(self.now_ms).deliveries
        self.moments.append(self.now_ms)
        finished = self.attempt(claimed)
        with self.mail.database.transaction():
            record(self.mail.database, [finished], HTTP_POLICY, self.now_ms)
        ((state, due_ms),) = self.mail.rows("state, due_ms")
        if state == "pending":
            assert not has_due(self.mail.database, DeliveryKind.INBOUND, due_ms - 1)
            self.now_ms = due_ms
        return str(state)

    def run(self) -> str:
        """Step until it is over."""
        while (state := self.step()) == "pending":
            assert len(self.moments) < 100
        return state


@pytest.fixture
def walk(database: Database, account: NewAccount, tmp_path: object) -> Iterator[Walk]:
    with running_target() as target:
        made = Walk(Deliveries(database, account), target)
        session = guarded_session(TargetPolicy(LOOPBACK), 4, None)
        forwarder = Forwarder(session, DeadlineWatch(), 5, lambda: made.now_ms)
        made.start(make_attempt(tmp_path, database, forwarder, DiskBlobs(tmp_path / "messages"), lambda: made.now_ms))  # type: ignore[operator]
        yield made


def test_a_target_that_fails_for_ever_is_tried_on_schedule_until_the_delivery_is_exhausted(walk: Walk) -> None:
    (delivery_id,) = walk.mail.accept(walk.target.url("/status/503"))

    assert walk.run() == "exhausted"

    assert walk.mail.rows() == [("exhausted", ATTEMPTS, 503, None)]
    requests = walk.target.received
    assert len(requests) == ATTEMPTS
    assert {request.headers["webhook-id"] for request in requests} == {delivery_id}
    assert [request.headers["pillarbox-attempt"] for request in requests] == [str(n + 1) for n in range(ATTEMPTS)]
    assert len({request.body for request in requests}) == 1
    assert [int(request.headers["webhook-timestamp"]) for request in requests] == [ms // 1000 for ms in walk.moments]
    assert walk.mail.attempts("number, status, started_ms, response") == [
        (number + 1, 503, moment, "answer of the test target") for number, moment in enumerate(walk.moments)
    ]
    for pause_ms, (before, after) in zip(HTTP_POLICY.schedule_ms, pairwise(walk.moments), strict=True):
        assert pause_ms <= after - before <= pause_ms * 1.1
    assert walk.moments[-1] - NOW_MS <= 3 * DAY_MS
    assert walk.mail.claim(walk.now_ms + 1_000 * DAY_MS).deliveries == []


def test_an_exhausted_delivery_that_is_replayed_keeps_its_id_and_starts_a_new_cycle(walk: Walk) -> None:
    url = walk.target.url("/status/503")
    (delivery_id,) = walk.mail.accept(url)
    walk.run()
    walk.now_ms += DAY_MS
    walk.target.scripted["/status/503"] = [reply(500, b"still ill"), reply(200)]

    replay_one(walk.mail.database, walk.mail.account.account_id, delivery_id, walk.now_ms)

    assert walk.step() == "pending"
    assert walk.moments[-1] < walk.now_ms <= walk.moments[-1] + 11 * SECOND_MS  # the first pause of the schedule
    assert walk.mail.claim(walk.now_ms).deliveries == []  # a host that failed 17 times in a row has its breaker open
    walk.now_ms += BREAKER_LONGEST_PAUSE_MS
    assert walk.step() == "delivered"
    assert walk.mail.rows() == [("delivered", ATTEMPTS + 2, 200, None)]
    assert walk.mail.rows("cycle_attempts") == [(2,)]
    assert {request.headers["webhook-id"] for request in walk.target.received} == {delivery_id}
    assert walk.mail.attempts()[-2:] == [(ATTEMPTS + 1, 500), (ATTEMPTS + 2, 200)]


def test_a_replay_of_what_was_delivered_posts_it_again_under_the_same_id(walk: Walk) -> None:
    (delivery_id,) = walk.mail.accept(walk.target.url("/ok"))
    assert walk.run() == "delivered"
    replay_one(walk.mail.database, walk.mail.account.account_id, delivery_id, walk.now_ms)
    assert walk.run() == "delivered"
    assert [request.headers["webhook-id"] for request in walk.target.received] == [delivery_id] * 2


def test_a_target_that_comes_back_gets_its_mail_at_the_next_attempt(walk: Walk) -> None:
    walk.mail.accept(walk.target.url("/flaky"))
    walk.target.scripted["/flaky"] = [reply(503), reply(429), reply(204)]
    assert walk.run() == "delivered"
    assert walk.mail.attempts() == [(1, 503), (2, 429), (3, 204)]
    assert walk.mail.execute("SELECT count(*) FROM target_health") == [(0,)]


def test_a_rejection_ends_the_schedule_at_once(walk: Walk) -> None:
    walk.mail.accept(walk.target.url("/gone"))
    walk.target.scripted["/gone"] = [reply(503), reply(410, b"no longer here")]
    assert walk.run() == "rejected"
    assert walk.mail.attempts("number, status, response") == [(1, 503, ""), (2, 410, "no longer here")]


def test_a_retry_after_sets_the_pace_up_to_its_limit(walk: Walk) -> None:
    walk.mail.accept(walk.target.url("/busy"))
    walk.target.scripted["/busy"] = [reply(429, b"", "Retry-After: 7200"), reply(503, b"", "Retry-After: 999999999")]
    walk.step()
    assert walk.now_ms == NOW_MS + 2 * HOUR_MS
    walk.step()
    assert walk.now_ms == NOW_MS + 14 * HOUR_MS


def test_a_target_that_always_asks_for_half_a_day_is_given_up_within_three_days(walk: Walk) -> None:
    walk.mail.accept(walk.target.url("/busy"))
    walk.target.scripted["/busy"] = [reply(503, b"", "Retry-After: 43200")] * 20
    assert walk.run() == "exhausted"
    assert walk.moments == [NOW_MS + number * 12 * HOUR_MS for number in range(7)]
