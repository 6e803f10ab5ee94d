"""A short run of the coverage-guided fuzzer over all that reads mail; `tests/fuzz/fuzz_parse.py` does longer ones."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import missing

PROJECT = Path(__file__).parents[1]
SECONDS = {"message": 5, "winmail": 2, "html": 2, "rtf": 2, "reply": 2}
"""How long each target is run."""
LEAST_RUNS = 200
"""Fewer would mean that the fuzzer did not work; a slow machine does some thousand."""


@pytest.mark.parametrize("target", SECONDS)
def test_the_fuzzer_finds_nothing_in_a_few_seconds(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        missing("atheris is not installed (there is no wheel of it for this system)")
    command = [sys.executable, "-m", "tests.fuzz.fuzz_parse", target, str(tmp_path / "corpus")]
    command += [f"-max_total_time={SECONDS[target]}", "-seed=7", "-print_final_stats=1"]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-3000:] + run.stdout[-3000:]
    runs = re.search(r"number_of_executed_units:\s*(\d+)", run.stderr)
    assert runs is not None
    assert int(runs[1]) > LEAST_RUNS
