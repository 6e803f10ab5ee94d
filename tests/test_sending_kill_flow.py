"""`kill -9` of every process during a burst of mail by API and by SMTP: what was answered 202 or 250 arrives."""

from __future__ import annotations

import smtplib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes

import orjson
import requests

from core.delivery import SEND_KINDS
from tests.sending_world import ODD, SENDER, SHOP, PacedScript, SendingWorld, path

MAILS = 240
"""Half of them by API, half by SMTP."""
SENDERS = 6
KILLED = ("worker", "web", "submission", "redis", "worker")
LARGE_EVERY = 30
LARGE_TEXT = "Hello, hello, hello.\n" * 10_000
"""More than fits in a database row."""
SLOW_S = 0.03
"""For each message, so that kills find some on their way."""
PAUSE_S = 0.05
HTTP_TIMEOUT_S = 20
DRAIN_S = 60.0
SENDING = ", ".join(f"'{kind}'" for kind in SEND_KINDS)
ON_THEIR_WAY = f"SELECT recipients FROM delivery WHERE lease_token IS NOT NULL AND kind IN ({SENDING})"


@dataclass
class Burst:
    """Senders who try again until they are told that their mail is taken."""

    world: SendingWorld
    taken: list[str] = field(default_factory=list)
    """Recipients of transmissions that were answered 202 or 250. Each transmission by SMTP has its own; a retry by API
    has that of the first, and its Idempotency-Key."""
    problems: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(MAILS)))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Send until no mail is left."""
        while (number := self._next()) is not None:
            by = self._by_api if number % 2 else self._by_smtp
            recipient = by(number)
            with self._lock:
                self.taken.append(recipient)

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _by_api(self, number: int) -> str:
        recipient = f"kill-api-{number}@{ODD}"
        gateway = self.world.gateway
        url = f"{gateway.settings.api_url}/api/v0.1/{gateway.account.account_id}/messages"
        headers = {"Authorization": f"Bearer {gateway.account.api_key}", "Idempotency-Key": recipient}
        text = LARGE_TEXT if number % LARGE_EVERY == 1 else "Hi."
        body = {"from": SENDER, "to": recipient, "subject": recipient, "plain": text}
        while True:
            with suppress(requests.RequestException):
                answer = requests.post(url, headers=headers, json=body, timeout=HTTP_TIMEOUT_S)
                if answer.status_code == 202:
                    return recipient
                if answer.status_code < 500:
                    self.problems.append(answer.text)
            time.sleep(PAUSE_S)

    def _by_smtp(self, number: int) -> str:
        attempt = 0
        while True:
            recipient = f"kill-smtp-{number}-{attempt}@{ODD}"
            message = f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: {recipient}\r\n\r\nHi.\r\n"
            try:
                with self.world.login(is_tls_first=bool(number % 4)) as client:
                    refused = client.sendmail(f"news@{SHOP}", [recipient], message)
                    assert not refused
                    return recipient
            except smtplib.SMTPResponseException as error:
                if error.smtp_code >= 500:
                    self.problems.append(repr(error))
            except (OSError, smtplib.SMTPException):
                pass
            attempt += 1
            time.sleep(PAUSE_S)


@contextmanager
def running_burst(world: SendingWorld) -> Iterator[Burst]:
    burst = Burst(world)
    threads = [threading.Thread(target=burst.run, daemon=True) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    yield burst
    for thread in threads:
        thread.join(DRAIN_S)


def test_what_was_taken_arrives_whatever_is_killed(sending: SendingWorld) -> None:
    script = sending.odd.script
    assert isinstance(script, PacedScript)
    script.pause_s = SLOW_S
    on_their_way: Counter[str] = Counter()
    with running_burst(sending) as burst:
        for number, name in enumerate(KILLED, start=1):
            wanted = number * MAILS // (len(KILLED) + 2)
            wait_for(lambda wanted=wanted: len(burst.taken) >= wanted, sending, "the burst does not go on")
            sending.gateway.kill(name)
            if name == "worker":
                on_their_way.update(leased(sending))
            sending.gateway.start(name)
    script.pause_s = 0
    assert len(burst.taken) == MAILS
    assert burst.problems == []
    wait_for(lambda: set(burst.taken) <= set(received(sending)), sending, "not all have arrived")
    wait_for(lambda: not leased(sending), sending, "something is still on its way")
    counts = received(sending)
    doubled = counts - Counter(set(counts))
    print(f"\n{len(KILLED)} kills; {MAILS} mails, {sum(doubled.values())} came twice")
    assert doubled <= on_their_way
    assert ids_of(sending, doubled) == set(doubled)
    assert all(count == 1 for recipient, count in counts.items() if recipient not in doubled)


def leased(world: SendingWorld) -> list[str]:
    """The recipients that the worker has in hand."""
    return [orjson.loads(recipients)[0] for (recipients,) in world.execute(ON_THEIR_WAY)]


def received(world: SendingWorld) -> Counter[str]:
    """How often each recipient of the burst has got a mail."""
    everyone = (path(taken.recipients[0]) for taken in world.odd.taken)
    return Counter(recipient for recipient in everyone if recipient.startswith("kill-"))


def ids_of(world: SendingWorld, doubled: Counter[str]) -> set[str]:
    """Those of the doubled whose copies bear one and the same Message-ID."""
    found: dict[str, set[str]] = {}
    for taken in world.odd.taken:
        message_id = str(message_from_bytes(taken.content)["Message-ID"])
        found.setdefault(path(taken.recipients[0]), set()).add(message_id)
    return {recipient for recipient in doubled if len(found[recipient]) == 1}


def wait_for(condition: Callable[[], bool], world: SendingWorld, problem: str) -> None:
    deadline = time.monotonic() + DRAIN_S
    while not condition():
        assert time.monotonic() < deadline, f"{problem}\n{world.gateway.log()[-3000:]}"
        time.sleep(0.01)
