"""Many senders at once that never give up: whatever did not get 250 is sent again, over a new connection."""

from __future__ import annotations

import smtplib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

SENDERS = 8
MAILS_PER_CONNECTION = 25
RECONNECT_PAUSE_S = 0.05
SMTP_TIMEOUT_S = 30.0
LARGE_EVERY = 50
LARGE_LINES = 4_000  # 200 KB: more than fits in a database row
_FILLER = b"0123456789012345678901234567890123456789012345678\r\n"


@dataclass
class Burst:
    """A number of mails on their way. Each transmission, that is each time a mail is sent, has a subject of its own."""

    port: int
    mailbox: str
    mails: int
    acked: set[str] = field(default_factory=set)
    """Subjects of the transmissions that got 250; one for each mail in the end."""
    resent: int = 0
    _next: int = 0
    _allowed: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def allow(self, mails: int) -> None:
        """Let the senders go on up to this many mails."""
        with self._changed:
            self._allowed = min(max(self._allowed, mails), self.mails)
            self._changed.notify_all()

    def wait_for_acked(self, count: int, timeout: float, explain: Callable[[], str]) -> None:
        """Wait until so many mails have got their 250."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.acked) >= min(count, self.mails), timeout)
        assert arrived, f"{len(self.acked)} of {count} mails got 250 within {timeout} s\n{explain()[-4000:]}"

    def run_sender(self) -> None:
        """Send until no mail is left."""
        client: smtplib.SMTP | None = None
        sent = 0
        while (number := self._take()) is not None:
            attempt = 0
            while True:
                subject = f"mail-{number}-{attempt}"
                try:
                    if client is None or sent % MAILS_PER_CONNECTION == 0:
                        client = self._connect(client)
                    sent += 1
                    client.sendmail("sender@example.com", [self.mailbox], message(number, subject))
                    break
                except (OSError, smtplib.SMTPException):
                    client = _drop(client)
                    attempt += 1
                    time.sleep(RECONNECT_PAUSE_S)
            self._note(subject, attempt)
        _drop(client)

    def _take(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._next < self._allowed or self._next >= self.mails)
            if self._next >= self.mails:
                return None
            self._next += 1
            return self._next

    def _note(self, subject: str, resent: int) -> None:
        with self._changed:
            self.acked.add(subject)
            self.resent += resent
            self._changed.notify_all()

    def _connect(self, old: smtplib.SMTP | None) -> smtplib.SMTP:
        if old is not None:
            with suppress(OSError, smtplib.SMTPException):
                old.quit()
        return smtplib.SMTP("127.0.0.1", self.port, "client.example", timeout=SMTP_TIMEOUT_S)


def message(number: int, subject: str) -> bytes:
    """A small mail; each fiftieth is too large for a database row."""
    filler = _FILLER * LARGE_LINES if number % LARGE_EVERY == 0 else b""
    return f"From: a@example.com\r\nTo: b@example.com\r\nSubject: {subject}\r\n\r\nHello.\r\n".encode() + filler


@contextmanager
def running_burst(port: int, mailbox: str, mails: int) -> Iterator[Burst]:
    """Senders that wait to be allowed; ended afterwards whatever happened."""
    burst = Burst(port, mailbox, mails)
    threads = [threading.Thread(target=burst.run_sender, daemon=True) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    yield burst
    for thread in threads:
        thread.join(SMTP_TIMEOUT_S)


def _drop(client: smtplib.SMTP | None) -> None:
    if client is not None:
        with suppress(OSError):
            client.close()
