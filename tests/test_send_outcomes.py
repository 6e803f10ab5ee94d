"""What follows from attempts at sent mail, on both kinds of database: events, suppressions, counts of soft bounces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.clock import DAY_MS
from core.delivery import OUR_ERROR, Outcome, Verdict, our_fault
from core.sending.send_settings import SendSettings
from core.sending.sending_domains import KeyAlgorithm
from core.services.accounts import NewAccount
from core.services.leases import FinishedAttempt
from core.services.send_claims import ClaimedSend, FinishedSend
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.dkim_judges import signer
from tests.send_support import Sends

BOX = "user@example.test"
ACCEPTED = {"verdict": Verdict.ACCEPTED, "status": 250, "enhanced": "2.0.0", "reply": "250 2.0.0 ok"}
LATER = {"verdict": Verdict.TEMPORARY, "status": 450, "enhanced": "4.2.0", "reply": "450 4.2.0 later"}
UNKNOWN = {"verdict": Verdict.PERMANENT, "status": 550, "enhanced": "5.1.1", "reply": "550 5.1.1 unknown user"}
FULL = {"verdict": Verdict.PERMANENT, "status": 552, "enhanced": "5.2.2", "reply": "552 5.2.2 mailbox full"}
SPAM = {"verdict": Verdict.PERMANENT, "status": 554, "enhanced": "5.7.1", "reply": "554 5.7.1 spam"}
SILENT = {"verdict": Verdict.TEMPORARY, "status": 0, "enhanced": "4.4.1", "error": "no connection"}


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path)
    made.add_domain([signer(KeyAlgorithm.RSA)])
    return made


def ended(claimed: ClaimedSend, *, verdict: Verdict, status: int, **said: Any) -> FinishedSend:
    """An attempt that went so."""
    outcome = Outcome(verdict, status, NOW_MS, 20, said.pop("error", None), is_our_fault=said.pop("ours", False))
    return FinishedSend(claimed, outcome, **said)


def attempt(sends: Sends, **said: Any) -> None:
    """Claim what is due and end all of it so."""
    for claimed in sends.claim().deliveries:
        sends.record(ended(claimed, **said))


def soft_bounces(sends: Sends) -> list[Any]:
    return sends.execute("SELECT address, count FROM soft_bounce ORDER BY address")


def test_what_a_claim_reads(sends: Sends) -> None:
    domain_settings = SendSettings(source_ip="192.0.2.1")
    domain_id = sends.add_domain([signer(KeyAlgorithm.ED25519)], "second.example", settings=domain_settings)
    sends.execute("""UPDATE account SET settings = '{"track_opens":false}'""")
    (delivery_id,) = sends.store(BOX, needs_smtputf8=True, is_test=True, stream="receipts")
    (claimed,) = sends.claim().deliveries
    assert (claimed.delivery_id, claimed.recipient, claimed.target_host) == (delivery_id, BOX, "mailto://example.test")
    assert (claimed.needs_smtputf8, claimed.is_test, claimed.stream) == (True, True, "receipts")
    assert claimed.sender is not None
    assert (claimed.sender.sending_domain_id, claimed.sender.settings) == (domain_id, domain_settings)
    assert [key.algorithm for key in claimed.sender.keys] == [KeyAlgorithm.ED25519]
    assert claimed.account_settings.track_opens is False
    assert (claimed.suppressed_because, claimed.paused_because, claimed.attempt_number) == (None, None, 1)
    assert claimed.target.sending_domain_id == domain_id


def test_a_claim_asks_few_questions_however_many_it_takes(sends: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = Database.execute
    monkeypatch.setattr(Database, "execute", lambda self, sql, *rest: asked.append(sql) or real(self, sql, *rest))
    counts = []
    for number in (1, 40):
        sends.store(*(f"user{one}@d{one}.test" for one in range(number)))
        asked.clear()
        assert len(sends.claim().deliveries) == number
        counts.append(len(asked))
    assert counts[0] == counts[1] <= 10


@pytest.mark.parametrize(
    ("said", "kind", "suppressed", "soft"),
    [
        (ACCEPTED, "delivery", [], []),
        (LATER, "dispatch_soft_bounce", [], []),
        (SILENT, "dispatch_soft_bounce", [], []),
        (UNKNOWN, "bounce", [(BOX, "hard_bounce", None)], []),
        (FULL, "soft_bounce", [], [(BOX, 1)]),
        (SPAM, "soft_bounce", [], []),
        ({**SPAM, "is_unsendable": True}, "error", [], []),
    ],
    ids=["accepted", "later", "silent", "unknown", "full", "spam", "unsendable"],
)
def test_what_follows_from_an_attempt(
    sends: Sends, said: dict[str, Any], kind: str, suppressed: list[Any], soft: list[Any]
) -> None:
    sends.store(BOX)
    attempt(sends, **said)
    assert sends.kinds() == ["dispatch", kind]
    assert sends.suppressed() == suppressed
    assert soft_bounces(sends) == soft


def test_the_details_are_those_of_the_host(sends: Sends) -> None:
    sends.store(BOX)
    attempt(sends, **UNKNOWN, remote_host="mx.example.test", tls="TLSv1.3")
    assert sends.events()[-1][1] == {
        "reply_code": 550, "delivery_status": "5.1.1", "smtp_response": "550 5.1.1 unknown user", "attempt": 1,
        "remote_host": "mx.example.test", "tls": "TLSv1.3", "severity": "hard",
    }  # fmt: skip


def test_the_last_failure_is_told_as_such_and_counts_against_the_address(sends: Sends) -> None:
    sends.store(BOX)
    sends.now_ms += 2 * DAY_MS
    attempt(sends, **LATER)
    assert sends.kinds() == ["dispatch", "retries_exhausted"]
    assert "next_attempt_at" not in sends.events()[-1][1]
    assert soft_bounces(sends) == [(BOX, 1)]


def test_an_error_of_ours_counts_against_nobody(sends: Sends) -> None:
    sends.store(BOX)
    sends.now_ms += 2 * DAY_MS
    attempt(sends, verdict=Verdict.TEMPORARY, status=0, error=OUR_ERROR, ours=True)
    assert sends.kinds() == ["dispatch", "retries_exhausted"]
    assert soft_bounces(sends) == []
    assert sends.execute("SELECT count(*) FROM target_health") == [(0,)]


def test_an_arrival_makes_soft_bounces_forgotten_unless_nothing_was_sent(sends: Sends) -> None:
    sends.store(BOX)
    attempt(sends, **FULL)
    sends.store(BOX, is_test=True)
    attempt(sends, **ACCEPTED)
    assert soft_bounces(sends) == [(BOX, 1)]
    for _ in range(2):  # the first might still be followed by a notice
        sends.store(BOX)
        attempt(sends, **ACCEPTED)
    assert soft_bounces(sends) == []


def test_a_fault_of_the_engine_is_told_too(sends: Sends) -> None:
    sends.store(BOX)
    (claimed,) = sends.claim().deliveries
    sends.record(FinishedAttempt(claimed, our_fault(NOW_MS, NOW_MS)))
    assert sends.kinds() == ["dispatch", "dispatch_soft_bounce"]
    assert sends.events()[-1][1]["reason"] == OUR_ERROR


def test_a_lost_lease_tells_nothing(sends: Sends) -> None:
    (delivery_id,) = sends.store(BOX)
    (claimed,) = sends.claim().deliveries
    sends.execute("UPDATE delivery SET lease_token = 'another'")
    sends.record(ended(claimed, **UNKNOWN))
    assert (sends.kinds(), sends.suppressed(), sends.state(delivery_id)) == ([], [], ("pending", 1))


def test_the_first_attempt_is_told_once_even_if_its_worker_died(sends: Sends) -> None:
    sends.store(BOX)
    sends.claim()
    sends.now_ms += DAY_MS  # the lease has run out
    attempt(sends, **LATER)
    sends.now_ms += DAY_MS // 2
    attempt(sends, **ACCEPTED)
    assert sends.kinds() == ["dispatch", "dispatch_soft_bounce", "delivery"]


def test_what_was_held_is_told_as_dispatched_when_it_goes(sends: Sends) -> None:
    sends.store(BOX)
    attempt(sends, verdict=Verdict.HELD, status=0, error="sending is paused")
    sends.execute("UPDATE delivery SET state = 'pending', due_ms = ?", (NOW_MS,))
    attempt(sends, **ACCEPTED)
    assert sends.kinds() == ["held", "dispatch", "delivery"]


def test_many_at_once_share_statements(sends: Sends) -> None:
    """Recorded together, by two workers in turn, with addresses in common."""
    sends.store(*(f"user{one}@example.test" for one in range(20)))
    sends.store(*(f"user{one}@example.test" for one in range(20)))
    claimed = sends.claim(host_concurrency=64).deliveries
    sends.record(*(ended(one, **FULL) for one in claimed))
    assert len(sends.kinds()) == 80
    assert soft_bounces(sends) == sorted((f"user{one}@example.test", 2) for one in range(20))
