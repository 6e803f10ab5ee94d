"""Commands in the documentation: those of pages that have no test of their own are run here, and none is left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from core.clock import system_clock
from core.services.accounts import create_account
from core.store.db import Database
from tests.programs import need_program
from tests.test_api_docs import CURL
from tests.web_process import running_web
from tests.zone_server import running_zone

ROOT = Path(__file__).parents[1]
RUN_HERE = ("sending-domains.md", "bounces.md", "protection.md")
RUN_ELSEWHERE = {
    ("README.md", "bash"): "test_readme.py",
    ("README.md", "sh"): "test_readme.py",
    ("api.md", "bash"): "test_api_docs.py",
    ("delivery.md", "python"): "test_delivery_docs.py",
    ("events.md", "bash"): "test_events_docs.py",
    ("events.md", "javascript"): "test_events_docs.py",
    ("events.md", "python"): "test_events_docs.py",
    ("modes.md", "bash"): "test_modes_docs.py",
    ("modes.md", "python"): "test_modes_docs.py",
    ("operations.md", "bash"): "test_operations_docs.py",
    ("operations.md", "sh"): "test_operations_docs.py",
    ("payloads.md", "python"): "test_payload_docs.py",
    ("scanning.md", "sh"): "test_scanning_docs.py",
    ("sending.md", "bash"): "test_sending_guide.py",
    ("sending.md", "js"): "test_sending_guide.py",
    ("submission.md", "cf"): "test_submission_docs.py",
    ("submission.md", "js"): "test_submission_docs.py",
    ("submission.md", "python"): "test_submission_docs.py",
    ("submission.md", "sh"): "test_submission_docs.py",
}
"""A page and a language of its examples, and the test that runs them (or, for `sh`, reads what they set)."""
ANSWERS = {"json", "form", "eml"}
TIMEOUT_S = 60


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_every_example_of_every_page_is_run_by_a_test() -> None:
    found = {(page.name, language) for page in pages() for language, _ in blocks(page)}
    commands = {(name, language) for name, language in found if language and language not in ANSWERS}
    assert commands == {*RUN_ELSEWHERE, *((name, "bash") for name in RUN_HERE)}
    for (name, _), test in RUN_ELSEWHERE.items():
        assert name in (ROOT / "tests" / test).read_text("utf-8"), (name, test)


def test_what_has_no_language_is_no_command() -> None:
    """So that no command hides from the test above."""
    first_words = {
        text.split()[0] for page in pages() for language, text in blocks(page) if not language and text.strip()
    }
    assert first_words.isdisjoint({"curl", "pillarbox", "make", "export", "python3", "swaks", "jq"})


@pytest.mark.parametrize("name", RUN_HERE)
def test_the_commands_of_a_page_work(name: str, tmp_path: Path) -> None:
    for program in ("curl", "jq"):
        need_program(program)
    url = f"sqlite:///{tmp_path / 'docs.sqlite3'}"
    database = Database(url)
    database.migrate()
    account = create_account(database, "docs", system_clock())
    database.close()
    script = "".join(text for language, text in blocks(ROOT / "docs" / name) if language == "bash")
    with (
        running_zone() as zone,
        running_web(tmp_path / "data", url, PILLARBOX_RESOLVER=f"127.0.0.1:{zone.port}") as web,
    ):
        given = {
            "API": f"{web.url}/api/v0.1/{account.account_id}",
            "AUTH": f"Authorization: Bearer {account.api_key}",
        }
        done = subprocess.run(
            ["bash", "-c", f"set -eo pipefail\n{CURL}{script}"],
            cwd=tmp_path, env={**os.environ, **given}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [int(status) for status in re.findall(r"STATUS (\d+)", done.stderr)]
    assert len(statuses) == script.count("curl "), done.stderr
    assert all(status < 300 for status in statuses), done.stdout + done.stderr
    if name == "sending-domains.md":
        checks = json.loads(done.stdout[done.stdout.rindex("\n{\n") :])
        assert checks["dkim"]["state"] == "missing"
