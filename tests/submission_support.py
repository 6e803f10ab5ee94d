"""Submission in the hands of a test: a raw client that logs in, and a listener whose acceptor is the test's own."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.clock import Clock, system_clock
from core.config import Settings, load_settings
from core.delivery import DeliveryKind
from core.ids import new_time_ordered_id
from core.sending.raw_submission import RawSubmission
from core.services.accounts import NewAccount
from core.services.credential_use import CredentialUse
from core.services.sends import StoredSend
from core.store.db import Database
from inbound.smtp.certificate import ensure_certificate, tls_context
from inbound.smtp.connections import Connections
from inbound.smtp.listening import listening_socket, make_spool_folder
from inbound.smtp.wire import SessionParts
from inbound.submission.handler import SubmissionHandler
from inbound.submission.logins import Logins
from inbound.submission.server import as_sessions_see_them
from inbound.submission.session import SubmissionSession
from tests.gateway import any_certificate
from tests.ports import free_port
from tests.smtp_client import RawClient, stuffed

TO = "one@example.org"
QUEUED = "250 Thanks! Queued as: "
MAIL = b"From: Sender <sender@example.com>\r\nTo: one@example.org\r\nSubject: Hello\r\n\r\nHi.\r\n"


def plain(username: str, password: str, acts_as: str = "") -> str:
    """A response of PLAIN."""
    return encoded(f"{acts_as}\0{username}\0{password}")


def encoded(text: str) -> str:
    """Base64."""
    return base64.b64encode(text.encode()).decode()


def secured(port: int, source: str = "127.0.0.1") -> RawClient:
    """A client within TLS that has said EHLO."""
    client = RawClient(port, source=source).greet()
    assert client.ask("STARTTLS") == "220 2.0.0 Ready to start TLS"
    client.start_tls(any_certificate())
    assert client.ask("EHLO client.example").startswith("250-")
    return client


def logged_in(port: int, account: NewAccount, source: str = "127.0.0.1") -> RawClient:
    """A client of the account."""
    client = secured(port, source)
    assert client.ask(f"AUTH PLAIN {plain(account.smtp_username, account.smtp_password)}").startswith("235 2.7.0 ")
    return client


def submit(client: RawClient, message: bytes, *recipients: str) -> str:
    """One message; the reply to it."""
    client.begin_data(*recipients or (TO,))
    client.send(stuffed(message))
    return client.reply()


class TestAcceptor:
    """Takes everything, unless the test says otherwise, and keeps it in a list; `rung` is what rang."""

    __test__ = False

    def __init__(self) -> None:
        self.taken: list[RawSubmission] = []
        self.rung: list[DeliveryKind] = []
        self.before: Callable[[RawSubmission], None] = lambda _: None

    def submit(self, submission: RawSubmission) -> StoredSend:
        """As the test wants."""
        self.before(submission)
        self.taken.append(submission)
        return StoredSend(new_time_ordered_id(), (DeliveryKind.SEND,), ())


@contextmanager
def running_listener(
    folder: Path, database_url: str, acceptor: TestAcceptor, clock: Clock = system_clock, **environment: str
) -> Iterator[Settings]:
    """A listener in a thread of this process; its settings say where."""
    settings = load_settings(
        {
            "PILLARBOX_DATA": str(folder),
            "DATABASE_URL": database_url,
            "PILLARBOX_SUBMISSION": f"127.0.0.1:{free_port()}",
            "PILLARBOX_SUBMISSION_TLS": f"127.0.0.1:{free_port()}",
            "PILLARBOX_TARPIT_MS": "0",
            **environment,
        }
    )
    folder.mkdir(exist_ok=True)
    ensure_certificate(settings)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_serve(settings, acceptor, clock, ready, stop)))
    thread.start()
    assert ready.wait(10)
    try:
        yield settings
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _serve(
    settings: Settings, acceptor: TestAcceptor, clock: Clock, ready: threading.Event, stop: asyncio.Event
) -> None:
    database = Database(settings.database_location)
    use = CredentialUse(database, clock)
    logins = Logins(database, use, clock)
    handler = SubmissionHandler(settings, logins, acceptor.submit, acceptor.rung.append, make_spool_folder(settings))
    seen = as_sessions_see_them(settings)
    connections = Connections(seen)
    shared = SessionParts(handler, connections, seen, tls_context(settings), clock)
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(
            lambda is_tls_first=is_tls_first: SubmissionSession(shared, logins, is_tls_first),
            sock=listening_socket(place.host, place.port),
        )
        for place, is_tls_first in ((settings.submission_places[0], False), (settings.submission_tls_places[0], True))
    ]
    ready.set()
    await stop.wait()
    for server in servers:
        server.close()
    for session in list(connections.sessions):
        session.abort()
    await asyncio.sleep(0.05)
    handler.stop()
    logins.stop()
    use.stop()
