"""`make bench`: mails a second from SMTP to HTTP, idle latency, memory; and what bare libraries do beside it.

Traffic stays on loopback. The whole takes about two minutes. Numbers depend on the machine: compare the ratios.
"""

from __future__ import annotations

import json
import os
import platform
import smtplib
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Usage, running_module, sink_count, usage
from core.delivery import Verdict
from core.ids import new_signing_secret
from core.netguard import LOOPBACK, TargetPolicy
from inbound.forward import Forwarder, Post
from inbound.guarded_http import DeadlineWatch, guarded_session
from tests.gateway import Gateway, running_gateway
from tests.ports import free_port
from tests.programs import need_program

MAILS = 6_000
MAIL_OCTETS = 4_096
SESSIONS = 20
LATENCY_MAILS = 200
LATENCY_PAUSE_S = 0.05
PATIENCE_S = 120
MEASURED = ("smtp", "worker", "scheduler", "redis", "web")
STARTED = ("redis", "smtp", "worker", "scheduler", "web")
DATABASE_VARIABLE = "BENCH_DATABASE_URL"
"""Set to a PostgreSQL URL to measure with that instead of SQLite."""


@dataclass(frozen=True, slots=True)
class Burst:
    """One run of `smtp-source`."""

    accepted_per_s: float
    delivered_per_s: float
    cpu_ms: dict[str, float]
    """Processor time for each mail, by process."""


def main() -> None:
    """Measure everything and print it as Markdown."""
    print(f"# {platform.platform()}, Python {platform.python_version()}, {_cpu_count()} processors\n")
    with tempfile.TemporaryDirectory(prefix="pillarbox-bench-") as folder:
        sink_port = free_port()
        with running_module("bench.http_sink", sink_port):
            plain_posts = _bare_posts_per_s(sink_port)
            with running_gateway(Path(folder), *STARTED, database_url=os.environ.get(DATABASE_VARIABLE)) as gateway:
                mailbox = gateway.add_address(f"http://127.0.0.1:{sink_port}/")
                latency = _idle_latency(gateway, mailbox, sink_port)
                kept = _burst(gateway, mailbox, sink_port, "-d")
                single = _burst(gateway, mailbox, sink_port)
                memory = {name: usage(gateway.processes[name].pid) for name in MEASURED}
    _print(kept, single, latency, memory, plain_posts, _bare_receiver(("-d",)), _bare_receiver(()))


def _burst(gateway: Gateway, mailbox: str, sink_port: int, *options: str) -> Burst:
    before, _ = sink_count(sink_port)
    used = {name: usage(gateway.processes[name].pid).cpu_s for name in MEASURED}
    started = time.monotonic()
    _smtp_source(gateway.settings.smtp.port, mailbox, *options)
    accepted = time.monotonic()
    delivered = _wait_for_sink(sink_port, before + MAILS)
    cost = {name: usage(gateway.processes[name].pid).cpu_s - used[name] for name in MEASURED}
    return Burst(
        accepted_per_s=MAILS / (accepted - started),
        delivered_per_s=MAILS / (delivered - started),
        cpu_ms={name: 1000 * seconds / MAILS for name, seconds in cost.items()},
    )


def _smtp_source(port: int, recipient: str, *options: str) -> None:
    """Send the burst; `-d` keeps connections open, without it each mail has its own."""
    command = [
        *(need_program("smtp-source"), "-s", str(SESSIONS), "-m", str(MAILS), "-l", str(MAIL_OCTETS)),
        *("-f", "sender@example.com", "-t", recipient, *options, f"127.0.0.1:{port}"),
    ]
    subprocess.run(command, check=True)


def _wait_for_sink(port: int, count: int) -> float:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        seen, last_at = sink_count(port)
        if seen >= count:
            return last_at
        time.sleep(0.05)
    sys.exit(f"only {seen} of {count} mails arrived within {PATIENCE_S} s")


