"""The README's commands, run as a newcomer would: the tour against a real `pillarbox up`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.programs import need_program

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
READY_LINE = "Pillarbox is ready."


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which `pillarbox up` runs, with ports of its own."""
    http, smtp = free_port(), free_port()
    environment = {
        **os.environ,
        "PILLARBOX_HTTP": f"127.0.0.1:{http}",
        "PILLARBOX_SMTP": f"127.0.0.1:{smtp}",
        "PILLARBOX_SUBMISSION": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION_TLS": f"127.0.0.1:{free_port()}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "up"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(READY_LINE in line for line in process.stdout), "`up` ended before it was ready"
        (tmp_path / "ports").write_text(f"{http} {smtp}")
        yield tmp_path
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(12) == 0


def test_the_tour_does_what_it_says(folder: Path) -> None:
    need_program("curl")
    http, smtp = (folder / "ports").read_text().split()
    script = "\necho ==STEP==\n".join(re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    script = script.replace("127.0.0.1:8080", f"127.0.0.1:{http}").replace("127.0.0.1:2525", f"127.0.0.1:{smtp}")

    ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
    _, created, sent, status, failing, replayed, sent_ourselves = ran.stdout.split("==STEP==")
    assert json.loads(created)["target_format"] == "json+n"
    assert sent.strip() == ""
    assert [(entry["status"], entry["subject"]) for entry in json.loads(status)] == [(200, "Hello")]
    (delayed,) = _last_json(failing)
    assert (delayed["status"], delayed["subject"], delayed["attempts"]) == (500, "Once more", 1)
    assert delayed["next_attempt_at"]
    (mended,) = _last_json(replayed)
    assert (mended["status"], mended["state"], mended["attempts"]) == (200, "delivered", 2)
    accepted, outbound, incoming = _all_json(sent_ourselves)
    assert [recipient["last_event"] for recipient in outbound[0]["recipients"]] == ["delivery"]
    assert (outbound[0]["id"], incoming[0]["status"]) == (accepted["id"], 200)


def test_every_page_the_readme_points_to_exists() -> None:
    pages = re.findall(r"\]\(((?:docs/)?[A-Za-z.]+)\)", README)
    assert len(pages) > 8
    assert [page for page in pages if not (ROOT / page).is_file()] == []


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def _last_json(output: str) -> list[dict[str, Any]]:
    """The last of several JSON documents that follow each other."""
    found = _all_json(output)[-1]
    assert isinstance(found, list)
    return found


def _all_json(output: str) -> list[Any]:
    """All JSON documents that follow each other."""
    decoder = json.JSONDecoder()
    position, found = 0, []
    text = output.strip()
    while position < len(text):
        document, position = decoder.raw_decode(text, position)
        found.append(document)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found
