"""Mail that is submitted: what is stored of it, what is refused and how, by real clients and by raw bytes."""

from __future__ import annotations

import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from core.delivery import DeliveryKind
from core.services.accounts import CredentialKind
from core.services.credential_records import (
    CredentialDraft,
    create_credential,
)
from tests.conftest import NOW_MS
from tests.gateway import Gateway, any_certificate, running_gateway
from tests.programs import need_program
from tests.smtp_client import RawClient, spool_files, stuffed
from tests.submission_support import MAIL, QUEUED, TO, logged_in, plain, secured, submit

FROM = "sender@example.com"
MAX_SIZE = 300_000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = {"PILLARBOX_TARPIT_MS": "0", "PILLARBOX_MAX_SEND_SIZE": str(MAX_SIZE)}
    with running_gateway(tmp_path_factory.mktemp("submission"), "submission", **environment) as started:
        yield started
        assert "Traceback" not in started.log()
        assert spool_files(started) == []


@pytest.fixture
def client(gateway: Gateway) -> Iterator[RawClient]:
    """A client that has logged in."""
    with closing(logged_in(gateway.submission_port, gateway.account)) as opened:
        yield opened


def sent(gateway: Gateway, reply: str) -> dict[str, object]:
    """What is stored of the message that a reply names."""
    assert reply.startswith(QUEUED), reply
    message_id = reply.removeprefix(QUEUED)
    query = """
    SELECT m.mail_from, m.helo, m.tls_version, m.subject, r.body, r.blob_key, s.username, s.account_id
    FROM message m JOIN raw_message r ON r.message_id = m.id JOIN sent_message s ON s.message_id = m.id
    WHERE m.id = ?"""
    with gateway.database.reading():
        (row,) = gateway.database.execute(query, (message_id,))
        rows = gateway.database.execute(
            "SELECT recipients, kind FROM delivery WHERE message_id = ? ORDER BY id", (message_id,)
        )
    names = ("mail_from", "helo", "tls_version", "subject", "body", "blob_key", "username", "account_id")
    recipients = sorted(address for recipients, _ in rows for address in orjson.loads(recipients))
    return {**dict(zip(names, row, strict=True)), "recipients": recipients, "kinds": {kind for _, kind in rows}}


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_a_mail_is_stored_with_who_sent_it_and_how(gateway: Gateway, client: RawClient) -> None:
    found = sent(gateway, submit(client, MAIL, "one@example.org", "Two@EXAMPLE.org"))

    assert (found["username"], found["account_id"]) == (gateway.account.smtp_username, gateway.account.account_id)
    assert (found["helo"], found["tls_version"], found["subject"]) == ("client.example", "TLSv1.3", "Hello")
    assert found["recipients"] == ["Two@example.org", "one@example.org"]
    assert found["kinds"] == {DeliveryKind.SEND.value}
    assert b"\r\nSubject: Hello\r\n" in bytes(found["body"])  # type: ignore[arg-type]


def test_one_session_sends_many(gateway: Gateway, client: RawClient) -> None:
    replies = [submit(client, MAIL.replace(b"Hello", b"Number %d" % number)) for number in range(5)]
    assert [sent(gateway, reply)["subject"] for reply in replies] == [f"Number {number}" for number in range(5)]
    assert len(set(replies)) == 5


def test_a_large_mail_goes_by_a_file(gateway: Gateway, client: RawClient) -> None:
    message = MAIL + b"".join(b"%076d\r\n" % number for number in range(2_500))
    found = sent(gateway, submit(client, message))
    assert found["blob_key"] is not None


def test_any_envelope_sender_and_none_will_do(gateway: Gateway, client: RawClient) -> None:
    for sender in ("someone@elsewhere.example", ""):
        assert client.ask(f"MAIL FROM:<{sender}>") == "250 2.1.0 Ok"
        assert client.ask(f"RCPT TO:<{TO}>") == "250 2.1.5 Ok"
        assert client.ask("DATA").startswith("354 ")
        client.send(stuffed(MAIL))
        assert sent(gateway, client.reply())["mail_from"] == (sender or FROM)


@pytest.mark.parametrize(
    "parameter", ["AUTH=<>", "AUTH=e+3Dmc2@example.com", "SIZE=500 AUTH=<> BODY=8BITMIME", "auth=<>"]
)
def test_mails_auth_parameter_is_taken_and_not_believed(gateway: Gateway, client: RawClient, parameter: str) -> None:
    assert client.ask(f"MAIL FROM:<{FROM}> {parameter}") == "250 2.1.0 Ok"
    assert client.ask(f"RCPT TO:<{TO}> AUTH=<>").startswith("555 5.5.4 ")


