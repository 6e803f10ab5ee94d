"""Whatever is sent passes `SendAcceptor`: what it checks, what it makes of a message, what is stored."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from core.clock import to_datetime
from core.config import Settings
from core.delivery import DeliveryKind, DeliveryState
from core.errors import InvalidField, NotFound
from core.sending.raw_submission import RawSubmission
from core.sending.suppression import SuppressionReason
from core.services.accounts import NewAccount, create_account
from core.services.sends import NewSend
from core.services.suppressions import NewSuppression, SendTarget, add_suppressions
from core.store.blobs import INLINE_LIMIT, open_blobs
from core.store.db import Database
from outbound.accepting import SendAcceptor, SpamCheck
from tests.api_support import api_settings
from tests.conftest import NOW_MS
from tests.send_api_support import add_domain, add_layout, submitter_of

PLAIN = (
    b"From: Ann <ann@example.com>\r\nTo: Bob <bob@example.net>\r\nCc: eve@example.org\r\nBcc: secret@example.org\r\n"
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <one@example.com>\r\nX-CloudMTA-Class: priority\r\n"
    b"X-CloudMTA-Tags: a, b\r\nX-CloudMTA-Other: c\r\n\r\nHello.\r\n"
)
HTML = (
    b"From: ann@example.com\r\nTo: bob@example.net\r\nSubject: news\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/html; charset=utf-8\r\n\r\n<p>Hello.</p>\r\n"
)
FRAME = "<html><body><h1>{{ title | News }}</h1>{{ content }}</body></html>"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return api_settings(tmp_path / "data")


class Sending:
    """An acceptor and an account to send with."""

    def __init__(
        self, settings: Settings, database: Database, account: NewAccount, spam_reason: SpamCheck | None = None
    ) -> None:
        self.database, self.account = database, account
        self.blobs = open_blobs(settings.blob_location)
        self.folder = settings.data
        self.acceptor = SendAcceptor(settings, database, self.blobs, lambda: NOW_MS, spam_reason)

    def submit(self, content: bytes = PLAIN, **changes: Any) -> str:
        """Hand a message in by SMTP; gives its id."""
        given = RawSubmission(submitter_of(self.account), "ann@example.com", ("bob@example.net",), content, None)
        return self.acceptor.submit(replace(given, **changes)).message_id

    def row(self, message_id: str) -> dict[str, Any]:
        """What is stored of a message."""
        columns = (
            "mail_from, helo, remote_ip, tls_version, subject, header_from, header_message_id, size, username, "
            "sending_domain_id, header_to, header_cc, tags, priority, is_test, needs_smtputf8"
        )
        query = f"SELECT {columns} FROM message m JOIN sent_message s ON s.message_id = m.id WHERE m.id = ?"
        with self.database.reading():
            (row,) = self.database.execute(query, (message_id,))
        return dict(zip(columns.split(", "), row, strict=True))

    def deliveries(self, message_id: str) -> list[tuple[str, str, str]]:
        """Kind, recipient and state of each."""
        query = "SELECT kind, recipients, state FROM delivery WHERE message_id = ? ORDER BY id"
        with self.database.reading():
            rows = self.database.execute(query, (message_id,))
        return [(kind, json.loads(recipients)[0], state) for kind, recipients, state in rows]

    def content(self, message_id: str) -> bytes:
        """The bytes that are kept."""
        with self.database.reading():
            rows = self.database.execute("SELECT body, blob_key FROM raw_message WHERE message_id = ?", (message_id,))
        body, blob_key = rows[0]
        return bytes(body) if body is not None else self.blobs.get(blob_key)

    def files(self) -> list[Path]:
        """All that lies in the message folder."""
        return [path for path in (self.folder / "messages").rglob("*") if path.is_file()]


@pytest.fixture
def sending(settings: Settings, database: Database, account: NewAccount) -> Sending:
    return Sending(settings, database, account)


def test_a_submitted_message_is_stored_with_all_that_lists_show(sending: Sending) -> None:
    row = sending.row(message_id := sending.submit())
    assert row == {
        "mail_from": "ann@example.com",
        "helo": "client.example.com",
        "remote_ip": "192.0.2.7",
        "tls_version": "TLSv1.3",
        "subject": "Grüße",
        "header_from": "Ann <ann@example.com>",
        "header_message_id": "one@example.com",
        "size": len(sending.content(message_id)),
        "username": sending.account.smtp_username,
        "sending_domain_id": None,
        "header_to": '["Bob <bob@example.net>"]',
        "header_cc": '["eve@example.org"]',
        "tags": '["a","b"]',
        "priority": "priority",
        "is_test": row["is_test"],
        "needs_smtputf8": row["needs_smtputf8"],
    }
    assert not row["is_test"]
    assert not row["needs_smtputf8"]
    assert sending.deliveries(message_id) == [("send_priority", "bob@example.net", "pending")]


def test_what_steers_us_and_hidden_recipients_do_not_go_out(sending: Sending) -> None:
    content = sending.content(sending.submit()).lower()
    assert b"cloudmta" not in content
    assert b"secret@" not in content
    assert b"\r\ndate: " in content
    assert content.endswith(b"\r\n\r\nhello.\r\n")


def test_a_trace_header_tells_when_and_not_where_from(sending: Sending) -> None:
    content = sending.content(message_id := sending.submit())
    date = format_datetime(to_datetime(NOW_MS // 1000 * 1000))
    trace = f"Received: by mx.pillarbox.test with ESMTPSA id {message_id};\r\n\t{date}\r\n"
    assert content.startswith(trace.encode())
    assert b"192.0.2.7" not in content
    assert b"client.example.com" not in content


def test_the_envelope_decides_who_gets_it_and_each_once(sending: Sending) -> None:
    recipients = ("x@example.org", "y@EXAMPLE.org", "x@Example.ORG", "z@bücher.example")
    found = sending.deliveries(sending.submit(recipients=recipients))
    assert sorted(one for _, one, _ in found) == ["x@example.org", "y@example.org", "z@xn--bcher-kva.example"]


def test_without_an_envelope_sender_lists_show_the_author(sending: Sending) -> None:
    assert sending.row(sending.submit(mail_from=""))["mail_from"] == "ann@example.com"
    assert sending.row(sending.submit(mail_from="bounces@example.com"))["mail_from"] == "bounces@example.com"


@pytest.mark.parametrize(
    ("recipients", "problem"),
    [
        ((), "recipients: must be 1 to 20, and are 0"),
        (tuple(f"u{number}@example.net" for number in range(21)), "recipients: must be 1 to 20, and are 21"),
        (("good@example.net", "bad"), "recipients[1]: 'bad' is no address"),
        (("x@[192.0.2.1]",), "recipients[0]: 'x@[192.0.2.1]' has no full domain"),
        (("x@example.net>\r\nRCPT TO:<y@example.net",), "recipients[0]: holds a control character"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_recipients_that_cannot_be(sending: Sending, recipients: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InvalidField) as caught:
        sending.submit(recipients=recipients)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_limits_come_from_the_settings(settings: Settings, database: Database, account: NewAccount) -> None:
    strict = Sending(replace(settings, max_send_size=400, max_send_recipients=1), database, account)
    strict.submit()
    with pytest.raises(InvalidField, match=r"takes 1,\d\d\d bytes .*, 400 are allowed"):
        strict.submit(PLAIN + b"x" * 998)
    with pytest.raises(InvalidField, match="must be 1 to 1, and are 2"):
        strict.submit(recipients=("a@example.net", "b@example.net"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_we_add_to_a_message_does_not_count(settings: Settings, database: Database, account: NewAccount) -> None:
    """A client that keeps to the SIZE we announce is not refused for our encoding and our Received line."""
    eight_bit = PLAIN + "ü".encode() * 300  # quoted-printable takes three times as much
    strict = Sending(replace(settings, max_send_size=len(eight_bit)), database, account)
    assert strict.row(strict.submit(eight_bit))["size"] > len(eight_bit)
    with pytest.raises(InvalidField, match="are allowed"):
        strict.submit(eight_bit + b"x")


def test_control_characters_in_encoded_words_reach_no_list(sending: Sending) -> None:
    hidden = PLAIN.replace(b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", b"=?utf-8?q?a=00b=0D=0Ac=E2=80=A8d?=")
    assert sending.row(sending.submit(hidden))["subject"] == "a b  c d"


def test_a_recipient_header_that_nobody_can_read_goes_out_as_it_is(sending: Sending) -> None:
    odd = PLAIN.replace(b"To: Bob <bob@example.net>", b"To: everybody (at <home")
    message_id = sending.submit(odd)
    assert json.loads(sending.row(message_id)["header_to"]) == ["everybody (at <home"]
    assert b"To: everybody (at <home\r\n" in sending.content(message_id)


def test_a_header_with_thousands_of_names_is_cut_in_lists(sending: Sending) -> None:
    many = ",\r\n ".join(f"u{number}@example.net" for number in range(2_000)).encode()
    message_id = sending.submit(PLAIN.replace(b"Bob <bob@example.net>", many))
    assert len(json.loads(sending.row(message_id)["header_to"])) == 100
    assert b"u1999@example.net" in sending.content(message_id)


# --- large messages ---


def test_a_large_message_lies_in_the_blob_store(sending: Sending) -> None:
    large = PLAIN + b"0123456789\r\n" * (INLINE_LIMIT // 12 + 1)
    message_id = sending.submit(large)
    assert [path.name for path in sending.files()] == [message_id]
    assert sending.content(message_id).endswith(b"0123456789\r\n" * 10)
    assert sending.row(message_id)["size"] == len(sending.content(message_id)) > INLINE_LIMIT


def test_no_file_stays_behind_when_the_message_cannot_be_stored(sending: Sending) -> None:
    large = PLAIN + b"0123456789\r\n" * (INLINE_LIMIT // 12 + 1)
    unknown = replace(submitter_of(sending.account), account_id="0" * 16)
    with pytest.raises(NotFound):
        sending.submit(large, submitter=unknown)
    assert sending.files() == []


# --- who may send ---


@pytest.fixture
def strict(settings: Settings, database: Database, account: NewAccount) -> Sending:
    """As on a server that is no trial: only verified domains send."""
    return Sending(replace(settings, require_verified="on"), database, account)


def test_only_verified_domains_of_the_account_send(strict: Sending) -> None:
    database, account = strict.database, strict.account
    with pytest.raises(InvalidField, match=r"^from: example\.com is no sending domain of this account; add it"):
        strict.submit()
    add_domain(database, create_account(database, "other", NOW_MS).account_id, "example.com")
    with pytest.raises(InvalidField, match="is no sending domain of this account"):
        strict.submit()
    domain_id = add_domain(database, account.account_id, "example.com", is_verified=False)
    with pytest.raises(InvalidField, match=rf"is not verified: .* /sending_domains/{domain_id}/verify$"):
        strict.submit()
    with database.transaction():
        database.execute("UPDATE sending_domain SET dkim_verified = ? WHERE id = ?", (True, domain_id))
    assert strict.row(strict.submit())["sending_domain_id"] == domain_id
    with pytest.raises(InvalidField, match=r"news\.example\.com is no sending domain"):
        strict.submit(PLAIN.replace(b"ann@example.com", b"ann@news.example.com"))
    with database.transaction():
        database.execute("UPDATE sending_domain SET deleted_ms = ? WHERE id = ?", (NOW_MS, domain_id))
    with pytest.raises(InvalidField, match="is no sending domain"):
        strict.submit()


def test_the_author_counts_not_the_envelope(strict: Sending) -> None:
    add_domain(strict.database, strict.account.account_id, "example.com")
    with pytest.raises(InvalidField, match=r"^from: example\.org is no sending domain"):
        strict.submit(PLAIN.replace(b"<ann@example.com>", b"<ann@example.org>"), mail_from="ann@example.com")


def test_where_nothing_is_required_an_unverified_domain_is_still_known(sending: Sending) -> None:
    domain_id = add_domain(sending.database, sending.account.account_id, "example.com", is_verified=False)
    assert sending.row(sending.submit())["sending_domain_id"] == domain_id


def test_a_login_of_one_domain_sends_from_no_other(sending: Sending) -> None:
    own, other = (add_domain(sending.database, sending.account.account_id, name) for name in ("example.com", "b.test"))
    assert sending.row(sending.submit(sending_domain_id=own))["sending_domain_id"] == own
    for domain in (b"b.test", b"unknown.test"):
        with pytest.raises(InvalidField, match=r"^from: this login may not send from"):
            sending.submit(PLAIN.replace(b"example.com>", domain + b">", 1), sending_domain_id=own)
    assert other != own


# --- layouts ---


def test_a_layout_is_put_around_html(sending: Sending) -> None:
    add_layout(sending.database, sending.account.account_id, "frame", FRAME)
    content = sending.content(sending.submit(b"x-cloudmta-layout: frame\r\n" + HTML))
    assert b"<html><body><h1>News</h1><p>Hello.</p>" in content
    assert b"cloudmta" not in content
    assert sending.content(sending.submit(HTML)).endswith(b"\r\n\r\n<p>Hello.</p>\r\n")


def test_default_layouts_are_found_from_the_nearest_outward(sending: Sending) -> None:
    account = sending.account
    for name in ("all", account.account_id, account.smtp_username):
        add_layout(sending.database, account.account_id, f"{name}_default", f"<i>{name}</i>{{{{ content }}}}")
        assert f"<i>{name}</i><p>Hello.</p>".encode() in sending.content(sending.submit(HTML))
    assert b"<i>" not in sending.content(sending.submit(b"x-cloudmta-layout: none\r\n" + HTML))


def test_a_layout_that_is_not_there_is_an_error_even_for_plain_text(sending: Sending) -> None:
    for content in (PLAIN, HTML):
        with pytest.raises(InvalidField, match="there is no layout called 'gone'"):
            sending.submit(b"x-cloudmta-layout: gone\r\n" + content)
    add_layout(sending.database, create_account(sending.database, "other", NOW_MS).account_id, "gone", FRAME)
    with pytest.raises(InvalidField, match="there is no layout called 'gone'"):
        sending.submit(b"x-cloudmta-layout: gone\r\n" + HTML)


# --- before it is sent ---


def test_what_the_spam_check_objects_to_is_held(settings: Settings, database: Database, account: NewAccount) -> None:
    asked: list[tuple[bytes, NewSend]] = []

    def check(content: bytes, send: NewSend) -> str | None:
        asked.append((content, send))
        return "looks like spam" if b"casino" in content else None

    sending = Sending(settings, database, account, check)
    good, bad = sending.submit(), sending.submit(PLAIN + b"casino\r\n")
    assert [content for content, _ in asked] == [sending.content(good), sending.content(bad)]
    assert [send.recipients for _, send in asked] == [("bob@example.net",)] * 2
    assert sending.deliveries(good) == [("send_priority", "bob@example.net", DeliveryState.PENDING)]
    assert sending.deliveries(bad) == [("send_priority", "bob@example.net", DeliveryState.QUARANTINED)]


def test_suppressed_recipients_are_told_by_events_not_by_errors(sending: Sending) -> None:
    target = SendTarget(sending.account.account_id, None, "bob@example.net")
    with sending.database.transaction():
        add_suppressions(sending.database, [NewSuppression(target, SuppressionReason.MANUAL)], NOW_MS)
    found = sending.deliveries(sending.submit(recipients=("bob@example.net", "eve@example.net")))
    assert sorted((one, state) for _, one, state in found) == [
        ("bob@example.net", "suppressed"),
        ("eve@example.net", "pending"),
    ]


def test_many_threads_at_once(sending: Sending) -> None:
    stored: list[str] = []
    large = PLAIN + b"0123456789\r\n" * (INLINE_LIMIT // 12 + 1)

    def run(number: int) -> None:
        for _ in range(5):
            stored.append(sending.submit(large if number % 2 else HTML))
        sending.database.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(stored)) == 30
    assert all(len(sending.deliveries(message_id)) == 1 for message_id in stored)
    assert {kind for message_id in stored for kind, _, _ in sending.deliveries(message_id)} == {
        DeliveryKind.SEND_PRIORITY,
        DeliveryKind.SEND,
    }
