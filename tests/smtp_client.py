"""A raw SMTP client: it sends the very bytes a test gives it, in the very segments, and shows every reply."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from core.clock import system_clock
from core.formats import TargetFormat
from core.ids import new_domain_id
from core.services.addresses import AddressDraft, create_address
from core.store.blobs import open_blobs
from tests.gateway import Gateway

TIMEOUT_S = 20.0
TARGET = "http://127.0.0.1:9/"
SENDER = "sender@example.com"
MESSAGE = b"From: a@example.com\r\nSubject: Hello\r\n\r\nHi.\r\n"
_INSERT_DOMAIN = "INSERT INTO custom_domain (id, address_id, domain, auth_regex, created_ms) VALUES (?, ?, ?, ?, ?)"
_STORED = """
SELECT m.id, m.mail_from, d.recipients, m.md5, m.size, m.helo, m.tls_version, m.tls_cipher, r.body, r.blob_key
FROM message m JOIN delivery d ON d.message_id = m.id JOIN raw_message r ON r.message_id = m.id
WHERE d.address_id = ? ORDER BY m.id"""


class RawClient:
    """One connection. Replies are text without the last line end; lines of one reply are joined by a newline."""

    def __init__(self, port: int, timeout: float = TIMEOUT_S, source: str = "127.0.0.1") -> None:
        self.socket: socket.socket = socket.create_connection(
            ("127.0.0.1", port), timeout=timeout, source_address=(source, 0)
        )
        self._unread = b""

    def send(self, data: bytes) -> None:
        """Send bytes, as one segment where they fit."""
        self.socket.sendall(data)

    def reply(self) -> str:
        """The next whole reply; empty at the end of the stream."""
        lines = []
        while line := self._line():
            lines.append(line)
            if line[3:4] != "-":
                break
        return "\n".join(lines)

    def ask(self, command: str) -> str:
        """Send one command and read its reply."""
        self.send(command.encode() + b"\r\n")
        return self.reply()

    def rest(self) -> str:
        """Everything until the server closes."""
        lines = []
        while line := self._line():
            lines.append(line)
        return "\n".join(lines)

    def greet(self) -> RawClient:
        """Read the greeting and say EHLO."""
        assert self.reply().startswith("220 ")
        assert self.ask("EHLO client.example").startswith("250-")
        return self

    def envelope(self, *recipients: str, sender: str = SENDER) -> None:
        """MAIL and RCPT, all of which must be accepted."""
        assert self.ask(f"MAIL FROM:<{sender}>").startswith("250 ")
        for recipient in recipients:
            assert self.ask(f"RCPT TO:<{recipient}>").startswith("250 ")

    def begin_data(self, *recipients: str) -> None:
        """Everything up to the 354."""
        self.envelope(*recipients)
        assert self.ask("DATA").startswith("354 ")

    def start_tls(self, context: ssl.SSLContext) -> None:
        """The handshake alone; STARTTLS has been sent and answered."""
        self.socket = context.wrap_socket(self.socket)

    def drained(self) -> None:
        """Read whatever comes, text or not, until the server closes."""
        with suppress(OSError):
            while self.socket.recv(65536):
                pass

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def _line(self) -> str:
        while b"\n" not in self._unread:
            try:
                received = self.socket.recv(65536)
            except ConnectionError:
                received = b""
            if not received:
                break
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode().rstrip("\r")


@contextmanager
def connected(gateway: Gateway) -> Iterator[RawClient]:
    """A client that has said EHLO, hung up afterwards."""
    client = RawClient(gateway.settings.smtp.port)
    try:
        yield client.greet()
    finally:
        client.close()


def stuffed(message: bytes) -> bytes:
    """A message as it goes over the wire: dots doubled at the beginning of lines, and the end."""
    return (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


@dataclass(frozen=True, slots=True)
class Stored:
    """One message as it lies in the database and on the disk."""

    message_id: str
    mail_from: str
    recipients: str
    md5: str
    size: int
    helo: str
    tls_version: str | None
    tls_cipher: str | None
    raw: bytes


def new_mailbox(gateway: Gateway, target: str = TARGET) -> str:
    """A new address; unlike `Gateway.add_address`, also right while several gateways are open."""
    draft = AddressDraft(target, TargetFormat.JSON_N)
    made = create_address(gateway.database, gateway.account.account_id, draft, system_clock())
    return f"{made.address_id}@{gateway.settings.domain}"


def new_domain(gateway: Gateway, mailbox: str, domain: str, auth_regex: str | None = None) -> None:
    """A custom domain for the address of a mailbox."""
    values = (new_domain_id(), mailbox.partition("@")[0], domain, auth_regex, system_clock())
    with gateway.database.transaction():
        gateway.database.execute(_INSERT_DOMAIN, values)


def stored(gateway: Gateway, mailbox: str) -> list[Stored]:
    """What has been accepted for the address of a mailbox, oldest first."""
    with gateway.database.reading():
        rows = gateway.database.execute(_STORED, (mailbox.partition("@")[0],))
    blobs = open_blobs(gateway.settings.blob_location)
    return [Stored(*row[:8], bytes(row[8]) if row[8] is not None else blobs.get(row[9])) for row in rows]


def spool_files(gateway: Gateway) -> list[str]:
    """The names of messages that are arriving, or were left behind."""
    return [path.name for path in (gateway.settings.data / "messages" / "incoming").iterdir()]
