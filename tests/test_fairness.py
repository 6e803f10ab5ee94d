"""What a claim takes when hosts are busy, slow, failing or new."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from core.clock import SECOND_MS
from core.delivery import Outcome, Verdict
from core.fairness import (
    BREAKER_FAILURES,
    BREAKER_FIRST_PAUSE_MS,
    BREAKER_LONGEST_PAUSE_MS,
    CROWDED_FOR_MS,
    FAILING_CONCURRENCY,
    HEALTHY,
    NEWCOMER_CONCURRENCY,
    NO_CROWDS,
    SLOW_CONCURRENCY,
    SLOW_MS,
    SUSPECT_POOL_SHARE,
    Candidate,
    ClaimPlan,
    Crowds,
    HostHealth,
    HostLoad,
    MachineOf,
    health_after,
    unknown_machine,
)
from tests.conftest import NOW_MS

GOOD = "https://good.example:443"
BAD = "https://bad.example:443"
OPEN = HostHealth(BREAKER_FAILURES, NOW_MS + 1)
HALF_OPEN = HostHealth(BREAKER_FAILURES, NOW_MS)


def plan(
    *,
    free: int = 64,
    pool: int = 64,
    load: dict[str, HostLoad] | None = None,
    health: dict[str, HostHealth] | None = None,
    proven: tuple[str, ...] = (GOOD, BAD),
    host_concurrency: int = 32,
    machine_of: MachineOf = unknown_machine,
    crowds: Mapping[str, int] = NO_CROWDS,
) -> ClaimPlan:
    return ClaimPlan(
        free_places=free,
        pool_size=pool,
        host_concurrency=host_concurrency,
        load=load or {},
        health=health or {},
        proven_hosts=proven,
        now_ms=NOW_MS,
        machine_of=machine_of,
        crowds=crowds,
    )


def due(host: str, count: int = 100) -> list[Candidate]:
    return [Candidate(f"{host}#{number}", host) for number in range(count)]


def answer(status: int, duration_ms: int = 50) -> Outcome:
    return Outcome(Verdict.TEMPORARY, status, NOW_MS, duration_ms)


def test_a_healthy_proven_host_gets_its_whole_allowance() -> None:
    made = plan()
    made.offer(due(GOOD))
    assert made.chosen == [candidate.delivery_id for candidate in due(GOOD, 32)]
    assert not made.is_full


def test_what_is_in_flight_counts_towards_the_cap_of_its_host() -> None:
    made = plan(load={GOOD: HostLoad(30, 10)})
    made.offer(due(GOOD))
    assert len(made.chosen) == 2


def test_free_places_bound_the_whole_plan() -> None:
    made = plan(free=5)
    made.offer(due(GOOD))
    assert len(made.chosen) == 5
    assert made.is_full


def test_a_host_at_its_cap_does_not_keep_the_next_one_back() -> None:
    made = plan()
    made.offer([*due(BAD), *due(GOOD, 10)])
    assert made.chosen[32:] == [candidate.delivery_id for candidate in due(GOOD, 10)]


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (HEALTHY, 32),
        (HostHealth(failures=1), FAILING_CONCURRENCY),
        (HostHealth(failures=BREAKER_FAILURES - 1), FAILING_CONCURRENCY),
        (OPEN, 0),
        (HALF_OPEN, 1),
        (HostHealth(is_slow=True), SLOW_CONCURRENCY),
    ],
)
def test_the_health_of_a_host_sets_its_limit(health: HostHealth, expected: int) -> None:
    made = plan(health={BAD: health})
    assert made.allowance(BAD) == expected
    assert made.allowance(GOOD) == 32


def test_a_half_open_host_with_its_probe_in_flight_gets_no_second_one() -> None:
    assert plan(health={BAD: HALF_OPEN}, load={BAD: HostLoad(1, 10)}).allowance(BAD) == 0


def test_a_newcomer_gets_a_few_until_it_has_answered_well() -> None:
    assert plan(proven=()).allowance(BAD) == NEWCOMER_CONCURRENCY
    assert plan(proven=(BAD,)).allowance(BAD) == 32


@pytest.mark.parametrize(("age_ms", "expected"), [(SLOW_MS, 31), (SLOW_MS + 1, SLOW_CONCURRENCY - 1)])
def test_a_host_that_is_dawdling_now_counts_as_slow_before_any_answer(age_ms: int, expected: int) -> None:
    assert plan(load={BAD: HostLoad(1, age_ms)}).allowance(BAD) == expected


def test_no_limit_exceeds_the_setting_for_hosts() -> None:
    for health in (HEALTHY, HostHealth(failures=1), HostHealth(is_slow=True)):
        assert plan(host_concurrency=1, health={BAD: health}, proven=()).allowance(BAD) == 1


def test_all_suspects_together_hold_a_quarter_of_the_places() -> None:
    slow = {f"https://slow{number}.example:443": HostHealth(is_slow=True) for number in range(10)}
    made = plan(pool=64, health=slow, proven=(*slow, GOOD))
    for host in slow:
        made.offer(due(host))
    assert len(made.chosen) == 16
    made.offer(due(GOOD))
    assert len(made.chosen) == 16 + 32


def test_suspects_in_flight_use_up_the_share_of_suspects() -> None:
    made = plan(pool=64, load={BAD: HostLoad(15, SLOW_MS + 1)}, health={GOOD: HostHealth(is_slow=True)})
    assert made.allowance(GOOD) == 1


def test_even_the_smallest_pool_has_a_place_for_a_suspect() -> None:
    assert plan(free=1, pool=1, health={BAD: HostHealth(is_slow=True)}).allowance(BAD) == 1


@pytest.mark.parametrize("status", [0, 500, 503, 599])
def test_no_answer_and_5xx_are_failures(status: int) -> None:
    assert health_after(HEALTHY, answer(status), NOW_MS) == HostHealth(failures=1)


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 429])
def test_any_other_answer_makes_a_host_healthy_again(status: int) -> None:
    assert health_after(HostHealth(9, NOW_MS + 5, True), answer(status), NOW_MS) == HEALTHY


def test_a_failure_of_ours_says_nothing_of_a_host() -> None:
    ours = Outcome(Verdict.TEMPORARY, 0, NOW_MS, 60_000, is_our_fault=True)
    assert health_after(HEALTHY, ours, NOW_MS) == HEALTHY
    assert health_after(OPEN, ours, NOW_MS + 1) == OPEN


@pytest.mark.parametrize(("duration_ms", "is_slow"), [(SLOW_MS, False), (SLOW_MS + 1, True)])
def test_a_late_answer_marks_a_host_as_slow(duration_ms: int, is_slow: bool) -> None:
    assert health_after(HEALTHY, answer(200, duration_ms), NOW_MS) == HostHealth(is_slow=is_slow)
    assert health_after(HEALTHY, answer(503, duration_ms), NOW_MS) == HostHealth(1, 0, is_slow)


def test_the_breaker_opens_at_the_fifth_failure_and_its_pause_doubles_up_to_a_minute() -> None:
    health, pauses = HEALTHY, []
    for _ in range(40):
        health = health_after(health, answer(503), NOW_MS)
        pauses.append(max(0, health.open_until_ms - NOW_MS))
    assert pauses[:4] == [0, 0, 0, 0]
    assert pauses[4:9] == [5 * SECOND_MS, 10 * SECOND_MS, 20 * SECOND_MS, 40 * SECOND_MS, 60 * SECOND_MS]
    assert set(pauses[9:]) == {BREAKER_LONGEST_PAUSE_MS}
    assert pauses[4] == BREAKER_FIRST_PAUSE_MS


# --- hosts that share a machine ---

SHARED = "192.0.2.1 25"


def behind_one_machine(host: str) -> str | None:
    return SHARED if host.startswith("mailto://d") else None


def crowd(count: int) -> list[Candidate]:
    return [Candidate(f"d{number}", f"mailto://d{number}.test") for number in range(count)]


def test_hosts_that_share_a_machine_share_its_places() -> None:
    taken = plan(proven=(SHARED, "mailto://other.test"), host_concurrency=10, machine_of=behind_one_machine)
    taken.offer([*crowd(100), *due("mailto://other.test", 20)])
    assert len([one for one in taken.chosen if one.startswith("d")]) == 10
    assert len(taken.chosen) == 20
    assert taken.allowance("mailto://d7.test") == 0


def test_a_machine_nobody_has_seen_answer_is_a_newcomer_under_all_its_names() -> None:
    taken = plan(proven=(), host_concurrency=10, machine_of=behind_one_machine)
    taken.offer(crowd(100))
    assert len(taken.chosen) == NEWCOMER_CONCURRENCY


def test_what_other_workers_have_at_a_machine_counts_by_host_only() -> None:
    load = {"mailto://d0.test": HostLoad(9, 10, here=2), "mailto://d1.test": HostLoad(3, 10, here=3)}
    proven = (SHARED, *load)
    taken = plan(load=load, proven=proven, host_concurrency=10, machine_of=behind_one_machine)
    assert (taken.allowance("mailto://d0.test"), taken.allowance("mailto://d1.test")) == (1, 5)
    assert taken.allowance("mailto://d5.test") == NEWCOMER_CONCURRENCY
    assert plan(load=load, proven=proven, host_concurrency=10).allowance("mailto://d1.test") == 7


def test_a_machine_that_dawdles_is_suspect_under_all_its_names() -> None:
    load = {"mailto://d0.test": HostLoad(1, SLOW_MS + 1, here=1)}
    taken = plan(pool=16, load=load, proven=(SHARED,), machine_of=behind_one_machine)
    taken.offer(crowd(100))
    assert len(taken.chosen) == 16 * SUSPECT_POOL_SHARE - 1


def test_where_mail_was_turned_away_no_more_is_started_than_had_found_a_place_for_a_while() -> None:
    crowds = Crowds()
    crowds.note(SHARED, 6, NOW_MS)
    load = {"mailto://d0.test": HostLoad(5, 10, here=5)}
    for now_ms, room in ((NOW_MS + CROWDED_FOR_MS - 1, 1), (NOW_MS + CROWDED_FOR_MS, NEWCOMER_CONCURRENCY)):
        known = crowds.limits(now_ms)
        taken = plan(load=load, proven=(SHARED,), host_concurrency=10, machine_of=behind_one_machine, crowds=known)
        assert taken.allowance("mailto://d1.test") == room
        assert taken.allowance("mailto://other.test") == NEWCOMER_CONCURRENCY


def test_one_asks_whether_there_is_a_place_again() -> None:
    crowds = Crowds()
    crowds.note(SHARED, 0, NOW_MS)
    taken = plan(proven=(SHARED,), machine_of=behind_one_machine, crowds=crowds.limits(NOW_MS))
    taken.offer(crowd(10))
    assert len(taken.chosen) == 1
