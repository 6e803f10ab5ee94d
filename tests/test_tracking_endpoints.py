"""Pixels and links as the web process serves them: to people, to machines, to hostile hands, and without a database."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Request
from structlog.testing import capture_logs
from werkzeug.test import EnvironBuilder

from core.clock import HOUR_MS, system_clock
from core.netguard import parse_networks
from core.sending.tracking_answers import PIXEL
from core.sending.tracking_hits import Hit
from core.sending.tracking_tokens import SECRET_NAME, TrackedLink, TrackingTokens
from core.services.accounts import NewAccount, create_account
from core.services.secrets import shared_secret
from core.services.tracking import NewHit
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.browser import running_browser
from tests.conftest import NOW_MS, TABLES
from tests.postgres_server import PostgresServer, stoppable_postgres
from tests.tracking_support import GMAIL, PERSON, TARGETS, SentMail, events_of, hits_of, kinds_of, send_mail
from tests.web_process import WebProcess, running_web
from web.client_address import client_address
from web.hit_recorder import MAX_WAITING, MAX_WAITING_PER_DELIVERY, HitRecorder
from web.tracking import EXTENSION

TIMEOUT_S = 10
QUICK_S = 3.0
"""Within this an answer has waited for no database, busy as this machine may be: SQLite alone waits for ten seconds."""
WAIT_S = 20
UNCACHED = "no-store"
NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""For a browser: where links lead is not asked for in the DNS."""


