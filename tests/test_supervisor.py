"""The supervisor behind `pillarbox up`, with small real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cli.supervisor
from cli.supervisor import FIRST_RESTART_PAUSE_S, LONGEST_RESTART_PAUSE_S, Program, Supervisor, child_environment
from tests.up_process import wait_until

NOTE = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); "
ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where programs note their pids; whatever still runs afterwards is killed."""
    yield tmp_path
    for note in tmp_path.glob("*.pids"):
        for pid in pids(note):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def program(folder: Path, name: str, code: str, stop_order: int = 0) -> Program:
    """A Python program that notes its pid and then does as told."""
    return Program(name, [sys.executable, "-c", NOTE + code, str(folder / f"{name}.pids")], stop_order)


def pids(note: Path) -> list[int]:
    return [int(line) for line in note.read_text().split()] if note.exists() else []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def watch_until(supervisor: Supervisor, condition: Callable[[], bool], timeout: float = 20.0) -> None:
    def look() -> bool:
        supervisor.watch_once()
        return condition()

    wait_until(look, timeout)


def test_what_is_killed_is_started_again(folder: Path) -> None:
    supervisor = Supervisor([program(folder, "a", "time.sleep(60)")], os.environ)
    watch_until(supervisor, lambda: len(pids(folder / "a.pids")) == 1)

    os.kill(pids(folder / "a.pids")[0], signal.SIGKILL)
    watch_until(supervisor, lambda: len(pids(folder / "a.pids")) == 2)

    supervisor.stop()
    assert not any(map(is_alive, pids(folder / "a.pids")))


def test_what_ends_at_once_waits_ever_longer_and_what_ran_steadily_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr(cli.supervisor.time, "monotonic", lambda: now)  # the supervisor's clock only counts here
    supervisor = Supervisor([program(folder, "a", "pass")], os.environ)
    pauses = []
    for _ in range(8):
        supervisor.watch_once()
        (entry,) = supervisor._running
        assert entry.process is not None
        entry.process.wait()
        supervisor.watch_once()
        pauses.append(round(entry.restart_at - now, 3))
        now = entry.restart_at
    assert pauses[:4] == [0.4, 0.8, 1.6, 3.2]
    assert pauses[-1] == LONGEST_RESTART_PAUSE_S

    supervisor.watch_once()
    assert entry.process is not None
    entry.process.wait()
    now += cli.supervisor.STEADY_S + 1
    supervisor.watch_once()
    assert entry.restart_at - now == pytest.approx(FIRST_RESTART_PAUSE_S)


def test_a_program_that_cannot_be_started_does_not_end_the_others(folder: Path) -> None:
    missing = Program("missing", [str(folder / "none")], 0)
    supervisor = Supervisor([missing, program(folder, "a", "time.sleep(60)")], os.environ)
    watch_until(supervisor, lambda: len(pids(folder / "a.pids")) == 1)
    supervisor.stop()
    assert not any(map(is_alive, pids(folder / "a.pids")))


def test_one_program_can_be_started_before_the_others(folder: Path) -> None:
    supervisor = Supervisor([program(folder, name, "time.sleep(60)") for name in "ab"], os.environ)
    supervisor.watch_once(only="b")
    wait_until(lambda: bool(pids(folder / "b.pids")), 20)
    assert not pids(folder / "a.pids")
    supervisor.stop()


NOTE_THE_END = """import signal
def end(*_):
    time.sleep({pause})
    open({order!r}, "a").write("{name} ")
    sys.exit()
signal.signal(signal.SIGTERM, end)
open(sys.argv[1] + ".ready", "w")
time.sleep(60)"""


def test_programs_end_in_their_order(folder: Path) -> None:
    order = str(folder / "order")
    programs = [
        program(folder, "last", NOTE_THE_END.format(order=order, name="last", pause=0), stop_order=1),
        program(folder, "first", NOTE_THE_END.format(order=order, name="first", pause=0.3), stop_order=0),
    ]
    supervisor = Supervisor(programs, os.environ)
    watch_until(supervisor, lambda: len(list(folder.glob("*.ready"))) == 2)
    supervisor.stop()
    assert Path(order).read_text() == "first last "


def test_what_will_not_end_is_killed_in_time_with_its_children(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.supervisor, "STOP_S", 0.5)
    stubborn = (
        "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)']); "
        "open(sys.argv[1], 'a').write(f'{child.pid}\\n'); time.sleep(60)"
    )
    supervisor = Supervisor([program(folder, "a", stubborn)], os.environ)
    watch_until(supervisor, lambda: len(pids(folder / "a.pids")) == 2)
    begun = time.monotonic()
    supervisor.stop()
    wait_until(lambda: not any(map(is_alive, pids(folder / "a.pids"))), 2)
    assert time.monotonic() - begun < 2


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_nothing_outlives_a_supervisor_that_is_killed(folder: Path) -> None:
    code = (
        "import os, sys; from cli.supervisor import Program, Supervisor; "
        "supervisor = Supervisor([Program('a', [sys.executable, '-c', sys.argv[1], sys.argv[2]], 0)], os.environ); "
        "supervisor.run(lambda: None)"
    )
    arguments = [sys.executable, "-c", code, NOTE + "time.sleep(60)", str(folder / "a.pids")]
    with subprocess.Popen(arguments, cwd=ROOT) as supervisor:
        wait_until(lambda: bool(pids(folder / "a.pids")), 20)
        supervisor.kill()
    wait_until(lambda: not is_alive(pids(folder / "a.pids")[0]), 5)


def test_the_environment_of_children_is_ours_and_saves_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SETTING", "kept")
    assert child_environment()["SOME_SETTING"] == "kept"
    assert child_environment()["MALLOC_ARENA_MAX"] == "2"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    assert child_environment()["MALLOC_ARENA_MAX"] == "8"
