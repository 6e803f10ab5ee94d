"""Unsubscribing: by the mail program's POST (RFC 8058), by a person on the page, and not by whoever looks at links."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from core.clock import HOUR_MS, system_clock
from core.sending.events import EventDetails
from core.sending.suppression import SuppressionReason
from core.services.accounts import NewAccount, create_account
from core.services.suppressions import NewSuppression, SendTarget, add_suppressions, find_suppressed
from core.services.unsubscribing import MAX_RETURNS, find_subscription, subscribe_again, unsubscribe
from core.store.db import Database
from outbound.composing.list_unsubscribe import ONE_CLICK
from tests.api_support import Api, api_settings
from tests.browser import running_browser
from tests.conftest import NOW_MS
from tests.tracking_support import CHROME, DOMAIN_ID, PERSON, SentMail, add_domain, events_of, send_mail
from tests.web_process import WebProcess, running_web
from web.hit_recorder import HitRecorder
from web.tracking import EXTENSION
from web.unsubscribe_page import HEADERS

ADDRESS = "reader@example.net"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Iterator[Api]:
    made = Api(database, account, api_settings(tmp_path))
    yield made
    recorder: HitRecorder | None = made.app.extensions.get(EXTENSION)
    if recorder is not None:
        recorder.close()  # its thread, and the connection of that


@pytest.fixture
def mail(database: Database, account: NewAccount) -> SentMail:
    return send_mail(database, account.account_id, NOW_MS - HOUR_MS, sending_domain_id=DOMAIN_ID)


def reason_for(api: Api, domain_id: str | None = DOMAIN_ID, address: str = ADDRESS) -> SuppressionReason | None:
    """Why an address gets no mail from a domain; None when it does."""
    target = SendTarget(api.account.account_id, domain_id, address)
    with api.database.reading():
        return find_suppressed(api.database, [target]).get(target)


def one_click(api: Api, mail: SentMail, **headers: str) -> TestResponse:
    """What a mail program sends, byte for byte: RFC 8058 section 8."""
    return api.client.post(mail.unsubscribe, data=ONE_CLICK, content_type=FORM, headers=headers)


def test_a_mail_program_unsubscribes_with_one_post(api: Api, mail: SentMail) -> None:
    agent = {"User-Agent": "Mail/1.0", "X-Forwarded-For": "198.51.100.77"}
    answer = one_click(api, mail, **agent)
    assert answer.status_code == 200
    assert "Location" not in answer.headers
    assert "Set-Cookie" not in answer.headers
    assert reason_for(api) is SuppressionReason.UNSUBSCRIBE
    details = {"agent": "Mail/1.0", "ip": "198.51.100.0", "reason": "by the mail program, with one click"}
    assert events_of(api.database) == [("unsubscribe", NOW_MS, details)]
    assert [kind.value for kind in api.rung] == ["events"]


def test_the_form_may_be_multipart(api: Api, mail: SentMail) -> None:
    """RFC 8058 section 3.2 prefers it."""
    answer = api.client.post(
        mail.unsubscribe, data={"List-Unsubscribe": "One-Click"}, content_type="multipart/form-data"
    )
    assert answer.status_code == 200
    assert reason_for(api) is SuppressionReason.UNSUBSCRIBE


def test_doing_it_again_does_nothing(api: Api, mail: SentMail) -> None:
    assert [one_click(api, mail).status_code for _ in range(3)] == [200] * 3
    assert len(events_of(api.database)) == len(api.rung) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_who_only_looks_does_not_unsubscribe(api: Api, mail: SentMail, method: str) -> None:
    answer = api.client.open(f"{mail.unsubscribe}?{ONE_CLICK}", method=method, headers={"User-Agent": "Barracuda"})
    assert answer.status_code == 200
    assert reason_for(api) is None
    assert events_of(api.database) == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", FORM),
        (b"List-Unsubscribe=Maybe", FORM),
        (b"list-unsubscribe=One-Click", FORM),
        (b'{"List-Unsubscribe":"One-Click"}', "application/json"),
        (ONE_CLICK.encode(), "text/plain"),
        (b"List-Unsubscribe=One-Click&x=" + b"x" * 10_000, FORM),
        (b"--b\r\nnonsense", "multipart/form-data; boundary=b"),
        (b"%ff%fe=%00", FORM),
    ],
)
def test_a_post_that_does_not_say_so_changes_nothing(api: Api, mail: SentMail, body: bytes, content_type: str) -> None:
    answer = api.client.post(mail.unsubscribe, data=body, content_type=content_type)
    assert answer.status_code == 400
    assert answer.mimetype == "text/html"
    assert reason_for(api) is None


def test_a_token_of_another_kind_does_not_unsubscribe(api: Api, mail: SentMail) -> None:
    tokens = [path.rpartition("/")[2] for path in (mail.pixel, mail.links[0])]
    for token in (*tokens, "A" * 44, "x", mail.unsubscribe.rpartition("/")[2][:-1] + "S"):
        for method in ("GET", "POST"):
            answer = api.client.open(f"/u/{token}", method=method, data=ONE_CLICK, content_type=FORM)
            assert answer.status_code == 404
    assert reason_for(api) is None


def test_a_mail_that_is_gone(api: Api, mail: SentMail) -> None:
    with api.database.transaction():
        api.database.execute("DELETE FROM delivery WHERE id = ?", (mail.delivery_id,))
    assert api.client.get(mail.unsubscribe).status_code == 410
    assert one_click(api, mail).status_code == 410


# --- whom it concerns ---


def test_only_the_domain_that_wrote_is_left(api: Api, mail: SentMail) -> None:
    other = "eeee111122223333"
    add_domain(api.database, api.account.account_id, other, "other.example")
    one_click(api, mail)
    assert reason_for(api, other) is None
    assert reason_for(api, None) is None
    assert reason_for(api, DOMAIN_ID, "another@example.net") is None


def test_where_the_domain_is_not_known_the_account_is_left(api: Api) -> None:
    mail = send_mail(api.database, api.account.account_id, NOW_MS - HOUR_MS)
    one_click(api, mail)
    assert reason_for(api, None) is SuppressionReason.UNSUBSCRIBE
    assert "sender.example" in api.client.get(mail.unsubscribe).text


def test_another_account_is_not_left(api: Api, mail: SentMail) -> None:
    one_click(api, mail)
    target = SendTarget(create_account(api.database, "other", NOW_MS).account_id, None, ADDRESS)
    with api.database.reading():
        assert find_suppressed(api.database, [target]) == {}


def suppress(api: Api, reason: SuppressionReason) -> None:
    entry = NewSuppression(SendTarget(api.account.account_id, DOMAIN_ID, ADDRESS), reason)
    with api.database.transaction():
        add_suppressions(api.database, [entry], NOW_MS)


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        (SuppressionReason.HARD_BOUNCE, SuppressionReason.UNSUBSCRIBE, 1),
        (SuppressionReason.SOFT_BOUNCE, SuppressionReason.UNSUBSCRIBE, 1),
        (SuppressionReason.MANUAL, SuppressionReason.MANUAL, 1),
        (SuppressionReason.COMPLAINT, SuppressionReason.COMPLAINT, 0),
    ],
)
def test_who_is_suppressed_already(
    api: Api, mail: SentMail, before: SuppressionReason, after: SuppressionReason, events: int
) -> None:
    """A wish to leave outlives a bounce that is forgiven; it does not weaken what is for good."""
    suppress(api, before)
    assert one_click(api, mail).status_code == 200
    assert reason_for(api) is after
    assert len(events_of(api.database)) == events


def test_a_customers_own_entry_stands_for_the_wish_and_is_told_once(api: Api, mail: SentMail) -> None:
    suppress(api, SuppressionReason.MANUAL)
    assert "Unsubscribe</button>" in api.client.get(mail.unsubscribe).text
    for _ in range(3):
        page = one_click(api, mail)
        assert (page.status_code, "Subscribe again" in page.text) == (200, False)
    assert len(events_of(api.database)) == 1
    assert "Unsubscribed:" in api.client.get(mail.unsubscribe).text
    assert "Unsubscribed:" in api.client.post(mail.unsubscribe, data={"Subscribe": "again"}).text
    assert reason_for(api) is SuppressionReason.MANUAL


def test_nobody_comes_and_goes_for_ever(api: Api, mail: SentMail) -> None:
    """Whoever has the mail, or one that was passed on, could else fill the events of its sender."""
    for _ in range(MAX_RETURNS + 5):
        left = one_click(api, mail)
        back = api.client.post(mail.unsubscribe, data={"Subscribe": "again"})
    assert len(events_of(api.database)) == MAX_RETURNS + 1
    assert "Subscribe again" not in left.text
    assert "Unsubscribed:" in back.text
    assert reason_for(api) is SuppressionReason.UNSUBSCRIBE


# --- the page ---


def fields_of(page: TestResponse) -> dict[str, str]:
    """What the page's button sends."""
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)">', page.text))


