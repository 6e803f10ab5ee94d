"""`POST /messages`: every field, every refusal, the answer; and taking messages back."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from core.clock import DAY_MS, HOUR_MS, SECOND_MS, to_datetime, to_rfc3339
from core.config import Settings
from core.delivery import DeliveryKind, DeliveryState
from core.sending.send_settings import SendOptions, read_send_options
from core.services.accounts import CredentialKind, NewAccount
from core.services.credentials import Scope
from core.services.idempotency import KEPT_MS
from core.store.db import Database
from tests.api_support import api_settings
from tests.conftest import NOW_MS
from tests.send_api_support import RECIPIENT, SENDER, SendApi, add_domain, add_layout

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)
RAW = f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: as it is\r\nX-Own: yes\r\n\r\nHello.\r\n"
BREAKS = ["\r\n", "\n", "\r", "\u2028", "\u0085", "\x0b", "\x1b"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return api_settings(tmp_path / "data")


@pytest.fixture
def api(database: Database, account: NewAccount, settings: Settings) -> SendApi:
    return SendApi(database, account, settings)


only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def stored(api: SendApi, message_id: str) -> dict[str, Any]:
    columns = "tags, metadata, stream, priority, is_test, send_at_ms, options, username"
    with api.database.reading():
        ((*row,),) = api.database.execute(f"SELECT {columns} FROM sent_message WHERE message_id = ?", (message_id,))
    return dict(zip(columns.split(", "), row, strict=True))


def deliveries(api: SendApi, message_id: str) -> list[tuple[str, str, int]]:
    with api.database.reading():
        return [
            tuple(row)
            for row in api.database.execute(
                "SELECT kind, state, due_ms FROM delivery WHERE message_id = ? ORDER BY id", (message_id,)
            )
        ]


def text(part: Any) -> str:
    found: str = part.get_content().strip()
    return found


def count(api: SendApi, table: str) -> int:
    with api.database.reading():
        found: int = api.database.execute(f"SELECT count(*) FROM {table}")[0][0]
    return found


# --- what is sent ---


def test_the_answer_is_what_the_vendors_clients_expect(api: SendApi) -> None:
    answer = api.send(to=["Bob <bob@example.net>", "eve@example.org"], cc="carl@example.net", tags=["one", "two"])
    assert answer.status_code == 202
    assert answer.json == {
        "id": answer.json["id"],
        "from": SENDER,
        "to": ["Bob <bob@example.net>", "eve@example.org"],
        "cc": ["carl@example.net"],
        "subject": "hello",
        "tags": ["one", "two"],
        "test_mode": False,
        "stream": "outbound",
        "send_at": None,
    }
    assert {one["email"] for one in api.shown(answer.json["id"])["recipients"]} == {
        "bob@example.net",
        "eve@example.org",
        "carl@example.net",
    }


@only_sqlite
def test_every_field_finds_its_way_into_the_message(api: SendApi) -> None:
    mail = api.parsed(
        api.sent(
            to=["Bob <bob@example.net>"],
            cc=["Carl <carl@example.net>"],
            bcc=["hidden@example.net"],
            reply_to="Office <office@example.com>",
            subject="Grüße 😃",
            plain="Plain ü",
            html='<p>HTML <img src="cid:pixel"></p>',
            headers={"x-one": "1", "X-Many": ["a", "b"], "List-Id": "<news.example.com>"},
            attachments=[
                {"file_name": "p.png", "content": base64.b64encode(PIXEL).decode(), "content_type": "image/png",
                 "content_id": "pixel"},
                {"file_name": "größe.txt", "content": "aGFs\nbG8=", "content_type": "text/plain; charset=utf-8"},
            ],
        )
    )  # fmt: skip
    assert (mail["From"], mail["To"], mail["Cc"]) == (SENDER, "Bob <bob@example.net>", "Carl <carl@example.net>")
    assert (mail["Reply-To"], mail["Subject"], mail["Bcc"]) == ("Office <office@example.com>", "Grüße 😃", None)
    assert (mail["x-one"], mail.get_all("x-many"), mail["list-id"]) == ("1", ["a", "b"], "<news.example.com>")
    assert {"Message-ID", "Date"} <= set(mail.keys())
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text(plain) == "Plain ü"
    assert "cid:pixel" in text(html)
    files = {part.get_filename(): part.get_payload(decode=True) for part in mail.walk() if part.get_filename()}
    assert files == {"p.png": PIXEL, "größe.txt": b"hallo"}
    assert mail.get_content_type() == "multipart/mixed"


@only_sqlite
def test_markdown_becomes_whatever_is_missing(api: SendApi) -> None:
    both = api.parsed(api.sent(plain=None, markdown="# Hi\n\n**bold**"))
    plain, html = both.get_body(("plain",)), both.get_body(("html",))
    assert "**bold**" in text(plain)
    assert "<strong>bold</strong>" in text(html)
    kept = api.parsed(api.sent(plain="my own", markdown="# Hi")).get_body(("plain",))
    assert text(kept) == "my own"


@only_sqlite
def test_a_whole_message_goes_as_it_is(api: SendApi) -> None:
    source = api.source(api.sent(raw=RAW, subject=None, plain=None))
    assert source.startswith(f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: as it is\r\nX-Own: yes\r\n".encode())
    assert source.endswith(b"\r\n\r\nHello.\r\n")
    with_unix_line_ends = RAW.replace("\r\n", "\n")
    assert b"Subject: mine\r\n" in api.source(api.sent(raw=with_unix_line_ends, subject="mine", plain=None))


def test_how_it_is_sent_is_kept(api: SendApi) -> None:
    wishes = {
        "tags": "newsletter, spring ,newsletter",
        "priority": "digest",
        "test_mode": True,
        "metadata": {"order": "12\n34", "ключ": "✓"},
        "stream": "receipts",
        "track_opens": False,
        "track_clicks": True,
        "track_text_clicks": None,
        "unsubscribe": False,
        "send_at": to_rfc3339(NOW_MS + HOUR_MS),
    }
    answer = api.send(**wishes)
    assert (answer.json["tags"], answer.json["test_mode"]) == (["newsletter", "spring"], True)
    assert answer.json["send_at"] == to_rfc3339(NOW_MS + HOUR_MS)
    row = stored(api, answer.json["id"])
    assert json.loads(row["tags"]) == ["newsletter", "spring"]
    assert json.loads(row["metadata"]) == wishes["metadata"]
    assert (row["stream"], row["priority"], bool(row["is_test"])) == ("receipts", "digest", True)
    assert read_send_options(row["options"]) == SendOptions(False, True, None, False)
    assert deliveries(api, answer.json["id"]) == [("send_digest", "pending", NOW_MS + HOUR_MS)]
    assert api.shown(answer.json["id"])["recipients"][0]["events"][0]["details"] == {"is_test": True}


@only_sqlite
def test_control_headers_steer_unless_a_field_does(api: SendApi) -> None:
    add_layout(api.database, api.account.account_id, "one", "<b>one</b>{{ content }}")
    add_layout(api.database, api.account.account_id, "two", "<b>two</b>{{ content }}")
    steering = {"x-cloudmta-class": "priority", "X-CloudMTA-Tags": "a, b", "x-cloudmta-layout": "one", "x-kept": "1"}
    by_header = api.sent(headers=steering, tags=["c"], html="<p>x</p>")
    row = stored(api, by_header)
    assert (json.loads(row["tags"]), row["priority"]) == (["c", "a", "b"], "priority")
    source = api.source(by_header)
    assert b"<b>one</b><p>x</p>" in source
    assert b"x-kept: 1" in source
    assert b"cloudmta" not in source.lower()
    by_field = api.sent(headers=steering, priority="standard", layout="two", html="<p>x</p>")
    assert stored(api, by_field)["priority"] == "standard"
    assert b"<b>two</b><p>x</p>" in api.source(by_field)
    raw = "x-cloudmta-class: digest\r\nx-cloudmta-tags: r\r\nx-cloudmta-layout: one\r\n" + RAW
    whole = api.sent(raw=raw.replace("\r\n\r\n", "\r\nContent-Type: text/html\r\n\r\n"), plain=None, subject=None)
    row = stored(api, whole)
    assert (json.loads(row["tags"]), row["priority"]) == (["r"], "digest")
    assert b"<b>one</b>Hello." in api.source(whole)


@only_sqlite
def test_layouts_have_variables(api: SendApi) -> None:
    add_layout(api.database, api.account.account_id, "frame", "<h1>{{ title }}</h1>{{ content }}{{ foot | Bye }}")
    frame = {"layout": "frame", "html": "<p>x</p>"}
    source = api.source(api.sent(**frame, variables={"title": "<New>", "unused": "x"}))
    assert b"<h1>&lt;New&gt;</h1><p>x</p>Bye" in source
    refused = api.send(**frame)
    assert refused.json["error"] == "variables.title: is used by the layout and has no default; give it a value"
    missing = api.send(layout="gone")
    assert missing.json["error"] == "headers.x-cloudmta-layout: there is no layout called 'gone'; make it first"


@only_sqlite
def test_css_is_inlined_where_it_is_asked_for(api: SendApi) -> None:
    html = "<html><head><style>p { color: red }</style></head><body><p>x</p></body></html>"
    assert b'style="' not in api.source(api.sent(html=html))
    assert b'style="color: red' in api.source(api.sent(html=html, inline_css=True))
    markdown = api.source(api.sent(plain=None, markdown="x", inline_css=True))
    assert b"<p>x</p>" in markdown
    raw = RAW.replace("\r\n\r\nHello.", f"\r\nContent-Type: text/html\r\n\r\n{html}")
    assert b'style="color: red' in api.source(api.sent(raw=raw, plain=None, subject=None, inline_css=True))
    refused = api.send(html="<p>" + "x" * 600_000, inline_css=True)
    assert refused.status_code == 422
    assert refused.json["error"].startswith("html: is longer than 524,288 characters")


def test_a_large_message_is_kept_outside_of_the_database(api: SendApi) -> None:
    content = bytes(range(256)) * 4_000
    message_id = api.sent(attachments=[{"file_name": "a.dat", "content": base64.b64encode(content).decode()}])
    (part,) = api.parsed(message_id).iter_attachments()
    assert part.get_payload(decode=True) == content
    assert [path.name for path in (api.settings.data / "messages").rglob("*") if path.is_file()] == [message_id]


def test_the_workers_are_told_after_the_commit(api: SendApi) -> None:
    api.sent(priority="priority")
    assert api.rung == [DeliveryKind.SEND_PRIORITY]
    api.rung.clear()
    api.sent(send_at=to_rfc3339(NOW_MS + HOUR_MS))
    assert api.rung == [], "it is not due, and no webhook wants to be told"
    assert api.post("/webhooks", {"url": "https://example.com/events"}).status_code == 201
    api.rung.clear()
    api.sent(send_at=to_rfc3339(NOW_MS + HOUR_MS))
    assert api.rung == [DeliveryKind.EVENTS]


@only_sqlite
@pytest.mark.parametrize("whole", [{}, {"raw": RAW, "plain": None}])
def test_scheduled_mail_has_the_date_at_which_it_leaves(api: SendApi, whole: dict[str, Any]) -> None:
    """One that says it is twenty days old when it arrives lies deep in the mailbox, and looks like spam."""
    leaves_ms = NOW_MS + 20 * 24 * HOUR_MS
    message = message_from_bytes(api.source(api.sent(send_at=to_rfc3339(leaves_ms), **whole)), policy=policy.default)
    assert message["Date"].datetime == to_datetime(leaves_ms // 1000 * 1000)


# --- what is refused ---


@only_sqlite
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"plain": None}, "plain: Body not found; give plain, html or markdown (or a whole message as raw)"),
        ({"plain": "", "html": "", "markdown": ""}, "plain: Body not found; give plain, html or markdown"),
        ({"from_": "nobody"}, "from: 'nobody' is no address; write it like"),
        ({"from_": None}, "from: is required"),
        ({"to": None}, "to: is required"),
        ({"to": ["a@example.net", "b@", "c@example.net"]}, "to[1]: 'b@' is no address; write it like"),
        ({"to": []}, "to: names no recipient"),
        ({"to": 7}, "to: must be a text, or a list of texts"),
        ({"cc": ["a@example.net", 7]}, "cc: must be a text, or a list of texts"),
        ({"to": "a@b"}, "to: 'a@b' has no full domain behind the @"),
        ({"to": [f"u{n}@example.net" for n in range(21)]}, "to: has 21 recipients with cc and bcc, 20 are allowed"),
        ({"to": ["a@example.net"] * 1_001}, "to: has 1001 entries; send several messages"),
        ({"reply_to": "x"}, "reply_to: 'x' is no address"),
        ({"htlm": "x"}, "htlm: is not a field of this request; leave it out"),
        ({"priority": "fast"}, "priority: must be 'standard', 'priority' or 'digest'"),
        ({"headers": {"x-cloudmta-class": "fast"}}, "headers.x-cloudmta-class: must be one of standard, priority"),
        ({"headers": {"From": "x@example.com"}}, "headers.From: cannot be set here; use the field from"),
        ({"headers": {"Received": "x"}}, "headers.Received: cannot be set: the gateway writes it; leave it out"),
        ({"headers": {"x": 1}}, "headers.x: must be a text, or a list of texts"),
        ({"attachments": [{"file_name": "a.exe", "content": ""}]}, "attachments[0].file_name: is of a forbidden type"),
        ({"attachments": [{"file_name": "a.txt", "content": "%%"}]}, "attachments[0].content: is no base64"),
        ({"attachments": [{"file_name": "a.txt", "content": "YQ"}]}, "attachments[0].content: is no base64"),
        ({"attachments": [{"file_name": "a.txt"}]}, "attachments.0.content: is required"),
        ({"tags": [f"t{n}" for n in range(21)]}, "tags: are 21, 20 are allowed"),
        ({"metadata": {f"k{n}": "v" for n in range(21)}}, "metadata: has 21 keys, 20 are allowed"),
        ({"metadata": {"k": "v" * 501}}, "metadata.k: is longer than 500 characters"),
        ({"metadata": {"k" * 65: "v"}}, "is longer than 64 characters"),
        ({"metadata": {" ": "v"}}, "metadata: has a key without a name"),
        ({"metadata": {"k": 1}}, "metadata.k: must be a valid string"),
        ({"stream": "Not Good"}, "stream: must match pattern"),
        ({"variables": {f"v{n}": "" for n in range(201)}}, "variables: are 201, 200 are allowed"),
        ({"send_at": "tomorrow"}, "send_at: must be a valid datetime"),
        ({"send_at": "2026-09-22T00:00:00"}, "send_at: must say how far it is from UTC, like 2026-08-24T14:15:22Z"),
        ({"send_at": 1_790_000_100}, "send_at: must be a time in RFC 3339"),
        ({"send_at": to_rfc3339(NOW_MS - HOUR_MS)}, "send_at: is over already; leave it out to send now"),
        ({"send_at": to_rfc3339(NOW_MS + 31 * DAY_MS)}, "send_at: is more than 30 days away"),
        ({"send_at": "0001-01-01T00:00:00Z"}, "send_at: is over already"),
        ({"send_at": "9999-12-31T23:59:59Z"}, "send_at: is more than 30 days away"),
        ({"raw": RAW}, "raw: is a whole message, so it cannot stand beside plain"),
        ({"raw": RAW, "plain": None, "to": "eve@example.net"}, "raw: its header To must name the same addresses as to"),
        ({"raw": "Subject: x\r\n\r\nx", "plain": None}, "raw: must name one address in its From header, and names 0"),
        ({"raw": "x", "plain": None}, "raw: line 1 is no header field"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(api: SendApi, fields: dict[str, Any], error: str) -> None:
    answer = api.send(**fields)
    assert answer.status_code == 422, answer.text
    assert error in answer.json["error"]
    assert answer.json["status"] == 422
    assert count(api, "message") == 0


INJECTED: list[tuple[str, Any]] = [
    ("subject", "a{}Bcc: eve@example.org"),
    ("from_", "Ann <ann@example.com>{}Bcc: eve@example.org"),
    ("from_", '"Ann{}Bcc: eve@example.org" <ann@example.com>'),
    ("to", "bob@example.net{}eve@example.org"),
    ("to", ["bob@example.net", "Eve{} <eve@example.org>"]),
    ("cc", "bob@example.net{}Bcc: eve@example.org"),
    ("bcc", "bob@example.net{}"),
    ("reply_to", "bob@example.net{}X: y"),
    ("headers", {"x-one": "a{}Bcc: eve@example.org"}),
    ("headers", {"x-one": ["a", "b{}c"]}),
    ("headers", {"x-one{}x-two": "a"}),
    ("headers", {"x-one: a{}Bcc": "a"}),
    ("headers", {"List-Id": "<a>{}X: y"}),
    ("headers", {"Message-ID": "<a@b>{}X: y"}),
    ("headers", {"x-cloudmta-tags": "a{}b"}),
    ("headers", {"x-cloudmta-layout": "a{}b"}),
    ("tags", "a{}b"),
    ("tags", ["a{}b"]),
    ("layout", "a{}b"),
    ("stream", "a{}b"),
    ("metadata", {"a{}b": "c"}),
    ("attachments", [{"file_name": "a{}b.txt", "content": ""}]),
    ("attachments", [{"file_name": "a.txt", "content": "", "content_type": "text/plain{}X: y"}]),
    ("attachments", [{"file_name": "a.txt", "content": "", "content_type": 'text/plain; charset="a{}b"'}]),
    ("attachments", [{"file_name": "a.txt", "content": "", "content_id": "a{}b"}]),
]


@only_sqlite
@pytest.mark.parametrize(("field", "value"), INJECTED, ids=lambda value: str(value)[:40])
def test_no_line_end_of_any_kind_gets_into_a_header(api: SendApi, field: str, value: Any) -> None:
    for sign in BREAKS:
        filled = json.loads(json.dumps(value).replace("{}", json.dumps(sign)[1:-1]))
        answer = api.send(**{field: filled, "html": "<p>x</p>"})
        assert answer.status_code == 422, f"{sign!r} in {field}: {answer.text}"
    assert count(api, "message") == 0


@only_sqlite
def test_line_ends_where_they_may_be_do_not_reach_the_header(api: SendApi) -> None:
    evil = "a\r\nBcc: eve@example.org\r\n\r\nb"
    add_layout(api.database, api.account.account_id, "frame", "{{ content }}{{ v }}")
    mail = api.parsed(
        api.sent(plain=evil, html=evil, metadata={"k": evil}, layout="frame", variables={"v": evil}, markdown=evil)
    )
    assert "Bcc" not in mail
    assert "eve@example.org" not in mail.as_string().partition("\n\n")[0]


@only_sqlite
def test_nul_characters_are_refused_everywhere(api: SendApi) -> None:
    for field in ("subject", "plain", "html", "markdown", "to", "layout"):
        assert api.send(**{field: "a\0b"}).status_code == 422, field
    assert api.send(metadata={"k": "a\0b"}).status_code == 422
    assert api.send(metadata={"a\0b": "v"}).status_code == 422
    assert api.send(raw=RAW + "\0", plain=None).status_code == 422


@only_sqlite
def test_only_this_call_takes_large_bodies_and_only_with_a_key(
    database: Database, account: NewAccount, settings: Settings
) -> None:
    api = SendApi(database, account, replace(settings, max_send_size=3_000_000))
    content = base64.b64encode(b"x" * 2_000_000).decode()
    assert api.send(attachments=[{"file_name": "a.txt", "content": content}]).status_code == 202
    composed = api.send(attachments=[{"file_name": f"{n}.txt", "content": content} for n in "12"])
    assert composed.status_code == 413
    assert composed.json["error"] == "the body is too large; a message may take up to 5,048,576 bytes here"
    over = api.send(plain="x" * 3_500_000)
    assert over.status_code == 422
    assert "message: takes 3,500,000 bytes with its attachments encoded, 3,000,000 are allowed" in over.json["error"]
    assert api.post("/layouts", {"name": "a", "html": "x" * 1_100_000}).status_code == 413
    stranger = SendApi(database, replace(account, api_key="wrong"), settings)
    assert stranger.send(plain="x" * 6_000_000).status_code == 401


def test_unverified_domains(database: Database, account: NewAccount, settings: Settings) -> None:
    api = SendApi(database, account, replace(settings, require_verified="on"))
    refused = api.send()
    assert refused.status_code == 422
    assert refused.json["error"].startswith("from: example.com is no sending domain of this account; add it")
    add_domain(database, account.account_id, "example.com")
    assert api.send().status_code == 202


# --- who may send ---


def test_an_smtp_login_sends_with_its_password(api: SendApi) -> None:
    login = api.with_login(api.account.smtp_username, api.account.smtp_password)
    assert stored(api, login.sent())["username"] == api.account.smtp_username
    assert stored(api, api.sent())["username"] == api.account.account_id
    assert api.with_login(api.account.smtp_username, api.account.api_key).send().status_code == 401
    assert api.with_login("0" * 16, api.account.smtp_password).send().status_code == 401


def test_keys_send_within_their_scopes_and_domain(api: SendApi) -> None:
    assert api.with_credential(CredentialKind.API, frozenset({Scope.READ})).send().status_code == 403
    assert api.with_credential(CredentialKind.API, frozenset({Scope.SEND})).send().status_code == 202
    domain_id = add_domain(api.database, api.account.account_id, "example.org")
    bound = api.with_credential(CredentialKind.SMTP, domain_id=domain_id)
    assert bound.send().json["error"].startswith("from: this login may not send from example.com")
    assert bound.send(from_="x@example.org").status_code == 202


# --- idempotency ---


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


def test_the_same_request_is_carried_out_once(api: SendApi) -> None:
    first = api.send(key("one"), tags=["a"])
    again = api.send(key("one"), tags=["a"])
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json == first.json
    assert ("Idempotency-Replayed" in first.headers, again.headers["Idempotency-Replayed"]) == (False, "true")
    assert count(api, "message") == 1
    for names in (("tags", "plain", "subject", "to", "from"), ("from", "to", "subject", "plain", "tags")):
        written = {"tags": ["a"], "plain": "Hi.", "subject": "hello", "to": RECIPIENT, "from": SENDER}
        body = json.dumps({name: written[name] for name in names})
        headers = {**key("one"), "Content-Type": "application/json"}
        assert api.call("POST", "/messages", data=body, headers=headers).json == first.json
    other = api.send(key("one"), tags=["b"])
    assert other.status_code == 422
    assert other.json["error"].startswith("Idempotency-Key: was used with another request before")
    assert api.send(key("two"), tags=["a"]).json["id"] != first.json["id"]
    assert count(api, "message") == 2


def test_a_key_belongs_to_its_login_and_to_a_day(api: SendApi) -> None:
    first = api.send(key("one")).json["id"]
    login = api.with_login(api.account.smtp_username, api.account.smtp_password)
    assert login.send(key("one")).json["id"] != first
    api.now_ms += KEPT_MS - SECOND_MS
    assert api.send(key("one")).json["id"] == first
    api.now_ms += 2 * SECOND_MS
    assert api.send(key("one")).json["id"] != first


def test_the_first_answer_holds_even_when_the_request_would_fail_by_now(api: SendApi) -> None:
    request = {"send_at": to_rfc3339(NOW_MS + HOUR_MS)}
    first = api.send(key("one"), **request)
    api.now_ms += 2 * HOUR_MS
    assert api.send(**request).status_code == 422
    assert api.send(key("one"), **request).json == first.json


def test_what_failed_may_be_tried_again_with_its_key(api: SendApi) -> None:
    assert api.send(key("one"), plain=None).status_code == 422
    assert api.send(key("one")).status_code == 202
    assert count(api, "idempotency") == 1


@only_sqlite
def test_keys_that_cannot_be(api: SendApi) -> None:
    assert api.send(key("k" * 256)).status_code == 422
    assert api.send(key("")).status_code == 422
    assert api.send(key("k" * 255)).status_code == 202


def test_requests_that_race_with_one_key_send_one_message(api: SendApi) -> None:
    answers: list[tuple[int, str, bool]] = []
    barrier = threading.Barrier(8, timeout=30)

    def run(client: SendApi) -> None:
        large = [{"file_name": "a.dat", "content": base64.b64encode(b"x" * 200_000).decode()}]
        barrier.wait()
        answer = client.send(key("race"), attachments=large)
        answers.append((answer.status_code, answer.json["id"], "Idempotency-Replayed" in answer.headers))
        api.database.close()

    clients = [api.with_login(api.account.account_id, api.account.api_key) for _ in range(8)]
    threads = [threading.Thread(target=run, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _, _ in answers} == {202}
    assert len({message_id for _, message_id, _ in answers}) == 1
    assert sum(not is_replayed for _, _, is_replayed in answers) == 1
    assert (count(api, "message"), count(api, "delivery")) == (1, 1)
    files = [path for path in (api.settings.data / "messages").rglob("*") if path.is_file()]
    assert len(files) == 1, "those that lost must leave no file behind"


# --- taking back ---


def test_a_scheduled_message_can_be_taken_back(api: SendApi) -> None:
    message_id = api.sent(send_at=to_rfc3339(NOW_MS + HOUR_MS), to=["a@example.net", "b@example.net"])
    api.rung.clear()
    answer = api.delete(f"/messages/{message_id}")
    assert answer.status_code == 202
    assert {one["state"] for one in answer.json["recipients"]} == {"cancelled"}
    for recipient in answer.json["recipients"]:
        assert [event["kind"] for event in recipient["events"]] == ["registration", "cancelled"]
    assert api.rung == [DeliveryKind.EVENTS]
    assert [state for _, state, _ in deliveries(api, message_id)] == ["cancelled", "cancelled"]
    again = api.delete(f"/messages/{message_id}")
    assert again.status_code == 409
    assert "its delivery has begun, or is over" in again.json["error"]


@pytest.mark.parametrize(
    "columns",
    [
        {"attempts": 1, "lease_token": "x"},
        {"attempts": 1},
        {"state": DeliveryState.DELIVERED.value, "attempts": 1},
        {"state": DeliveryState.SUPPRESSED.value},
    ],
)
def test_what_has_begun_stays(api: SendApi, columns: dict[str, Any]) -> None:
    message_id = api.sent()
    api.set_state(message_id, **columns)
    before = deliveries(api, message_id)
    assert api.delete(f"/messages/{message_id}").status_code == 409
    assert deliveries(api, message_id) == before


def test_what_is_held_can_be_taken_back(api: SendApi) -> None:
    message_id = api.sent()
    api.set_state(message_id, state=DeliveryState.QUARANTINED.value)
    assert api.delete(f"/messages/{message_id}").status_code == 202


def test_only_ones_own_messages_can_be_taken_back(api: SendApi) -> None:
    message_id = api.sent(send_at=to_rfc3339(NOW_MS + HOUR_MS))
    assert api.stranger().delete(f"/messages/{message_id}").status_code == 404
    other = add_domain(api.database, api.account.account_id, "example.org")
    assert (
        api.with_credential(CredentialKind.SMTP, domain_id=other).delete(f"/messages/{message_id}").status_code == 404
    )
    reader = api.with_credential(CredentialKind.API, frozenset({Scope.READ}))
    assert reader.delete(f"/messages/{message_id}").status_code == 403
    assert api.delete("/messages/not-an-id").status_code == 404
    assert [state for _, state, _ in deliveries(api, message_id)] == ["pending"]