def test_the_headers_that_steer_are_obeyed_and_removed(gateway: Gateway, client: RawClient) -> None:
    steered = b"x-cloudmta-class: priority\r\nX-CloudMTA-Tags: welcome, first\r\n" + MAIL
    found = sent(gateway, submit(client, steered))
    assert found["kinds"] == {DeliveryKind.SEND_PRIORITY.value}
    assert b"cloudmta" not in bytes(found["body"]).lower()  # type: ignore[arg-type]


def test_names_of_all_scripts_are_taken_with_smtputf8(gateway: Gateway, client: RawClient) -> None:
    assert client.ask(f"MAIL FROM:<{FROM}> SMTPUTF8") == "250 2.1.0 Ok"
    client.send("RCPT TO:<пример@example.org>\r\nRCPT TO:<a@bücher.example>\r\nDATA\r\n".encode())
    assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
    client.send(stuffed(MAIL.replace(b"Hello", "Привет".encode())))
    assert sent(gateway, client.reply())["recipients"] == ["a@xn--bcher-kva.example", "пример@example.org"]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_too_many_recipients_are_452_one_by_one(gateway: Gateway, client: RawClient) -> None:
    most = gateway.settings.max_send_recipients
    client.ask(f"MAIL FROM:<{FROM}>")
    replies = [client.ask(f"RCPT TO:<r{number}@example.org>") for number in range(most + 2)]
    assert [reply[:3] for reply in replies] == ["250"] * most + ["452", "452"]
    assert client.ask("DATA").startswith("354 ")
    client.send(stuffed(MAIL))
    assert len(sent(gateway, client.reply())["recipients"]) == most  # type: ignore[arg-type]


def test_a_declared_size_beyond_the_limit_is_refused_at_once(client: RawClient) -> None:
    assert client.ask(f"MAIL FROM:<{FROM}> SIZE={MAX_SIZE + 1}").startswith("552 5.3.4 ")
    assert client.ask(f"MAIL FROM:<{FROM}> SIZE={MAX_SIZE}") == "250 2.1.0 Ok"


