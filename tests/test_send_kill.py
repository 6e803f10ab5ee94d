"""`kill -9` of a worker in the middle of sending: no recipient is lost, at most those on their way get it twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import orjson

from core.clock import system_clock
from core.sending.priority import Priority
from core.sending.sending_domains import KeyAlgorithm
from tests.dkim_judges import signer
from tests.gateway import Gateway, running_gateway
from tests.scripted_smtp import Answer, Script, running_peer
from tests.send_support import MESSAGE, MESSAGE_ID, Sends, kind_of
from workers.doorbell import Doorbell

MAILS = 120
KILLS = 3
THREADS = 8
DRAIN_S = 60.0


class SlowScript(Script):
    """Takes its time over each message, so that kills find some on their way."""

    def pick(self, verb: str, line: str) -> Answer | None:
        if verb == ".":
            time.sleep(0.03)
        return super().pick(verb, line)


def test_kills_lose_no_recipient_and_double_only_those_on_their_way(tmp_path: Path, database_url: str) -> None:
    environment = {
        "PILLARBOX_CONNECTIONS_PER_HOST": "6",
        "PILLARBOX_SEND_THREADS": str(THREADS),
        "PILLARBOX_REQUIRE_VERIFIED": "on",
    }
    on_their_way: Counter[str] = Counter()
    with running_peer(SlowScript()) as peer:
        smart_host = f"127.0.0.1:{peer.port}"
        with running_gateway(
            tmp_path, "redis", "worker", "scheduler", database_url=database_url, PILLARBOX_SMART_HOST=smart_host,
            **environment,
        ) as gateway:  # fmt: skip
            store_all(gateway, tmp_path)
            for number in range(1, KILLS + 1):
                wait_for(lambda number=number: len(peer.taken) >= number * MAILS // (KILLS + 2), gateway)
                gateway.kill("worker")
                on_their_way.update(leased(gateway))
                gateway.start("worker")
            wait_for(lambda: states(gateway) == {"delivered": MAILS}, gateway)
    received = Counter(recipient_of(taken.recipients[0]) for taken in peer.taken)
    assert set(received) == {f"user{number}@d{number % 20}.test" for number in range(MAILS)}
    doubled = sum(received.values()) - MAILS
    print(f"\n{KILLS} kills; {MAILS} recipients, {doubled} got it twice")
    assert received - Counter(set(received)) <= on_their_way
    assert sum(on_their_way.values()) <= KILLS * 2 * THREADS
    for recipient in received:
        ids = [message_id(taken.content) for taken in peer.taken if recipient_of(taken.recipients[0]) == recipient]
        assert set(ids) == {f"<{recipient.partition('@')[0]}.{MESSAGE_ID}>"}


def store_all(gateway: Gateway, folder: Path) -> None:
    """Mails as they are after their 202, and a ring."""
    sends = Sends(gateway.database, gateway.account, folder, now_ms=system_clock())
    sends.add_domain([signer(KeyAlgorithm.RSA)])
    for number in range(MAILS):
        content = MESSAGE.replace(MESSAGE_ID.encode(), f"user{number}.{MESSAGE_ID}".encode())
        priority = list(Priority)[number % 3]
        sends.store(f"user{number}@d{number % 20}.test", content=content, priority=priority)
    bell = Doorbell(gateway.settings.redis_location)
    for priority in Priority:
        bell.ring(kind_of(priority))


def leased(gateway: Gateway) -> list[str]:
    """The recipients that the worker had in hand when it was killed."""
    with gateway.database.reading():
        rows = gateway.database.execute("SELECT recipients FROM delivery WHERE lease_token IS NOT NULL")
    return [orjson.loads(recipients)[0] for (recipients,) in rows]


def states(gateway: Gateway) -> dict[str, int]:
    return dict(Counter(state for state, *_ in gateway.deliveries()))


def recipient_of(line: str) -> str:
    return line.removeprefix("RCPT TO:<").removesuffix(">")


def message_id(content: bytes) -> str:
    return str(message_from_bytes(content)["Message-ID"])


def wait_for(condition: Callable[[], bool], gateway: Gateway) -> None:
    deadline = time.monotonic() + DRAIN_S
    while not condition():
        assert time.monotonic() < deadline, f"{states(gateway)}\n{gateway.log()[-3000:]}"
        time.sleep(0.01)
