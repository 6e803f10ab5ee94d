"""HAProxy in front of a receiver, as an installation has it: plain TCP, the client's address in a PROXY header."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port
from tests.programs import need_program

START_S = 10.0
_CONFIGURATION = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen mail
    bind 127.0.0.1:{port}
    option smtpchk EHLO haproxy.example
    server receiver 127.0.0.1:{receiver_port} {options} check inter 100ms
"""


@contextmanager
def running_haproxy(folder: Path, receiver_port: int, options: str) -> Iterator[int]:
    """HAProxy with these options (`send-proxy` or `send-proxy-v2`) on its server line; gives the port to connect to."""
    program = need_program("haproxy")
    port = free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(_CONFIGURATION.format(port=port, receiver_port=receiver_port, options=options))
    process = subprocess.Popen([program, "-db", "-q", "-f", configuration])
    try:
        _wait_until_listening(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(5)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "haproxy ended at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("haproxy does not listen")