def test_a_message_beyond_the_limit_is_552_and_the_session_goes_on(gateway: Gateway, client: RawClient) -> None:
    assert submit(client, MAIL + b"x\r\n" * (MAX_SIZE // 3)).startswith("552 5.3.4 ")
    assert sent(gateway, submit(client, MAIL))


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (b"Subject: no author\r\n\r\nx\r\n", "554 5.6.0 message: "),
        (b"", "554 5.6.0 message: "),
        (b"From: nobody\r\n\r\nx\r\n", "554 5.6.0 message: its header From 'nobody' is no address"),
        (b"From: a@example.com\r\nFrom: b@example.com\r\n\r\nx\r\n", "554 5.6.0 message: "),
        (b"x-cloudmta-class: urgent\r\n" + MAIL, "554 5.6.0 headers.x-cloudmta-class: must be one of"),
        (b"x-cloudmta-layout: unheard-of\r\n" + MAIL, "554 5.6.0 headers.x-cloudmta-layout: there is no layout called"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_field_and_cure(client: RawClient, message: bytes, reply: str) -> None:
    answer = submit(client, message)
    assert answer.startswith(reply), answer
    assert answer.isprintable()
    assert submit(client, MAIL).startswith(QUEUED)


@pytest.mark.parametrize("recipient", ["", "a", "a@", "@example.org", "a b@example.org", "a@[192.0.2.1", "postmaster"])
def test_what_is_no_recipient_is_refused(client: RawClient, recipient: str) -> None:
    client.ask(f"MAIL FROM:<{FROM}>")
    assert client.ask(f"RCPT TO:<{recipient}>")[:3] in ("501", "553")
    assert client.ask("DATA").startswith("503 5.5.1 ")


@pytest.mark.parametrize(
    ("recipient", "problem"),
    [
        ("a@[192.0.2.1]", "has no full domain behind the @"),
        ("root@localhost", "has no full domain behind the @"),
        ("=?utf-8?q?a?=@example.org", "is an encoded word"),
        ("a" * 250 + "@example.org", "is longer than 254 bytes"),
        ("a\u200bb@example.org", "holds a blank or an invisible character"),
    ],
)
def test_a_recipient_out_of_reach_is_refused_alone(
    gateway: Gateway, client: RawClient, recipient: str, problem: str
) -> None:
    """Refused behind DATA, it took those with it who could have got the mail."""
    client.ask(f"MAIL FROM:<{FROM}> SMTPUTF8")
    assert client.ask(f"RCPT TO:<{TO}>").startswith("250 ")
    assert client.ask(f"RCPT TO:<{recipient}>").startswith(f"550 5.1.3 This address {problem}")
    assert client.ask("DATA").startswith("354 ")
    client.send(stuffed(MAIL))
    assert sent(gateway, client.reply())["recipients"] == [TO]


def test_programs_are_refused(client: RawClient) -> None:
    program = b"Content-Disposition: attachment; filename=x.exe\r\n" + MAIL
    assert submit(client, program).startswith("554 5.6.0 message: holds the file 'x.exe', which is of a forbidden type")


def test_mail_that_goes_round_in_circles_is_refused(gateway: Gateway, client: RawClient) -> None:
    hops = b"Received: from a by b; Mon, 21 Sep 2026 10:00:00 +0000\r\n" * (gateway.settings.max_hops + 1)
    assert submit(client, hops + MAIL).startswith("554 5.4.6 ")


def test_smuggled_mail_stays_content(gateway: Gateway, client: RawClient) -> None:
    for end in (b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n"):
        client.begin_data(TO)
        hidden = b"MAIL FROM:<forged@example.com>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: forged\r\n\r\nx"
        client.send(MAIL + b"outer" + end + hidden + b"\r\n.\r\n")
        assert sent(gateway, client.reply())["recipients"] == [TO]
        assert client.ask("NOOP") == "250 2.0.0 Ok"


def test_bdat_is_neither_announced_nor_read(client: RawClient) -> None:
    client.envelope(TO)
    client.send(b"BDAT 4 LAST\r\nRSET")
    assert client.rest() == "500 5.5.2 Command not recognised"


def test_a_domain_that_is_not_the_accounts_is_refused_where_that_matters(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "submission", PILLARBOX_REQUIRE_VERIFIED="on") as strict:
        with closing(logged_in(strict.submission_port, strict.account)) as client:
            reply = submit(client, MAIL)
        assert reply.startswith("550 5.7.1 from: example.com is no sending domain of this account; add it")


def test_a_login_of_one_domain_sends_from_that_one(gateway: Gateway) -> None:
    with gateway.database.transaction():
        gateway.database.execute(
            "INSERT INTO sending_domain (id, account_id, domain, next_check_ms, created_ms) VALUES (?, ?, ?, 0, 0)",
            ("aaaa111122223333", gateway.account.account_id, "bound.example"),
        )
    made = _bound_login(gateway)
    with closing(secured(gateway.submission_port)) as client:
        assert client.ask(f"AUTH PLAIN {plain(*made)}").startswith("235 ")
        assert submit(client, MAIL).startswith("550 5.7.1 from: this login may not send from example.com")
        assert submit(client, MAIL.replace(b"sender@example.com", b"me@bound.example")).startswith(QUEUED)


def _bound_login(gateway: Gateway) -> tuple[str, str]:
    draft = CredentialDraft(CredentialKind.SMTP, sending_domain_id="aaaa111122223333")
    record, secret = create_credential(gateway.database, gateway.account.account_id, draft, NOW_MS)
    return record.username, secret


# --- real clients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["--tls", "--tls-on-connect"])
def test_swaks_logs_in_and_sends(gateway: Gateway, mechanism: str, tls: str) -> None:
    port = gateway.submission_port if tls == "--tls" else gateway.submission_tls_port
    done = subprocess.run(
        [
            need_program("swaks"), "--server", "127.0.0.1", "--port", str(port), tls, "--auth", mechanism,
            "--auth-user", gateway.account.smtp_username, "--auth-password", gateway.account.smtp_password,
            "--from", FROM, "--to", TO, "--h-Subject", "by swaks",
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    reply = next(line for line in done.stdout.splitlines() if "Queued as" in line)
    assert sent(gateway, reply[reply.index("250 ") :])["subject"] == "by swaks"


def test_swaks_cannot_log_in_without_tls_or_with_a_wrong_password(gateway: Gateway) -> None:
    base = [need_program("swaks"), "--server", "127.0.0.1", "--port", str(gateway.submission_port), "--from", FROM]
    login = ["--to", TO, "--auth", "PLAIN", "--auth-user", gateway.account.smtp_username, "--auth-password"]
    in_clear = subprocess.run(
        [*base, *login, gateway.account.smtp_password], capture_output=True, timeout=60, check=False
    )
    wrong = subprocess.run([*base, *login, "wrong", "--tls"], capture_output=True, timeout=60, check=False)
    assert in_clear.returncode == 28  # no authentication type that both know
    assert wrong.returncode == 28
    assert b"535 5.7.8" in wrong.stdout


def test_smtplib_sends_by_both_ports(gateway: Gateway) -> None:
    gateway.submit(TO, MAIL.replace(b"Hello", b"by smtplib"))
    with smtplib.SMTP_SSL("127.0.0.1", gateway.submission_tls_port, context=any_certificate(), timeout=20) as client:
        client.login(gateway.account.smtp_username, gateway.account.smtp_password)
        client.sendmail(FROM, [TO], MAIL.replace(b"Hello", b"by smtps"))
    with gateway.database.reading():
        subjects = {row[0] for row in gateway.database.execute("SELECT subject FROM message")}
    assert {"by smtplib", "by smtps"} <= subjects
