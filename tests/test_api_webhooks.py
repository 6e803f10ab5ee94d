"""`/webhooks` and the log of what was POSTed to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.clock import DAY_MS, HOUR_MS, to_rfc3339
from core.delivery import DeliveryKind
from core.netguard import LOOPBACK, TargetPolicy
from core.sending.events import INTERNAL_KINDS, EventKind
from core.services import webhook_deliveries
from core.services.accounts import NewAccount, create_account
from core.services.webhooks import MAX_FILTER_ENTRIES, MAX_WEBHOOKS
from core.store.db import Database
from inbound.forward import Forwarder
from inbound.guarded_http import DeadlineWatch, guarded_session
from tests.api_support import Api, api_settings
from tests.conftest import NOW_MS
from tests.http_target import HttpTarget, reply, running_target
from tests.webhook_support import EventWorker, EventWorld

URL = "https://hooks.example/in"
UNKNOWN_ID = "0" * 16
UNKNOWN_DELIVERY = "01900000-0000-7000-8000-000000000000"
K = EventKind


class WebhookApi(Api):
    """The API, and the world whose events it tells of, at the same moment."""

    def begin(self) -> WebhookApi:
        self.world = EventWorld(self.database, self.account)
        policy = TargetPolicy(LOOPBACK)
        forwarder = Forwarder(guarded_session(policy, 4, None), DeadlineWatch(), 5, self.world.clock)
        self.worker = EventWorker(self.world, forwarder)
        return self

    def new_webhook(self, url: str = URL, **fields: Any) -> dict[str, Any]:
        answer = self.post("/webhooks", {"url": url, **fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json
        return made

    def happen(self, *kinds: EventKind) -> None:
        """Events of one mail, of now."""
        self.world.happen(self.world.send(), *kinds)
        self.now_ms = self.world.now_ms

    def step(self) -> None:
        """Have what is due POSTed."""
        self.world.now_ms = max(self.now_ms, self.world.now_ms)
        self.worker.step()

    def log(self, webhook: dict[str, Any], **query: Any) -> list[dict[str, Any]]:
        answer = self.get(f"/webhooks/{webhook['id']}/deliveries", **query)
        assert answer.status_code == 200, answer.text
        entries: list[dict[str, Any]] = answer.json
        return entries


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> WebhookApi:
    return WebhookApi(database, account, api_settings(tmp_path)).begin()


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


def test_a_webhook_is_made_shown_listed_changed_and_deleted(api: WebhookApi) -> None:
    domain_id = api.world.domain("example.com")
    body = {
        "url": "https://user:pw@hooks.example/in?x=1",
        "kinds": ["bounce", "delivery", "bounce"],
        "tags": [" welcome ", "bye", "welcome"],
        "sending_domain_ids": [domain_id.upper()],
        "note": "billing",
    }
    made = api.new_webhook(**body)
    secret = made.pop("signing_secret")
    assert secret.startswith("whsec_")
    moment = to_rfc3339(NOW_MS)
    assert made == {
        "id": made["id"],
        "url": body["url"],
        "kinds": ["bounce", "delivery"],
        "tags": ["welcome", "bye"],
        "sending_domain_ids": [domain_id],
        "note": "billing",
        "is_active": True,
        "disabled_because": None,
        "secret_rotation_ends_at": None,
        "created_at": moment,
        "updated_at": moment,
    }
    path = f"/webhooks/{made['id']}"
    assert api.get(path).json == made
    assert api.get("/webhooks").json == [made]
    api.now_ms += 1000
    changed = api.put(path, {"url": URL, "tags": None, "is_active": False})
    assert changed.status_code == 200
    expected = {**made, "url": URL, "tags": [], "is_active": False, "updated_at": to_rfc3339(api.now_ms)}
    assert changed.json == expected
    assert api.put(path, changed.json).json == expected  # an answer may be sent back
    assert api.delete(path).status_code == 202
    assert api.get(path).status_code == 404
    assert api.get("/webhooks").json == []


def test_webhooks_are_listed_newest_first_a_page_at_a_time(api: WebhookApi) -> None:
    made = []
    for _ in range(5):
        api.now_ms += 1
        made.append(api.new_webhook()["id"])
    seen: list[str] = []
    query: dict[str, Any] = {"per_page": 2}
    while True:
        answer = api.get("/webhooks", **query)
        seen += [entry["id"] for entry in answer.json]
        if "X-Next-Cursor" not in answer.headers:
            break
        query["cursor"] = answer.headers["X-Next-Cursor"]
    assert seen == made[::-1]
    assert api.get("/webhooks", cursor="what").status_code == 422


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"url": "ftp://hooks.example/"}, "url: must begin with http"),
        ({"url": "mailto:jo@example.com"}, "url: must begin with http"),
        ({"url": "https://"}, "url: must name a host"),
        ({"url": "https://hooks.example/ a"}, "url: must not contain spaces"),
        ({"url": "https://hooks.example/" + "a" * 2_000}, "url: "),
        ({"kinds": ["delivery", "party"]}, "kinds.1: must be 'registration'"),
        ({"tags": [""]}, "tags.0: "),
        ({"tags": ["  "]}, "tags: must have 1 to 1000 characters"),
        ({"tags": [str(number) for number in range(MAX_FILTER_ENTRIES + 1)]}, "tags: "),
        ({"sending_domain_ids": [UNKNOWN_ID]}, f"sending_domain_ids: {UNKNOWN_ID} is no sending domain"),
        ({"note": "a" * 201}, "note: "),
        ({"note": "a\0b"}, "note: must not contain NUL"),
        ({"is_active": "yes"}, "is_active: must be a valid boolean"),
        ({"secret": "mine"}, "secret: is not a field"),
    ],
)
def test_what_cannot_be_is_named(api: WebhookApi, fields: dict[str, Any], error: str) -> None:
    answer = api.post("/webhooks", {"url": URL, **fields})
    assert (answer.status_code, answer.json["error"][: len(error)]) == (422, error)
    made = api.new_webhook()
    assert api.put(f"/webhooks/{made['id']}", {"url": URL, **fields}).json["error"].startswith(error)
    assert len(api.get("/webhooks").json) == 1


def test_an_account_has_so_many_webhooks_and_no_more(api: WebhookApi) -> None:
    made = [api.new_webhook()["id"] for _ in range(MAX_WEBHOOKS)]
    answer = api.post("/webhooks", {"url": URL})
    assert (answer.status_code, answer.json["error"]) == (
        422, f"webhooks: there are {MAX_WEBHOOKS} already, the most of one account",
    )  # fmt: skip
    api.delete(f"/webhooks/{made[0]}")
    api.new_webhook()


def test_another_accounts_webhooks_and_domains_do_not_exist(api: WebhookApi) -> None:
    other = create_account(api.database, "other", NOW_MS)
    theirs = WebhookApi(api.database, other, api.settings).begin()
    made, own_domain = theirs.new_webhook(), theirs.world.domain("theirs.example", other.account_id)
    theirs.world.execute("UPDATE webhook SET url = url")
    for method, path in (
        ("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/rotate_secret"), ("POST", "/test"), ("POST", "/retry"),
        ("GET", "/deliveries"), ("GET", f"/deliveries/{UNKNOWN_DELIVERY}"),
        ("POST", f"/deliveries/{UNKNOWN_DELIVERY}/retry"),
    ):  # fmt: skip
        has_body = path in ("", "/rotate_secret") and method != "GET"
        options = {"json": {"url": URL} if method == "PUT" else {}} if has_body else {}
        for webhook_id in (made["id"], UNKNOWN_ID, "nonsense"):
            answer = api.call(method, f"/webhooks/{webhook_id}{path}", **options)
            assert answer.status_code == 404, (method, path, answer.text)
    assert api.post("/webhooks", {"url": URL, "sending_domain_ids": [own_domain]}).status_code == 422


def test_a_secret_is_shown_once_and_rotated_with_an_overlap(api: WebhookApi) -> None:
    made = api.new_webhook()
    path = f"/webhooks/{made['id']}"
    rotated = api.post(f"{path}/rotate_secret", {}).json
    assert rotated["signing_secret"] != made["signing_secret"]
    assert rotated["secret_rotation_ends_at"] == to_rfc3339(NOW_MS + DAY_MS)
    assert api.get(path).json["secret_rotation_ends_at"] == to_rfc3339(NOW_MS + DAY_MS)
    for answer in (api.get(path), api.get("/webhooks"), api.put(path, {"url": URL}), api.delete(path)):
        assert "whsec_" not in answer.text
    other = api.new_webhook()
    short = api.post(f"/webhooks/{other['id']}/rotate_secret", {"overlap_hours": 1}).json
    assert short["secret_rotation_ends_at"] == to_rfc3339(NOW_MS + HOUR_MS)
    api.now_ms += HOUR_MS
    assert api.get(f"/webhooks/{other['id']}").json["secret_rotation_ends_at"] is None


def test_the_test_call_posts_a_sample_of_each_kind_that_is_wanted(api: WebhookApi, target: HttpTarget) -> None:
    everything, some = api.new_webhook(target.url("/all")), api.new_webhook(
        target.url("/some"), kinds=["complaint", "click"], tags=["welcome"]
    )  # fmt: skip
    ids = {}
    for webhook in (everything, some):
        answer = api.post(f"/webhooks/{webhook['id']}/test")
        assert answer.status_code == 202
        ids[webhook["url"]] = answer.json["delivery_id"]
    assert api.rung == [DeliveryKind.EVENTS] * 2
    api.step()
    bodies = {request.path: json.loads(request.body)["events"] for request in target.received}
    assert [entry["kind"] for entry in bodies["/all"]] == [kind for kind in K if kind not in INTERNAL_KINDS]
    assert [entry["kind"] for entry in bodies["/some"]] == ["complaint", "click"]
    assert all(entry["test"] is True for entries in bodies.values() for entry in entries)
    assert bodies["/some"][1]["tags"] == ["welcome"]
    assert bodies["/some"][1]["details"]["url"] == "https://example.com/welcome"
    headers = {request.path: request.headers["webhook-id"] for request in target.received}
    assert headers == {"/all": ids[target.url("/all")], "/some": ids[target.url("/some")]}
    (entry,) = api.log(some)
    assert (entry["state"], entry["test"], entry["event_count"]) == ("delivered", True, 2)


def test_the_log_shows_every_post_with_its_last_attempt(api: WebhookApi, target: HttpTarget) -> None:
    webhook = api.new_webhook(target.url("/hook"))
    target.scripted["/hook"] = [reply(500, b"a" * 3_000), reply(200)]
    api.happen(K.REGISTRATION, K.DELIVERY)
    api.step()
    api.now_ms = NOW_MS + 5
    (entry,) = api.log(webhook)
    attempt = entry.pop("last_attempt")
    waiting = api.world.deliveries("due_ms")[0]
    assert entry == {
        "id": api.world.deliveries("id")[0],
        "state": "pending",
        "status": 500,
        "error": None,
        "event_count": 2,
        "kinds": ["registration", "delivery"],
        "test": False,
        "attempts": 1,
        "in_progress": False,
        "next_attempt_at": to_rfc3339(waiting),
        "created_at": to_rfc3339(NOW_MS),
        "finished_at": None,
    }
    assert (attempt["number"], attempt["status"], attempt["error"], attempt["response"]) == (1, 500, None, "a" * 2_048)
    assert attempt["duration"] >= 0
    api.now_ms = waiting
    api.step()
    detail = api.get(f"/webhooks/{webhook['id']}/deliveries/{entry['id']}").json
    assert (detail["state"], detail["attempts"], detail["next_attempt_at"]) == ("delivered", 2, None)
    assert [(one["number"], one["status"]) for one in detail["attempt_log"]] == [(1, 500), (2, 200)]
    assert detail["last_attempt"] == detail["attempt_log"][-1]
    assert detail["body"] == json.loads(target.received[0].body) == json.loads(target.received[1].body)


def test_a_post_that_is_being_made_is_shown_as_such_and_not_retried(api: WebhookApi, target: HttpTarget) -> None:
    webhook = api.new_webhook(target.url())
    api.happen(K.OPEN)
    api.worker.claim()
    (entry,) = api.log(webhook)
    assert (entry["in_progress"], entry["next_attempt_at"], entry["last_attempt"]) == (True, None, None)
    answer = api.post(f"/webhooks/{webhook['id']}/deliveries/{entry['id']}/retry")
    assert (answer.status_code, "at this moment" in answer.json["error"]) == (409, True)


def test_the_log_is_paged_and_filtered_by_state(api: WebhookApi, target: HttpTarget) -> None:
    webhook = api.new_webhook(target.url("/hook"))
    target.scripted["/hook"] = [reply(200), reply(500), reply(200), reply(500), reply(200)]
    for _ in range(5):
        api.happen(K.OPEN)
        api.step()
        api.world.execute("UPDATE delivery SET due_ms = due_ms + ? WHERE state = 'pending'", (DAY_MS,))
    newest_first = api.world.deliveries("id")[::-1]
    assert [entry["id"] for entry in api.log(webhook)] == newest_first
    assert [entry["id"] for entry in api.log(webhook, state="pending")] == newest_first[1::2]
    assert api.log(webhook, state="exhausted") == []
    path = f"/webhooks/{webhook['id']}/deliveries"
    first = api.get(path, per_page=2, state="delivered")
    assert [entry["id"] for entry in first.json] == newest_first[::2][:2]
    assert "state=delivered" in first.headers["Link"]
    rest = api.get(path, per_page=2, state="delivered", cursor=first.headers["X-Next-Cursor"])
    assert [entry["id"] for entry in rest.json] == newest_first[::2][2:]
    assert "Link" not in rest.headers
    for query in ({"state": "suppressed"}, {"state": "odd"}, {"cursor": "odd"}, {"status": "delivered"}):
        assert api.get(path, **query).status_code == 422
    other = api.new_webhook()
    assert api.log(other) == []
    assert api.get(f"/webhooks/{other['id']}/deliveries/{newest_first[0]}").status_code == 404


def test_a_delivery_is_posted_again_under_its_id(api: WebhookApi, target: HttpTarget) -> None:
    webhook = api.new_webhook(target.url())
    api.happen(K.OPEN)
    api.step()
    (entry,) = api.log(webhook)
    answer = api.post(f"/webhooks/{webhook['id']}/deliveries/{entry['id']}/retry")
    assert (answer.status_code, answer.json["state"], answer.json["finished_at"]) == (202, "pending", None)
    assert api.rung == [DeliveryKind.EVENTS]
    api.step()
    first, second = target.received
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert [request.headers["pillarbox-attempt"] for request in target.received] == ["1", "2"]


def exhaust(api: WebhookApi, count: int) -> list[str]:
    """So many batches whose attempts are used up; their ids, oldest first, an hour apart."""
    for _ in range(count):
        api.happen(K.OPEN)
        api.world.now_ms += HOUR_MS
    api.world.execute("UPDATE delivery SET state = 'exhausted', finished_ms = created_ms, last_status = 500")
    api.now_ms = api.world.now_ms
    ids: list[str] = api.world.deliveries("id")
    return ids


def test_many_are_posted_again_by_state_and_time(api: WebhookApi, target: HttpTarget) -> None:
    webhook, other = api.new_webhook(target.url("/a")), api.new_webhook(target.url("/b"))
    exhaust(api, 4)
    own = [row[0] for row in api.world.execute(
        "SELECT id FROM delivery WHERE webhook_id = ? ORDER BY id", (webhook["id"],))]  # fmt: skip
    api.world.execute("UPDATE delivery SET state = 'rejected' WHERE id = ?", (own[-1],))
    path = f"/webhooks/{webhook['id']}/retry"
    answer = api.post(path, since=to_rfc3339(NOW_MS + HOUR_MS))
    assert (answer.status_code, answer.json) == (202, {"retried": 2, "left_alone": 0, "next_cursor": None})
    states = dict(api.world.deliveries("id, state"))
    assert [states[delivery_id] for delivery_id in own] == ["exhausted", "pending", "pending", "rejected"]
    assert api.post(path, state="rejected").json["retried"] == 1
    assert api.post(path).json["retried"] == 1
    assert api.post(path).json["retried"] == 0
    assert api.rung == [DeliveryKind.EVENTS] * 3
    api.step()
    assert sorted(request.headers["webhook-id"] for request in target.received) == own
    assert {entry["state"] for entry in api.log(other)} == {"exhausted"}
    for query in ({"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}, {"state": "held"}, {"cursor": "x"}):
        assert api.post(path, **query).status_code == 422, query


def test_more_than_one_call_may_retry_goes_on_by_cursor(api: WebhookApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_deliveries, "MAX_REPLAYS", 4)
    monkeypatch.setattr(webhook_deliveries, "BATCH", 3)
    webhook = api.new_webhook()
    ids = exhaust(api, 6)
    path = f"/webhooks/{webhook['id']}/retry"
    first = api.post(path).json
    assert first == {"retried": 4, "left_alone": 0, "next_cursor": ids[2]}
    assert api.post(path, cursor=first["next_cursor"]).json == {"retried": 2, "left_alone": 0, "next_cursor": None}
    assert api.world.deliveries() == ["pending"] * 6


def test_a_webhook_that_is_off_is_neither_tested_nor_retried_and_gets_what_is_held_when_it_is_on(
    api: WebhookApi, target: HttpTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_deliveries, "BATCH", 2)
    webhook = api.new_webhook(target.url())
    path = f"/webhooks/{webhook['id']}"
    for _ in range(5):
        api.happen(K.OPEN)
    assert api.put(path, {"url": webhook["url"], "is_active": False}).json["disabled_because"] is None
    api.step()
    assert [entry["state"] for entry in api.log(webhook)] == ["quarantined"] * 5
    assert api.log(webhook)[0]["error"] == "held: the webhook is switched off"
    delivery_id = api.log(webhook)[0]["id"]
    for action in ("/test", "/retry", f"/deliveries/{delivery_id}/retry"):
        answer = api.post(path + action)
        assert (answer.status_code, "switch it on first" in answer.json["error"]) == (409, True)
    api.put(path, {"url": webhook["url"], "note": "still off"})
    assert api.rung == []
    assert api.put(path, {"url": webhook["url"], "is_active": True}).status_code == 200
    assert api.rung == [DeliveryKind.EVENTS]
    api.step()
    assert len(target.received) == 5


def test_a_webhook_that_said_410_says_so_and_can_be_switched_on_again(api: WebhookApi, target: HttpTarget) -> None:
    webhook = api.new_webhook(target.url("/hook"))
    target.scripted["/hook"] = [reply(410)]
    path = f"/webhooks/{webhook['id']}"
    api.happen(K.OPEN)
    api.step()
    found = api.get(path).json
    assert (found["is_active"], found["disabled_because"]) == (False, "gone")
    assert api.put(path, found).json["disabled_because"] == "gone"  # sending it back changes nothing
    found = api.put(path, {"url": webhook["url"], "is_active": True}).json
    assert (found["is_active"], found["disabled_because"]) == (True, None)
    assert api.post(f"{path}/retry", state="rejected").json["retried"] == 1
    api.step()
    assert [entry["state"] for entry in api.log(webhook)] == ["delivered"]
