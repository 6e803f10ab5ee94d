"""One hanging endpoint never delays another customer: the real worker, 50 healthy targets, one that sleeps."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from core.clock import system_clock
from core.delivery import DeliveryKind
from core.routing import Route
from core.services.acceptance import store_accepted
from tests.api_support import accepted_mail
from tests.gateway import Gateway, running_gateway
from tests.ports import free_port
from workers.doorbell import Doorbell

HEALTHY = 50
SLEEP_S = 20.0
BACKLOG = 300
PAUSE_S = 0.02
"""Between two mails to healthy targets: fifty a second."""
ALONE_S = 6.0
BESIDE_S = 23.0
"""Long enough to see the sleeper as a newcomer, as slow, and its first attempts end."""
NOISE_S = 0.05
"""What a busy test machine may add to the slowest mail in a hundred."""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Targets:
    """Servers in one event loop, each on a port of its own."""

    ports: list[int]
    sleeper: int
    arrived: dict[str, float] = field(default_factory=dict)
    """When the POST of each delivery arrived at a healthy target."""
    at_sleeper: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer, or sleep first."""
        port = writer.get_extra_info("sockname")[1]
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(headers[b"content-length"]))
                if port == self.sleeper:
                    self.at_sleeper += 1
                    await asyncio.sleep(SLEEP_S)
                else:
                    self.arrived[orjson.loads(body)["headers"]["subject"]] = time.monotonic()
                writer.write(ANSWER)
        writer.close()


@contextmanager
def running_targets() -> Iterator[Targets]:
    """All targets, in a thread."""
    ports = [free_port() for _ in range(HEALTHY + 1)]
    targets = Targets(ports[1:], ports[0])
    loop = asyncio.new_event_loop()
    for port in ports:
        loop.run_until_complete(asyncio.start_server(targets.serve, "127.0.0.1", port, backlog=256))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield targets
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


@dataclass
class Load:
    """Accepts mail as the receiver does: into the database, then a ring."""

    gateway: Gateway
    bell: Doorbell
    routes: dict[int, Route] = field(default_factory=dict)
    accepted: dict[str, float] = field(default_factory=dict)

    def accept(self, port: int, count: int = 1) -> None:
        """Commit mails for a target and ring."""
        now = system_clock()
        subjects = [f"{port}-{len(self.accepted)}-{number}" for number in range(count)]
        mails = [
            accepted_mail(
                now, (("in@pillarbox.test", self._route(port)),), raw=f"Subject: {subject}\r\n\r\nHi".encode()
            )
            for subject in subjects
        ]
        store_accepted(self.gateway.database, mails)
        self.accepted.update(dict.fromkeys(subjects, time.monotonic()))
        self.bell.ring(DeliveryKind.INBOUND)

    def run(self, targets: Targets, seconds: float) -> list[float]:
        """Mail for healthy targets at a steady pace; the latencies, from acceptance to the POST, sorted."""
        self.accepted.clear()
        dice = random.Random(1)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            self.accept(dice.choice(targets.ports))
            time.sleep(PAUSE_S)
        deadline = time.monotonic() + 30
        while not self.accepted.keys() <= targets.arrived.keys():
            assert time.monotonic() < deadline, "mail for healthy targets did not arrive"
            time.sleep(0.05)
        return sorted(targets.arrived[subject] - at for subject, at in self.accepted.items())

    def _route(self, port: int) -> Route:
        if port not in self.routes:
            target = f"http://127.0.0.1:{port}/in"
            address_id = self.gateway.add_address(target).partition("@")[0]
            self.routes[port] = Route(self.gateway.account.account_id, address_id, None, target)
        return self.routes[port]


def at_share(latencies: list[float], share: float) -> float:
    return latencies[min(len(latencies) - 1, int(len(latencies) * share))]


def test_a_sleeping_target_with_a_backlog_does_not_delay_fifty_healthy_ones(tmp_path: Path) -> None:
    with ExitStack() as stack:
        targets = stack.enter_context(running_targets())
        gateway = stack.enter_context(running_gateway(tmp_path, "redis", "worker", "scheduler"))
        load = Load(gateway, Doorbell(gateway.settings.redis_location))
        for port in targets.ports:
            load.accept(port)  # makes the addresses, and the worker has seen each host once
        alone = load.run(targets, ALONE_S)

        load.accept(targets.sleeper, BACKLOG)
        beside = load.run(targets, BESIDE_S)

        print(
            f"\nalone:  {len(alone)} mails, p50 {at_share(alone, 0.5) * 1000:.1f} ms, p99 "
            f"{at_share(alone, 0.99) * 1000:.1f} ms, max {alone[-1] * 1000:.1f} ms\n"
            f"beside: {len(beside)} mails, p50 {at_share(beside, 0.5) * 1000:.1f} ms, p99 "
            f"{at_share(beside, 0.99) * 1000:.1f} ms, max {beside[-1] * 1000:.1f} ms; "
            f"{targets.at_sleeper} POSTs at the sleeper"
        )
        assert len(alone) > 100
        assert targets.at_sleeper >= 4, "the sleeper was called as well"
        assert at_share(beside, 0.99) <= 2 * at_share(alone, 0.99) + NOISE_S
