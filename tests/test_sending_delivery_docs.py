"""The figures in `docs/sending-delivery.md` are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from core.config import Settings
from core.delivery import BUSY_PAUSE_MS, DeliveryState, Policy
from core.sending.events import EventDetails, EventKind
from core.sending.priority import KIND_OF, Priority
from core.sending.verp import RETURN_HEADER
from core.smart_host import SCHEMES
from outbound.finishing import FEEDBACK_HEADER, FEEDBACK_MARK
from outbound.policy import SEND_POLICIES
from outbound.pool import PoolLimits
from workers.sending import LEAST_DIGEST_THREADS, LEAST_PRIORITY_THREADS, send_threads

PAGE = (Path(__file__).parents[1] / "docs" / "sending-delivery.md").read_text()
TEXT = " ".join(PAGE.split())


def spoken(pause_ms: int) -> str:
    if pause_ms < MINUTE_MS:
        return f"{pause_ms // SECOND_MS} s"
    return f"{pause_ms // MINUTE_MS} min" if pause_ms < HOUR_MS else f"{pause_ms // HOUR_MS} h"


def attempts_in_first_hour(policy: Policy) -> int:
    pauses = policy.schedule_ms
    return 1 + sum(sum(pauses[:number]) <= HOUR_MS for number in range(1, len(pauses) + 1))


@pytest.mark.parametrize("priority", Priority)
def test_the_schedules(priority: Priority) -> None:
    policy = SEND_POLICIES[KIND_OF[priority]]
    assert f"| `{priority}` | {', '.join(map(spoken, policy.schedule_ms))} |" in PAGE
    (row,) = re.findall(rf"^\| `{priority}` \| [^|]+ \| (\d+) attempts \| (\d+) (hours|days) \|$", PAGE, re.MULTILINE)
    attempts, count, unit = row
    assert int(attempts) == attempts_in_first_hour(policy)
    assert int(count) * (DAY_MS if unit == "days" else HOUR_MS) == policy.give_up_after_ms
    assert policy.jitter == 0.1


def test_the_threads() -> None:
    assert f"at least {LEAST_PRIORITY_THREADS} |" in PAGE
    assert f"at least {LEAST_DIGEST_THREADS} |" in PAGE
    assert f"`PILLARBOX_SEND_THREADS` ({Settings().send_threads})" in PAGE
    assert sorted(send_threads(32).values()) == [8, 16, 32]


def test_the_limits() -> None:
    limits = PoolLimits()
    assert f"`PILLARBOX_CONNECTIONS_PER_HOST` ({Settings().connections_per_host})" in TEXT
    pause = BUSY_PAUSE_MS // SECOND_MS
    assert f"comes again after {pause} to {2 * pause} seconds" in TEXT
    assert f"for {limits.idle_s:.0f} seconds after a mail, and for {limits.messages} mails at most" in TEXT
    for scheme, port in SCHEMES.items():
        assert f"`{scheme}://user:password@relay.example.com` | port {port};" in PAGE


def test_the_words_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| `(\w+)` \| [^|]*\|$", PAGE, re.MULTILINE)
    assert len(rows) == 8
    assert {state for state, _ in rows} <= {str(state) for state in DeliveryState}
    assert {kind for _, kind in rows} <= {str(kind) for kind in EventKind}
    (named,) = re.findall(r"Details of these events: (.+?) where no host", TEXT)
    assert set(re.findall(r"`(\w+)`", named)) <= set(EventDetails.__dataclass_fields__)
    for name in (RETURN_HEADER, FEEDBACK_HEADER, FEEDBACK_MARK):
        assert f"`{name}`" in PAGE
