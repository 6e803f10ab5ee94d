"""`/tracking_hits`: what a customer sees of who opened a mail."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.clock import HOUR_MS, MINUTE_MS, to_rfc3339
from core.services.accounts import NewAccount, create_account
from core.services.tracking import store_hits
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS
from tests.test_tracking_recorded import new_hit, record
from tests.tracking_support import CHROME, TARGETS, SentMail, send_mail


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


@pytest.fixture
def mail(api: Api) -> SentMail:
    """Opened by a person, looked at by a machine, and clicked just now."""
    sent = send_mail(api.database, api.account.account_id, NOW_MS - HOUR_MS)
    record(
        api.database,
        [new_hit(sent, NOW_MS - MINUTE_MS, None), new_hit(sent, NOW_MS - 2 * MINUTE_MS, 2, "curl/8.5", is_head=True)],
        NOW_MS,
    )
    store_hits(api.database, [new_hit(sent, NOW_MS, 1)])
    return sent


def test_people_and_machines_are_told_apart(api: Api, mail: SentMail) -> None:
    answer = api.get("/tracking_hits", message_id=mail.message_id)
    assert answer.status_code == 200
    fresh, machine, person = answer.json
    common = {"delivery_id": mail.delivery_id, "recipient": "Reader@example.net", "network": "198.51.100.0/24"}
    assert {name: person[name] for name in person if name != "id"} == common | {
        "event": "open", "link": None, "url": None, "at": to_rfc3339(NOW_MS - MINUTE_MS), "method": "GET",
        "agent": CHROME, "made_by": "person", "kind": "person", "machine_points": 0, "reason": None, "signals": [],
    }  # fmt: skip
    assert {name: machine[name] for name in machine if name != "id"} == common | {
        "event": "click", "link": 2, "url": TARGETS[1], "at": to_rfc3339(NOW_MS - 2 * MINUTE_MS), "method": "HEAD",
        "agent": "curl/8.5", "made_by": "machine", "kind": "scanner", "machine_points": 100,
        "reason": "the user agent is that of a script or HTTP library", "signals": ["library", "head_request"],
    }  # fmt: skip
    assert (fresh["made_by"], fresh["kind"], fresh["machine_points"], fresh["event"]) == (None, None, None, "click")


@pytest.mark.parametrize(("made_by", "events"), [("person", ["open"]), ("machine", ["click"])])
def test_only_those_of_people_or_of_machines(api: Api, mail: SentMail, made_by: str, events: list[str]) -> None:
    answer = api.get("/tracking_hits", message_id=mail.message_id, made_by=made_by)
    assert [(hit["event"], hit["made_by"]) for hit in answer.json] == [(event, made_by) for event in events]


def test_page_by_page(api: Api, mail: SentMail) -> None:
    seen, cursor = [], {}
    for _ in range(3):
        answer = api.get("/tracking_hits", message_id=mail.message_id, per_page=1, **cursor)
        seen += [hit["id"] for hit in answer.json]
        cursor = {"cursor": answer.headers.get("X-Next-Cursor")}
    assert cursor == {"cursor": None}
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 3
    assert api.get("/tracking_hits", message_id=mail.message_id, cursor="nonsense").status_code == 422


def test_whose_message_it_is(api: Api, mail: SentMail, tmp_path: Path) -> None:
    other = Api(api.database, create_account(api.database, "other", NOW_MS), api_settings(tmp_path))
    assert other.get("/tracking_hits", message_id=mail.message_id).status_code == 404
    assert api.get("/tracking_hits", message_id=mail.delivery_id).status_code == 404
    assert api.get("/tracking_hits", message_id="nonsense").status_code == 404
    assert api.get("/tracking_hits").status_code == 422
    assert api.get("/tracking_hits", message_id=mail.message_id, made_by="ghost").status_code == 422
