"""The gate: who may go, who waits, who never goes; limits exact over threads and processes; on both databases."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from core.config import Settings
from core.errors import NotFound
from core.sending.events import EventKind
from core.sending.pacing import DIGESTS_A_MINUTE
from core.sending.priority import Priority
from core.sending.send_settings import SendSettings, settings_json
from core.sending.suppression import SuppressionReason
from core.services.accounts import NewAccount
from core.services.send_accounts import NO_SETTINGS, gateway_send_settings
from core.services.send_gate import GateAnswer, GateQuestion, RecipientGate, ask_gate
from core.services.suppressions import NewSuppression, SendTarget, add_suppressions
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.send_support import Sends

ANN, BOB = "Ann@Example.com", "bob@example.org"
HOUR_START_MS = NOW_MS - NOW_MS % HOUR_MS


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path, now_ms=HOUR_START_MS)
    made.add_domain([])
    return made


def ask(
    sends: Sends, *recipients: str, defaults: SendSettings = NO_SETTINGS, now_ms: int | None = None, **changes: Any
) -> list[RecipientGate]:
    at_ms = sends.now_ms if now_ms is None else now_ms
    given: dict[str, Any] = {
        "account_id": sends.account.account_id, "sending_domain_id": sends.domain_id,
        "recipients": recipients or (ANN,), "priority": Priority.STANDARD, "earliest_ms": at_ms, **changes,
    }  # fmt: skip
    with sends.database.transaction():
        (answers,) = ask_gate(sends.database, [GateQuestion(**given)], at_ms, defaults)
    return answers


def set_up(sends: Sends, table: str, settings: SendSettings | None = None, paused: str | None = None) -> None:
    """Settings or a pause of the account or the domain."""
    row_id = sends.account.account_id if table == "account" else sends.domain_id
    with sends.database.transaction():
        if settings is not None:
            sends.database.execute(f"UPDATE {table} SET settings = ? WHERE id = ?", (settings_json(settings), row_id))
        if paused is not None:
            sends.database.execute(
                f"UPDATE {table} SET paused_ms = 1, paused_because = ? WHERE id = ?", (paused, row_id)
            )


def suppress(sends: Sends, address: str, domain_id: str | None = None) -> None:
    target = SendTarget(sends.account.account_id, domain_id, address)
    with sends.database.transaction():
        add_suppressions(sends.database, [NewSuppression(target, SuppressionReason.COMPLAINT)], NOW_MS)


@contextmanager
def counted_statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    seen: list[str] = []
    execute = Database.execute

    def noting(self: Database, statement: str, parameters: Any = ()) -> Any:
        seen.append(statement.split()[0])
        return execute(self, statement, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "execute", noting)
        yield seen


# --- who may go ---


def test_mail_goes_at_its_own_time_and_costs_two_queries(sends: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted_statements(sends.database, monkeypatch) as seen:
        answers = ask(sends, ANN, BOB, earliest_ms=HOUR_START_MS + 7)
    assert answers == [RecipientGate(who, GateAnswer.ALLOW, HOUR_START_MS + 7) for who in (ANN, BOB)]
    assert seen == ["SELECT", "WITH"]  # suppressions; settings and pauses
    assert sends.database.execute("SELECT * FROM send_rate") == []


def test_a_suppressed_recipient_is_blocked_and_the_others_are_not(sends: Sends) -> None:
    suppress(sends, "ann@example.com")
    blocked, allowed = ask(sends, ANN, BOB)
    assert (blocked.answer, blocked.kind) == (GateAnswer.BLOCK, EventKind.SUPPRESSED)
    assert "complaint" in str(blocked.details.reason)
    assert (allowed.answer, allowed.kind) == (GateAnswer.ALLOW, None)


@pytest.mark.parametrize("table", ["account", "sending_domain"])
def test_while_paused_mail_is_held_and_says_why(sends: Sends, table: str) -> None:
    set_up(sends, table, paused="too many bounces")
    suppress(sends, "ann@example.com")
    blocked, held = ask(sends, ANN, BOB)
    assert blocked.answer is GateAnswer.BLOCK
    assert (held.answer, held.kind) == (GateAnswer.HOLD, EventKind.HELD)
    assert held.details.reason == "sending is paused: too many bounces"


def test_another_domains_pause_holds_nothing(sends: Sends) -> None:
    set_up(sends, "sending_domain", paused="bounces")
    sends.add_domain([], "other.example")
    assert ask(sends)[0].answer is GateAnswer.ALLOW
    assert ask(sends, sending_domain_id=None)[0].answer is GateAnswer.ALLOW


def test_what_the_spam_check_objects_to_is_held_for_that_even_while_paused(sends: Sends) -> None:
    set_up(sends, "account", paused="by hand")
    (held,) = ask(sends, spam_reason="15 points")
    assert (held.answer, held.details.reason) == (GateAnswer.HOLD, "the spam check objects: 15 points")


def test_an_account_that_is_gone_sends_nothing(sends: Sends) -> None:
    with pytest.raises(NotFound):
        ask(sends, account_id="0" * 16)


# --- limits ---


def due(answers: list[RecipientGate]) -> list[int]:
    return [answer.due_ms - HOUR_START_MS for answer in answers]


@pytest.mark.parametrize("table", ["account", "sending_domain"])
def test_beyond_the_limit_mail_waits_and_an_event_says_until_when(sends: Sends, table: str) -> None:
    set_up(sends, table, SendSettings(hourly_limit=10))
    answers = ask(sends, *(f"r{number}@example.com" for number in range(12)))
    assert [answer.answer for answer in answers] == [GateAnswer.ALLOW] * 12
    assert due(answers) == [0] * 9 + [HOUR_MS + place * 400 * SECOND_MS for place in (0, 1, 2)]
    assert [answer.kind for answer in answers] == [None] * 9 + [EventKind.RATE_LIMIT] * 3
    assert answers[-1].details.next_attempt_at is not None
    assert "limit" in str(answers[-1].details.reason)


def test_the_gateways_limit_is_for_accounts_and_not_for_domains(sends: Sends) -> None:
    defaults = gateway_send_settings(Settings(send_hourly_limit=1))
    assert due(ask(sends, "a@x.example", "b@x.example", defaults=defaults)) == [0, HOUR_MS]
    sends.add_domain([], "other.example")  # the account's limit counts over all of its domains
    assert due(ask(sends, defaults=defaults)) == [2 * HOUR_MS]
    set_up(sends, "account", SendSettings(hourly_limit=100))
    assert due(ask(sends, defaults=defaults)) == [3 * HOUR_MS]  # chosen before there was a limit
    assert due(ask(sends)) == [0]


def test_whoever_changes_his_own_limit_gets_no_new_places_of_the_gateways(sends: Sends) -> None:
    defaults = gateway_send_settings(Settings(send_hourly_limit=10))
    answers: list[RecipientGate] = []
    for limit in range(10, 1, -1):
        set_up(sends, "account", SendSettings(hourly_limit=limit))
        answers += ask(sends, *(f"r{number}@example.com" for number in range(limit)), defaults=defaults)
    assert due(answers).count(0) == 9  # the tenth place is for priority mail
    assert due(ask(sends, priority=Priority.PRIORITY, defaults=defaults)) == [0]


def test_a_day_has_a_limit_too(sends: Sends) -> None:
    set_up(sends, "account", SendSettings(daily_limit=1, hourly_limit=50))
    day_start = HOUR_START_MS - HOUR_START_MS % DAY_MS
    answers = ask(sends, "a@x.example", "b@x.example", "c@x.example")
    assert [answer.due_ms for answer in answers] == [HOUR_START_MS, day_start + DAY_MS, day_start + 2 * DAY_MS]


def test_a_limit_of_zero_or_beyond_all_bounds_is_none(sends: Sends) -> None:
    set_up(sends, "account", SendSettings(hourly_limit=0, daily_limit=10**9))
    assert due(ask(sends, *(f"r{number}@example.com" for number in range(20)))) == [0] * 20
    assert sends.database.execute("SELECT * FROM send_rate") == []


def test_blocked_and_held_mail_takes_nobodys_place(sends: Sends) -> None:
    set_up(sends, "account", SendSettings(hourly_limit=1))
    suppress(sends, "ann@example.com")
    ask(sends, ANN, ANN.lower())
    ask(sends, spam_reason="x")
    assert due(ask(sends, BOB)) == [0]


def test_priority_mail_goes_while_standard_mail_waits(sends: Sends) -> None:
    set_up(sends, "account", SendSettings(hourly_limit=20))
    crowd = ask(sends, *(f"r{number}@example.com" for number in range(100)))
    assert max(due(crowd)) > 5 * HOUR_MS
    (urgent,) = ask(sends, priority=Priority.PRIORITY)
    assert (urgent.due_ms, urgent.kind) == (HOUR_START_MS, None)


def test_scheduled_mail_takes_its_place_at_its_own_time(sends: Sends) -> None:
    set_up(sends, "account", SendSettings(hourly_limit=10))
    tomorrow = HOUR_START_MS + DAY_MS
    later = ask(sends, *(f"r{number}@example.com" for number in range(10)), earliest_ms=tomorrow)
    assert [answer.due_ms for answer in later] == [tomorrow] * 9 + [tomorrow + HOUR_MS]
    assert due(ask(sends)) == [0]


def test_a_new_limit_is_in_force_at_once(sends: Sends) -> None:
    set_up(sends, "account", SendSettings(hourly_limit=1))
    assert max(due(ask(sends, *(f"r{number}@example.com" for number in range(10))))) == 9 * HOUR_MS
    set_up(sends, "account", SendSettings(hourly_limit=100))
    assert due(ask(sends)) == [0]


def test_digest_mail_is_spread_out_for_each_destination_without_an_event(sends: Sends) -> None:
    answers = ask(sends, "a@x.example", "b@X.example", "c@y.example", "d@x.example", priority=Priority.DIGEST)
    spacing = MINUTE_MS // DIGESTS_A_MINUTE
    assert due(answers) == [0, spacing, 0, 2 * spacing]
    assert [answer.kind for answer in answers] == [None] * 4


def test_a_new_domain_sends_little_on_its_first_day_and_is_new_again_after_a_long_silence(sends: Sends) -> None:
    defaults = gateway_send_settings(Settings(ramp=True))
    recipients = [f"r{number}@example.com" for number in range(400)]
    first = due(ask(sends, *recipients, defaults=defaults))
    assert sum(moment < DAY_MS for moment in first) == 180  # 200 less the tenth that is kept for priority mail
    assert max(first) < 2 * DAY_MS
    assert due(ask(sends, sending_domain_id=None, defaults=defaults)) == [0]
    set_up(sends, "sending_domain", SendSettings(ramp=False))
    assert due(ask(sends, defaults=defaults)) == [0]


@pytest.mark.parametrize(("age_days", "is_limited"), [(9, True), (10, False)])
def test_a_ramp_counts_from_the_first_mail_that_is_remembered(sends: Sends, age_days: int, is_limited: bool) -> None:
    began = (sends.account.account_id, sends.domain_id, HOUR_START_MS - age_days * DAY_MS)
    with sends.database.transaction():
        sends.database.execute("INSERT INTO send_tally VALUES (?, ?, ?, 'registration', 5)", began)
    ask(sends, defaults=SendSettings(ramp=True))
    assert bool(sends.database.execute("SELECT * FROM send_rate")) is is_limited


# --- in the hands of those who send ---


def test_what_is_stored_tells_of_it(sends: Sends) -> None:
    set_up(sends, "account", SendSettings(hourly_limit=1))
    sends.store("a@x.example", "b@x.example")
    rows = sends.database.execute("SELECT state, due_ms FROM delivery ORDER BY due_ms")
    assert rows == [("pending", HOUR_START_MS), ("pending", HOUR_START_MS + HOUR_MS)]
    told = sends.database.execute("SELECT recipient, details FROM event WHERE kind = 'rate_limit'")
    assert [(who, orjson.loads(details)["next_attempt_at"][-5:]) for who, details in told] == [("b@x.example", ".000Z")]


def test_threads_that_ask_at_once_keep_the_limit_together(sends: Sends) -> None:
    set_up(sends, "account", SendSettings(hourly_limit=100, daily_limit=1_000))

    def send(number: int) -> list[int]:
        try:
            priority = list(Priority)[number % 2]
            return due(ask(sends, f"a{number}@x.example", f"b{number}@x.example", priority=priority))
        finally:
            sends.database.close()

    with ThreadPoolExecutor(8) as pool:
        moments = [moment for found in pool.map(send, range(150)) for moment in found]
    slices = Counter(moment // (6 * MINUTE_MS) for moment in moments)
    assert len(moments) == 300
    assert max(slices.values()) == 10


_ASK = """
import sys
from core.sending.priority import Priority
from core.services.send_gate import GateQuestion, ask_gate
from core.store.db import Database
url, account_id, now_ms = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = Database(url)
for number in range(60):
    with database.transaction():
        asked = GateQuestion(account_id, None, (f"r{number}@example.com",), Priority.STANDARD, now_ms)
        print(*(answer.due_ms for answer in ask_gate(database, [asked], now_ms)[0]))
"""


def test_processes_that_ask_at_once_keep_the_limit_together(sends: Sends, database_url: str) -> None:
    set_up(sends, "account", SendSettings(hourly_limit=100))
    command = [sys.executable, "-c", _ASK, database_url, sends.account.account_id, str(HOUR_START_MS)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True) for _ in range(2)
    ]
    moments = [int(word) for process in running for word in process.communicate(timeout=60)[0].split()]
    slices = Counter((moment - HOUR_START_MS) // (6 * MINUTE_MS) for moment in moments)
    assert len(moments) == 120
    assert max(slices.values()) == 9
