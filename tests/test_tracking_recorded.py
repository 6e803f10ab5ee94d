"""Hits as the store keeps them: judged once, by all that is known, and told as events if people made them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import orjson
import pytest

from core.clock import HOUR_MS, SECOND_MS
from core.sending.tracking_answers import coarse_network
from core.sending.tracking_hits import SETTLED_MS, Hit, Signal, request_signals
from core.services.accounts import NewAccount
from core.services.tracking import (
    MAX_CLICK_EVENTS,
    MAX_HITS,
    MAX_OPEN_EVENTS,
    NewHit,
    judge_hits,
    left_behind,
    store_hits,
)
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.tracking_support import CHROME, DOMAIN_ID, TARGETS, SentMail, events_of, hits_of, kinds_of, send_mail

LATER = NOW_MS + HOUR_MS
PIXEL = None


def new_hit(mail: SentMail, at_ms: int, link: int | None, agent: str = CHROME, **changes: Any) -> NewHit:
    hit = Hit(at_ms, link, agent, "198.51.100.77", **changes)
    kept = replace(hit, address=coarse_network(hit.address))
    url = None if link is None else TARGETS[link - 1]
    return NewHit(mail.delivery_id, kept, url, "HEAD" if hit.is_head else "GET", request_signals(hit))


def record(database: Database, hits: list[NewHit], now_ms: int | None = None) -> int:
    """Store and judge, as if all had settled."""
    found = store_hits(database, hits)
    return judge_hits(database, found, now_ms or max(hit.hit.at_ms for hit in hits) + SETTLED_MS)


@pytest.fixture
def mail(database: Database, account: NewAccount) -> SentMail:
    return send_mail(database, account.account_id, NOW_MS, sending_domain_id=DOMAIN_ID)


def test_a_person_opens_and_follows_a_link(database: Database, mail: SentMail) -> None:
    assert record(database, [new_hit(mail, LATER, PIXEL), new_hit(mail, LATER + 60_000, 1)]) == 3
    opened, clicked, read = events_of(database)
    assert opened == ("open", LATER, {"agent": CHROME, "ip": "198.51.100.0"})
    assert clicked == ("click", LATER + 60_000, {"agent": CHROME, "ip": "198.51.100.0", "url": TARGETS[0]})
    assert read[:2] == ("read", LATER + 60_000)
    assert read[2]["reason"] == "a link was followed"
    assert [row[:4] for row in hits_of(database, mail.delivery_id)] == [
        (None, "person", "", "198.51.100.0/24"),
        (1, "person", "", "198.51.100.0/24"),
    ]
    with database.reading():
        rows = database.execute("SELECT DISTINCT recipient, sending_domain_id, message_id, delivery_id FROM event")
    assert rows == [("Reader@example.net", DOMAIN_ID, mail.message_id, mail.delivery_id)]


def test_a_machines_hits_are_kept_and_make_no_event(database: Database, mail: SentMail) -> None:
    hits = [
        new_hit(mail, LATER, PIXEL, "Mozilla/5.0"),
        new_hit(mail, LATER + 60_000, 1, "python-requests/2.32"),
        new_hit(mail, LATER + 120_000, 2, is_head=True),
        new_hit(mail, LATER + 180_000, 3, is_prefetch=True),
        new_hit(mail, NOW_MS + SECOND_MS, 1),
    ]
    assert record(database, hits) == 0
    assert events_of(database) == []
    kinds = [(row[0], row[1]) for row in hits_of(database, mail.delivery_id)]
    assert kinds == [(1, "scanner"), (None, "prefetch"), (1, "scanner"), (2, "scanner"), (3, "prefetch")]


def test_all_signals_are_kept(database: Database, mail: SentMail) -> None:
    record(database, [new_hit(mail, NOW_MS + SECOND_MS, 1, "curl/8.5", has_language=False)])
    with database.reading():
        ((headers,),) = database.execute("SELECT headers FROM tracking_hit")
    expected = [Signal.LIBRARY, Signal.CLICKED_AT_ONCE, Signal.NO_LANGUAGE]
    assert orjson.loads(headers) == {"signals": [signal.value for signal in expected], "points": 100}


def test_a_hit_waits_until_it_has_settled(database: Database, mail: SentMail) -> None:
    store_hits(database, [new_hit(mail, LATER, 1)])
    assert judge_hits(database, [mail.delivery_id], LATER + SETTLED_MS - 1) == 0
    assert [row[1] for row in hits_of(database, mail.delivery_id)] == [""]
    assert judge_hits(database, [mail.delivery_id], LATER + SETTLED_MS) == 2
    assert judge_hits(database, [mail.delivery_id], LATER + SETTLED_MS) == 0


def test_a_burst_over_two_processes_is_seen_from_its_first_click(database: Database, mail: SentMail) -> None:
    store_hits(database, [new_hit(mail, LATER, 1)])
    store_hits(database, [new_hit(mail, LATER + 300, 2)])
    assert judge_hits(database, [mail.delivery_id], LATER + SETTLED_MS) == 0, "the second is still to settle"
    assert judge_hits(database, [mail.delivery_id], LATER + 2 * SETTLED_MS) == 0
    assert {row[1] for row in hits_of(database, mail.delivery_id)} == {"scanner"}


def test_a_host_that_looks_into_a_mail_before_it_accepts_it(database: Database, account: NewAccount) -> None:
    """While the first attempt lasts nobody else has the mail."""
    mail = send_mail(database, account.account_id, None)
    with database.transaction():
        database.execute("UPDATE delivery SET lease_token = 'x', attempts = 1 WHERE id = ?", (mail.delivery_id,))
    assert record(database, [new_hit(mail, LATER, 1)]) == 0
    with database.transaction():  # it failed; perhaps the answer was lost, and the mail is there
        database.execute("UPDATE delivery SET lease_token = NULL WHERE id = ?", (mail.delivery_id,))
    assert record(database, [new_hit(mail, LATER + HOUR_MS, 1)]) == 2


def test_read_is_told_once(database: Database, mail: SentMail) -> None:
    assert record(database, [new_hit(mail, LATER, PIXEL)]) == 1
    assert record(database, [new_hit(mail, LATER + 9_000, PIXEL)]) == 1
    assert record(database, [new_hit(mail, LATER + 20_000, PIXEL)]) == 2
    assert record(database, [new_hit(mail, LATER + 30_000, 2)]) == 1
    (read,) = (event for event in events_of(database) if event[0] == "read")
    assert read[1] == LATER + 20_000
    assert read[2]["reason"] == "the mail was opened again"


def test_a_providers_proxy_opens_but_does_not_read(database: Database, mail: SentMail) -> None:
    agent = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
    record(database, [new_hit(mail, LATER, PIXEL, agent), new_hit(mail, LATER + 60_000, PIXEL, agent)])
    assert kinds_of(database) == ["open", "open"]


def test_events_of_one_delivery_are_limited(database: Database, mail: SentMail) -> None:
    opens = [new_hit(mail, LATER + 60_000 * place, PIXEL) for place in range(MAX_OPEN_EVENTS + 5)]
    clicks = [new_hit(mail, LATER + 60_000 * place, 1) for place in range(MAX_CLICK_EVENTS + 5)]
    record(database, opens[:3])
    record(database, opens[3:])
    record(database, clicks[:90])
    record(database, clicks[90:])
    kinds = kinds_of(database)
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "open": MAX_OPEN_EVENTS,
        "click": MAX_CLICK_EVENTS,
        "read": 1,
    }
    assert len(hits_of(database, mail.delivery_id)) == len(opens) + len(clicks), "all hits are kept"


def test_hits_of_one_delivery_are_limited(database: Database, account: NewAccount, mail: SentMail) -> None:
    other = send_mail(database, account.account_id, NOW_MS)
    flood = [new_hit(mail, LATER + place, 1 + place % 3) for place in range(MAX_HITS + 50)]
    record(database, [*flood[:700], new_hit(other, LATER, PIXEL), *flood[700:]])
    record(database, flood[:10])
    assert len(hits_of(database, mail.delivery_id)) == MAX_HITS
    assert [row[1] for row in hits_of(database, other.delivery_id)] == ["person"]
    assert kinds_of(database) == ["open"], "so many clicks at once are no person's"


def test_hits_of_deliveries_that_are_gone_are_passed_over(database: Database, mail: SentMail) -> None:
    gone = replace(mail, delivery_id="0198f3c2-7a10-7abc-8def-0123456789ab")
    assert record(database, [new_hit(gone, LATER, PIXEL), new_hit(mail, LATER, PIXEL)]) == 1


def test_what_a_killed_process_left_is_found(database: Database, mail: SentMail) -> None:
    assert left_behind(database) == []
    store_hits(database, [new_hit(mail, LATER, PIXEL)])
    assert left_behind(database) == [mail.delivery_id]
    judge_hits(database, left_behind(database), LATER + SETTLED_MS)
    assert left_behind(database) == []
    assert kinds_of(database) == ["open"]


def test_several_processes_that_judge_the_same_tell_it_once(
    database: Database, database_url: str, account: NewAccount
) -> None:
    mails = [send_mail(database, account.account_id, NOW_MS) for _ in range(5)]
    store_hits(database, [new_hit(mail, LATER, link) for mail in mails for link in (PIXEL, 1)])
    ids = [mail.delivery_id for mail in mails]
    failures: list[BaseException] = []

    def judge(order: list[str]) -> None:
        try:
            judge_hits(database, order, LATER + SETTLED_MS)
        except BaseException as error:
            failures.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=judge, args=(ids[:: 1 if place % 2 else -1],)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert kinds_of(database) == sorted(["open", "click", "read"] * 5)


def test_hits_go_with_their_delivery(database: Database, mail: SentMail) -> None:
    record(database, [new_hit(mail, LATER, PIXEL)])
    with database.transaction():
        database.execute("DELETE FROM delivery WHERE id = ?", (mail.delivery_id,))
    assert hits_of(database, mail.delivery_id) == []
