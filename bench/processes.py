"""Starting what is measured, and reading from /proc what it cost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time and memory of a process."""

    cpu_s: float
    rss_mb: float


def usage(pid: int) -> Usage:
    """User and system time so far, and the resident memory now; children that still run are counted in."""
    pids = [pid, *_children(pid)]
    return Usage(sum(_cpu_s(each) for each in pids), sum(_rss_mb(each) for each in pids))


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _rss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


@contextmanager
def running_module(name: str, port: int) -> Iterator[int]:
    """Run one of the sinks; gives its pid."""
    process = subprocess.Popen([sys.executable, "-m", name, str(port)])
    try:
        wait_for_port(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for_port(port: int) -> None:
    """Until something listens there. Raises `RuntimeError` when nothing does within ten seconds."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def sink_count(port: int) -> tuple[int, float]:
    """How many POSTs the HTTP sink has answered, and when the last came (`time.monotonic`)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/count", timeout=10) as answer:
        count, last_at = answer.read().split()
    return int(count), float(last_at)
