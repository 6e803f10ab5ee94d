"""How many files a process may have open: each SMTP connection is one."""

from __future__ import annotations

import resource
from contextlib import suppress

WANTED_OPEN_FILES = 65_536


def raise_open_file_limit() -> None:
    """Raise our own limit as far as we may; the usual 1,024 is fewer than the connections we allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(WANTED_OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):  # macOS refuses more than a limit that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