def test_leaving_and_coming_back_on_the_page(api: Api, mail: SentMail) -> None:
    asked = api.client.get(mail.unsubscribe, headers=PERSON)
    assert "Unsubscribe</button>" in asked.text
    done = api.client.post(mail.unsubscribe, data=fields_of(asked), headers=PERSON)
    assert "Subscribe again</button>" in done.text
    assert reason_for(api) is SuppressionReason.UNSUBSCRIBE
    assert events_of(api.database)[0][2]["reason"] == "on the page to unsubscribe"
    later = api.client.get(mail.unsubscribe)
    assert fields_of(later) == fields_of(done)
    back = api.client.post(mail.unsubscribe, data=fields_of(done), headers=PERSON)
    assert back.status_code == 200
    assert reason_for(api) is None
    assert fields_of(back) == fields_of(asked)
    assert one_click(api, mail).status_code == 200
    assert reason_for(api) is SuppressionReason.UNSUBSCRIBE


@pytest.mark.parametrize(
    "reason", [SuppressionReason.COMPLAINT, SuppressionReason.MANUAL, SuppressionReason.HARD_BOUNCE]
)
def test_the_way_back_undoes_nothing_else(api: Api, mail: SentMail, reason: SuppressionReason) -> None:
    suppress(api, reason)
    page = api.client.get(mail.unsubscribe)
    assert "Subscribe again" not in page.text
    api.client.post(mail.unsubscribe, data={"Subscribe": "again"})
    assert reason_for(api) is reason


