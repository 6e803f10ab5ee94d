"""Logging in to submit mail: TLS before AUTH, AUTH before MAIL, and nothing to learn from refusals."""

from __future__ import annotations

import socket
import ssl
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from core.services.accounts import CredentialKind
from core.services.credential_records import (
    CredentialChange,
    CredentialDraft,
    change_credential,
    create_credential,
    delete_credential,
)
from core.services.credentials import Scope
from inbound.submission.logins import MAX_FAILURES
from tests.conftest import NOW_MS
from tests.gateway import Gateway, any_certificate, running_gateway
from tests.smtp_client import RawClient, stuffed
from tests.submission_support import MAIL, encoded, plain, secured

WRONG = "535 5.7.8 Authentication credentials invalid"
OK = "235 2.7.0 Authentication successful"
_addresses = (f"127.0.{high}.{low}" for high in range(1, 255) for low in range(1, 255))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("login"), "submission", PILLARBOX_TARPIT_MS="0") as started:
        yield started
        assert "Traceback" not in started.log()
        assert "never retrieved" not in started.log()
        assert started.account.smtp_password not in started.log()
        assert encoded(started.account.smtp_password) not in started.log()


@pytest.fixture
def source() -> str:
    """A loopback address of this test's own, so that its failures count for no other."""
    return next(_addresses)


@pytest.fixture
def client(gateway: Gateway, source: str) -> Iterator[RawClient]:
    """A client within TLS."""
    with closing(secured(gateway.submission_port, source)) as opened:
        yield opened


def right(gateway: Gateway) -> str:
    return plain(gateway.account.smtp_username, gateway.account.smtp_password)


def stored_subjects(gateway: Gateway) -> list[str]:
    with gateway.database.reading():
        return [row[0] for row in gateway.database.execute("SELECT subject FROM message")]


# --- what comes first -------------------------------------------------------------------------------------------------


def test_in_clear_there_is_starttls_and_no_auth(gateway: Gateway) -> None:
    client = RawClient(gateway.submission_port)
    assert client.reply() == "220 mx.pillarbox.test ESMTP Pillarbox"
    announced = client.ask("EHLO client.example").split("\n")
    assert announced == [
        "250-mx.pillarbox.test", "250-PIPELINING", f"250-SIZE {gateway.settings.max_send_size}", "250-8BITMIME",
        "250-SMTPUTF8", "250-STARTTLS", "250 ENHANCEDSTATUSCODES",
    ]  # fmt: skip
    for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<a@example.com>", "DATA", "VRFY a", "EXPN a"):
        assert client.ask(command) == "530 5.7.0 Must issue a STARTTLS command first"
    for login in ("PLAIN", f"PLAIN {right(gateway)}", "LOGIN", "CRAM-MD5", ""):
        assert client.ask(f"AUTH {login}").startswith("538 5.7.11 Encryption required")
    for command in ("NOOP", "RSET", "EHLO again.example", "HELP", "QUIT"):
        assert client.ask(command)[:1] == "2"


def test_within_tls_auth_is_announced_and_asked_for(client: RawClient) -> None:
    announced = client.ask("EHLO client.example").split("\n")
    assert "250-AUTH PLAIN LOGIN" in announced
    assert not [line for line in announced if "STARTTLS" in line or "CHUNKING" in line or "REQUIRETLS" in line]
    assert not [line for line in announced if "XCLIENT" in line or "BINARYMIME" in line or "DSN" in line]
    for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<a@example.com>", "DATA"):
        assert client.ask(command) == "530 5.7.0 Authentication required"
    assert client.ask("VRFY a@example.com").startswith("252 2.5.2 ")
    assert client.ask("XCLIENT ADDR=192.0.2.1").startswith("500 5.5.2 ")
    assert client.ask("NOOP").startswith("250 ")


