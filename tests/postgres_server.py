"""A private PostgreSQL server for tests: its own cluster in a temporary folder, on a Unix socket only."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import need_program

ROOT = 0


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server and give the URL of its first database; stop and remove it afterwards."""
    initdb = Path(need_program("initdb"))
    folder = Path(tempfile.mkdtemp(prefix="pillarbox-pg-"))
    try:
        as_user = _unprivileged(folder)
        subprocess.run([*as_user, initdb, "-D", folder / "db", "-A", "trust", "-U", "postgres", "-N"],
                       check=True, capture_output=True, cwd="/")  # fmt: skip
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections=200"
        control = [*as_user, initdb.with_name("pg_ctl"), "-D", folder / "db", "-w"]
        subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], check=True, capture_output=True, cwd="/")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True, cwd="/")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: as root, run it as Debian's `postgres`."""
    if os.geteuid() != ROOT:
        return []
    shutil.chown(folder, "postgres")
    return ["runuser", "-u", "postgres", "--"]
