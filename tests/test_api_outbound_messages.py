"""`/outbound_messages`: what became of sent mail, listed, searched and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.clock import HOUR_MS, MINUTE_MS, SECOND_MS, to_rfc3339
from core.ids import new_time_ordered_id
from core.search import compile_query
from core.sending.events import INTERNAL_KINDS, EventKind
from core.sent_search import SENT_VOCABULARY
from core.services.accounts import CredentialKind, NewAccount
from core.services.credentials import Scope
from core.services.paging import PageRequest
from core.services.sent_messages import SentFilter, SentScope, get_sent, list_sent
from core.services.windowed import SEARCH_PATIENCE_MS, SEARCH_WINDOW
from core.store.db import Database
from tests.api_support import api_settings
from tests.conftest import NOW_MS
from tests.send_api_support import SendApi, add_domain

only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> SendApi:
    return SendApi(database, account, api_settings(tmp_path / "data"))


def test_a_message_in_a_list(api: SendApi) -> None:
    message_id = api.sent(
        to=["Bob <bob@example.net>"],
        cc='"Carl, C" <carl@example.net>',
        subject="Grüße",
        tags=["a"],
        metadata={"k": "v"},
    )
    answer = api.get("/outbound_messages")
    assert answer.status_code == 200
    (shown,) = answer.json
    assert sorted(shown.pop("recipients"), key=lambda one: str(one["email"])) == [
        {
            "email": email,
            "last_event": "registration",
            "state": "pending",
            "attempts": 0,
            "next_attempt_at": to_rfc3339(NOW_MS),
            "finished_at": None,
            "error": None,
        }
        for email in ("bob@example.net", "carl@example.net")
    ]
    assert shown == {
        "id": message_id,
        "from": "ann@example.com",
        "subject": "Grüße",
        "message_id": f"<{message_id}@{api.settings.mx_hostname}>",
        "to": ["bob@example.net"],
        "cc": ["carl@example.net"],
        "tags": ["a"],
        "test_mode": False,
        "created_at": to_rfc3339(NOW_MS),
        "header_from": "Ann <ann@example.com>",
        "outbound_account_id": api.account.account_id,
        "sending_domain_id": None,
        "priority": "standard",
        "stream": "outbound",
        "metadata": {"k": "v"},
        "size": len(api.source(message_id)),
        "send_at": None,
    }


@only_sqlite
def test_addresses_are_told_from_names(api: SendApi) -> None:
    to = ['"a <b@c.example> d" <"x y"@example.net>', "plain@example.net", '"Q, R" <"a\\"b"@example.org>']
    assert api.shown(api.sent(to=to))["to"] == ['"x y"@example.net', "plain@example.net", '"a\\"b"@example.org']


def test_lists_are_newest_first_and_lead_on(api: SendApi) -> None:
    sent = []
    for _ in range(5):
        api.now_ms += SECOND_MS
        sent.append(api.sent())
    first = api.get("/outbound_messages", per_page=2)
    assert [entry["id"] for entry in first.json] == [sent[4], sent[3]]
    sent.append(api.sent())  # does not shift what follows
    second = api.get("/outbound_messages", per_page=2, cursor=first.headers["X-Next-Cursor"])
    assert [entry["id"] for entry in second.json] == [sent[2], sent[1]]
    third = api.client.get(
        second.headers["Link"].split(">")[0].lstrip("<"), headers={"Authorization": f"Bearer {api.account.api_key}"}
    )
    assert [entry["id"] for entry in third.json] == [sent[0]]
    assert "Link" not in third.headers
    assert [entry["id"] for entry in api.get("/outbound_messages", per_page=2, page=3).json] == [sent[1], sent[0]]
    assert api.get("/outbound_messages", cursor="nonsense").status_code == 422


def test_one_message_has_its_events_in_order_with_details(api: SendApi) -> None:
    message_id = api.sent()
    api.tell(message_id, EventKind.DISPATCH, at_ms=NOW_MS)
    api.tell(message_id, EventKind.OPEN, at_ms=NOW_MS + MINUTE_MS, agent="Mozilla/5.0")
    api.tell(
        message_id,
        EventKind.DELIVERY,
        at_ms=NOW_MS + SECOND_MS,
        reply_code=250,
        delivery_status="2.0.0",
        smtp_response="250 2.0.0 OK",
        remote_host="mx.example.net",
    )
    (recipient,) = api.shown(message_id)["recipients"]
    assert recipient["events"] == [
        {"kind": "registration", "timestamp": to_rfc3339(NOW_MS), "details": {}},
        {"kind": "dispatch", "timestamp": to_rfc3339(NOW_MS), "details": {}},
        {
            "kind": "delivery",
            "timestamp": to_rfc3339(NOW_MS + SECOND_MS),
            "details": {
                "reply_code": "250",
                "delivery_status": "2.0.0",
                "smtp_response": "250 2.0.0 OK",
                "remote_host": "mx.example.net",
            },
        },
        {"kind": "open", "timestamp": to_rfc3339(NOW_MS + MINUTE_MS), "details": {"agent": "Mozilla/5.0"}},
    ]
    assert recipient["last_event"] == "open"


def test_internal_kinds_are_not_shown(api: SendApi) -> None:
    message_id = api.sent()
    api.tell(message_id, EventKind.DELIVERY, at_ms=NOW_MS + SECOND_MS)
    api.tell(message_id, *INTERNAL_KINDS, at_ms=NOW_MS + MINUTE_MS)
    (recipient,) = api.shown(message_id)["recipients"]
    assert [event["kind"] for event in recipient["events"]] == ["registration", "delivery"]
    assert recipient["last_event"] == "delivery"
    assert api.found("last_event:delivery") == [message_id]
    refused = api.get("/outbound_messages", query="event:complaint")
    assert (refused.status_code, "event is one of registration" in refused.json["error"]) == (422, True)


def test_events_of_one_moment_keep_their_order(api: SendApi) -> None:
    """Ids within a millisecond are in no order; what happens first is told first all the same."""
    for _ in range(10):
        message_id = api.sent()
        api.tell(message_id, EventKind.DELIVERY, EventKind.RATE_LIMIT, EventKind.DISPATCH)
        (recipient,) = api.shown(message_id)["recipients"]
        kinds = [event["kind"] for event in recipient["events"]]
        assert (kinds, recipient["last_event"]) == (["registration", "rate_limit", "dispatch", "delivery"], "delivery")


def test_where_a_delivery_stands(api: SendApi) -> None:
    message_id = api.sent()
    api.set_state(message_id, attempts=1, lease_token="t", due_ms=NOW_MS + MINUTE_MS)
    (recipient,) = api.shown(message_id)["recipients"]
    assert (recipient["attempts"], recipient["next_attempt_at"]) == (1, None)
    api.set_state(message_id, lease_token=None, last_error="the host is away", due_ms=NOW_MS + HOUR_MS)
    (recipient,) = api.shown(message_id)["recipients"]
    assert (recipient["next_attempt_at"], recipient["error"]) == (to_rfc3339(NOW_MS + HOUR_MS), "the host is away")
    api.set_state(message_id, state="delivered", finished_ms=NOW_MS + HOUR_MS)
    (recipient,) = api.shown(message_id)["recipients"]
    assert (recipient["state"], recipient["finished_at"]) == ("delivered", to_rfc3339(NOW_MS + HOUR_MS))
    assert recipient["next_attempt_at"] is None


def test_search(api: SendApi) -> None:
    first = api.sent(
        subject="Order 17 Grüße",
        to=["Zoë <zoe@example.net>"],
        tags=["receipts", 'od"d'],
        metadata={"order": "17", "note": 'say "order":"18"'},
        stream="receipts",
    )
    api.tell(first, EventKind.BOUNCE, at_ms=NOW_MS + SECOND_MS)
    api.set_state(first, state="rejected")
    api.now_ms += 2 * HOUR_MS
    second = api.sent(
        subject="News", bcc=["quiet@example.org"], tags=["newsletter-spring"], priority="digest", test_mode=True
    )
    api.tell(second, EventKind.DELIVERY, EventKind.OPEN, at_ms=api.now_ms + SECOND_MS)
    api.tell(second, EventKind.CLICK, at_ms=api.now_ms + MINUTE_MS)
    for query in (
        "subject:grüße", "subject:ORDER", '"order 17"', "from:ann AND to:zoë", "to:zoe@example.net", "tag:receipts",
        "tags:RECEIPTS", 'tag:"od\\"d"', "metadata.order:17", "stream:receipts", "event:bounce", "last_event:bounce",
        "state:rejected", "status:rejected", "priority:standard", "test_mode:false", f'message_id:"{first}"',
        "created_at:[now-3h TO now-1h]", "zoë", "NOT tag:newsletter*", "_exists_:metadata.note",
    ):  # fmt: skip
        assert api.found(query) == [first], query
    for query in (
        "to:quiet@example.org", "quiet", "tag:newsletter*", "event:open", "last_event:click", "priority:digest",
        "test_mode:true", "created_at:[now-1h TO now]", "state:pending", "NOT event:bounce",
    ):  # fmt: skip
        assert api.found(query) == [second], query
    for query in (
        "metadata.order:18",
        "metadata.order:1",
        "tag:receipt",
        "tag:spring",
        "last_event:open",
        "metadata.x:1",
    ):
        assert api.found(query) == [], query
    assert api.found("*") == [second, first]


@only_sqlite
@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("body:x", "'body' is not a field; the fields are from, to, subject, tag, tags, stream"),
        ("metadata.:x", "'metadata.' is not a field"),
        ("tag:a*b", "tag takes no wildcards within a value"),
        ("tag:[a TO b]", "tag has no ranges"),
        ("to:[a TO b]", "to is text and has no ranges"),
        ("state:deferred", "state is one of pending, delivered"),
        ("subject:(", "cannot be read"),
    ],
)
def test_queries_that_cannot_be(api: SendApi, query: str, error: str) -> None:
    answer = api.get("/outbound_messages", query=query)
    assert answer.status_code == 422
    assert error in answer.json["error"]


def test_by_login(api: SendApi) -> None:
    api.sent()
    login = api.with_login(api.account.smtp_username, api.account.smtp_password)
    by_login = login.sent()
    own = api.get("/outbound_messages", outbound_account_id=api.account.smtp_username)
    assert [entry["id"] for entry in own.json] == [by_login]
    assert api.get("/outbound_messages", outbound_account_id="0" * 16).json == []
    assert [entry["id"] for entry in login.get("/outbound_messages").json] == [by_login]


def test_everybody_sees_only_his_own(api: SendApi) -> None:
    own, other = (add_domain(api.database, api.account.account_id, name) for name in ("example.com", "example.org"))
    mine, others = api.sent(), api.sent(from_="x@example.org")
    stranger = api.stranger()
    bound = api.with_credential(CredentialKind.API, domain_id=own)
    assert stranger.get("/outbound_messages").json == []
    assert [entry["id"] for entry in bound.get("/outbound_messages").json] == [mine]
    assert bound.found("*") == [mine]
    assert [entry["sending_domain_id"] for entry in api.get("/outbound_messages", query="from:example.org").json] == [
        other
    ]
    for reader, message_id in ((stranger, mine), (bound, others)):
        for path in ("", "/raw"):
            assert reader.get(f"/outbound_messages/{message_id}{path}").status_code == 404
    assert bound.get(f"/outbound_messages/{mine}").status_code == 200
    sender = api.with_credential(CredentialKind.API, frozenset({Scope.SEND}))
    assert sender.get("/outbound_messages").status_code == 403


def test_the_source_is_a_download(api: SendApi) -> None:
    message_id = api.sent()
    answer = api.get(f"/outbound_messages/{message_id}/raw")
    assert answer.mimetype == "message/rfc822"
    assert answer.headers["Content-Disposition"] == f"attachment; filename={message_id}.eml"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer.data.startswith(b"From: Ann <ann@example.com>\r\n")
    with api.database.transaction():
        api.database.execute("DELETE FROM raw_message WHERE message_id = ?", (message_id,))
    purged = api.get(f"/outbound_messages/{message_id}/raw")
    assert (purged.status_code, "has no content any more" in purged.json["error"]) == (404, True)
    assert api.get(f"/outbound_messages/{message_id}").status_code == 200


@only_sqlite
@pytest.mark.parametrize(
    "path", ["/x", f"/{'0' * 8}-0000-0000-0000-{'0' * 12}", f"/{'0' * 8}-0000-0000-0000-{'0' * 12}/raw"]
)
def test_what_is_not_there(api: SendApi, path: str) -> None:
    assert api.get(f"/outbound_messages{path}").status_code == 404


def test_purged_events_leave_the_message(api: SendApi) -> None:
    message_id = api.sent()
    with api.database.transaction():
        api.database.execute("DELETE FROM event")
    (recipient,) = api.shown(message_id)["recipients"]
    assert (recipient["last_event"], recipient["events"]) == (None, [])


class Explaining:
    """A database that keeps how each query of its reader is carried out."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.plans: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.database, name)

    def execute(self, statement: str, parameters: Any = ()) -> list[Any]:
        plan = self.database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        self.plans += [row[3] for row in plan]
        return self.database.execute(statement, parameters)


