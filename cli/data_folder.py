"""The data folder: made once, private, and used by one `pillarbox up` at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import ConfigurationError

PRIVATE_FOLDER_MODE = 0o700
CREDENTIALS_FILE = "credentials.json"
LOCK_FILE = "up.lock"


def make_data_folder(folder: Path) -> None:
    """Make the folder and its parents, unless they are there. Raises `ConfigurationError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER_MODE)
    except OSError as error:
        raise ConfigurationError(
            f"PILLARBOX_DATA: the folder {folder} cannot be made ({error.strerror}); name one that we may write to"
        ) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(f"PILLARBOX_DATA: the folder {folder} may not be written to; check its owner")


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Hold the folder for ourselves. The kernel lets go of it when we end, however we end.

    Two on one folder would take each other's private Redis away. Raises `ConfigurationError`.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"PILLARBOX_DATA: another `pillarbox up` runs on {folder}; stop it, or name another folder"
            ) from error
        yield
    finally:
        os.close(descriptor)
