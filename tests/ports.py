"""Ports for servers that tests start: no two test processes, and no outgoing connection, get the same."""

from __future__ import annotations

import itertools
import os
import socket

FIRST_PORT = 20_000
PORTS_PER_PROCESS = 1_000  # below the range the kernel takes for outgoing connections (32768 upwards on Linux)

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_first = FIRST_PORT + (_worker % 10) * PORTS_PER_PROCESS
_start = os.getpid() * 37 % PORTS_PER_PROCESS  # apart from another run of the tests at the same time
_candidates = itertools.cycle([_first + (_start + step) % PORTS_PER_PROCESS for step in range(PORTS_PER_PROCESS)])


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    for port in itertools.islice(_candidates, PORTS_PER_PROCESS):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise RuntimeError("no free port is left")
