"""When a scanner is asked again after it failed, and how often that is logged, by a clock of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from inbound.scanning.availability import REMINDER_INTERVAL_S, REST_S, WARNING_INTERVAL_S, Availability
from inbound.scanning.connection import Deadline
from inbound.scanning.failures import Declined, NoAnswer, NoTimeLeft, ScannerFailure, Unreachable


class Scanner:
    """One whose state a test sets, behind its `Availability`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.failure: ScannerFailure | None = None
        self.pings: list[ScannerFailure | None] = []
        """What the next pings lead to."""
        self.asked = 0
        self.availability = Availability("clamd", self._ping, lambda: self.now)

    def _ping(self, deadline: Deadline) -> None:
        assert deadline.remaining() <= 1
        failure = self.pings.pop(0)
        if failure is not None:
            raise failure

    def _ask(self) -> str:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return "clean"

    def ask(self, failure: ScannerFailure | None = None) -> str:
        """The answer, or the name of what it failed with."""
        self.failure = failure
        try:
            return self.availability.run(Deadline(15, lambda: self.now), self._ask)
        except ScannerFailure as raised:
            return type(raised).__name__


@pytest.fixture
def scanner() -> Scanner:
    return Scanner()


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


def test_a_scanner_that_cannot_be_reached_is_left_alone_for_a_while(scanner: Scanner) -> None:
    assert scanner.ask(Unreachable("refused")) == "Unreachable"
    scanner.now += REST_S - 0.01
    assert scanner.ask() == "Unreachable"
    assert scanner.asked == 1
    scanner.now += 0.01
    scanner.pings = [None]
    assert scanner.ask() == "clean"
    assert scanner.ask() == "clean"
    assert scanner.pings == []


def test_calls_that_were_under_way_do_not_make_the_rest_longer(scanner: Scanner) -> None:
    scanner.ask(Unreachable("refused"))
    scanner.now += REST_S - 1
    assert scanner.ask() == "Unreachable"
    scanner.now += 1
    scanner.pings = [None]
    assert scanner.ask() == "clean"


def test_a_late_failure_of_a_call_from_before_does_not_end_the_rest(scanner: Scanner) -> None:
    def late() -> str:
        assert scanner.ask(Unreachable("refused")) == "Unreachable"
        raise NoAnswer("late")

    with pytest.raises(NoAnswer):
        scanner.availability.run(Deadline(15), late)
    assert scanner.ask() == "Unreachable"  # and no ping


def test_a_message_with_too_little_time_for_a_ping_does_not_stop_the_others(scanner: Scanner) -> None:
    scanner.ask(NoAnswer("late"))

    def ping(_: Deadline) -> None:
        scanner.now += 0.5
        raise NoAnswer("late")

    scanner.availability = Availability("clamd", ping, lambda: scanner.now)
    scanner.ask(NoAnswer("late"))
    with pytest.raises(NoTimeLeft):
        scanner.availability.run(Deadline(0.5, lambda: scanner.now), lambda: "clean")
    with pytest.raises(Unreachable):
        scanner.availability.run(Deadline(0.6, lambda: scanner.now), lambda: "clean")


def test_a_message_without_an_answer_does_not_stop_the_next(scanner: Scanner) -> None:
    assert scanner.ask(NoAnswer("late")) == "NoAnswer"
    scanner.pings = [None]
    assert scanner.ask() == "clean"
    assert scanner.asked == 2


def test_a_scanner_that_does_not_even_answer_a_ping_is_left_alone(scanner: Scanner) -> None:
    scanner.ask(NoAnswer("late"))
    scanner.pings = [NoAnswer("late")]
    assert scanner.ask() == "Unreachable"
    assert scanner.ask() == "Unreachable"
    assert (scanner.asked, scanner.pings) == (1, [])
    scanner.now += REST_S
    scanner.pings = [Unreachable("refused")]
    assert scanner.ask() == "Unreachable"
    scanner.now += REST_S
    scanner.pings = [None]
    assert scanner.ask() == "clean"


@pytest.mark.parametrize("failure", [Declined("too large"), NoTimeLeft("over")])
def test_what_says_nothing_about_the_scanner_changes_nothing(scanner: Scanner, failure: ScannerFailure) -> None:
    assert scanner.ask(failure) == type(failure).__name__
    assert scanner.ask() == "clean"  # without a ping: there is none prepared


def test_an_outage_is_logged_once_and_its_end(scanner: Scanner, logged: list[dict[str, Any]]) -> None:
    for _ in range(100):
        scanner.ask(Unreachable("refused"))
    scanner.now += REST_S
    scanner.pings = [None]
    scanner.ask()
    scanner.ask()
    assert [(line["event"], line["missed"]) for line in logged] == [
        ("scanner does not answer", 1),
        ("scanner answers again", 100),
    ]
    assert (logged[0]["scanner"], logged[0]["reason"], logged[0]["log_level"]) == ("clamd", "refused", "warning")


def test_a_long_outage_is_logged_again(scanner: Scanner, logged: list[dict[str, Any]]) -> None:
    while scanner.now < 2 * REMINDER_INTERVAL_S:
        scanner.pings = [Unreachable("refused")]
        scanner.ask(Unreachable("refused"))
        scanner.now += REST_S
    assert [line["missed"] for line in logged] == [1, 1 + REMINDER_INTERVAL_S // REST_S]


def test_a_scanner_that_comes_and_goes_is_logged_once_a_minute(scanner: Scanner, logged: list[dict[str, Any]]) -> None:
    for _ in range(100):
        scanner.pings = [None]
        scanner.ask(NoAnswer("late"))
        scanner.pings = [None]
        scanner.ask()
    assert [line["event"] for line in logged] == ["scanner does not answer", "scanner answers again"]
    scanner.now += WARNING_INTERVAL_S
    scanner.ask(NoAnswer("late"))
    assert [line["event"] for line in logged[2:]] == ["scanner does not answer"]


def test_refusals_are_logged_once_a_minute(scanner: Scanner, logged: list[dict[str, Any]]) -> None:
    for seconds in (0, 1, WARNING_INTERVAL_S - 2, 1):
        scanner.now += seconds
        scanner.ask(Declined("too large"))
    assert [(line["event"], line["reason"]) for line in logged] == [("scanner declines", "too large")] * 2


def test_an_error_of_ours_is_not_hidden(scanner: Scanner) -> None:
    broken: Callable[[], None] = lambda: {}["no such key"]  # noqa: E731
    with pytest.raises(KeyError):
        scanner.availability.run(Deadline(1), broken)
