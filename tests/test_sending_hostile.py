"""Customers and strangers who mean ill: forged authors, headers out of texts, one message that would be two, formulas,
limits walked around, passwords that show."""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Iterator
from email import message_from_bytes
from email.utils import getaddresses, parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from cli.main import cli
from core.clock import HOUR_MS
from core.errors import InvalidField
from core.sending.priority import Priority
from core.sending.send_settings import SendSettings, settings_json
from core.sending.suppression import SuppressionReason
from core.sending.verp import RETURN_HEADER
from core.services.accounts import NewAccount
from core.services.send_gate import GateQuestion, ask_gate
from core.services.suppressions import NewSuppression, SendTarget, add_suppressions
from core.store.db import Database
from outbound.composing.mime_writing import encode_base64
from outbound.composing.raw_fields import split_message
from outbound.composing.raw_message import RawOptions, prepare_raw
from outbound.composing.recoding import rewrite_html
from outbound.transaction import Draft
from tests.api_support import api_settings
from tests.conftest import NOW_MS
from tests.send_api_support import RECIPIENT, SENDER, SendApi

BANK, MINE = "ceo@bank.example", "ann@mine.example"
OPTIONS = RawOptions("one", NOW_MS, "mx.pillarbox.test")
REST = b"\r\nTo: bob@example.net\r\nSubject: s\r\n\r\nHi.\r\n"
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> SendApi:
    return SendApi(database, account, api_settings(tmp_path))


# --- who seems to have written it -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        f"From: <{BANK}>: {MINE};",
        f"From: {BANK}: {MINE};",
        f'From: "The bank" <{BANK}>: {MINE};',
        f"From: , {MINE}",
        f"From: ;{MINE}",
        f"From: {MINE}, {BANK}",
        f"From: {MINE} <{BANK}>",
        f"From: {BANK} <{MINE}>",
        f"From: <{BANK}> <{MINE}>",
        f"From: <@bank.example:{MINE}>",
        f"From: {MINE}\r\nFrom: {BANK}",
        f"From: {MINE}\r\nFROM \t: {BANK}",
        f"Resent-From: {MINE}",
        "From: =?utf-8?b?Y2VvQGJhbmsuZXhhbXBsZQA=?=@mine.example",  # "Mailsploit": shown as ceo@bank.example
        "From: =?utf-8?q?ceo=40bank.example=0A=00?=@mine.example",
        f"From: {MINE}\u2028 <{BANK}>",
    ],
)
def test_an_author_whom_two_readers_could_read_differently_is_refused(field: str) -> None:
    with pytest.raises(InvalidField):
        prepare_raw(field.encode() + REST, OPTIONS)


@pytest.mark.parametrize(
    "field",
    [
        f"From: {MINE}",
        f"From: <{MINE}>",
        f"From: Ann <{MINE}>",
        f'From: "Doe, Ann" <{MINE}>',
        f"From: {MINE} (<{BANK}>)",
        f"From: (<{BANK}>) {MINE}",
        f"From: ann({BANK.removeprefix('ceo')})@mine.example",
        f'From: "x\\" <{BANK}>, " <{MINE}>',
        f"From: =?utf-8?q?ceo=40bank.example=0A=00?= <{MINE}>",
        f"From: =?utf-8?q?=3Cceo=40bank.example=3E=2C?= <{MINE}>",
        f"From: =?utf-8?q?=22?= <{MINE}>",
        "From: Ann\r\n <ann@MINE.example>",
        "From: ann@\uff4dine.example",
    ],
)
def test_the_author_who_was_checked_is_the_author_who_is_shown(field: str) -> None:
    prepared = prepare_raw(field.encode() + REST, OPTIONS)
    (written,) = message_from_bytes(prepared.content).get_all("from") or []
    assert prepared.from_.mailbox.domain == "mine.example"
    assert parseaddr(written)[1].lower() == MINE
    assert [address.lower() for _, address in getaddresses([written])] == [MINE]
    assert re.findall(r"<([^<>]*)>\s*$", written) in ([], [prepared.from_.address])
    assert "(" not in written
    assert "\0" not in prepared.from_.name


