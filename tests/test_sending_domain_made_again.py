"""A domain that is deleted and made again is no way around those who want no more mail, nor around a pause."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.clock import DAY_MS, HOUR_MS
from core.sending.events import EventDetails, EventKind, NewEvent
from core.services.accounts import NewAccount, create_account
from core.services.purging import PurgeLimits
from core.services.retention import Retention, RetentionAges
from core.services.sending_domain_changes import create_domain, delete_domain
from core.services.tallies import count_events
from core.services.unsubscribing import find_subscription, subscribe_again, unsubscribe
from core.store.blobs import DiskBlobs
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.send_support import Sends

READER = "reader@example.net"
NO_DETAILS = EventDetails()


@pytest.fixture
def sends(database: Database, account: NewAccount, tmp_path: Path) -> Sends:
    made = Sends(database, account, tmp_path)
    make_again(made)
    return made


def make_again(sends: Sends) -> str:
    """Delete the domain, if there is one, and make it again; gives its id."""
    sends.now_ms += HOUR_MS
    account_id = sends.account.account_id
    if sends.domain_id is not None:
        delete_domain(sends.database, account_id, sends.domain_id, sends.now_ms)
    sends.domain_id = create_domain(sends.database, account_id, "sender.example", (), sends.now_ms).domain_id
    return sends.domain_id


def test_who_has_left_stays_away(sends: Sends) -> None:
    (first,) = sends.store(READER)
    assert unsubscribe(sends.database, first, NO_DETAILS, sends.now_ms)
    for _ in range(2):
        domain_id = make_again(sends)
        (again,) = sends.store(READER)
        assert sends.state(again)[0] == "suppressed"
        assert sends.suppressed() == [(READER, "unsubscribe", domain_id)]
        assert find_subscription(sends.database, first).has_left
    assert subscribe_again(sends.database, first)
    assert sends.state(sends.store(READER)[0])[0] == "pending"


def test_who_leaves_by_an_old_mail_leaves_the_domain_as_it_is_now(sends: Sends) -> None:
    (first,) = sends.store(READER)
    make_again(sends)
    assert unsubscribe(sends.database, first, NO_DETAILS, sends.now_ms)
    assert sends.state(sends.store(READER)[0])[0] == "suppressed"


def test_a_list_outlives_its_deleted_domain(sends: Sends) -> None:
    (first,) = sends.store(READER)
    unsubscribe(sends.database, first, NO_DETAILS, sends.now_ms)
    delete_domain(sends.database, sends.account.account_id, sends.domain_id or "", sends.now_ms)
    sends.execute("DELETE FROM message")
    later_ms = sends.now_ms + 100 * DAY_MS
    blobs = DiskBlobs(sends.folder / "messages")
    Retention(sends.database, blobs, RetentionAges(1, 1, 1, 1, 1), PurgeLimits(pause_s=0.0)).begin_again(later_ms)
    sends.now_ms, sends.domain_id = later_ms, None
    make_again(sends)
    assert sends.state(sends.store(READER)[0])[0] == "suppressed"


def test_pause_and_counts_go_on(sends: Sends) -> None:
    account_id, domain_id = sends.account.account_id, sends.domain_id
    with sends.database.transaction():
        event = NewEvent(EventKind.BOUNCE, account_id, domain_id, "m", None, READER, NOW_MS)
        count_events(sends.database, [event])
    sends.execute(
        "UPDATE sending_domain SET paused_ms = 1, paused_because = 'too many bounces' WHERE id = ?", (domain_id,)
    )
    again = make_again(sends)
    assert sends.state(sends.store(READER)[0])[0] == "quarantined"
    assert sends.execute("SELECT sending_domain_id FROM send_tally WHERE kind = 'bounce'") == [(again,)]


def test_another_account_is_another_matter(sends: Sends, database: Database) -> None:
    (first,) = sends.store(READER)
    unsubscribe(database, first, NO_DETAILS, sends.now_ms)
    delete_domain(database, sends.account.account_id, sends.domain_id or "", sends.now_ms)
    other = Sends(database, create_account(database, "other", NOW_MS), sends.folder, sends.now_ms)
    make_again(other)
    assert other.state(other.store(READER)[0])[0] == "pending"