@only_sqlite
@pytest.mark.parametrize("query", [None, *(f"{name}:x" for name in ("from", "to", "subject", "tag", "metadata.k")),
                                   "state:rejected", "event:open", "last_event:bounce", "word"])  # fmt: skip
def test_no_table_is_read_from_end_to_end(api: SendApi, query: str | None) -> None:
    message_id = api.sent()
    explaining: Any = Explaining(api.database)
    condition = None if query is None else compile_query(query, NOW_MS, SENT_VOCABULARY)
    wanted = SentFilter(SentScope(api.account.account_id), None, condition)
    list_sent(explaining, wanted, PageRequest(), lambda: NOW_MS)
    get_sent(explaining, wanted.scope, message_id)
    assert any("sent_message_account" in step for step in explaining.plans)
    assert [step for step in explaining.plans if step.startswith("SCAN")] == []


def fill_up(api: SendApi, template: str, number: int) -> None:
    """So many copies of a message, without deliveries, each a millisecond newer."""
    ids = [new_time_ordered_id(NOW_MS + 1 + count) for count in range(number)]
    with api.database.transaction():
        for table, column in (("message", "id"), ("sent_message", "message_id")):
            ((*row,),) = api.database.execute(f"SELECT * FROM {table} WHERE {column} = ?", (template,))
            rows = [(message_id, *row[1:]) for message_id in ids]
            api.database.execute_values(f"INSERT INTO {table} VALUES {{rows}}", rows)


def test_a_search_that_takes_too_long_gives_what_it_has(api: SendApi) -> None:
    needle, hay = api.sent(subject="needle"), api.sent(subject="hay")
    fill_up(api, hay, SEARCH_WINDOW + 10)
    wanted = SentFilter(SentScope(api.account.account_id), None, compile_query("needle", NOW_MS, SENT_VOCABULARY))
    moments = iter([NOW_MS, NOW_MS + SEARCH_PATIENCE_MS + 1, NOW_MS, NOW_MS])
    page = list_sent(api.database, wanted, PageRequest(10), lambda: next(moments))
    assert page.entries == []
    assert page.next_cursor is not None
    page = list_sent(api.database, wanted, PageRequest(10, page.next_cursor), lambda: next(moments))
    assert ([record.message_id for record in page.entries], page.next_cursor) == ([needle], None)
    assert api.found("needle") == [needle]
    assert len(api.found("subject:hay", per_page=200)) == 200
