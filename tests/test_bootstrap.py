"""What `make up` and `make test` do before Python packages are there. Nothing is installed here: pip is a stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "deploy").glob("*.sh"))
MAKE_VENV = ROOT / "deploy" / "make-venv.sh"
TEST_PROGRAMS = ROOT / "deploy" / "test-programs.sh"
# In place of a virtual environment's Python: notes what pip is asked to do.
FAKE_PYTHON = '#!/bin/sh\necho "$*" >> "$CALLS"\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is the whole PATH, with the few programs that every system has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("rm", "mkdir", "cp", "chmod", "ls", "tail", "sh"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run(path: Path, *arguments: str, programs: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(programs), "CALLS": str(programs.parent / "calls")}
    return subprocess.run(
        ["/bin/sh", str(path), *arguments], env=environment, cwd=programs.parent, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip


def calls(programs: Path) -> list[str]:
    return (programs.parent / "calls").read_text().splitlines()


def python_that_makes(programs: Path, venv_works: bool) -> Path:
    """A Python 3.11 whose `venv` module works or is missing, as on Debian without python3-venv."""
    made = 'rm -rf "$4"; mkdir -p "$4/bin"; cp "$FAKE" "$4/bin/python"' if venv_works else 'mkdir -p "$4/bin"; exit 1'
    fake = programs.parent / "fake-python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    return script(
        programs / "python3.99", f'FAKE={fake}; if [ "$2" = venv ]; then {made}; else exec {sys.executable} "$@"; fi'
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_plain_shell(path: Path) -> None:
    assert subprocess.run(["/bin/sh", "-n", str(path)], capture_output=True).returncode == 0
    assert path.read_text().startswith("#!/bin/sh\n")
    assert "set -eu" in path.read_text()


def test_a_python_that_is_too_old_is_named_with_its_version(programs: Path) -> None:
    old = script(programs / "python3", 'if [ "$1" = --version ]; then echo Python 3.8.10; else exit 1; fi')
    done = run(MAKE_VENV, str(old), "venv", "lock", programs=programs)
    assert done.returncode == 1
    assert done.stderr.startswith("Pillarbox needs Python 3.11 or newer;")
    assert "Python 3.8.10" in done.stderr
    assert not (programs.parent / "venv").exists()


def test_a_python_that_is_missing_is_named(programs: Path) -> None:
    done = run(MAKE_VENV, "python3", "venv", "lock", programs=programs)
    assert done.returncode == 1
    assert "There is no python3 here" in done.stderr


def test_an_environment_is_made_once_and_brought_up_to_date_each_time(programs: Path) -> None:
    python = python_that_makes(programs, venv_works=True)
    first = run(MAKE_VENV, str(python), "venv", "some.lock", programs=programs)
    assert first.returncode == 0, first.stderr
    assert "Making the virtual environment venv" in first.stdout
    assert "--require-hashes -r some.lock" in calls(programs)[-2]
    assert calls(programs)[-1].endswith("-e .")

    second = run(MAKE_VENV, str(python), "venv", "some.lock", programs=programs)
    assert second.returncode == 0
    assert "Making" not in second.stdout
    assert len([call for call in calls(programs) if "--require-hashes" in call]) == 2


def test_an_environment_whose_python_is_gone_is_made_again(programs: Path) -> None:
    python = python_that_makes(programs, venv_works=True)
    broken = programs.parent / "venv" / "bin"
    broken.mkdir(parents=True)
    (broken / "python").symlink_to("/none/python3")
    script(broken / "pip", "exit 0")
    done = run(MAKE_VENV, str(python), "venv", "some.lock", programs=programs)
    assert done.returncode == 0, done.stderr
    assert "Making" in done.stdout


def test_without_the_venv_module_the_cure_is_named_and_nothing_half_made_is_left(programs: Path) -> None:
    done = run(MAKE_VENV, str(python_that_makes(programs, venv_works=False)), "venv", "lock", programs=programs)
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (programs.parent / "venv").exists()


@pytest.mark.parametrize("tool", ["uv", "virtualenv"])
def test_without_the_venv_module_another_tool_serves(programs: Path, tool: str) -> None:
    python = python_that_makes(programs, venv_works=False)
    fake = programs.parent / "fake-python"
    script(programs / tool, f'echo {tool} "$@" >> "$CALLS"; mkdir -p venv/bin; cp {fake} venv/bin/python')
    done = run(MAKE_VENV, str(python), "venv", "lock", programs=programs)
    assert done.returncode == 0, done.stderr
    assert any(call.startswith(f"{tool} ") and call.endswith(" venv") for call in calls(programs))


def test_where_nothing_is_missing_nothing_is_installed(programs: Path) -> None:
    done = run(TEST_PROGRAMS, "sh ls", "some-package", programs=programs)
    assert (done.returncode, done.stdout) == (0, "")


def test_without_root_or_apt_the_missing_programs_are_only_named(programs: Path) -> None:
    script(programs / "id", "echo 1000")
    script(programs / "apt-get", 'echo "$@" >> "$CALLS"')
    done = run(TEST_PROGRAMS, "sh none-such", "some-package", programs=programs)
    assert done.returncode == 0
    assert done.stdout == "Not installed, so their tests will be skipped: none-such\n"
    assert not (programs.parent / "calls").exists()


@pytest.mark.parametrize("status", [0, 100])
def test_as_root_the_packages_are_installed_and_a_failure_is_no_end(programs: Path, status: int) -> None:
    script(programs / "id", "echo 0")
    script(programs / "apt-get", f'echo "$@" >> "$CALLS"; exit {status}')
    done = run(TEST_PROGRAMS, "none-such", "one two", programs=programs)
    assert done.returncode == 0
    assert calls(programs)[0] == "update -qq"
    assert ("They could not be installed" in done.stdout) == (status != 0)
    assert (calls(programs)[-1].endswith("--no-install-recommends one two")) == (status == 0)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_knows_what_up_and_test_need() -> None:
    done = subprocess.run(
        ["make", "-n", "-B", "up", "test"], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert "sh deploy/make-venv.sh python3 .venv requirements.lock" in done.stdout
    assert "sh deploy/make-venv.sh python3 .venv requirements-dev.lock" in done.stdout
    assert done.stdout.index("make-venv.sh") < done.stdout.index(".venv/bin/pillarbox up")
    assert "sh deploy/test-programs.sh" in done.stdout
