"""When sent mail is tried again, by priority: whole schedules walked with a clock, against a real host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from itertools import pairwise
from pathlib import Path

import pytest

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from core.delivery import SEND_KINDS, DeliveryKind
from core.sending.priority import KIND_OF, Priority
from core.sending.sending_domains import KeyAlgorithm
from core.services.accounts import create_account
from core.services.claims import has_due
from core.store.db import Database
from outbound.policy import DIGEST_POLICY, PRIORITY_POLICY, SEND_POLICIES, SMTP_POLICY
from tests.conftest import NOW_MS
from tests.dkim_judges import signer
from tests.mx_support import DOMAIN, SHORT, edge_to
from tests.scripted_smtp import Peer, Script, running_peer
from tests.send_support import MESSAGE_ID, Sends
from workers.sending import SendAttempt, send_threads

RECIPIENT = f"user@{DOMAIN}"


@dataclass
class Walk:
    """A worker without threads or patience: the clock jumps to whatever is due next."""

    sends: Sends
    peer: Peer
    attempt: SendAttempt
    kind: DeliveryKind
    moments: list[int] = field(default_factory=list)

    def step(self) -> str:
        """Claim what is due, attempt it, record it; the new state."""
        (claimed,) = self.sends.claim(self.kind).deliveries
        self.moments.append(self.sends.now_ms)
        self.sends.record(self.attempt(claimed))
        ((state, due_ms),) = self.sends.states("state, due_ms")
        if state == "pending":
            assert not has_due(self.sends.database, self.kind, due_ms - 1)
            self.sends.now_ms = due_ms
        return str(state)

    def run(self) -> str:
        """Step until it is over."""
        while (state := self.step()) == "pending":
            assert len(self.moments) < 100
        return state


@pytest.fixture
def sends(tmp_path: Path) -> Iterator[Sends]:
    database = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    database.migrate()
    made = Sends(database, create_account(database, "test", NOW_MS), tmp_path)
    made.add_domain([signer(KeyAlgorithm.RSA)])
    yield made
    database.close()


@contextmanager
def walk_of(sends: Sends, priority: Priority, script: Script) -> Iterator[Walk]:
    with running_peer(script) as peer, edge_to(peer.port, SHORT) as edge:
        sends.store(RECIPIENT, priority=priority)
        yield Walk(sends, peer, sends.attempt_with(sends.transport(edge)), KIND_OF[priority])


@pytest.mark.parametrize("reply", ["450 4.2.0 greylisted", "421 4.3.2 too busy"])
@pytest.mark.parametrize("priority", Priority)
def test_a_host_that_never_takes_it_is_tried_on_schedule_until_the_end(
    sends: Sends, priority: Priority, reply: str
) -> None:
    policy = SEND_POLICIES[KIND_OF[priority]]
    with walk_of(sends, priority, Script(answers={"RCPT": reply})) as walk:
        assert walk.run() == "exhausted"
        attempts = len(policy.schedule_ms) + 1
        assert (len(walk.moments), walk.peer.verbs().count("RCPT")) == (attempts, attempts)
        for pause_ms, (before, after) in zip(policy.schedule_ms, pairwise(walk.moments), strict=True):
            assert pause_ms <= after - before <= pause_ms * 1.1
        assert walk.moments[-1] - NOW_MS <= policy.give_up_after_ms
    kinds = sends.kinds()
    assert kinds == ["dispatch", *["dispatch_soft_bounce"] * (attempts - 1), "retries_exhausted"]
    numbers = [details["attempt"] for kind, details in sends.events() if kind != "dispatch"]
    assert numbers == list(range(1, attempts + 1))


@pytest.mark.parametrize(("priority", "within_min"), [("priority", 13), ("standard", 18), ("digest", 17)])
def test_a_greylisting_of_ten_minutes_costs_little_more(sends: Sends, priority: str, within_min: int) -> None:
    """The host takes the mail from the first attempt on that comes ten minutes after the first."""
    with walk_of(sends, Priority(priority), Script(answers={"RCPT": "450 4.7.1 greylisted"})) as walk:
        while walk.step() == "pending":
            if walk.sends.now_ms - NOW_MS >= 10 * MINUTE_MS:
                walk.peer.script.answers.clear()
        assert walk.moments[-1] - NOW_MS <= within_min * MINUTE_MS
        assert [message_from_bytes(one.content)["Message-ID"] for one in walk.peer.taken] == [f"<{MESSAGE_ID}>"]


def test_every_attempt_that_may_have_arrived_bears_the_same_message_id(sends: Sends) -> None:
    """A host that stores the mail and then says later: at least once, and recognisable."""
    with walk_of(sends, Priority.PRIORITY, Script(answers={".": "451 4.3.0 later"})) as walk:
        assert walk.run() == "exhausted"
        arrived = {message_from_bytes(one.content)["Message-ID"] for one in walk.peer.taken}
        assert len(walk.peer.taken) == len(walk.moments)
    assert arrived == {f"<{MESSAGE_ID}>"}


def test_the_urgent_are_tried_more_often_at_first_and_given_up_sooner() -> None:
    in_first_hour = [
        sum(sum(policy.schedule_ms[:number]) <= HOUR_MS for number in range(1, len(policy.schedule_ms) + 1))
        for policy in (PRIORITY_POLICY, SMTP_POLICY, DIGEST_POLICY)
    ]
    assert in_first_hour == [9, 4, 1]
    ends = [policy.give_up_after_ms for policy in (PRIORITY_POLICY, SMTP_POLICY, DIGEST_POLICY)]
    assert ends == [12 * HOUR_MS, 2 * DAY_MS, 2 * DAY_MS]


@pytest.mark.parametrize("kind", SEND_KINDS)
def test_no_schedule_is_cut_short_by_its_end(kind: DeliveryKind) -> None:
    policy = SEND_POLICIES[kind]
    assert sum(policy.schedule_ms) * (1 + policy.jitter) < policy.give_up_after_ms


@pytest.mark.parametrize(
    ("standard", "threads"), [(32, (16, 32, 8)), (1, (4, 1, 2)), (6, (4, 6, 2)), (100, (50, 100, 25))]
)
def test_each_priority_has_threads_of_its_own(standard: int, threads: tuple[int, int, int]) -> None:
    found = send_threads(standard)
    assert tuple(found[kind] for kind in SEND_KINDS) == threads