def test_tls_from_the_first_byte_leads_to_the_same(gateway: Gateway) -> None:
    client = RawClient(gateway.submission_tls_port)
    client.start_tls(any_certificate())
    client.greet()
    assert client.ask("STARTTLS") == "503 5.5.1 TLS is active already"
    assert client.ask("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"
    assert client.ask(f"AUTH PLAIN {right(gateway)}") == OK
    assert client.ask("MAIL FROM:<a@example.com>") == "250 2.1.0 Ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_in_pieces_is_put_together(gateway: Gateway, version: ssl.TLSVersion) -> None:
    context = any_certificate()
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", gateway.submission_tls_port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shaken = False
        while not shaken:
            try:
                tls.do_handshake()
                shaken = True
            except ssl.SSLWantReadError:
                pass
            for byte in outgoing.read():
                connection.sendall(bytes([byte]))
            if not shaken:
                incoming.write(connection.recv(65536))
        assert _read(connection, tls, incoming).startswith(b"220 mx.pillarbox.test")


def test_many_handshakes_at_once_all_succeed(gateway: Gateway) -> None:
    clients = [RawClient(gateway.submission_tls_port) for _ in range(40)]
    for client in clients:
        client.start_tls(any_certificate())
        client.greet().close()


@pytest.mark.parametrize(
    "nonsense", [b"", b"EHLO client.example\r\n", b"\x16\x03\x01\x02\x00\x01\xff", b"\0" * 200_000]
)
def test_what_is_no_handshake_gets_no_session_and_frees_its_place(
    gateway: Gateway, nonsense: bytes, source: str
) -> None:
    for _ in range(3):
        client = RawClient(gateway.submission_tls_port, source=source)
        with suppress(OSError):
            client.send(nonsense)
            client.socket.shutdown(socket.SHUT_WR)
        with suppress(UnicodeDecodeError):
            assert "220" not in client.rest()
        client.close()
    assert gateway.processes["submission"].poll() is None


def test_a_handshake_in_one_segment_with_a_load_balancers_header_is_read(tmp_path: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = any_certificate().wrap_bio(incoming, outgoing)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 465\r\n"
    with (
        running_gateway(tmp_path, "submission", PILLARBOX_PROXY_NETWORKS="127.0.0.1") as gateway,
        socket.create_connection(("127.0.0.1", gateway.submission_tls_port), timeout=20) as connection,
    ):
        connection.sendall(header + outgoing.read())
        while True:
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            incoming.write(connection.recv(65536))
        connection.sendall(outgoing.read())
        assert _read(connection, tls, incoming).startswith(b"220 mx.pillarbox.test")
        tls.write(f"EHLO client.example\r\nAUTH PLAIN {right(gateway)}\r\n".encode())
        connection.sendall(outgoing.read())
        replies = b""
        while OK.encode() not in replies:
            replies += _read(connection, tls, incoming)
        assert "remote_ip=192.0.2.7" in gateway.log()


def test_commands_in_one_segment_with_starttls_are_not_run(gateway: Gateway) -> None:
    client = RawClient(gateway.submission_port).greet()
    smuggled = f"AUTH PLAIN {right(gateway)}\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n"
    client.send(b"STARTTLS\r\nEHLO evil.example\r\n" + smuggled.encode())
    assert client.reply() == "220 2.0.0 Ready to start TLS"
    client.start_tls(any_certificate())

    assert client.ask("NOOP") == "250 2.0.0 Ok"  # the first reply within, and to this
    assert client.ask("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"
    assert client.ask(f"AUTH PLAIN {right(gateway)}") == "503 5.5.1 Send EHLO first"


def test_helo_is_not_enough_to_log_in(gateway: Gateway, source: str) -> None:
    client = secured(gateway.submission_port, source)
    client.ask("HELO old.example")
    assert client.ask(f"AUTH PLAIN {right(gateway)}") == "503 5.5.1 Send EHLO first"


# --- the exchange -----------------------------------------------------------------------------------------------------


def test_plain_with_and_without_initial_response(gateway: Gateway, source: str) -> None:
    client = secured(gateway.submission_port, source)
    assert client.ask("auth plain") == "334 "
    assert client.ask(right(gateway)) == OK
    for name in ("PLAIN", "Plain", "plain"):
        with closing(secured(gateway.submission_port, source)) as other:
            assert other.ask(f"AUTH {name} {right(gateway)}") == OK


def test_login_with_and_without_initial_response(gateway: Gateway, source: str) -> None:
    name, password = encoded(gateway.account.smtp_username), encoded(gateway.account.smtp_password)
    with closing(secured(gateway.submission_port, source)) as client:
        assert client.ask("AUTH LOGIN") == f"334 {encoded('Username:')}"
        assert client.ask(name) == f"334 {encoded('Password:')}"
        assert client.ask(password) == OK
    with closing(secured(gateway.submission_port, source)) as client:
        assert client.ask(f"AUTH LOGIN {name}") == f"334 {encoded('Password:')}"
        assert client.ask(password) == OK


def test_one_may_act_as_oneself_and_nobody_else(gateway: Gateway, client: RawClient) -> None:
    name, password = gateway.account.smtp_username, gateway.account.smtp_password
    assert client.ask(f"AUTH PLAIN {plain(name, password, acts_as='admin')}") == WRONG
    assert client.ask(f"AUTH PLAIN {plain(name, password, acts_as=name)}") == OK


@pytest.mark.parametrize("begin", ["AUTH PLAIN", "AUTH LOGIN", f"AUTH LOGIN {encoded('someone')}"])
def test_a_star_cancels(gateway: Gateway, client: RawClient, begin: str) -> None:
    assert client.ask(begin).startswith("334 ")
    assert client.ask("*") == "501 5.7.0 Authentication cancelled"
    assert client.ask("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"
    assert client.ask(f"AUTH PLAIN {right(gateway)}") == OK


@pytest.mark.parametrize(
    "response", ["!", "AGEAYg", "AGEA Yg==", "AGEAYg===", "MAIL FROM:<a@example.com>", "\xff", "==="]
)
def test_bad_base64_is_501_and_no_login(client: RawClient, response: str) -> None:
    client.ask("AUTH PLAIN")
    assert client.ask(response).startswith("501 5.5.2 Cannot decode")
    if " " not in response:
        assert client.ask(f"AUTH PLAIN {response}").startswith("501 5.5.2 Cannot decode")
    client.ask("AUTH LOGIN")
    assert client.ask(response).startswith("501 5.5.2 Cannot decode")
    assert client.ask("MAIL FROM:<a@example.com>").startswith("530 5.7.0 ")


@pytest.mark.parametrize("response", ["", "=", encoded("a"), encoded("\0"), encoded("\0a\0"), encoded("\0\0b"),
                                      encoded("\0a\0b\0c"), encoded("a\0b")])  # fmt: skip
def test_what_is_no_plain_response_is_501(client: RawClient, response: str) -> None:
    client.ask("AUTH PLAIN")
    assert client.ask(response if response != "=" else "").startswith("501 5.5.2 PLAIN is base64 of")
    if response:
        assert client.ask(f"AUTH PLAIN {response}").startswith("501 5.5.2 PLAIN is base64 of")


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("AUTH", "501 5.5.4 "), ("AUTH CRAM-MD5", "504 5.5.4 "), ("AUTH EXTERNAL =", "504 5.5.4 "),
        ("AUTH XOAUTH2 abc", "504 5.5.4 "), ("AUTH PLAIN a b", "501 5.5.2 "), ("AUTH PLAIN *", "501 5.7.0 "),
        ("AUTH  PLAIN  *", "501 5.7.0 "), ("AUTH \0", "504 5.5.4 "), ("AUTH PLAIN\xe9", "504 5.5.4 "),
    ],
)  # fmt: skip
def test_odd_auth_commands(client: RawClient, command: str, reply: str) -> None:
    assert client.ask(command).startswith(reply)
    assert client.ask("NOOP").startswith("250 ")


def test_a_second_login_is_503(gateway: Gateway, client: RawClient) -> None:
    assert client.ask(f"AUTH PLAIN {right(gateway)}") == OK
    assert client.ask(f"AUTH PLAIN {right(gateway)}") == "503 5.5.1 Authenticated already"
    client.envelope("one@example.org")
    assert client.ask("AUTH LOGIN") == "503 5.5.1 Authenticated already"
    assert client.ask("EHLO again.example").startswith("250-")
    assert client.ask("AUTH PLAIN") == "503 5.5.1 Authenticated already"  # EHLO ends the transaction, not the login
    assert client.ask("MAIL FROM:<a@example.com>").startswith("250 ")


def test_lines_of_any_length_end_the_exchange_not_the_session(gateway: Gateway, client: RawClient) -> None:
    for length in (3_000, 70_000, 1_000_000):
        client.ask("AUTH PLAIN")
        assert client.ask("A" * length) == "500 5.5.6 Authentication exchange line is too long"
        assert client.ask("AUTH PLAIN " + "A" * length).startswith("500 5.5.2 Command line too long")
    assert client.ask(f"AUTH PLAIN {plain('x' * 600, 'y' * 600)}") == WRONG
    assert client.ask(f"AUTH PLAIN {right(gateway)}") == OK


def test_a_pipelined_login_and_all_behind_it(gateway: Gateway, client: RawClient) -> None:
    name, password = gateway.account.smtp_username, gateway.account.smtp_password
    mail = b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<one@example.org>\r\nDATA\r\n"
    wire = f"AUTH LOGIN\r\n{encoded(name)}\r\n{encoded(password)}\r\n".encode() + mail
    client.send(wire + stuffed(MAIL.replace(b"Hello", b"Pipelined")) + b"QUIT\r\n")
    replies = [client.reply() for _ in range(8)]
    assert [reply[:3] for reply in replies] == ["334", "334", "235", "250", "250", "354", "250", "221"]
    assert "Pipelined" in stored_subjects(gateway)


def test_a_pipelined_mail_behind_a_failed_login_goes_nowhere(gateway: Gateway, client: RawClient) -> None:
    mail = b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<one@example.org>\r\nDATA\r\n"
    client.send(f"AUTH PLAIN {plain('a', 'b')}\r\n".encode() + mail + b"Subject: Never\r\n\r\nx\r\n.\r\nQUIT\r\n")
    lines = client.rest().split("\n")
    assert [line[:3] for line in lines[:4]] == ["535", "530", "530", "530"]
    assert {line[:3] for line in lines[4:]} <= {"500", "221"}  # its content is no command, and is counted as such
    assert "Never" not in stored_subjects(gateway)


def test_hanging_up_in_the_middle_of_a_login_hurts_nobody(gateway: Gateway, source: str) -> None:
    for cut in ("AUTH PLAIN\r\n", "AUTH LOGIN\r\n", "AUTH LOGIN\r\nAAA", f"AUTH PLAIN {right(gateway)}\r\n", "AUTH"):
        client = secured(gateway.submission_port, source)
        client.send(cut.encode())
        client.close()
    with closing(secured(gateway.submission_port, source)) as client:
        assert client.ask(f"AUTH PLAIN {right(gateway)}") == OK


# --- who may ----------------------------------------------------------------------------------------------------------


def test_unknown_names_and_wrong_passwords_look_the_same(gateway: Gateway, client: RawClient) -> None:
    name, password = gateway.account.smtp_username, gateway.account.smtp_password
    for username, given in (
        (name, "wrong"), ("nobody", password), ("nobody", "wrong"), (name.upper() + "x", password),
        (name, "ü€\U0001f600"), ("' OR 1=1 --", "x"), (name, f"{password} "), ("\x7f", "\x01"),
        (gateway.account.account_id, password),
    ):  # fmt: skip
        assert client.ask(f"AUTH PLAIN {plain(username, given)}") == WRONG
        client.ask("AUTH LOGIN")
        client.ask(encoded(username))
        assert client.ask(encoded(given)) == WRONG


def test_unknown_names_and_wrong_passwords_take_the_same_time(gateway: Gateway) -> None:
    names = [gateway.account.smtp_username, "ffffffffffffffff"]
    took: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(10):
        with closing(secured(gateway.submission_port, next(_addresses))) as client:
            for _ in range(MAX_FAILURES // 2 - 1):
                names.reverse()
                for username in names:
                    begun = time.perf_counter()
                    assert client.ask(f"AUTH PLAIN {plain(username, 'x' * 32)}") == WRONG
                    took[username].append(time.perf_counter() - begun)
    known, unknown = (statistics.median(times) for times in took.values())
    assert abs(known - unknown) < 0.001  # this machine has other work; a hash that only one of them costs takes longer


def test_a_login_needs_the_scope_and_to_be_switched_on(gateway: Gateway, client: RawClient) -> None:
    account_id, database = gateway.account.account_id, gateway.database
    draft = CredentialDraft(CredentialKind.SMTP, scopes=frozenset({Scope.READ}))
    record, secret = create_credential(database, account_id, draft, NOW_MS)

    def answer() -> str:
        return client.ask(f"AUTH PLAIN {plain(record.username, secret)}")

    assert answer() == "535 5.7.8 This login may not send; make one with the scope send"
    sending = CredentialChange(scopes=frozenset({Scope.SEND}), is_active=False)
    change_credential(database, account_id, record.username, sending)
    assert answer() == WRONG
    change_credential(database, account_id, record.username, CredentialChange(is_active=True))
    assert answer() == OK


def test_a_key_of_the_api_is_no_login(gateway: Gateway, client: RawClient) -> None:
    keys = plain(gateway.account.account_id, gateway.account.api_key)
    assert client.ask(f"AUTH PLAIN {keys}") == "535 5.7.8 This is an API key; make an SMTP login for mail programs"
    assert client.ask("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"


def test_a_deleted_login_no_longer_works(gateway: Gateway, client: RawClient) -> None:
    draft = CredentialDraft(CredentialKind.SMTP)
    record, secret = create_credential(gateway.database, gateway.account.account_id, draft, NOW_MS)
    delete_credential(gateway.database, gateway.account.account_id, record.username)
    assert client.ask(f"AUTH PLAIN {plain(record.username, secret)}") == WRONG


def _read(connection: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO) -> bytes:
    while True:
        try:
            return tls.read(65536)
        except ssl.SSLWantReadError:
            incoming.write(connection.recv(65536))
