"""Pauses hold mail, a resume lets go what only they held, and a person decides about the rest; on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest

from core.clock import DAY_MS, HOUR_MS, SECOND_MS
from core.config import Settings
from core.delivery import Outcome, Verdict
from core.errors import InvalidField, NotFound, NotPossibleNow
from core.sending.priority import Priority
from core.sending.send_settings import SendSettings
from core.services import pauses
from core.services.accounts import NewAccount, create_account
from core.services.held_sends import cancel_held, list_held, release_held
from core.services.paging import PageRequest
from core.services.pauses import (
    PausePlace,
    pause,
    pause_by_machine,
    pause_by_operator,
    read_pause,
    release_unpaused,
    resume,
)
from core.services.send_claims import FinishedSend
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.send_support import Sends
from workers.housekeeping import SendGuard

WHY = "the wrong list"
HOUR_START_MS = NOW_MS - NOW_MS % HOUR_MS


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path, now_ms=HOUR_START_MS)
    made.add_domain([])
    return made


@pytest.fixture
def whole(sends: Sends) -> PausePlace:
    return PausePlace(sends.account.account_id)


@pytest.fixture
def domain(sends: Sends) -> PausePlace:
    return PausePlace(sends.account.account_id, sends.domain_id)


def states(sends: Sends) -> list[Any]:
    return [row[0] for row in sends.database.execute("SELECT state FROM delivery ORDER BY id")]


def events(sends: Sends, kind: str) -> list[Any]:
    rows = sends.database.execute("SELECT recipient, details FROM event WHERE kind = ? ORDER BY recipient", (kind,))
    return [(recipient, orjson.loads(details).get("reason")) for recipient, details in rows]


def resumed(sends: Sends, place: PausePlace, defaults: SendSettings | None = None) -> int:
    done = resume(sends.database, place, sends.clock, defaults or SendSettings())
    assert not done.is_partial
    return done.released


# --- the operator's word ---


def test_only_the_operator_ends_his_own_pause(sends: Sends, whole: PausePlace) -> None:
    told = pause_by_operator(sends.database, whole.account_id, "spam was reported", sends.now_ms)
    assert told.because == "by the operator: spam was reported"
    sends.store("a@example.net")
    with pytest.raises(NotPossibleNow, match="ask whoever runs this gateway"):
        resume(sends.database, whole, sends.clock)
    with pytest.raises(NotPossibleNow):  # else he would replace it by one that he may end
        pause(sends.database, whole, "mine", sends.now_ms)
    assert states(sends) == ["quarantined"]
    assert resume(sends.database, whole, sends.clock, is_operator=True).released == 1
    assert states(sends) == ["pending"]


def test_nobody_else_speaks_in_his_name(sends: Sends, whole: PausePlace) -> None:
    with pytest.raises(InvalidField, match="must not begin"):
        pause(sends.database, whole, "by the operator: not really", sends.now_ms)


def test_the_operator_ends_pauses_of_customers_too(sends: Sends, whole: PausePlace) -> None:
    pause(sends.database, whole, WHY, sends.now_ms)
    resume(sends.database, whole, sends.clock, is_operator=True)
    assert read_pause(sends.database, whole) is None


# --- pausing and resuming ---


@pytest.mark.parametrize("fixture", ["whole", "domain"])
def test_what_comes_during_a_pause_is_held_and_goes_when_it_ends(
    sends: Sends, fixture: str, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(fixture)
    pause(sends.database, place, WHY, sends.now_ms)
    assert read_pause(sends.database, place) == pauses.Pause(HOUR_START_MS, WHY)
    sends.store("ann@example.com", "bob@example.com")
    assert states(sends) == ["quarantined"] * 2
    assert sends.claim().deliveries == []
    assert events(sends, "held") == [
        (who, f"sending is paused: {WHY}") for who in ("ann@example.com", "bob@example.com")
    ]
    sends.now_ms += 5 * SECOND_MS
    assert resumed(sends, place) == 2
    assert read_pause(sends.database, place) is None
    row = "SELECT DISTINCT state, due_ms, cycle_started_ms, cycle_attempts, finished_ms, last_error FROM delivery"
    assert sends.database.execute(row) == [("pending", sends.now_ms, sends.now_ms, 0, None, None)]
    assert len(sends.claim().deliveries) == 2


def test_what_was_accepted_before_is_held_at_its_turn_and_goes_likewise(sends: Sends, domain: PausePlace) -> None:
    sends.store("ann@example.com")
    pause(sends.database, domain, WHY, sends.now_ms)
    (claimed,) = sends.claim().deliveries
    assert claimed.paused_because == WHY
    sends.record(FinishedSend(claimed, Outcome(Verdict.HELD, 0, sends.now_ms, 0, claimed.paused_because)))
    assert states(sends) == ["quarantined"]
    assert events(sends, "held") == [("ann@example.com", WHY)]
    sends.now_ms += DAY_MS
    assert resumed(sends, domain) == 1
    (again,) = sends.claim().deliveries
    assert (again.paused_because, again.attempt_number) == (None, 1)


def test_another_pause_still_holds_it(sends: Sends, whole: PausePlace, domain: PausePlace) -> None:
    for place in (whole, domain):
        pause(sends.database, place, WHY, sends.now_ms)
    sends.store("ann@example.com")
    assert resumed(sends, domain) == 0
    assert resumed(sends, whole) == 1


def test_a_resume_of_the_account_leaves_paused_domains_alone(
    sends: Sends, whole: PausePlace, domain: PausePlace
) -> None:
    pause(sends.database, domain, WHY, sends.now_ms)
    sends.store("ann@example.com")
    sends.add_domain([], "other.example")
    pause(sends.database, whole, WHY, sends.now_ms)
    sends.store("bob@example.com")
    assert resumed(sends, whole) == 1
    assert sorted(states(sends)) == ["pending", "quarantined"]
    (claimed,) = sends.claim().deliveries
    assert claimed.recipient == "bob@example.com"


def test_nobody_elses_mail_is_touched(sends: Sends, whole: PausePlace, database: Database, tmp_path: Path) -> None:
    other = Sends(database, create_account(database, "other", NOW_MS), tmp_path, now_ms=HOUR_START_MS)
    pause(database, PausePlace(other.account.account_id), WHY, HOUR_START_MS)
    other.store("eve@example.com")
    assert resumed(sends, whole) == 0
    with pytest.raises(NotFound):
        pause(database, PausePlace(other.account.account_id, sends.domain_id), WHY, HOUR_START_MS)
    with pytest.raises(NotFound):
        resume(database, PausePlace(other.account.account_id, sends.domain_id), sends.clock)
    with pytest.raises(NotFound):
        read_pause(database, PausePlace("0" * 16))


def test_mail_that_is_let_go_keeps_to_the_limits_and_to_its_own_time(sends: Sends, whole: PausePlace) -> None:
    pause(sends.database, whole, WHY, sends.now_ms)
    sends.store(*(f"r{number}@example.com" for number in range(3)))
    sends.store("later@example.com", send_at_ms=HOUR_START_MS + 5 * DAY_MS)
    assert resumed(sends, whole, SendSettings(hourly_limit=1)) == 4
    rows = sends.database.execute("SELECT due_ms FROM delivery ORDER BY due_ms")
    assert [row[0] - HOUR_START_MS for row in rows] == [0, HOUR_MS, 2 * HOUR_MS, 5 * DAY_MS]
    assert len(events(sends, "rate_limit")) == 2


def test_mail_in_test_mode_takes_no_places_when_it_is_let_go(sends: Sends, whole: PausePlace) -> None:
    pause(sends.database, whole, WHY, sends.now_ms)
    sends.store(*(f"r{number}@example.com" for number in range(3)), is_test=True)
    sends.store("real@example.com")
    assert resumed(sends, whole, SendSettings(hourly_limit=1)) == 4
    assert sends.database.execute("SELECT DISTINCT due_ms FROM delivery") == [(HOUR_START_MS,)]
    assert events(sends, "rate_limit") == []


def test_many_are_let_go_in_batches_and_what_is_left_follows(
    sends: Sends, whole: PausePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "BATCH", 3)
    monkeypatch.setattr(pauses, "RELEASED_AT_ONCE", 6)
    pause(sends.database, whole, WHY, sends.now_ms)
    for number in range(4):
        sends.store(f"a{number}@example.com", f"b{number}@example.com", priority=list(Priority)[number % 3])
    done = resume(sends.database, whole, sends.clock)
    assert (done.released, done.is_partial) == (6, True)
    assert release_unpaused(sends.database, sends.clock) == 2
    assert release_unpaused(sends.database, sends.clock) == 0
    assert states(sends) == ["pending"] * 8


def test_a_pause_by_machine_leaves_one_that_is_there_as_it_is(sends: Sends, domain: PausePlace) -> None:
    with sends.database.transaction():
        assert pause_by_machine(sends.database, domain, "bounces", 5)
        assert not pause_by_machine(sends.database, domain, "complaints", 6)
    assert read_pause(sends.database, domain) == pauses.Pause(5, "bounces")
    pause(sends.database, domain, "by me", 7)
    assert read_pause(sends.database, domain) == pauses.Pause(7, "by me")


def test_sends_pauses_and_resumes_at_once_lose_nothing_and_leave_nothing_held(
    sends: Sends, whole: PausePlace, domain: PausePlace
) -> None:
    with sends.database.transaction():
        sends.database.execute("UPDATE account SET settings = ?", ('{"hourly_limit": 500000}',))

    def send(number: int) -> None:
        try:
            sends.store(f"a{number}@example.com", f"b{number}@example.com", priority=list(Priority)[number % 3])
            place = (whole, domain)[number % 2]
            if number % 3 == 0:
                pause(sends.database, place, WHY, sends.now_ms)
            if number % 3 == 1:
                resume(sends.database, place, sends.clock)
        finally:
            sends.database.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(send, range(90)))
    for place in (whole, domain):
        resume(sends.database, place, sends.clock)
    assert release_unpaused(sends.database, sends.clock) == 0
    assert states(sends) == ["pending"] * 180


def test_what_was_stored_as_held_just_after_a_resume_goes_by_itself(sends: Sends, whole: PausePlace) -> None:
    """The gate has seen the pause, and commits when the resume is over."""
    pause(sends.database, whole, WHY, sends.now_ms)
    resume(sends.database, whole, sends.clock)
    with sends.database.transaction():
        sends.database.execute("UPDATE account SET paused_ms = 1")
    sends.store("ann@example.com")
    with sends.database.transaction():
        sends.database.execute("UPDATE account SET paused_ms = NULL")
    assert states(sends) == ["quarantined"]
    assert SendGuard(Settings(), sends.database, sends.clock).look() == (0, 1)
    assert states(sends) == ["pending"]


# --- one by one ---


def test_the_end_of_a_pause_does_not_let_go_what_the_spam_check_holds(sends: Sends, whole: PausePlace) -> None:
    pause(sends.database, whole, WHY, sends.now_ms)
    sends.store("ann@example.com", spam_reason="15 points (GTUBE)")
    assert resumed(sends, whole) == 0
    (held,) = list_held(sends.database, whole.account_id, PageRequest()).entries
    assert (held.message_id, held.recipients, held.is_spam) == (sends.stored[0], ("ann@example.com",), True)
    assert held.reason == "the spam check objects: 15 points (GTUBE)"
    (released,) = release_held(sends.database, whole.account_id, sends.stored[0], sends.now_ms)
    assert released.recipient == "ann@example.com"
    assert len(sends.claim().deliveries) == 1
    with pytest.raises(NotFound):
        release_held(sends.database, whole.account_id, sends.stored[0], sends.now_ms)


def test_nothing_is_released_past_a_pause(sends: Sends, whole: PausePlace) -> None:
    sends.store("ann@example.com", spam_reason="x")
    pause(sends.database, whole, WHY, sends.now_ms)
    with pytest.raises(NotPossibleNow, match=WHY):
        release_held(sends.database, whole.account_id, sends.stored[0], sends.now_ms)
    assert states(sends) == ["quarantined"]


def test_held_mail_can_be_cancelled(sends: Sends, whole: PausePlace, database: Database) -> None:
    sends.store("ann@example.com", "bob@example.com", spam_reason="x")
    stranger = create_account(database, "other", NOW_MS).account_id
    for act in (release_held, cancel_held):
        with pytest.raises(NotFound):
            act(database, stranger, sends.stored[0], sends.now_ms)
    assert len(cancel_held(database, whole.account_id, sends.stored[0], NOW_MS)) == 2
    assert database.execute("SELECT DISTINCT state, finished_ms FROM delivery") == [("cancelled", NOW_MS)]
    assert [who for who, _ in events(sends, "cancelled")] == ["ann@example.com", "bob@example.com"]
    assert list_held(database, whole.account_id, PageRequest()).entries == []


def test_held_mail_is_listed_page_by_page(sends: Sends, whole: PausePlace) -> None:
    sends.store("gone@example.com")
    for number in range(5):
        sends.now_ms += 1
        sends.store(f"a{number}@example.com", f"b{number}@example.com", spam_reason="x", subject=f"mail {number}")
    first = list_held(sends.database, whole.account_id, PageRequest(size=3))
    rest = list_held(sends.database, whole.account_id, PageRequest(size=3, cursor=first.next_cursor))
    subjects = [entry.subject for entry in (*first.entries, *rest.entries)]
    assert subjects == [f"mail {number}" for number in (4, 3, 2, 1, 0)]
    assert tuple(sorted(first.entries[0].recipients)) == ("a4@example.com", "b4@example.com")
    assert rest.next_cursor is None
    with pytest.raises(InvalidField):
        list_held(sends.database, whole.account_id, PageRequest(cursor="nonsense"))
