"""An attempt never raises: what fails on our side is an outcome too, and not held against the target."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.delivery import RESPONSE_EXCERPT_BYTES, Verdict
from core.netguard import LOOPBACK, TargetPolicy
from core.services.accounts import create_account
from core.services.received import ClaimedDelivery
from core.store.blobs import INLINE_LIMIT, DiskBlobs
from core.store.db import Database
from inbound.attempt import InboundAttempt, MemoryBudget
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from tests.attempt_parts import make_attempt
from tests.conftest import NOW_MS
from tests.deliveries import Deliveries
from tests.http_target import HttpTarget, running_target


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


@pytest.fixture
def blobs(tmp_path: Path) -> DiskBlobs:
    return DiskBlobs(tmp_path / "messages")


@pytest.fixture
def make(blobs: DiskBlobs, tmp_path: Path) -> InboundAttempt:
    session = guarded_session(TargetPolicy(LOOPBACK), 4, None)
    database = Database(f"sqlite:///{tmp_path / 'y.sqlite3'}")
    forwarder = Forwarder(session, DeadlineWatch(), 5, lambda: NOW_MS)
    return make_attempt(tmp_path, database, forwarder, blobs, lambda: NOW_MS)


@pytest.fixture
def claimed(tmp_path: Path, target: HttpTarget) -> Iterator[ClaimedDelivery]:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    mail = Deliveries(database, create_account(database, "test", NOW_MS))
    mail.accept(target.url())
    yield mail.claim().deliveries[0]
    database.close()


def test_a_message_in_the_blob_store_is_fetched_and_sent(
    make: InboundAttempt, claimed: ClaimedDelivery, blobs: DiskBlobs, target: HttpTarget, tmp_path: Path
) -> None:
    raw = b"Subject: large\r\n\r\n" + b"x" * INLINE_LIMIT
    (tmp_path / "spool").write_bytes(raw)
    blobs.put_file("0190-ab", tmp_path / "spool")
    finished = make(replace(claimed, body=None, blob_key="0190-ab", size=len(raw)))
    assert finished.outcome.verdict is Verdict.ACCEPTED
    assert len(target.received[0].body) > INLINE_LIMIT
    assert finished.body_text is not None
    assert len(finished.body_text) <= RESPONSE_EXCERPT_BYTES


@pytest.mark.parametrize("key", ["0190-missing", None])
def test_a_message_that_cannot_be_read_is_tried_again_and_the_target_is_not_to_blame(
    make: InboundAttempt, claimed: ClaimedDelivery, target: HttpTarget, key: str | None
) -> None:
    outcome = make(replace(claimed, body=None, blob_key=key)).outcome
    assert (outcome.verdict, outcome.status, outcome.is_our_fault) == (Verdict.TEMPORARY, 0, True)
    assert outcome.error is not None
    assert "not the target's fault" in outcome.error
    assert target.received == []


def test_an_error_of_ours_is_an_outcome_that_shows_no_internals(make: InboundAttempt, claimed: ClaimedDelivery) -> None:
    outcome = make(replace(claimed, secret=None)).outcome  # type: ignore[arg-type]
    assert (outcome.verdict, outcome.status, outcome.is_our_fault) == (Verdict.TEMPORARY, 0, True)
    assert outcome.error == "an error of ours; it is in the log (not the target's fault)"


def test_a_target_that_fails_is_to_blame_itself(
    make: InboundAttempt, claimed: ClaimedDelivery, target: HttpTarget
) -> None:
    assert not make(replace(claimed, target=target.url("/reset"))).outcome.is_our_fault


def test_the_text_to_search_in_is_taken_at_the_first_attempt_only(
    make: InboundAttempt, claimed: ClaimedDelivery
) -> None:
    assert make(claimed).body_text == "Hi.\r\n"
    assert make(replace(claimed, attempt_number=2)).body_text is None


def test_large_messages_wait_for_each_other() -> None:
    budget, order = MemoryBudget(100), []
    is_waiting = threading.Event()

    def second() -> None:
        is_waiting.set()
        with budget.hold(60):
            order.append("second")

    with budget.hold(60):
        thread = threading.Thread(target=second)
        thread.start()
        is_waiting.wait(5)
        thread.join(0.05)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_message_larger_than_the_whole_budget_still_gets_its_turn() -> None:
    budget = MemoryBudget(100)
    with budget.hold(1_000):
        assert budget._free == 0
    assert budget._free == 100
