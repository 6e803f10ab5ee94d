"""Packages from npm, installed once for each test session, for tests that drive a vendor's own client."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.programs import missing, need_program

INSTALL_TIMEOUT_S = 120


def install_npm(folder: Path, *packages: str) -> Path:
    """A folder in whose scripts these packages (`name@version`) can be required. The test ends here without npm."""
    command = [need_program("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run([*command, *packages], capture_output=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        missing(f"npm gives no answer for {', '.join(packages)}")
        raise
    if done.returncode != 0:
        missing(f"npm cannot install {', '.join(packages)}: {done.stderr.decode()[-500:]}")
    return folder