def test_a_plain_from_stays_as_it_was_written() -> None:
    for field in (
        b"From:  Ann <ann@mine.example>",
        b'From: "Doe, Ann"\r\n\t<ann@mine.example>',
        b"From: ann@mine.example",
    ):
        assert prepare_raw(field + REST, OPTIONS).content.startswith(field + b"\r\n")


def test_nobody_else_is_named_as_sender_resender_or_way_back() -> None:
    forged = (
        f"From: {MINE}\r\nSender: {BANK}\r\nResent-From: {BANK}\r\nresent-sender: {BANK}\r\nReturn-Path: <{BANK}>\r\n"
        f"{RETURN_HEADER}: b-forged\r\nx-PILLARBOX-return : b-forged\r\nX-CloudMTA-Anything: x\r\nBcc: {BANK}"
    )
    content = prepare_raw(forged.encode() + REST, OPTIONS).content
    assert BANK.encode() not in content
    assert b"forged" not in content
    assert b"cloudmta" not in content.lower()


@pytest.mark.parametrize("kept", [f"Sender: {MINE}", "Sender: Desk <desk@mine.example>"])
def test_a_sender_of_the_same_domain_stays(kept: str) -> None:
    assert kept.encode() in prepare_raw(f"From: {MINE}\r\n{kept}".encode() + REST, OPTIONS).content


@only_sqlite
def test_the_api_takes_no_forged_author_either(api: SendApi) -> None:
    for sender in (f"<{BANK}>: {MINE};", f"{MINE}, {BANK}", "=?utf-8?b?Y2Vv?=@mine.example", f"{BANK} <{MINE}>"):
        assert api.send(from_=sender).status_code == 422, sender
    raw = f"From: <{BANK}>: {MINE};\r\nTo: {RECIPIENT}\r\nSubject: s\r\n\r\nhi\r\n"
    for sender in (MINE, BANK):
        assert api.send(from_=sender, raw=raw, plain=None, subject=None).status_code == 422


# --- one message stays one --------------------------------------------------------------------------------------------

BREAKS = (
    "\r\nBcc: evil@evil.example\r\n", "\nX-Evil: 1", "\rX-Evil: 1", "\0X-Evil: 1", "\x0bX-Evil: 1", "\x85X-Evil: 1",
    "\u2028X-Evil: 1", "\ud800", "\r\n\r\n<script>", "\r\n.\r\nMAIL FROM:<x@evil.example>\r\n",
)  # fmt: skip


LISTS = ("outbound_messages", "suppressions", "sending_domains", "layouts", "webhooks", "credentials")


def tainted(text: str) -> Iterator[dict[str, Any]]:
    """Every text of a message, with this in it."""
    yield {"from": f"Ann{text} <ann@example.com>"}
    yield {"from": f'"ann{text}"@example.com'}
    yield {"to": [f"Bob{text} <bob@example.net>"]}
    for name in ("from", "to", "cc", "bcc", "reply_to"):
        yield {name: f"bob{text}@example.net"}
    for name in ("subject", "plain", "html", "markdown", "stream", "layout"):
        yield {name: f"hello{text}"}
    for header in ("X-A", "Reply-To", "Message-ID", "References", "List-Id", "x-cloudmta-tags", "x-cloudmta-layout"):
        yield {"headers": {header: f"a{text}@example.com"}}
    yield {"headers": {f"X-A{text}": "a"}}
    for name in ("file_name", "content_type", "content_id"):
        yield {"attachments": [{"file_name": "a.txt", "content": "eA==", name: f"text/plain{text}"}]}
    yield {"attachments": [{"file_name": "a.txt", "content": "eA==", "content_type": f'text/plain; charset="x{text}"'}]}
    yield from ({"tags": [f"a{text}"]}, {"metadata": {"k": f"v{text}"}}, {"metadata": {f"k{text}": "v"}})
    yield {"variables": {"a": f"v{text}"}}


