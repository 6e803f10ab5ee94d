"""When our side fails, the sender is told to come again: 4xx, never 5xx, never silence, and never why."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from core.addresses import parse_mailbox
from core.clock import system_clock
from core.errors import StorageUnavailable
from core.ids import new_time_ordered_id
from core.routing import Route
from core.services.acceptance import AcceptedMail
from core.services.routing_book import StoredAddressBook
from core.store.blobs import INLINE_LIMIT, open_blobs
from core.store.db import Database
from inbound.smtp.acceptor import Acceptor
from inbound.smtp.book import CachedRoutes
from inbound.smtp.replies import Reply
from inbound.smtp.spool import SpooledMessage
from tests.gateway import Gateway, make_gateway, running_gateway
from tests.postgres_server import PostgresServer, stoppable_postgres
from tests.programs import missing
from tests.smtp_client import MESSAGE, RawClient, connected, new_mailbox, spool_files, stored, stuffed

LARGE = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * (2 * INLINE_LIMIT // 78)
MIB = 1024 * 1024
QUICKLY_S = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with stoppable_postgres() as started:
        yield started


def test_mail_is_put_off_while_postgres_is_away_and_taken_when_it_is_back(
    tmp_path: Path, server: PostgresServer
) -> None:
    with running_gateway(tmp_path, "smtp", database_url=server.url) as gateway, connected(gateway) as client:
        mailbox, other = new_mailbox(gateway), new_mailbox(gateway)
        gateway.database.close()
        client.begin_data(mailbox)
        server.stop()
        try:
            client.send(stuffed(MESSAGE))
            begun = time.monotonic()
            assert client.reply() == Reply.TRY_LATER
            client.ask("MAIL FROM:<a@example.com>")
            assert client.ask(f"RCPT TO:<{other}>") == Reply.TRY_LATER
            assert client.ask("RCPT TO:<nobody@pillarbox.test>") == Reply.TRY_LATER  # not "unknown": we cannot know
            assert client.ask("DATA").startswith("503 ")
            assert time.monotonic() - begun < QUICKLY_S
        finally:
            server.start()

        client.ask("RSET")
        assert _offer(client, mailbox, MESSAGE).startswith("250 ")
        assert _offer(client, other, LARGE).startswith("250 ")

        assert [mail.raw for mail in stored(gateway, mailbox)] == [MESSAGE]
        assert [mail.raw for mail in stored(gateway, other)] == [LARGE]
        _assert_nothing_of_it_was_told(gateway)


def test_a_database_that_was_restarted_is_found_again_before_any_sender_notices(
    tmp_path: Path, server: PostgresServer
) -> None:
    with running_gateway(tmp_path, "smtp", database_url=server.url) as gateway, connected(gateway) as client:
        first, second = new_mailbox(gateway), new_mailbox(gateway)
        assert _offer(client, first, MESSAGE).startswith("250 ")

        server.stop()
        server.start()

        assert _offer(client, second, MESSAGE).startswith("250 ")
        assert [mail.raw for mail in stored(gateway, second)] == [MESSAGE]


def test_mail_is_put_off_while_sqlite_is_locked_and_nothing_of_it_stays(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "smtp") as gateway, connected(gateway) as client:
        mailbox = new_mailbox(gateway)
        with _locked(gateway.settings.data / "pillarbox.sqlite3"):
            assert _offer(client, mailbox, LARGE) == Reply.TRY_LATER

        assert _blob_files(gateway) == spool_files(gateway) == []
        assert _offer(client, mailbox, MESSAGE).startswith("250 ")
        assert _offer(client, mailbox, LARGE).startswith("250 ")
        assert [mail.raw for mail in stored(gateway, mailbox)] == [MESSAGE, LARGE]
        _assert_nothing_of_it_was_told(gateway)


@pytest.mark.parametrize("message", [MESSAGE, LARGE], ids=["small", "large"])
def test_mail_is_put_off_while_the_disk_is_full_and_taken_when_there_is_room(tmp_path: Path, message: bytes) -> None:
    with _small_disk(tmp_path / "disk", 8 * MIB) as disk:
        data = {"PILLARBOX_DATA": str(disk / "data")}
        with running_gateway(tmp_path, "smtp", **data) as gateway, connected(gateway) as client:
            mailbox = new_mailbox(gateway)
            with _filled(disk):
                for _ in range(5):
                    assert _offer(client, mailbox, message) in {Reply.TRY_LATER, Reply.STORAGE_FULL}
            assert _blob_files(gateway) == spool_files(gateway) == []

            assert _offer(client, mailbox, message).startswith("250 ")
            assert [mail.raw for mail in stored(gateway, mailbox)] == [message]
            _assert_nothing_of_it_was_told(gateway)
            gateway.stop_all()
            gateway.database.close()


def test_a_message_for_which_the_disk_has_room_and_the_database_has_not_leaves_nothing(tmp_path: Path) -> None:
    with _small_disk(tmp_path / "disk", 8 * MIB) as disk:
        data = {"PILLARBOX_DATA": str(disk / "data"), "BLOB_URL": f"file://{tmp_path / 'roomy'}"}
        with running_gateway(tmp_path, "smtp", **data) as gateway, connected(gateway) as client:
            mailbox = new_mailbox(gateway)
            with _filled(disk):
                assert _offer(client, mailbox, LARGE) == Reply.TRY_LATER

            assert [path for path in (tmp_path / "roomy").rglob("*") if path.is_file()] == []
            gateway.stop_all()
            gateway.database.close()


def test_large_mail_is_put_off_while_only_the_message_folder_is_full(tmp_path: Path) -> None:
    with _small_disk(tmp_path / "disk", 4 * MIB) as disk:
        blobs = {"BLOB_URL": f"file://{disk / 'blobs'}"}
        with running_gateway(tmp_path, "smtp", **blobs) as gateway, connected(gateway) as client:
            mailbox = new_mailbox(gateway)
            with _filled(disk):
                assert _offer(client, mailbox, LARGE) == Reply.STORAGE_FULL
                assert _offer(client, mailbox, MESSAGE).startswith("250 ")
            assert _offer(client, mailbox, LARGE).startswith("250 ")

            # The disk runs full in the midst of a message.
            assert _offer(client, mailbox, LARGE * 20) == Reply.STORAGE_FULL
            assert list((disk / "blobs" / "incoming").iterdir()) == []
            assert [mail.raw for mail in stored(gateway, mailbox)] == [MESSAGE, LARGE]
            _assert_nothing_of_it_was_told(gateway)
            gateway.stop_all()


def test_the_rest_of_a_message_that_could_not_be_kept_is_never_read_as_commands(tmp_path: Path) -> None:
    with _small_disk(tmp_path / "disk", 4 * MIB) as disk:
        blobs = {"BLOB_URL": f"file://{disk / 'blobs'}"}
        with running_gateway(tmp_path, "smtp", **blobs) as gateway, connected(gateway) as client:
            mailbox, victim = new_mailbox(gateway), new_mailbox(gateway)
            hidden = f"MAIL FROM:<forged@example.com>\r\nRCPT TO:<{victim}>\r\nDATA\r\nforged\r\n..\r\n".encode()
            with _filled(disk):
                client.begin_data(mailbox)
                client.send(LARGE + hidden + LARGE + b".\r\nNOOP\r\n")
                assert client.reply() == Reply.STORAGE_FULL
                assert client.reply() == Reply.OK

            assert stored(gateway, victim) == stored(gateway, mailbox) == []
            gateway.stop_all()


@pytest.mark.parametrize("folder", ["messages", "incoming"])
def test_large_mail_is_put_off_while_a_folder_is_gone(tmp_path: Path, folder: str) -> None:
    with running_gateway(tmp_path, "smtp") as gateway, connected(gateway) as client:
        mailbox = new_mailbox(gateway)
        messages = gateway.settings.data / "messages"
        hidden = messages if folder == "messages" else messages / "incoming"
        hidden.rename(tmp_path / "away")
        assert _offer(client, mailbox, LARGE) in {Reply.STORAGE_FULL, Reply.TRY_LATER}

        (tmp_path / "away").rename(hidden)
        assert _offer(client, mailbox, LARGE).startswith("250 ")
        _assert_nothing_of_it_was_told(gateway)


ODD_HEADERS = (
    b"Subject: a\x00b\r\nFrom: \x00 <a\x00@example.com>\r\nMessage-ID: <\x00@example.com>\r\n",
    b"Subject: =?utf-8?q?a=00b?=\r\nFrom: =?utf-8?b?AAAA?= <a@example.com>\r\n",
    b"Subject: \xff\xfe\xed\xa0\x80\r\nFrom: \xf4\x90\x80\x80\r\n",
    b"Subject: =?utf-16?b?2AA=?= =?utf-8?q?=ED=A0=80?=\r\n",
    b"Subject: " + b"x" * 60_000 + b"\r\nFrom: " + b"a@example.com, " * 5_000 + b"\r\n",
    b"\x00\x00\x00\r\n",
)


def test_no_content_makes_a_message_unstorable(tmp_path: Path, database_url: str) -> None:
    # What one database cannot hold (PostgreSQL: U+0000) would be put off for ever.
    with running_gateway(tmp_path, "smtp", database_url=database_url) as gateway, connected(gateway) as client:
        mailbox = new_mailbox(gateway)
        messages = [headers + b"\r\nbody\r\n" for headers in ODD_HEADERS]
        assert [_offer(client, mailbox, message)[:4] for message in messages] == ["250 "] * len(messages)

        assert [mail.raw for mail in stored(gateway, mailbox)] == messages


def test_a_database_that_does_not_answer_is_not_waited_for_for_ever_at_rcpt(server: PostgresServer) -> None:
    gateway_book = Database(server.url)
    gateway_book.migrate()
    routes = CachedRoutes(StoredAddressBook(gateway_book), "pillarbox.test", system_clock, answer_s=0.2)
    mailbox = parse_mailbox("0123456789abcdef0123@pillarbox.test")
    assert mailbox is not None
    with psycopg.connect(server.url) as other:
        other.execute("LOCK TABLE address IN ACCESS EXCLUSIVE MODE")
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable):
            asyncio.run(routes.find(mailbox))
        assert time.monotonic() - begun < QUICKLY_S
        other.rollback()

    assert not isinstance(asyncio.run(routes.find(mailbox)), Route)
    gateway_book.close()


def test_a_commit_that_hangs_is_not_waited_for_for_ever_and_what_was_put_off_meanwhile_is_not_stored(
    tmp_path: Path,
) -> None:
    gateway = make_gateway(tmp_path)
    acceptor = Acceptor(gateway.database, open_blobs(gateway.settings.blob_location), lambda _: None, commit_s=0.3)
    mailbox = new_mailbox(gateway)
    acceptor.start()
    with _locked(gateway.settings.data / "pillarbox.sqlite3"):
        for subject in (b"1", b"2", b"3"):
            with pytest.raises(StorageUnavailable):
                asyncio.run(acceptor.accept(_mail(gateway, mailbox, subject), _spooled(subject)))
    acceptor.stop()

    # The first was in the hands of the database already; its sender sends it twice, which is better than never.
    assert [mail.raw for mail in stored(gateway, mailbox)] == [b"1"]
    gateway.database.close()


# --- tools ---


def _offer(client: RawClient, mailbox: str, message: bytes) -> str:
    """The reply to a message, or to a recipient where that one is put off already."""
    client.ask("RSET")
    client.ask("MAIL FROM:<a@example.com>")
    if not (reply := client.ask(f"RCPT TO:<{mailbox}>")).startswith("250 "):
        return reply
    assert client.ask("DATA").startswith("354 ")
    client.send(stuffed(message))
    return client.reply()


def _assert_nothing_of_it_was_told(gateway: Gateway) -> None:
    """The operator learns of it; that the sender does not, the exact replies show."""
    log = gateway.log()
    assert "level=error" in log
    assert "never retrieved" not in log
    assert "session failed" not in log


def _blob_files(gateway: Gateway) -> list[Path]:
    messages = gateway.settings.data / "messages"
    return [path for path in messages.rglob("*") if path.is_file()]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        missing("mounting a small file system is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """No byte is free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while (free := os.statvfs(disk)).f_bavail:
            file.write(b"\0" * min(free.f_bavail * free.f_bsize, MIB))
    try:
        yield
    finally:
        filler.unlink()


def _spooled(raw: bytes) -> SpooledMessage:
    return SpooledMessage(raw, None, raw, len(raw), "0" * 32)


def _mail(gateway: Gateway, mailbox: str, raw: bytes) -> AcceptedMail:
    route = Route(gateway.account.account_id, mailbox.partition("@")[0], None, "http://x.example/")
    return AcceptedMail(
        message_id=new_time_ordered_id(), mail_from="a@example.com", recipients=((mailbox, route),), helo="x",
        remote_ip="127.0.0.1", tls_version=None, tls_cipher=None, size=len(raw), md5="0" * 32, subject=None,
        header_from=None, header_message_id=None, received_ms=system_clock(), raw=raw, blob_key=None,
    )  # fmt: skip