def _idle_latency(gateway: Gateway, mailbox: str, sink_port: int) -> list[float]:
    """Milliseconds from the end of DATA to the POST's arrival, one mail at a time."""
    samples = []
    with gateway.connect() as client:
        for number in range(LATENCY_MAILS):
            before, _ = sink_count(sink_port)
            ended = _send_one(client, mailbox, number)
            while (seen := sink_count(sink_port))[0] == before:
                time.sleep(0.001)
            samples.append((seen[1] - ended) * 1000)
            time.sleep(LATENCY_PAUSE_S)
    return sorted(samples)


def _send_one(client: smtplib.SMTP, mailbox: str, number: int) -> float:
    """Send a mail; when its last byte left."""
    client.mail("sender@example.com")
    client.rcpt(mailbox)
    client.docmd("DATA")
    client.send(b"Subject: %d\r\n\r\n%s\r\n.\r\n" % (number, b"x" * 70))
    ended = time.monotonic()
    client.getreply()
    return ended


def _bare_posts_per_s(sink_port: int) -> float:
    """The yardstick for delivering: our client alone, one thread, the same size of body."""
    session = guarded_session(TargetPolicy(LOOPBACK), 1, None)
    forwarder = Forwarder(session, DeadlineWatch(), 20, lambda: time.time_ns() // 1_000_000)
    body = json.dumps({"plain": "x" * MAIL_OCTETS}).encode()
    url = f"http://127.0.0.1:{sink_port}/"
    post = Post("bench", 1, url, new_signing_secret(), "application/json", body)
    started = time.monotonic()
    for _ in range(MAILS // 3):
        outcome = forwarder.send(post)
        if outcome.verdict is not Verdict.ACCEPTED:
            sys.exit(f"the sink failed: {outcome}")
    return MAILS / 3 / (time.monotonic() - started)


def _bare_receiver(options: tuple[str, ...]) -> float:
    """The yardstick for receiving: aiosmtpd alone, keeping nothing."""
    port = free_port()
    with running_module("bench.smtp_sink", port):
        started = time.monotonic()
        _smtp_source(port, "a@example.com", *options)
        return MAILS / (time.monotonic() - started)


def _print(
    kept: Burst,
    single: Burst,
    latency: list[float],
    memory: dict[str, Usage],
    plain_posts: float,
    bare_kept: float,
    bare_single: float,
) -> None:
    print(f"{MAILS} mails of {MAIL_OCTETS} octets, {SESSIONS} sessions, one receiver, one worker\n")
    print("| | kept-open connections | one connection a mail |\n|---|---|---|")
    print(f"| accepted a second | {kept.accepted_per_s:.0f} | {single.accepted_per_s:.0f} |")
    print(f"| delivered a second, end to end | {kept.delivered_per_s:.0f} | {single.delivered_per_s:.0f} |")
    print(f"| bare aiosmtpd, keeping nothing, a second | {bare_kept:.0f} | {bare_single:.0f} |")
    ratios = kept.accepted_per_s / bare_kept, single.accepted_per_s / bare_single
    print(f"| **accepted / bare aiosmtpd** | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    ratios = kept.delivered_per_s / plain_posts, single.delivered_per_s / plain_posts
    print(f"| **delivered / bare POST loop ({plain_posts:.0f}/s)** | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    for name in MEASURED:
        print(f"| CPU of {name}, ms a mail | {kept.cpu_ms[name]:.2f} | {single.cpu_ms[name]:.2f} |")
    percentiles = statistics.quantiles(latency, n=100)
    print(f"\nIdle latency, end of DATA to POST: p50 {percentiles[49]:.1f} ms, p99 {percentiles[98]:.1f} ms")
    shown = ", ".join(f"{name} {entry.rss_mb:.0f} MB" for name, entry in memory.items())
    print(f"Memory afterwards: {shown}")


def _cpu_count() -> int:
    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
