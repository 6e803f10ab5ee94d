"""STARTTLS: it works, nothing said in clear survives it, and a broken handshake hurts nobody else."""

from __future__ import annotations

import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import load_settings
from core.errors import ConfigurationError
from inbound.smtp.certificate import ensure_certificate, tls_context
from tests.gateway import ROOT, Gateway, running_gateway
from tests.smtp_client import MESSAGE, SENDER, RawClient, connected, new_mailbox, stored, stuffed

NONSENSE = (b"", b"MAIL FROM:<a@example.com>\r\n", b"\x16\x03\x01\x02\x00\x01\xff", b"\x00" * 100_000)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = {"PILLARBOX_MAX_CONNECTIONS_PER_IP": "4", "PILLARBOX_TARPIT_MS": "0"}
    with running_gateway(tmp_path_factory.mktemp("tls"), "smtp", **environment) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "never retrieved" not in started.log()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[RawClient]:
    with connected(gateway) as opened:
        yield opened


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_mail_over_tls_arrives_with_version_and_cipher(gateway: Gateway, version: ssl.TLSVersion) -> None:
    mailbox = new_mailbox(gateway)
    context = _trusting()
    context.minimum_version = context.maximum_version = version
    with gateway.connect() as client:
        client.starttls(context=context)
        client.ehlo("inside.example")
        client.sendmail(SENDER, [mailbox], MESSAGE)
        assert isinstance(client.sock, ssl.SSLSocket)
        cipher = client.sock.cipher()

    (mail,) = stored(gateway, mailbox)
    assert cipher is not None
    assert (mail.raw, mail.helo) == (MESSAGE, "inside.example")
    assert (mail.tls_cipher, mail.tls_version) == cipher[:2]
    assert mail.tls_version == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_not_spoken(client: RawClient, version: ssl.TLSVersion) -> None:
    context = _trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    client.ask("STARTTLS")

    with pytest.raises(OSError):
        client.start_tls(context)


def test_a_large_mail_over_tls_is_whole(gateway: Gateway) -> None:
    mailbox = new_mailbox(gateway)
    message = b"".join(b"%076d\r\n" % number for number in range(100_000))
    with gateway.connect() as client:
        client.starttls(context=_trusting())
        client.sendmail(SENDER, [mailbox], message)

    assert [mail.raw == message for mail in stored(gateway, mailbox)] == [True]


def test_commands_slipped_in_before_the_handshake_are_not_run(gateway: Gateway, client: RawClient) -> None:
    # CVE-2024-34083: whoever sits between may add commands to the clear part, to be run as if sent inside.
    mailbox = new_mailbox(gateway)
    client.send(f"STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<{mailbox}>\r\n".encode())
    assert client.reply().startswith("220 2.0.0 ")
    client.start_tls(_trusting())

    assert client.ask("NOOP").startswith("250 ")  # and no reply to anything before it
    assert client.ask("DATA").startswith("503 5.5.1 ")
    assert client.ask("MAIL FROM:<a@example.com>").startswith("503 5.5.1 Send EHLO first")
    assert stored(gateway, mailbox) == []


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize(
    "slipped_in",
    [
        "EHLO evil.example", "HELO evil.example", "MAIL FROM:<evil@example.com>", "RCPT TO:<a@pillarbox.test>", "DATA",
        "RSET", "NOOP", "QUIT", "AUTH PLAIN AGEAYg==", "VRFY a", "EXPN a", "HELP", "STARTTLS", "BDAT 5 LAST", "",
        "GET / HTTP/1.1", "half a li", "X" * 10_000, "PROXY TCP4 192.0.2.1 192.0.2.2 1 25",
    ],
)  # fmt: skip
def test_no_verb_that_comes_along_with_starttls_is_answered(client: RawClient, slipped_in: str, end: str) -> None:
    client.envelope()
    client.send(f"STARTTLS\r\n{slipped_in}{'' if slipped_in.startswith('half') else end}".encode())
    assert client.reply().startswith("220 2.0.0 ")
    client.start_tls(_trusting())

    assert client.ask("NOOP") == "250 2.0.0 Ok"  # the first reply within, and to this
    assert client.ask("MAIL FROM:<a@example.com>") == "503 5.5.1 Send EHLO first"
    assert client.ask("EHLO inside.example").startswith("250-")
    assert client.ask("RCPT TO:<a@pillarbox.test>") == "503 5.5.1 Send MAIL first"


