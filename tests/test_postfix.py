"""Real mail programs send to us: Postfix as a relay, swaks over TLS, smtp-source as a burst."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.gateway import Gateway, running_gateway
from tests.http_target import running_target
from tests.postfix_server import Postfix, running_postfix
from tests.postgres_server import PostgresServer, stoppable_postgres
from tests.programs import need_program
from tests.smtp_client import Stored, new_domain, new_mailbox, stored

SENDER = "sender@example.com"
HEADERS = b"From: a@example.com\r\nMessage-ID: <1@example.com>\r\nDate: Fri, 20 Nov 2026 21:49:15 +0000\r\n"
MESSAGE = HEADERS + b"Subject: Hello\r\n\r\nHi.\r\n"
BURST = 500


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with stoppable_postgres() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, server: PostgresServer) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("postfix"), "smtp", database_url=server.url) as started:
        yield started


@pytest.fixture(scope="module")
def postfix(gateway: Gateway) -> Iterator[Postfix]:
    with running_postfix(gateway.settings.smtp.port) as started:
        yield started


def test_a_mail_is_relayed_over_tls_and_arrives_unchanged(gateway: Gateway, postfix: Postfix) -> None:
    mailbox = new_mailbox(gateway)

    postfix.send(SENDER, [mailbox], MESSAGE)

    (mail,) = _wait_for_mails(gateway, mailbox, 1)
    assert mail.raw.endswith(MESSAGE)
    assert mail.raw.startswith(b"Received: from submitter.example ")
    assert (mail.mail_from, mail.helo, mail.tls_version) == (SENDER, "relay.example", "TLSv1.3")


def test_lines_of_dots_and_other_oddities_arrive_unchanged_from_sendmail(gateway: Gateway, postfix: Postfix) -> None:
    mailbox = new_mailbox(gateway)
    body = b".\n..\n...\n.x\nFrom here\n \n\n.\n" + b"long " * 190 + b"\n"

    postfix.sendmail(SENDER, [mailbox], b"Subject: dots\n\n" + body)

    (mail,) = _wait_for_mails(gateway, mailbox, 1)
    assert mail.raw.partition(b"\r\n\r\n")[2] == body.replace(b"\n", b"\r\n")


def test_several_recipients_come_in_one_transaction(gateway: Gateway, postfix: Postfix) -> None:
    first, second = new_mailbox(gateway), new_mailbox(gateway)
    new_domain(gateway, second, "several.example")
    tagged = first.replace("@", "+tag@")

    postfix.send(SENDER, [first, tagged, second, "anyone@several.example"], MESSAGE)

    (one,) = _wait_for_mails(gateway, first, 1)
    (two,) = _wait_for_mails(gateway, second, 1)
    assert one.message_id == two.message_id
    assert sorted(json.loads(one.recipients)) == sorted([first, tagged])
    assert sorted(json.loads(two.recipients)) == sorted([second, "anyone@several.example"])


def test_recipients_beyond_our_limit_come_later_in_a_transaction_of_their_own(
    gateway: Gateway, postfix: Postfix
) -> None:
    mailbox = new_mailbox(gateway)
    recipients = [mailbox.replace("@", f"+{number}@") for number in range(gateway.settings.max_recipients + 30)]

    postfix.send(SENDER, recipients, MESSAGE)

    postfix.wait_for_log(mailbox.partition("@")[0], "452 4.5.3")
    _wait_for_mails(gateway, mailbox, 1)
    postfix.flush()

    mails = _wait_for_mails(gateway, mailbox, 2)
    assert [len(json.loads(mail.recipients)) for mail in mails] == [gateway.settings.max_recipients, 30]
    assert sorted(json.loads(mails[0].recipients) + json.loads(mails[1].recipients)) == sorted(recipients)
    postfix.wait_until_empty()


def test_eight_bit_text_arrives_unchanged(gateway: Gateway, postfix: Postfix) -> None:
    mailbox = new_mailbox(gateway)
    message = MESSAGE + "Grüße, привет, 你好\r\n".encode() + bytes(range(128, 256)) + b"\r\n"

    postfix.send(SENDER, [mailbox], message, ["BODY=8BITMIME"])

    (mail,) = _wait_for_mails(gateway, mailbox, 1)
    assert mail.raw.endswith(message)
    assert mail.md5 == hashlib.md5(mail.raw).hexdigest()


def test_international_addresses_arrive(gateway: Gateway, postfix: Postfix) -> None:
    mailbox = new_mailbox(gateway)
    new_domain(gateway, mailbox, "xn--bcher-kva.example")
    message = HEADERS + "To: Jörg <jörg@bücher.example>\r\nSubject: Größe\r\n\r\nHi.\r\n".encode()

    postfix.send("jörg@bücher.example", ["ñandú@bücher.example"], message, ["SMTPUTF8", "BODY=8BITMIME"])

    (mail,) = _wait_for_mails(gateway, mailbox, 1)
    assert mail.raw.endswith(message)
    assert (mail.mail_from, mail.recipients) == ("jörg@bücher.example", '["ñandú@bücher.example"]')


def test_a_big_attachment_arrives_whole(gateway: Gateway, postfix: Postfix) -> None:
    mailbox = new_mailbox(gateway)
    attachment = os.urandom(15 << 20)
    message = EmailMessage(policy=policy.SMTP)
    message["Subject"] = "big"
    message.set_content("see attachment")
    message.add_attachment(attachment, maintype="application", subtype="octet-stream", filename="big.bin")

    postfix.send(SENDER, [mailbox], message.as_bytes())

    (mail,) = _wait_for_mails(gateway, mailbox, 1)
    (part,) = message_from_bytes(mail.raw, policy=policy.SMTP).iter_attachments()
    assert part.get_payload(decode=True) == attachment
    assert len(mail.raw) > len(base64.b64encode(attachment))


def test_what_is_put_off_while_our_database_is_away_arrives_once_when_it_is_back(
    gateway: Gateway, postfix: Postfix, server: PostgresServer
) -> None:
    mailbox = new_mailbox(gateway)
    gateway.database.close()
    server.stop()
    try:
        postfix.send(SENDER, [mailbox], MESSAGE)
        line = postfix.wait_for_log(mailbox, "status=deferred")
        assert "451 4.3.0 The mail cannot be taken at the moment; try again later" in line
        assert mailbox in postfix.queue()
    finally:
        server.start()

    postfix.flush()

    (mail,) = _wait_for_mails(gateway, mailbox, 1)
    assert mail.raw.endswith(MESSAGE)
    postfix.wait_until_empty()
    assert len(stored(gateway, mailbox)) == 1


def test_what_we_refuse_is_returned_to_the_sender_and_the_others_get_their_mail(
    gateway: Gateway, postfix: Postfix
) -> None:
    sender, good = new_mailbox(gateway), new_mailbox(gateway)
    unknown = "0123456789abcdef0123@pillarbox.test"

    postfix.send(sender, [good, unknown], MESSAGE)

    assert len(_wait_for_mails(gateway, good, 1)) == 1
    (bounce,) = _wait_for_mails(gateway, sender, 1)
    assert bounce.mail_from == ""
    assert b"Status: 5.1.1" in bounce.raw
    assert unknown.encode() in bounce.raw
    assert b"550 5.1.1 There is no such address here" in bounce.raw.replace(b"\r\n    ", b" ")
    postfix.wait_until_empty()


def test_a_mail_larger_than_our_limit_is_returned_without_being_sent(gateway: Gateway, postfix: Postfix) -> None:
    sender, mailbox = new_mailbox(gateway), new_mailbox(gateway)
    size = gateway.settings.max_message_size

    postfix.send(sender, [mailbox], MESSAGE + (b"x" * 76 + b"\r\n") * (size // 78 + 1))

    (bounce,) = _wait_for_mails(gateway, sender, 1)
    assert b"exceeds size limit" in bounce.raw
    assert stored(gateway, mailbox) == []


@pytest.mark.parametrize("option", [(), ("--tls",), ("--tls", "--tls-protocol", "tlsv1_2"), ("--pipeline", "--tls")])
def test_swaks_sends(gateway: Gateway, option: tuple[str, ...]) -> None:
    mailbox = new_mailbox(gateway)
    port = str(gateway.settings.smtp.port)
    command = [need_program("swaks"), "--server", "127.0.0.1", "--port", port, "--from", SENDER, "--to", mailbox]

    done = subprocess.run([*command, "--body", "by swaks", *option], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    (mail,) = stored(gateway, mailbox)
    assert b"by swaks" in mail.raw
    assert mail.tls_version == {0: None, 1: "TLSv1.3", 2: "TLSv1.3", 3: "TLSv1.2"}[len(option)]


def test_a_burst_from_smtp_source_arrives_whole_at_the_target(tmp_path: Path) -> None:
    program = need_program("smtp-source")
    with running_target() as target, running_gateway(tmp_path) as gateway:
        mailbox = new_mailbox(gateway, target.url())
        port = gateway.settings.smtp.port
        command = [
            program,
            "-s",
            "10",
            "-m",
            str(BURST),
            "-l",
            "2000",
            "-f",
            SENDER,
            "-t",
            mailbox,
            f"127.0.0.1:{port}",
        ]

        subprocess.run(command, check=True, timeout=60)

        requests = target.wait_for(BURST)
        assert len({request.headers["webhook-id"] for request in requests}) == BURST
        assert len(stored(gateway, mailbox)) == BURST


def _wait_for_mails(gateway: Gateway, mailbox: str, count: int) -> list[Stored]:
    deadline = time.monotonic() + 30
    while len(mails := stored(gateway, mailbox)) < count:
        assert time.monotonic() < deadline, gateway.log()[-2000:]
        time.sleep(0.05)
    return mails
