"""A 250 means it is on the disk, whatever becomes of the receiver or the client a moment later."""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from core.store.blobs import INLINE_LIMIT
from tests.gateway import Gateway, make_gateway, running_gateway
from tests.smtp_client import RawClient, connected, new_mailbox, spool_files, stored, stuffed

ROUNDS = 6
SENDERS = 4
ACKNOWLEDGED_BEFORE_KILL = 150
SMALL = b"Subject: %d\r\n\r\n" + b"x" * 70 + b"\r\n"
LARGE_BODY = (b"y" * 76 + b"\r\n") * (INLINE_LIMIT // 25)
"""So large that it is in a file before its end comes, in whatever pieces it is read."""
HALF_AN_HOUR_S = 1_800
LINES_AFTER_SIGTERM = 10
LINE_EVERY_S = 0.15


def test_no_acknowledged_message_is_lost_to_kill_9(tmp_path: Path, database_url: str) -> None:
    gateway = make_gateway(tmp_path, database_url)
    mailbox = new_mailbox(gateway)
    acknowledged: dict[str, bytes] = {}
    for number in range(1, ROUNDS + 1):
        gateway.start("smtp")
        senders = [
            threading.Thread(target=_send_until_cut, args=(gateway, mailbox, acknowledged)) for _ in range(SENDERS)
        ]
        for sender in senders:
            sender.start()
        _wait_for_count(acknowledged, number * ACKNOWLEDGED_BEFORE_KILL)
        gateway.kill("smtp")
        for sender in senders:
            sender.join(30)

    mails = {mail.message_id: mail for mail in stored(gateway, mailbox)}
    assert len(acknowledged) >= ROUNDS * ACKNOWLEDGED_BEFORE_KILL
    assert [message_id for message_id, raw in acknowledged.items() if mails[message_id].raw != raw] == []
    assert all(hashlib.md5(mail.raw).hexdigest() == mail.md5 and len(mail.raw) == mail.size for mail in mails.values())
    gateway.database.close()


@pytest.mark.parametrize("body", [b"small\r\n", LARGE_BODY], ids=["small", "large"])
@pytest.mark.parametrize("is_abrupt", [False, True], ids=["closes", "resets"])
def test_a_client_that_hangs_up_after_the_dot_leaves_whole_messages_only(
    tmp_path: Path, body: bytes, is_abrupt: bool
) -> None:
    with running_gateway(tmp_path, "smtp") as gateway:
        mailbox = new_mailbox(gateway)
        for number in range(30):
            client = RawClient(gateway.settings.smtp.port).greet()
            client.begin_data(mailbox)
            client.send(stuffed(b"Subject: %d\r\n\r\n" % number + body))
            if is_abrupt:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert gateway.stop("smtp") == 0

        mails = stored(gateway, mailbox)
        assert all(mail.raw.partition(b"\r\n\r\n")[2] == body for mail in mails)
        assert is_abrupt or len(mails) == 30
        assert spool_files(gateway) == []
        assert len(_blobs(gateway)) == (len(mails) if body is LARGE_BODY else 0)
        assert "Traceback" not in gateway.log()
        assert "never retrieved" not in gateway.log()


def test_a_message_on_its_way_to_the_disk_gets_there_when_its_client_is_gone(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "smtp") as gateway:
        mailbox = new_mailbox(gateway)
        client = RawClient(gateway.settings.smtp.port).greet()
        client.begin_data(mailbox)
        with closing(sqlite3.connect(gateway.settings.data / "pillarbox.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            client.send(stuffed(LARGE_BODY))
            _wait_for(lambda: _blobs(gateway) and not spool_files(gateway))
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            with connected(gateway) as later:  # by now the receiver has seen the reset
                assert later.ask("NOOP").startswith("250 ")
            other.execute("ROLLBACK")

        _wait_for(lambda: stored(gateway, mailbox))
        assert [mail.raw for mail in stored(gateway, mailbox)] == [LARGE_BODY]


@pytest.mark.parametrize("size", [10, len(LARGE_BODY)], ids=["small", "large"])
def test_a_client_that_hangs_up_before_the_dot_leaves_nothing(tmp_path: Path, size: int) -> None:
    with running_gateway(tmp_path, "smtp") as gateway:
        mailbox = new_mailbox(gateway)
        for ending in (b"", b"\r\n", b"\r\n.", b"\r\n.\r"):
            client = RawClient(gateway.settings.smtp.port).greet()
            client.begin_data(mailbox)
            client.send(LARGE_BODY[:size] + ending)
            if size > INLINE_LIMIT:
                _wait_for(lambda: spool_files(gateway))
            client.close()
            _wait_for(lambda: not spool_files(gateway))
        assert gateway.stop("smtp") == 0

        assert stored(gateway, mailbox) == []
        assert _blobs(gateway) == []
        assert "Traceback" not in gateway.log()


def test_what_a_killed_receiver_left_is_removed_at_a_later_start(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "smtp") as gateway:
        client = RawClient(gateway.settings.smtp.port).greet()
        client.begin_data(new_mailbox(gateway))
        client.send(LARGE_BODY)
        _wait_for(lambda: spool_files(gateway))
        gateway.kill("smtp")

        gateway.start("smtp")
        (left,) = spool_files(gateway)  # another receiver may be writing to it
        gateway.stop("smtp")

        path = gateway.settings.data / "messages" / "incoming" / left
        old = time.time() - HALF_AN_HOUR_S - 10
        os.utime(path, (old, old))
        gateway.start("smtp")
        assert spool_files(gateway) == []


# --- SIGTERM ---


def test_on_sigterm_a_message_in_flight_is_finished_and_idle_sessions_are_told(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "smtp") as gateway, connected(gateway) as idle, connected(gateway) as busy:
        mailbox = new_mailbox(gateway)
        busy.begin_data(mailbox)
        busy.send(LARGE_BODY)
        process = gateway.processes["smtp"]
        begun = time.monotonic()

        process.terminate()
        assert idle.rest().startswith("421 4.3.2 ")
        _wait_for(lambda: _is_refused(gateway))
        for _ in range(LINES_AFTER_SIGTERM):
            time.sleep(LINE_EVERY_S)  # longer than an idle session is waited for
            busy.send(b"slowly\r\n")
        busy.send(b"the end\r\n.\r\n")
        assert busy.reply().startswith("250 2.0.0 ")
        assert busy.rest().startswith("421 4.3.2 ")

        assert process.wait(8) == 0
        assert time.monotonic() - begun < 5
        assert [mail.raw for mail in stored(gateway, mailbox)] == [
            LARGE_BODY + b"slowly\r\n" * LINES_AFTER_SIGTERM + b"the end\r\n"
        ]
        assert spool_files(gateway) == []


def test_on_sigterm_a_message_that_does_not_end_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "smtp") as gateway, connected(gateway) as client:
        mailbox = new_mailbox(gateway)
        client.begin_data(mailbox)
        client.send(LARGE_BODY)
        begun = time.monotonic()

        assert gateway.stop("smtp") == 0

        assert time.monotonic() - begun < 8.5
        assert client.rest() == ""
        assert stored(gateway, mailbox) == []
        assert spool_files(gateway) == []
        assert "Traceback" not in gateway.log()


def test_on_sigterm_nothing_acknowledged_is_lost_and_every_client_is_told(tmp_path: Path, database_url: str) -> None:
    with running_gateway(tmp_path, "smtp", database_url=database_url) as gateway:
        mailbox = new_mailbox(gateway)
        acknowledged: dict[str, bytes] = {}
        senders = [
            threading.Thread(target=_send_until_cut, args=(gateway, mailbox, acknowledged)) for _ in range(SENDERS)
        ]
        for sender in senders:
            sender.start()
        _wait_for(lambda: len(acknowledged) >= ACKNOWLEDGED_BEFORE_KILL)

        assert gateway.stop("smtp") == 0
        for sender in senders:
            sender.join(30)

        assert {mail.message_id: mail.raw for mail in stored(gateway, mailbox)} == acknowledged
        assert "Traceback" not in gateway.log()


def test_several_receivers_share_the_port_and_one_may_go(tmp_path: Path) -> None:
    # One session each: whoever holds two sessions at once has reached both.
    with running_gateway(tmp_path, "smtp", PILLARBOX_MAX_CONNECTIONS="1") as gateway:
        mailbox = new_mailbox(gateway)
        gateway.processes["other"] = gateway.processes.pop("smtp")
        gateway.start("smtp")
        first, second = _admitted(gateway), _admitted(gateway)
        for client in (first, second):
            client.begin_data(mailbox)
            client.send(stuffed(b"Hi\r\n"))
            assert client.reply().startswith("250 ")
            client.close()

        assert gateway.stop("other") == 0
        client = _admitted(gateway)
        client.begin_data(mailbox)
        client.send(stuffed(b"Hi\r\n"))
        assert client.reply().startswith("250 ")

        assert len(stored(gateway, mailbox)) == 3


# --- tools ---


def _start_senders(gateway: Gateway, mailbox: str, acknowledged: dict[str, bytes]) -> list[threading.Thread]:
    arguments = (gateway, mailbox, acknowledged)
    senders = [threading.Thread(target=_send_until_cut, args=arguments) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    return senders


def _send_until_cut(gateway: Gateway, mailbox: str, acknowledged: dict[str, bytes]) -> None:
    """Send mail over one connection until it breaks; note what was acknowledged, by the id in the reply."""
    client = RawClient(gateway.settings.smtp.port).greet()
    number = 0
    try:
        while True:
            number += 1
            raw = SMALL % number + (LARGE_BODY if number % 20 == 0 else b"")
            client.send(f"MAIL FROM:<a@example.com>\r\nRCPT TO:<{mailbox}>\r\nDATA\r\n".encode())
            if [client.reply()[:3] for _ in range(3)] != ["250", "250", "354"]:
                return
            client.send(stuffed(raw))
            reply = client.reply()
            if reply.startswith("250 "):
                acknowledged[reply.rpartition(" ")[2]] = raw
    except OSError:
        return
    finally:
        client.close()


def _wait_for(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _wait_for_count(acknowledged: dict[str, bytes], count: int) -> None:
    _wait_for(lambda: len(acknowledged) >= count)


def _is_refused(gateway: Gateway) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", gateway.settings.smtp.port)) != 0


def _admitted(gateway: Gateway) -> RawClient:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            client = RawClient(gateway.settings.smtp.port)
        except OSError:
            continue
        if client.reply().startswith("220 "):
            assert client.ask("EHLO client.example").startswith("250-")
            return client
        client.close()
    raise AssertionError("no receiver has a place")


def _blobs(gateway: Gateway) -> list[Path]:
    return [path for path in (gateway.settings.data / "messages").rglob("*") if path.is_file()]