@dataclass
class Served:
    """A web process, and the database behind it."""

    web: WebProcess
    database: Database
    account: NewAccount

    def get(self, path: str, method: str = "GET", **headers: str) -> requests.Response:
        """A request that follows nothing, as a person's unless the headers say otherwise."""
        sent = {**PERSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return requests.request(method, f"{self.web.url}{path}", headers=sent, timeout=TIMEOUT_S, allow_redirects=False)

    def mail(self) -> SentMail:
        """A mail that was delivered an hour ago."""
        return send_mail(self.database, self.account.account_id, system_clock() - HOUR_MS)

    def judged(self, mail: SentMail, count: int) -> list[tuple[int | None, str]]:
        """Link and kind of so many hits of a mail, once they are judged."""
        wait_for(lambda: len(hits := hits_of(self.database, mail.delivery_id)) >= count and all(h[1] for h in hits))
        return [(row[0], row[1]) for row in hits_of(self.database, mail.delivery_id)]

    def events(self, mail: SentMail) -> list[str]:
        """The kinds of events that a mail's hits have made."""
        with self.database.reading():
            rows = self.database.execute(
                "SELECT kind FROM event WHERE delivery_id = ? AND kind IN ('open', 'click', 'read') ORDER BY kind",
                (mail.delivery_id,),
            )
        return [row[0] for row in rows]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One process for many tests: no test of this module that uses it empties the database."""
    folder = tmp_path_factory.mktemp("served")
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{folder / 'test.sqlite3'}" if is_sqlite else request.getfixturevalue("postgres_url")
    database = Database(url)
    database.migrate()
    with database.transaction():
        database.execute("SELECT 1" if is_sqlite else f"TRUNCATE {TABLES} CASCADE")
    account = create_account(database, "test", NOW_MS)
    with running_web(folder / "web", url) as web:
        yield Served(web, database, account)
    database.close()


def test_a_person_opens_a_mail_and_follows_a_link(served: Served) -> None:
    mail = served.mail()
    pixel = served.get(mail.pixel)
    assert (pixel.status_code, pixel.content, pixel.headers["Content-Type"]) == (200, PIXEL, "image/gif")
    link = served.get(mail.links[0])
    assert (link.status_code, link.headers["Location"], link.content) == (302, TARGETS[0], b"")
    for answer in (pixel, link):
        assert UNCACHED in answer.headers["Cache-Control"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "noindex" in answer.headers["X-Robots-Tag"]
        assert "Set-Cookie" not in answer.headers
    assert served.judged(mail, 2) == [(None, "person"), (1, "person")]
    assert served.events(mail) == ["click", "open", "read"]
    hits = hits_of(served.database, mail.delivery_id)
    assert {row[3] for row in hits} == {"127.0.0.0/24"}


def test_machines_are_answered_and_make_no_event(served: Served) -> None:
    """What a filter, a preview and a browser that fetches ahead send; each to a mail of its own."""
    burst, head, script, ahead, apple = (served.mail() for _ in range(5))
    assert [served.get(link).status_code for link in burst.links] == [302] * 3
    assert served.get(head.pixel, "HEAD").content == b""
    assert served.get(head.links[0], "HEAD").headers["Location"] == TARGETS[0]
    assert served.get(script.links[1], User_Agent="python-requests/2.32").status_code == 302
    assert served.get(ahead.links[2], Sec_Purpose="prefetch;prerender").status_code == 302
    assert served.get(ahead.links[2], Purpose="prefetch").status_code == 302
    assert served.get(apple.pixel, User_Agent="Mozilla/5.0").status_code == 200
    at_once = send_mail(served.database, served.account.account_id, system_clock())
    assert served.get(at_once.links[0]).status_code == 302
    expected: list[tuple[SentMail, list[tuple[int | None, str]]]] = [
        (burst, [(1, "scanner"), (2, "scanner"), (3, "scanner")]),
        (head, [(None, "scanner"), (1, "scanner")]),
        (script, [(2, "scanner")]),
        (ahead, [(3, "prefetch"), (3, "prefetch")]),
        (apple, [(None, "prefetch")]),
        (at_once, [(1, "scanner")]),
    ]
    for mail, kinds in expected:
        assert served.judged(mail, len(kinds)) == kinds
        assert served.events(mail) == []


def test_gmails_proxy_opens_for_a_person(served: Served) -> None:
    mail = served.mail()
    answer = requests.get(f"{served.web.url}{mail.pixel}", headers=GMAIL, timeout=TIMEOUT_S)
    assert answer.content == PIXEL
    assert served.judged(mail, 1) == [(None, "proxy")]
    assert served.events(mail) == ["open"]


OWN_NAMES = ("click.customer.example", "xn--bcher-kva.example:8443", "a_b.example", "Click.Customer.Example:80")
PROXIES = ("[::1]:8080", "203.0.113.7", "localhost", "web:8000")


def test_a_link_works_under_the_name_it_was_made_for_and_behind_proxies(served: Served) -> None:
    mail = served.mail()
    tokens = TrackingTokens(shared_secret(served.database, SECRET_NAME))
    for host in OWN_NAMES:
        name = host.partition(":")[0]
        path = f"/c/{tokens.for_click(mail.delivery_id, TrackedLink(2, TARGETS[1]), name)}"
        for asked in (host, *PROXIES):
            assert served.get(path, Host=asked).headers["Location"] == TARGETS[1]
        assert served.get(mail.pixel, Host=host).content == PIXEL


def test_nobody_sends_people_elsewhere_under_anothers_name(served: Served) -> None:
    mail = served.mail()
    tokens = TrackingTokens(shared_secret(served.database, SECRET_NAME))
    evil = "https://evil.example/?a=1&b='x'"
    hosts = ("click.customer.example", "CLICK.customer.example.", "click.customer.example:8443")
    odd = ("a!b.customer.example", "a,b.customer.example", "~.customer.example:8443")  # below a wildcard; browsers ask
    for made_for in ("", "127.0.0.1", "click.evil.example"):
        token = tokens.for_click(mail.delivery_id, TrackedLink(1, evil), made_for)
        for host in (*hosts, *odd):
            answer = served.get(f"/c/{token}", Host=host)
            assert answer.status_code in (200, 400), host
            assert "Location" not in answer.headers
        shown = served.get(f"/c/{token}", Host="click.customer.example")
        assert "https://evil.example/?a=1&amp;b=&#x27;x&#x27;" in shown.text
        assert "script" not in shown.headers["Content-Security-Policy"]
    assert hits_of(served.database, mail.delivery_id) == []


def test_a_token_of_ours_leads_nowhere_else(served: Served) -> None:
    mail = served.mail()
    token = mail.links[0].rpartition("/")[2]
    pixel, leaving = mail.pixel.rpartition("/")[2], mail.unsubscribe.rpartition("/")[2]
    changed = token[:30] + ("A" if token[30] != "A" else "B") + token[31:]
    hostile = [
        *(changed, token[:-1], f"{token}A", f"{token}=", f"A{token}", "A" * 44, "A" * 3_000, "%00", "%0d%0aX-A:%20b"),
        *("https:%2F%2Fevil.example", "..%2F..%2Fetc%2Fpasswd", "%ff%fe", "é", "x" * 8, pixel, leaving),
    ]
    for name in hostile:
        answer = served.get(f"/c/{name}")
        assert answer.status_code == 404, name
        assert "Location" not in answer.headers
        assert "X-A" not in answer.headers
    for name in (*hostile, token):
        if name != pixel and "%2F" not in name:
            assert served.get(f"/o/{name}").content == PIXEL, "a broken picture helps nobody"
    answer = served.get(f"/c/{token}?url=https://evil.example&next=//evil.example")
    assert answer.headers["Location"] == TARGETS[0]
    assert served.get(f"/c/{token}/https://evil.example").status_code == 404
    assert served.get(f"/c/{token}", "POST").status_code == 405
    assert served.judged(mail, 1) == [(1, "person")], "only the last one was a hit"


def test_a_real_browser(served: Served, tmp_path: Path) -> None:
    """It opens a mail, fetches one link ahead, as its header says, and follows another; then one without a screen."""
    mail, scanned = served.mail(), served.mail()
    page = tmp_path / "mail.html"
    ahead, followed = (f"{served.web.url}{link}" for link in mail.links[:2])
    body = f'<img src="{served.web.url}{mail.pixel}" alt=""><a href="{followed}">look</a>'
    page.write_text(f'<!DOCTYPE html><link rel="prefetch" href="{ahead}">{body}')
    with running_browser(tmp_path / "browser", f"--user-agent={PERSON['User-Agent']}", NO_NAMES) as browser:
        browser.open(page.as_uri())
        wait_for(lambda: len(hits_of(served.database, mail.delivery_id)) == 2)
        set_back(served, mail)
        assert browser.run("document.querySelector('img').naturalWidth") == 1
        browser.press("a")
        assert browser.run("document.title") == "shop.example", "the page that says that there is no such host"
    assert sorted(served.judged(mail, 3), key=str) == [(1, "prefetch"), (2, "person"), (None, "person")]
    assert served.events(mail) == ["click", "open", "read"]
    with running_browser(tmp_path / "headless", NO_NAMES) as browser:
        page.write_text(f'<!DOCTYPE html><img src="{served.web.url}{scanned.pixel}" alt="">')
        browser.open(page.as_uri())
    assert served.judged(scanned, 1) == [(None, "scanner")]
    assert served.events(scanned) == []


def set_back(served: Served, mail: SentMail) -> None:
    """Let some time pass between what has come and what will."""
    with served.database.transaction():
        served.database.execute(
            "UPDATE tracking_hit SET at_ms = at_ms - 60000 WHERE delivery_id = ?", (mail.delivery_id,)
        )


@dataclass
class Alone:
    """A process that a test may end, and start again."""

    served: Served
    folder: Path
    database_url: str


@pytest.fixture
def alone(database_url: str, tmp_path: Path) -> Iterator[Alone]:
    database = Database(database_url)
    account = create_account(database, "test", NOW_MS)
    with running_web(tmp_path / "web", database_url) as web:
        yield Alone(Served(web, database, account), tmp_path / "web", database_url)
    database.close()


def test_what_has_come_is_told_when_the_process_ends(alone: Alone) -> None:
    mail = alone.served.mail()
    alone.served.get(mail.links[0])
    assert alone.served.web.stop(TIMEOUT_S) == 0
    assert kinds_of(alone.served.database) == ["click", "read"]


def test_what_a_killed_process_has_stored_is_told_by_the_next(alone: Alone) -> None:
    served = alone.served
    mail, other = served.mail(), served.mail()
    served.get(mail.links[0])
    wait_for(lambda: bool(hits_of(served.database, mail.delivery_id)))
    kill(served.web)
    assert kinds_of(served.database) == [], "it was killed too late for this test"
    with running_web(alone.folder, alone.database_url) as web:
        again = replace(served, web=web)
        again.get(other.pixel)
        assert again.judged(mail, 1) == [(1, "person")]
        assert again.events(mail) == ["click", "read"]


def kill(web: WebProcess) -> None:
    """SIGKILL for gunicorn and the process that serves, which would otherwise end in good order."""
    children = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text().split()
    web.process.kill()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    web.process.wait()


def quickly(served: Served, path: str) -> requests.Response:
    """An answer that has waited for nothing."""
    began = time.monotonic()
    answer = served.get(path)
    assert time.monotonic() - began < QUICK_S
    return answer


def test_while_the_database_is_stopped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with stoppable_postgres() as server:
        database = Database(server.url)
        database.migrate()
        account = create_account(database, "test", NOW_MS)
        with running_web(tmp_path / "web", server.url) as web:
            served = Served(web, database, account)
            before, during = served.mail(), served.mail()
            assert served.get(before.pixel).content == PIXEL
            assert served.judged(before, 1) == [(None, "person")]
            click_without_database(served, server, during)
            assert served.judged(during, 11) == [(1, "person")] * 10 + [(None, "person")]
            assert "the database is away" in capfd.readouterr().out
        database.close()


def click_without_database(served: Served, server: PostgresServer, mail: SentMail) -> None:
    served.database.close()
    server.stop()
    for _ in range(10):
        assert quickly(served, mail.links[0]).headers["Location"] == TARGETS[0]
    assert quickly(served, mail.pixel).content == PIXEL
    away = served.get(mail.unsubscribe)
    assert (away.status_code, away.headers["Retry-After"]) == (503, "5")
    server.start()


def test_while_sqlite_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "test.sqlite3"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    account = create_account(database, "test", NOW_MS)
    with running_web(tmp_path / "web", f"sqlite:///{path}") as web:
        served = Served(web, database, account)
        mail = served.mail()
        assert served.get(mail.pixel).content == PIXEL
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        for _ in range(3):
            assert quickly(served, mail.links[1]).headers["Location"] == TARGETS[1]
        lock.execute("ROLLBACK")
        lock.close()
        assert served.judged(mail, 4)[1:] == [(2, "person")] * 3
    database.close()


def test_a_database_that_was_never_there(tmp_path: Path) -> None:
    """The secret lies in it: links cannot be read, which passes; pixels are the same whatever they say."""
    with running_web(tmp_path / "web", f"postgresql://nobody@/none?host={tmp_path}") as web:
        served = Served(web, Database("sqlite://"), NewAccount("", "", "", ""))
        link = served.get("/c/AAAA")
        assert (link.status_code, link.headers["Retry-After"]) == (503, "5")
        assert served.get("/o/AAAA").content == PIXEL


# --- what is kept of whom ---


def hit_with(api: Api, mail: SentMail, path: str, headers: dict[str, str], **options: Any) -> None:
    answer = api.client.get(path, headers={**PERSON, **headers}, **options)
    assert answer.status_code in (200, 302)
    assert "Set-Cookie" not in answer.headers


def recorded(api: Api) -> None:
    """Have all hits stored and judged."""
    found: HitRecorder = api.app.extensions[EXTENSION]
    found.close()


@pytest.mark.parametrize("header", ["DNT", "Sec-GPC"])
@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("ignore", [("198.51.100.0/24", PERSON["User-Agent"])]),
        ("forget_client", [("", "")]),
        ("do_not_record", []),
    ],
)
def test_who_asks_not_to_be_tracked(
    database: Database, account: NewAccount, tmp_path: Path, header: str, policy: str, kept: list[tuple[str, str]]
) -> None:
    api = Api(database, account, api_settings(tmp_path, privacy_signals=policy))
    mail = send_mail(database, account.account_id, NOW_MS - HOUR_MS)
    hit_with(api, mail, mail.links[0], {header: "1", "X-Forwarded-For": "198.51.100.77"})
    recorded(api)
    assert [(row[3], row[4]) for row in hits_of(database, mail.delivery_id)] == kept
    told = [details for kind, _, details in events_of(database) if kind == "click"]
    assert len(told) == len(kept)
    for details in told:
        assert ("agent" in details, "ip" in details) == (policy == "ignore", policy == "ignore")


def test_a_machine_that_asks_not_to_be_tracked_is_known_as_one(
    database: Database, account: NewAccount, tmp_path: Path
) -> None:
    """It is judged before anything of it is forgotten."""
    api = Api(database, account, api_settings(tmp_path))
    mail = send_mail(database, account.account_id, NOW_MS - HOUR_MS)
    hit_with(api, mail, mail.links[0], {"DNT": "1", "User-Agent": "curl/8.5"})
    recorded(api)
    assert [row[1:] for row in hits_of(database, mail.delivery_id)] == [
        ("scanner", "the user agent is that of a script or HTTP library", "", "")
    ]
    assert events_of(database) == []


def test_workers_are_rung_for_events(database: Database, account: NewAccount, tmp_path: Path) -> None:
    api = Api(database, account, api_settings(tmp_path))
    mail = send_mail(database, account.account_id, NOW_MS - HOUR_MS)
    hit_with(api, mail, mail.links[0], {})
    recorded(api)
    assert [kind.value for kind in api.rung] == ["events"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "found"),
    [
        ("203.0.113.9", None, "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1", "", "198.51.100.1"),
        ("127.0.0.1", "6.6.6.6, 198.51.100.1", "", "198.51.100.1"),
        ("::1", "2001:db8::7", "", "2001:db8::7"),
        ("::ffff:127.0.0.1", "198.51.100.1", "", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6,198.51.100.1, 10.0.0.2", "10.0.0.0/8", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1", "", "10.0.0.1"),
        ("127.0.0.1", "nonsense", "", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1, nonsense", "", "127.0.0.1"),
        ("127.0.0.1", "", "", "127.0.0.1"),
        ("127.0.0.1", ", ".join(["127.0.0.1"] * 1_000), "", "127.0.0.1"),
        ("", "198.51.100.1", "", ""),
    ],
)
def test_whence_a_request_comes(peer: str, forwarded: str | None, proxies: str, found: str) -> None:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    environ = EnvironBuilder(headers=headers, environ_base={"REMOTE_ADDR": peer}).get_environ()
    assert client_address(Request(environ), parse_networks(proxies, "PROXIES")) == found


# --- the queue ---


def test_the_queue_is_bounded_and_says_what_it_lost(tmp_path: Path) -> None:
    """Nothing can be stored: there is no server."""
    database = Database(f"postgresql://nobody@/none?host={tmp_path}")
    with capture_logs() as logged:
        recorder = HitRecorder(database, lambda _: None, system_clock)
        assert recorder.tokens() is None
        for number in range(MAX_WAITING + 300):
            recorder.put(hit_of(f"{number % 150}"))
        assert recorder.waiting == MAX_WAITING
        recorder.close()
    assert [line["lost"] for line in logged if "lost" in line] == [MAX_WAITING + 300]
    away = [line["event"] for line in logged if "lost" not in line]
    assert away == ["the database is away; opens and clicks wait for it"], "said once, not at every try"


def test_one_mail_does_not_crowd_out_the_others(tmp_path: Path) -> None:
    with capture_logs():
        recorder = HitRecorder(Database(f"postgresql://nobody@/none?host={tmp_path}"), lambda _: None, system_clock)
        for _ in range(MAX_WAITING):
            recorder.put(hit_of("hammered"))
        assert recorder.waiting == MAX_WAITING_PER_DELIVERY
        recorder.close()


def hit_of(delivery_id: str) -> NewHit:
    return NewHit(delivery_id, Hit(NOW_MS, None), None, "GET", ())


def test_hits_that_cannot_be_stored_do_not_stop_the_others(database: Database, account: NewAccount) -> None:
    """A batch that the database refuses, here for a number it cannot hold, is lost; the next is not."""
    mail = send_mail(database, account.account_id, NOW_MS - HOUR_MS)
    with capture_logs() as logged:
        recorder = HitRecorder(database, lambda _: None, lambda: NOW_MS)
        assert recorder.tokens() is not None
        recorder.put(NewHit(mail.delivery_id, Hit(1 << 80, None), None, "GET", ()))
        wait_for(lambda: recorder.waiting == 0)
        recorder.put(NewHit(mail.delivery_id, Hit(NOW_MS, None), None, "GET", ()))
        recorder.close()
    assert kinds_of(database) == ["open"]
    assert {line["event"] for line in logged} == {
        "opens or clicks could not be recorded",
        "opens and clicks were not recorded",
    }
