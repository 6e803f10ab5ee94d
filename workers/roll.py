"""Who works on this machine: each worker keeps a file locked while it lives, and the living bury the dead.

The kernel drops a lock when its process ends, however it ends. So a lock that can be had proves that its worker is
gone with everything it had in hand, and what it had leased can be given out again at once, not when the leases end:
until then they would also count against their target's share, and a crash would hold up a customer's mail for long.

Where files cannot be locked, or workers have no folder in common, the leases do run out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import structlog

from core.ids import new_worker_id

SUFFIX = ".alive"

log = structlog.get_logger("worker")


class WorkerRoll:
    """A folder with a file for each worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: int | None = None

    def sign_in(self) -> str:
        """Make an id for this process and hold its file until the process ends."""
        worker_id = new_worker_id()
        unseen = self._folder / f".{worker_id}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._held = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unseen.rename(self._path(worker_id))  # visible only when locked: nobody may take us for dead
        except OSError as error:
            log.warning("no lock can be held; after a crash leases must run out", reason=str(error))
        return worker_id

    def bury_the_dead(self, release: Callable[[str], int]) -> None:
        """Call `release` with the id of each worker that ended. It raises what `release` raises."""
        for worker_id, path in self._others():
            descriptor = _lock_of_the_dead(path)
            if descriptor is None:
                continue
            try:
                released = release(worker_id)
                with suppress(OSError):  # a folder that is read-only now: the next to start finds nothing to release
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
            if released:
                log.warning("released what a dead worker had in hand", deliveries=released)

    def sign_out(self, worker_id: str) -> None:
        """Leave no file behind."""
        with suppress(OSError):
            self._path(worker_id).unlink(missing_ok=True)

    def _others(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            yield path.name.removesuffix(SUFFIX), path

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}{SUFFIX}"


def _lock_of_the_dead(path: Path) -> int | None:
    """The lock of a file whose worker has ended; None while it lives, or when somebody else buries it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