def test_the_page_shows_little_and_fetches_nothing(api: Api, database: Database) -> None:
    mail = send_mail(
        database, api.account.account_id, NOW_MS - HOUR_MS, recipient='"<script>alert(1)</script>"@example.net'
    )
    page = api.client.get(mail.unsubscribe)
    assert "alert" not in page.text
    assert "example.net" in page.text
    assert ADDRESS not in api.client.get(mail.unsubscribe).text
    assert not re.search(r"<script|<img|<link|https?:|src=|action=|@import|url\(", page.text)
    for name, value in HEADERS.items():
        assert page.headers[name] == value
    assert "script-src" not in page.headers["Content-Security-Policy"]
    assert page.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("header", ["DNT", "Sec-GPC"])
def test_who_leaves_and_asks_not_to_be_tracked(api: Api, mail: SentMail, header: str) -> None:
    one_click(api, mail, **{header: "1", "User-Agent": CHROME})
    assert events_of(api.database)[0][2] == {"reason": "by the mail program, with one click"}


def test_two_at_once_tell_it_once(database: Database, mail: SentMail) -> None:
    told: list[bool] = []

    def leave() -> None:
        try:
            told.append(unsubscribe(database, mail.delivery_id, EventDetails(), NOW_MS))
        finally:
            database.close()

    threads = [threading.Thread(target=leave) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False] * 7 + [True]
    assert len(events_of(database)) == 1
    assert find_subscription(database, mail.delivery_id).has_left
    assert subscribe_again(database, mail.delivery_id)
    assert not subscribe_again(database, mail.delivery_id)


# --- with real programs ---


@pytest.fixture
def served(database_url: str, tmp_path: Path) -> Iterator[tuple[WebProcess, Api]]:
    database = Database(database_url)
    account = create_account(database, "test", NOW_MS)
    with running_web(tmp_path / "web", database_url) as web:
        yield web, Api(database, account, api_settings(tmp_path))
    database.close()


def test_a_person_leaves_and_comes_back_in_a_real_browser(served: tuple[WebProcess, Api], tmp_path: Path) -> None:
    """The page's policy lets its style and its button work, and nothing else."""
    web, api = served
    mail = send_mail(api.database, api.account.account_id, system_clock() - HOUR_MS, sending_domain_id=DOMAIN_ID)
    with running_browser(tmp_path / "browser") as browser:
        browser.open(f"{web.url}{mail.unsubscribe}")
        assert "Send no more mail from sender.example to R…@example.net?" in browser.text()
        assert browser.run("getComputedStyle(document.querySelector('button')).backgroundColor") == "rgb(34, 34, 34)"
        assert browser.run("document.cookie") == ""
        assert browser.run("performance.getEntriesByType('resource').length") == 0
        assert reason_for(api) is None, "looking changes nothing"
        browser.press("button")
        assert "Unsubscribed: R…@example.net gets no more mail from sender.example." in browser.text()
        assert reason_for(api) is SuppressionReason.UNSUBSCRIBE
        browser.press("button")
        assert "gets mail from sender.example as before" in browser.text()
        assert reason_for(api) is None
    (event,) = events_of(api.database)
    assert event[2]["reason"] == "on the page to unsubscribe"