@pytest.mark.parametrize("text", BREAKS, ids=repr)
def test_no_text_becomes_a_header_or_a_second_message(api: SendApi, text: str) -> None:
    for fields in tainted(text):
        body = {"from": SENDER, "to": RECIPIENT, "subject": "hello", "plain": "Hi.", **fields}
        headers = {"Content-Type": "application/json"}
        answer = api.call("POST", "/messages", data=json.dumps(body), headers=headers)
        assert answer.status_code in (202, 422), f"{fields}: {answer.text}"
        if answer.status_code == 202:
            check_one_message(api.source(answer.json["id"]))


@pytest.mark.parametrize("text", ["\0", "\ud800", "\uffff", "'", "%", "\\", "\u202e"], ids=ascii)
def test_no_text_anywhere_is_an_accident(api: SendApi, text: str) -> None:
    """PostgreSQL takes no NUL, and no database half a character."""
    layout = {"name": f"a{text}", "html": f"{{{{ content }}}}{text}"}
    bodies: list[tuple[str, str, Any]] = [
        ("POST", "/layouts", layout),
        ("POST", "/webhooks", {"url": "https://hooks.example/in", "note": text, "tags": [f"a{text}"]}),
        ("POST", "/webhooks", {"url": f"https://hooks.example/{text}"}),
        ("POST", "/credentials", {"kind": "smtp", "name": f"a{text}"}),
        ("POST", "/suppressions", {"addresses": [f"a{text}@example.com"], "note": text}),
        ("POST", "/suppressions", {"addresses": ["b@example.com"], "note": f"a{text}"}),
        ("POST", "/sending_pause", {"reason": f"a{text}"}),
        ("POST", "/sending_domains", {"domain": f"a{text}.example"}),
        ("PUT", "/sending_settings", {"source_ip": text}),
    ]
    for method, path, body in bodies:
        headers = {"Content-Type": "application/json"}
        answer = api.call(method, path, data=json.dumps(body), headers=headers)
        assert answer.status_code < 500, f"{method} {path} {body}: {answer.text}"
    escaped = quote(text, errors="surrogatepass")
    asked = [
        f"/{path}?{name}={escaped}" for path in LISTS for name in ("cursor", "query", "address", "outbound_account_id")
    ]
    asked += [f"/{path}/{escaped}" for path in (*LISTS, "messages", "held_messages")]
    asked += [f"/tracking_hits?message_id={escaped}", f"/suppressions/a@example.com?sending_domain_id={escaped}"]
    for path in asked:
        for method in ("GET", "DELETE"):
            answer = api.call(method, path)
            assert answer.status_code < 500, f"{method} {path}: {answer.text}"


@pytest.mark.parametrize(
    "end", ["\r\n.\r\n", "\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\n\n.\n\n", "\0\r\n.\r\n"]
)
@pytest.mark.parametrize("place", ["Subject: a{}", "Subject: a\r\n\r\n{}", "Subject: a\r\n\r\nbody{}", "X-A:{}b"])
def test_no_end_of_data_is_smuggled_out(place: str, end: str) -> None:
    smuggled = f"{end}MAIL FROM:<x@evil.example>{end}RCPT TO:<y@evil.example>\r\nDATA\r\n"
    raw = f"From: {MINE}\r\nTo: bob@example.net\r\n{place.format(smuggled)}\r\n\r\n"
    try:
        content = prepare_raw(raw.encode(), OPTIONS).content
    except InvalidField:
        return
    check_one_message(content)


def check_one_message(content: bytes) -> None:
    """No reader, however lenient, finds a header of the attacker's, or the end before the end."""
    head = content.partition(b"\r\n\r\n")[0]
    assert content.isascii()
    assert b"\0" not in content
    assert not re.search(rb"(?im)^(bcc|x-evil)\s*:", head)
    wire = Draft(None, content, needs_smtputf8=False).wire
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    assert re.search(rb"(\r\n|\r|\n)\.(\r\n|\r|\n)", wire[:-3]) is None
    assert wire.endswith(b"\r\n.\r\n")
    assert max(map(len, wire.split(b"\r\n"))) <= 999


