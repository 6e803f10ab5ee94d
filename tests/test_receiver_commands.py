"""The commands of a session: what is announced, in which order commands may come, and how each is answered."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.gateway import Gateway, running_gateway
from tests.smtp_client import MESSAGE, RawClient, connected, new_mailbox, stored, stuffed

WITH_ENHANCED_CODE = re.compile(r"(?:2\d\d 2|4\d\d 4|5\d\d 5)\.\d{1,3}\.\d{1,3} \S|354 ")
UNWORTHY = (
    "RCPT TO:<a@b.example>", "DATA", "MAIL", "MAIL FROM:", "MAIL TO:<a@b.example>", "MAIL FROM:<a b@c.example>",
    "MAIL FROM:<a@b.example", "MAIL FROM:<a@b.example> SIZE=x", "MAIL FROM:<a@b.example> RET=FULL",
    "MAIL FROM:<a@b.example> BODY=BINARYMIME", "MAIL FROM:<a@b.example> SMTPUTF8=1", "MAIL FROM:<a@b.example> =",
    "MAIL FROM:<a@b.example> SIZE=99999999999", "MAIL FROM:<a@b.example> SIZE=²",
    "RSET now", "QUIT now", "STARTTLS now", "EHLO", "HELO", "AUTH PLAIN",
    "ETRN x", "XCLIENT ADDR=192.0.2.1", "PROXY TCP4 192.0.2.1 192.0.2.2 1 25", "", " ", "MAIL\0FROM:<a@b.example>",
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = {"PILLARBOX_MAX_SESSION_ERRORS": "1000", "PILLARBOX_TARPIT_MS": "0"}
    with running_gateway(tmp_path_factory.mktemp("commands"), "smtp", **environment) as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[RawClient]:
    with connected(gateway) as opened:
        yield opened


def test_the_greeting_names_the_server_and_ehlo_announces_what_there_is(gateway: Gateway) -> None:
    client = RawClient(gateway.settings.smtp.port)

    assert client.reply() == "220 mx.pillarbox.test ESMTP Pillarbox"
    name, *extensions = client.ask("EHLO client.example").split("\n")
    client.close()

    assert name == "250-mx.pillarbox.test"
    announced = [line[4:] for line in extensions]
    assert sorted(announced) == [
        "8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING", f"SIZE {35 * 1024 * 1024}", "SMTPUTF8", "STARTTLS",
    ]  # fmt: skip
    assert [line[3] for line in extensions] == ["-"] * 5 + [" "]


def test_a_client_that_knows_only_helo_is_served(gateway: Gateway) -> None:
    mailbox = new_mailbox(gateway)
    client = RawClient(gateway.settings.smtp.port)
    client.reply()

    assert client.ask("HELO old.example") == "250 mx.pillarbox.test"
    client.begin_data(mailbox)
    client.send(stuffed(MESSAGE))
    assert client.reply().startswith("250 2.0.0 ")
    assert client.ask("QUIT").startswith("221 2.0.0 ")
    assert client.rest() == ""

    (mail,) = stored(gateway, mailbox)
    assert (mail.raw, mail.helo) == (MESSAGE, "old.example")


def test_verbs_and_keywords_are_case_insensitive_and_brackets_may_be_missing(
    gateway: Gateway, client: RawClient
) -> None:
    mailbox = new_mailbox(gateway)

    assert client.ask("mail from: a@example.com size=100 body=8bitmime").startswith("250 2.1.0 ")
    assert client.ask(f"Rcpt To:{mailbox}").startswith("250 2.1.5 ")
    assert client.ask("data").startswith("354 ")
    client.send(stuffed(MESSAGE))

    assert client.reply().startswith("250 2.0.0 Ok: queued as ")
    assert [mail.mail_from for mail in stored(gateway, mailbox)] == ["a@example.com"]


def test_every_reply_after_ehlo_carries_an_enhanced_code(gateway: Gateway, client: RawClient) -> None:
    # RFC 2034: once announced, every 2xx, 4xx and 5xx except those to HELO and EHLO has one.
    mailbox = new_mailbox(gateway)
    replies = [client.ask(command) for command in UNWORTHY]
    assert all(reply.startswith("5") for reply in replies), list(zip(UNWORTHY, replies, strict=True))

    replies += [client.ask(command) for command in ("NOOP", "NOOP x", "RSET", "HELP", "HELP MAIL", "VRFY a", "EXPN a")]
    replies += [client.ask("MAIL FROM:<>"), client.ask("MAIL FROM:<a@example.com>")]
    replies += [client.ask("RCPT TO:<nobody@pillarbox.test>"), client.ask("RCPT TO:<>"), client.ask("RCPT TO:")]
    replies += [client.ask(f"RCPT TO:<{mailbox}> NOTIFY=NEVER"), client.ask(f"RCPT TO:<{mailbox}>")]
    replies += [client.ask("DATA now"), client.ask("DATA")]
    client.send(stuffed(MESSAGE))
    replies += [client.reply(), client.ask("DATA"), client.ask("QUIT")]

    assert [reply for reply in replies if not WITH_ENHANCED_CODE.match(reply)] == []


def test_nothing_goes_before_ehlo(gateway: Gateway) -> None:
    client = RawClient(gateway.settings.smtp.port)
    client.reply()

    replies = [client.ask(command)[:9] for command in ("MAIL FROM:<a@b.example>", "RCPT TO:<a@b.example>", "DATA")]
    client.close()

    assert replies == ["503 5.5.1"] * 3


def test_no_login_is_offered_or_taken(client: RawClient) -> None:
    assert client.ask("AUTH PLAIN AGEAYg==").startswith("503 5.5.1 ")
    assert client.ask("NOOP").startswith("250 ")


def test_vrfy_does_not_tell_which_addresses_exist(gateway: Gateway, client: RawClient) -> None:
    known, unknown = client.ask(f"VRFY {new_mailbox(gateway)}"), client.ask("VRFY nobody@pillarbox.test")

    assert known == unknown
    assert known.startswith("252 2.5.2 ")


def test_rset_and_a_second_ehlo_forget_the_transaction(gateway: Gateway, client: RawClient) -> None:
    for forget in ("RSET", "EHLO client.example", "HELO client.example"):
        client.envelope(new_mailbox(gateway))
        assert client.ask(forget).startswith("250")
        assert client.ask("DATA").startswith("503 5.5.1 ")


def test_bytes_that_are_no_utf8_are_refused_in_addresses_and_survive_in_the_rest(
    gateway: Gateway, client: RawClient
) -> None:
    mailbox = new_mailbox(gateway)
    client.send(b"EHLO caf\xe9\x00\r\n")
    assert client.reply().startswith("250-")
    client.send(b"MAIL FROM:<caf\xe9@example.com>\r\n")
    assert client.reply().startswith("553 5.1.3 ")
    client.send(b"\xff\xfe\r\n")
    assert client.reply().startswith("500 5.5.2 ")

    client.begin_data(mailbox)
    client.send(stuffed(b"Subject: caf\xe9\x00\r\n\r\n\xff\x00\r\n"))

    assert client.reply().startswith("250 ")
    (mail,) = stored(gateway, mailbox)
    assert mail.raw == b"Subject: caf\xe9\x00\r\n\r\n\xff\x00\r\n"
    assert mail.helo.startswith("caf")


def test_a_whole_pipeline_in_one_segment_is_answered_in_order(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    recipients = f"RCPT TO:<no@pillarbox.test>\r\nRCPT TO:<{mailbox}>\r\n".encode()
    envelope = b"MAIL FROM:<a@example.com>\r\n" + recipients + b"DATA\r\n"
    first, second = stuffed(b"Subject: 1\r\n\r\none\r\n"), stuffed(b"Subject: 2\r\n\r\n.two\r\n")

    client.send(b"NOOP\r\n" + envelope + first + envelope + second + b"RSET\r\nNOOP\r\nQUIT\r\n")

    codes = [line[:3] for line in client.rest().split("\n")]
    transaction = ["250", "550", "250", "354", "250"]
    assert codes == ["250", *transaction, *transaction, "250", "250", "221"]
    assert [mail.raw for mail in stored(gateway, mailbox)] == [
        b"Subject: 1\r\n\r\none\r\n",
        b"Subject: 2\r\n\r\n.two\r\n",
    ]


def test_a_pipeline_cut_into_single_bytes_means_the_same(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    text = f"MAIL FROM:<a@example.com>\r\nRCPT TO:<{mailbox}>\r\nDATA\r\n".encode() + stuffed(
        b"X: y\r\n\r\n.\r\n..\r\n"
    )

    for position in range(len(text)):
        client.send(text[position : position + 1])

    assert [client.reply()[:3] for _ in range(4)] == ["250", "250", "354", "250"]
    assert [mail.raw for mail in stored(gateway, mailbox)] == [b"X: y\r\n\r\n.\r\n..\r\n"]


def test_a_message_is_stored_as_it_came_with_envelope_and_md5(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    tagged = mailbox.replace("@", "+a@")
    assert client.ask("MAIL FROM:<s@example.com> BODY=8BITMIME").startswith("250")
    for recipient in (mailbox, tagged):
        assert client.ask(f"RCPT TO:<{recipient}>").startswith("250")
    client.ask("DATA")
    client.send(stuffed(b"Subject: \xc3\xa9\r\n\r\n" + bytes(range(256)) + b"\r\n"))
    message_id = client.reply().rpartition(" ")[2]

    (mail,) = stored(gateway, mailbox)
    assert mail.message_id == message_id
    assert mail.raw == b"Subject: \xc3\xa9\r\n\r\n" + bytes(range(256)) + b"\r\n"
    assert mail.size == len(mail.raw)
    assert (mail.mail_from, mail.recipients) == ("s@example.com", f'["{mailbox}","{tagged}"]')
    assert (mail.helo, mail.tls_version, mail.tls_cipher) == ("client.example", None, None)


def test_an_empty_message_is_a_message(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    client.begin_data(mailbox)
    client.send(b".\r\n")

    assert client.reply().startswith("250 ")
    assert [mail.raw for mail in stored(gateway, mailbox)] == [b""]


def test_a_client_that_half_closes_after_its_pipeline_still_gets_every_reply(gateway: Gateway) -> None:
    mailbox = new_mailbox(gateway)
    client = RawClient(gateway.settings.smtp.port)
    text = f"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<{mailbox}>\r\nDATA\r\n".encode()
    client.send(text + stuffed(MESSAGE) + b"QUIT\r\n")
    client.socket.shutdown(socket.SHUT_WR)

    codes = [line[:4] for line in client.rest().split("\n")]

    assert [code for code in codes if code[3] == " "] == ["220 ", "250 ", "250 ", "250 ", "354 ", "250 ", "221 "]
    assert [mail.raw for mail in stored(gateway, mailbox)] == [MESSAGE]