@pytest.mark.parametrize(
    "before",
    [
        [], ["HELO old.example"], ["MAIL FROM:<a@example.com>"], ["MAIL FROM:<>", "RCPT TO:<nobody@pillarbox.test>"],
        ["RCPT TO:<a@b.example>", "DATA", "nonsense", "", "STARTTLS x"], ["X" * 5_000],
        ["MAIL FROM:<a@example.com>", "RSET"],
    ],
)  # fmt: skip
def test_starttls_works_at_every_point_of_a_session_and_begins_it_anew(
    gateway: Gateway, client: RawClient, before: list[str]
) -> None:
    mailbox = new_mailbox(gateway)
    for command in before:
        client.ask(command)
    assert client.ask("STARTTLS") == "220 2.0.0 Ready to start TLS"
    client.start_tls(_trusting())

    assert client.ask("DATA") == "503 5.5.1 Send EHLO first"
    assert client.ask("EHLO inside.example").startswith("250-")
    client.begin_data(mailbox)
    client.send(stuffed(MESSAGE))
    assert client.reply().startswith("250 2.0.0 ")
    (mail,) = stored(gateway, mailbox)
    assert (mail.raw, mail.helo, mail.tls_version) == (MESSAGE, "inside.example", "TLSv1.3")


def test_starttls_between_data_and_its_end_is_content(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    client.begin_data(mailbox)
    client.send(b"STARTTLS\r\n.\r\n")
    assert client.reply().startswith("250 2.0.0 ")

    assert [mail.raw for mail in stored(gateway, mailbox)] == [b"STARTTLS\r\n"]


def test_a_transaction_begun_in_clear_is_forgotten(gateway: Gateway, client: RawClient) -> None:
    client.envelope(new_mailbox(gateway))
    client.ask("STARTTLS")
    client.start_tls(_trusting())

    assert client.ask("DATA").startswith("503 5.5.1 ")
    client.ask("EHLO inside.example")
    assert client.ask("DATA").startswith("503 5.5.1 ")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_comes_in_one_segment_with_the_end_of_the_handshake_is_not_lost(
    client: RawClient, version: ssl.TLSVersion
) -> None:
    context = _trusting()
    context.minimum_version = context.maximum_version = version
    assert client.ask("STARTTLS").startswith("220 ")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    while not _shakes_hands(tls):
        client.send(outgoing.read())
        incoming.write(client.socket.recv(65536))

    tls.write(b"EHLO inside.example\r\n")
    client.send(outgoing.read())  # with TLS 1.3, the client's last handshake message goes along

    assert b"250-mx.pillarbox.test" in _decrypted(client, tls, incoming)


def test_starttls_is_neither_announced_nor_taken_twice(client: RawClient) -> None:
    client.ask("STARTTLS")
    client.start_tls(_trusting())

    announced = client.ask("EHLO inside.example")
    assert "STARTTLS" not in announced
    assert "AUTH" not in announced
    assert "250-SIZE" in announced
    assert client.ask("STARTTLS").startswith("503 5.5.1 ")
    assert client.ask("QUIT").startswith("221 ")
    assert client.rest() == ""


def test_a_pipeline_works_inside_too(gateway: Gateway, client: RawClient) -> None:
    mailbox = new_mailbox(gateway)
    client.ask("STARTTLS")
    client.start_tls(_trusting())
    one = f"MAIL FROM:<a@example.com>\r\nRCPT TO:<{mailbox}>\r\nDATA\r\n".encode() + stuffed(MESSAGE)
    client.send(b"EHLO inside.example\r\n" + one + one + b"QUIT\r\n")

    codes = [line[:3] for line in client.rest().split("\n") if line[3] == " "]

    assert codes == ["250", *["250", "250", "354", "250"] * 2, "221"]
    assert len(stored(gateway, mailbox)) == 2


@pytest.mark.parametrize(
    "nonsense", [b"", b"MAIL FROM:<a@example.com>\r\n", b"\x16\x03\x01\x02\x00\x01\xff", b"\x00" * 100_000]
)
def test_broken_handshakes_free_their_place(gateway: Gateway, nonsense: bytes) -> None:
    for _ in range(gateway.settings.max_connections_per_ip + 3):
        client = _admitted(gateway)
        assert client.ask("STARTTLS").startswith("220 ")
        with suppress(OSError):  # the server may be quicker to hang up
            client.send(nonsense)
            client.socket.shutdown(socket.SHUT_WR)
        client.drained()
        client.close()

    assert gateway.processes["smtp"].poll() is None


def test_a_handshake_that_never_comes_frees_its_place(tmp_path: Path) -> None:
    limits = {"PILLARBOX_MAX_CONNECTIONS": "2", "PILLARBOX_IDLE_TIMEOUT": "1"}
    with running_gateway(tmp_path, "smtp", **limits) as gateway:
        silent = [_admitted(gateway) for _ in range(2)]
        for client in silent:
            assert client.ask("STARTTLS").startswith("220 ")

        _admitted(gateway).close()
        for client in silent:
            client.drained()


def test_a_session_that_falls_silent_within_tls_is_closed(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "smtp", PILLARBOX_IDLE_TIMEOUT="1") as gateway, connected(gateway) as client:
        client.ask("STARTTLS")
        client.start_tls(_trusting())

        assert client.rest().startswith("421 4.4.2 ")


def test_a_client_that_hangs_up_within_tls_frees_its_place(gateway: Gateway) -> None:
    for _ in range(gateway.settings.max_connections_per_ip + 3):
        client = _admitted(gateway)
        client.ask("STARTTLS")
        client.start_tls(_trusting())
        client.ask("EHLO inside.example")
        client.begin_data(new_mailbox(gateway))
        client.send(b"half a mes")
        client.close()


def test_the_configured_certificate_is_shown(tmp_path: Path) -> None:
    made = load_settings({"PILLARBOX_DATA": str(tmp_path), "PILLARBOX_HOSTNAME": "mx.example.org"})
    ensure_certificate(made)
    certificate, key = tmp_path / "smtp-certificate.pem", tmp_path / "smtp-key.pem"
    environment = {"PILLARBOX_TLS_CERT": str(certificate), "PILLARBOX_TLS_KEY": str(key)}
    folder = tmp_path / "gateway"
    folder.mkdir()
    with running_gateway(folder, "smtp", **environment) as gateway, connected(gateway) as client:
        client.ask("STARTTLS")
        checking = ssl.create_default_context(cafile=str(certificate))
        client.socket = checking.wrap_socket(client.socket, server_hostname="mx.example.org")
        assert client.ask("EHLO inside.example").startswith("250-")

    assert not (gateway.settings.data / "smtp-key.pem").exists()


def test_the_self_signed_certificate_is_made_once_with_a_private_key(gateway: Gateway) -> None:
    certificate = gateway.settings.data / "smtp-certificate.pem"
    key = gateway.settings.data / "smtp-key.pem"
    before = certificate.read_bytes()

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    ensure_certificate(gateway.settings)
    assert certificate.read_bytes() == before
    context = ssl.create_default_context(cafile=str(certificate))
    with smtplib.SMTP("127.0.0.1", gateway.settings.smtp.port) as client:
        client._host = "mx.pillarbox.test"  # type: ignore[attr-defined]  # the name to check, without a DNS entry
        assert client.starttls(context=context)[0] == 220


@pytest.mark.parametrize("left", [("smtp-key.pem",), ("smtp-certificate.pem",), ("smtp-key.new", "smtp-key.pem"), ()])
def test_what_a_killed_start_has_left_is_made_whole(tmp_path: Path, left: tuple[str, ...]) -> None:
    settings = load_settings({"PILLARBOX_DATA": str(tmp_path)})
    ensure_certificate(settings)
    for path in tmp_path.glob("smtp-*.pem"):
        if path.name not in left:
            path.unlink()
    for name in left:
        (tmp_path / name).touch()

    ensure_certificate(settings)

    tls_context(settings)  # which would not load a certificate with another key
    assert sorted(path.suffix for path in tmp_path.glob("smtp-*")) == [".lock", ".pem", ".pem"]


def test_many_that_start_at_once_make_one_certificate(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from core.config import load_settings; from inbound.smtp.certificate import *;"
        "made = load_settings({'PILLARBOX_DATA': sys.argv[1]}); ensure_certificate(made); tls_context(made);"
        "print(pathlib.Path(sys.argv[1], 'smtp-certificate.pem').read_text())"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    seen = {process.communicate(timeout=30)[0] for process in started}

    assert [process.returncode for process in started] == [0] * 6
    assert len(seen) == 1


def test_a_certificate_that_cannot_be_loaded_is_named_at_the_start(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    settings = replace(gateway.settings, tls_cert=str(tmp_path / "bad.pem"), tls_key=str(tmp_path / "bad.pem"))

    with pytest.raises(ConfigurationError, match="PILLARBOX_TLS_CERT"):
        tls_context(settings)


def _shakes_hands(tls: ssl.SSLObject) -> bool:
    """Go on with the handshake; whether it is done."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _decrypted(client: RawClient, tls: ssl.SSLObject, incoming: ssl.MemoryBIO) -> bytes:
    """The next bytes from the server, in clear."""
    while True:
        try:
            return tls.read(65536)
        except ssl.SSLWantReadError:
            incoming.write(client.socket.recv(65536))


def _trusting() -> ssl.SSLContext:
    """As most senders are: encrypt, and trust whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _admitted(gateway: Gateway) -> RawClient:
    """A client that was let in: the place of the one before may take a moment to become free."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        client = RawClient(gateway.settings.smtp.port)
        if client.reply().startswith("220 "):
            assert client.ask("EHLO client.example").startswith("250-")
            return client
        client.close()
    raise AssertionError("the places of broken sessions are not given back")