@pytest.mark.parametrize("charset", ['"x\0y"', "punycode", "idna", "undefined", "hex", "\udcff", "rot13"])
def test_no_charset_is_an_accident_or_takes_for_ever(charset: str) -> None:
    part = f"Content-Type: text/html; charset={charset}\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    raw = f"From: {MINE}\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n{part}"
    data = encode_base64(b"a-" + b"a" * 400_000)
    content = prepare_raw(raw.encode("utf-8", "surrogateescape") + data + b"\r\n--b--\r\n", OPTIONS).content
    fields, body = split_message(content)
    began_s = time.process_time()
    assert rewrite_html(fields, body, lambda html: f"{html}!") == (fields, body)
    assert time.process_time() - began_s < 2  # Python takes 8 for punycode, and four times that for twice the size


@only_sqlite
def test_a_message_id_is_no_bomb(api: SendApi) -> None:
    raw = "From: ann@example.com\r\nTo: bob@example.net\r\nMessage-ID: " + "\r\n ".join(["x" * 900] * 200)
    answer = api.send(raw=f"{raw}\r\nSubject: s\r\n\r\nhi\r\n", plain=None)
    assert answer.status_code == 202, answer.text
    assert len(api.shown(answer.json["id"])["message_id"]) < 1_100  # each event of each recipient repeats it


# --- what others have said, in a spreadsheet --------------------------------------------------------------------------


def test_an_exported_list_holds_no_formula(api: SendApi) -> None:
    says = ('=HYPERLINK("https://evil.example")', "+1", "-1+2", "@SUM(1)", "\t=1", "550 5.1.1 no such user")
    with api.database.transaction():
        add_suppressions(
            api.database,
            [
                NewSuppression(
                    SendTarget(api.account.account_id, None, f"=cmd|'/c'!a{number}@example.com"),
                    SuppressionReason.HARD_BOUNCE, text,
                )
                for number, text in enumerate(says)
            ],
            NOW_MS,
        )  # fmt: skip
    rows = list(csv.DictReader(api.get("/suppressions.csv").text.splitlines()))
    assert len(rows) == len(says)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert {row["detail"].removeprefix("'") for row in rows} == set(says)


# --- limits and passwords ---------------------------------------------------------------------------------------------


def test_an_old_choice_of_an_account_is_no_way_around_a_new_limit(api: SendApi) -> None:
    chosen = settings_json(SendSettings(hourly_limit=1_000_000, daily_limit=1_000_000))
    with api.database.transaction():
        api.database.execute("UPDATE account SET settings = ? WHERE id = ?", (chosen, api.account.account_id))
        question = GateQuestion(
            account_id=api.account.account_id, sending_domain_id=None, priority=Priority.STANDARD, earliest_ms=NOW_MS,
            recipients=tuple(f"r{number}@example.com" for number in range(10)),
        )  # fmt: skip
        (answers,) = ask_gate(api.database, [question], NOW_MS, SendSettings(hourly_limit=1, daily_limit=0))
    assert max(one.due_ms for one in answers) > NOW_MS + 5 * HOUR_MS


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgresql://user:{}@127.0.0.1/db"),
        ("DATABASE_URL", "postgresql://127.0.0.1/db?user=u&password={}"),
        ("DATABASE_URL", "postgresql://user:x@127.0.0.1/db?sslpassword={}&sslmode=require"),
        ("REDIS_URL", "redis://:{}@127.0.0.1:6379/0"),
        ("PILLARBOX_SMART_HOST", "smtp://user:{}@127.0.0.1"),
    ],
)
@pytest.mark.parametrize(
    "password", ["hunter2", "hun/ter2", "hun#ter2", "hun?ter2", "hun@ter2", "hun%2Fter2", "hun:ter2"]
)
def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch, name: str, url: str, password: str) -> None:
    monkeypatch.setenv(name, url.format(password))
    for options in ([], ["--markdown"]):
        shown = CliRunner().invoke(cli, ["config", *options])
        assert "ter2" not in f"{shown.output}{shown.exception}"
