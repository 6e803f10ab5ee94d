"""A private PostgreSQL server for tests: its own cluster in a temporary folder, on a Unix socket only."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.programs import need_program

ROOT = 0
UNICODE = ("-E", "UTF8", "--locale=C.UTF-8")  # whatever the environment says: searches fold case by it


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that can be stopped and started."""

    url: str
    control: tuple[str, ...]
    """`pg_ctl` with what it needs to find this server."""
    options: tuple[str, ...]

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        subprocess.run([*self.control, *self.options, "start"], check=True, capture_output=True, cwd="/")

    def stop(self) -> None:
        """Stop without a goodbye to anyone; committed data survive."""
        subprocess.run([*self.control, "-m", "immediate", "stop"], check=False, capture_output=True, cwd="/")


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server and give the URL of its first database; stop and remove it afterwards."""
    with stoppable_postgres() as server:
        yield server.url


@contextmanager
def stoppable_postgres(listen: tuple[str, int] | None = None) -> Iterator[PostgresServer]:
    """The same, with the server in hand; with an address and a port, its URL leads there."""
    initdb = Path(need_program("initdb"))
    folder = Path(tempfile.mkdtemp(prefix="pillarbox-pg-"))
    try:
        as_user = _unprivileged(folder)
        subprocess.run([*as_user, initdb, "-D", folder / "db", "-A", "trust", "-U", "postgres", "-N", *UNICODE],
                       check=True, capture_output=True, cwd="/")  # fmt: skip
        address, port = listen or ("", 5432)
        where = f"-c listen_addresses='{address}' -c port={port} -c unix_socket_directories={folder}"
        settings = f"{where} -c max_connections=200"
        server = PostgresServer(
            url=f"postgresql://postgres@{f'{address}:{port}/postgres' if listen else f'/postgres?host={folder}'}",
            control=(*as_user, str(initdb.with_name("pg_ctl")), "-D", str(folder / "db"), "-w"),
            options=("-o", settings, "-l", str(folder / "log")),
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: as root, run it as Debian's `postgres`."""
    if os.geteuid() != ROOT:
        return []
    shutil.chown(folder, "postgres")
    return ["runuser", "-u", "postgres", "--"]
