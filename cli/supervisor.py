"""Keeps the processes of `pillarbox up` running: starts them, starts again what dies, stops them in order.

Written here because what is on offer does less or more: honcho stops everything when one process ends, and
supervisord wants a configuration file and a daemon.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

STOP_S = 9.0
"""Time for all processes together to end by themselves; then they are killed."""
POLL_S = 0.1
FIRST_RESTART_PAUSE_S = 0.2
LONGEST_RESTART_PAUSE_S = 5.0
STEADY_S = 5.0
"""A process that ran this long is started again after the first pause; one that dies sooner waits ever longer."""
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger("up")


@dataclass(frozen=True, slots=True)
class Program:
    """A process to keep running."""

    name: str
    command: Sequence[str]
    stop_order: int
    """Lower ends first; the next ones are asked only when these have ended."""
    orphan_signal: signal.Signals = signal.SIGTERM
    """What Linux sends it when we are killed."""


@dataclass(slots=True)
class _Running:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    pause_s: float = field(default=FIRST_RESTART_PAUSE_S)


class Supervisor:
    """Runs programs until it is told to stop."""

    def __init__(self, programs: Sequence[Program], environment: Mapping[str, str]) -> None:
        self._running = [_Running(program) for program in programs]
        self._environment = dict(environment)
        self._is_stopping = False

    def request_stop(self) -> None:
        """End `run` soon; for signal handlers."""
        self._is_stopping = True

    @property
    def is_stopping(self) -> bool:
        """Whether the end was asked for."""
        return self._is_stopping

    def watch_once(self, only: str = "") -> None:
        """Start each program that does not run and whose time has come; or just the one of that name."""
        for entry in self._running:
            if only in ("", entry.program.name):
                self._look_after(entry)

    def run(self, each_time: Callable[[], None]) -> None:
        """Look after the programs until asked to stop; after each look, call `each_time`."""
        while not self._is_stopping:
            self.watch_once()
            each_time()
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End all programs in their order, within `STOP_S` seconds."""
        deadline = time.monotonic() + STOP_S
        for order in sorted({entry.program.stop_order for entry in self._running}):
            group = [entry for entry in self._running if entry.program.stop_order == order]
            _signal(group, signal.SIGTERM)
            _wait(group, deadline)
        stubborn = [entry for entry in self._running if _is_alive(entry)]
        for entry in stubborn:
            log.warning("did not end in time; killed", name=entry.program.name)
            _kill_with_children(entry)
        _wait(stubborn, time.monotonic() + 1)

    def _spawn(self, entry: _Running) -> None:
        entry.started_at = time.monotonic()
        entry.restart_at = 0.0
        try:
            entry.process = subprocess.Popen(  # noqa: S603 (our own commands)
                entry.program.command,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in the terminal reaches us only, and we end the others in order
                preexec_fn=_die_with_us(entry.program.orphan_signal) if sys.platform == "linux" else None,
            )
        except OSError as error:  # out of memory or processes: the others must not end for it
            self._postpone(entry, entry.started_at)
            log.error("cannot be started now", name=entry.program.name, reason=str(error), in_s=entry.pause_s)
            return
        log.debug("started", name=entry.program.name, pid=entry.process.pid)

    def _look_after(self, entry: _Running) -> None:
        now = time.monotonic()
        if entry.process is not None and entry.process.poll() is not None:
            self._plan_restart(entry, now)
        if entry.process is None and now >= entry.restart_at:
            self._spawn(entry)

    def _plan_restart(self, entry: _Running, now: float) -> None:
        assert entry.process is not None
        self._postpone(entry, now)
        log.warning(
            "ended; starting again",
            name=entry.program.name,
            code=entry.process.returncode,
            in_s=round(entry.pause_s, 1),
        )
        entry.process = None

    def _postpone(self, entry: _Running, now: float) -> None:
        was_steady = now - entry.started_at > STEADY_S
        entry.pause_s = FIRST_RESTART_PAUSE_S if was_steady else min(entry.pause_s * 2, LONGEST_RESTART_PAUSE_S)
        entry.restart_at = now + entry.pause_s


def _is_alive(entry: _Running) -> bool:
    return entry.process is not None and entry.process.poll() is None


def _signal(entries: Sequence[_Running], signum: signal.Signals) -> None:
    for entry in entries:
        if _is_alive(entry) and entry.process is not None:
            entry.process.send_signal(signum)


def _wait(entries: Sequence[_Running], deadline: float) -> None:
    for entry in entries:
        if entry.process is None:
            continue
        try:
            entry.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return


def _kill_with_children(entry: _Running) -> None:
    """Each program is the leader of its own process group; the web server has children."""
    assert entry.process is not None
    with suppress(ProcessLookupError):
        os.killpg(entry.process.pid, signal.SIGKILL)


def _die_with_us(signum: signal.Signals) -> Callable[[], None]:
    """Have Linux signal the child when we are killed, so that nothing is left running alone (prctl(2))."""
    our_pid = os.getpid()

    def in_child() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != our_pid:  # we were killed before that took effect
            os._exit(1)

    return in_child


def pillarbox_command(*arguments: str) -> list[str]:
    """The command line of another of our processes."""
    # -P: a folder called `cli` or `core` where somebody happens to stand is not ours.
    return [sys.executable, "-P", "-m", "cli.main", *arguments]


def child_environment() -> dict[str, str]:
    """Our environment, with memory returned to the system: many threads, few malloc arenas."""
    return {"MALLOC_ARENA_MAX": "2", **os.environ}
