"""What RQ runs. A job names a kind of delivery and nothing else; the engine of its worker process does the work."""

from __future__ import annotations

from collections.abc import Callable

DRAIN_LIMIT_S = 30
"""A job that still finds work after this ends, so that RQ sees its worker alive, and rings for the next."""
DRAIN_TIMEOUT_S = 4 * DRAIN_LIMIT_S

_answer: Callable[[str], None] | None = None


def answer_with(answer: Callable[[str], None]) -> None:
    """Say what `drain` does in this process; a worker calls this once before it takes jobs."""
    global _answer
    _answer = answer


def drain(kind: str) -> None:
    """Deliver everything of a kind that is due. Raises `RuntimeError` in a process that is no worker."""
    if _answer is None:
        raise RuntimeError("this process is no Pillarbox worker")
    _answer(kind)
