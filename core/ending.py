"""The end of a process whose threads may hang in calls to others: what they hold is in the database, under leases."""

from __future__ import annotations

import os
import sys


def end_without_waiting_for_threads(status: int = 0) -> None:
    """Exit; the interpreter's own way would wait for every thread of a pool."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
