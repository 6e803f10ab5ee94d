"""Every example of docs/api.md runs, in order, with curl against a live server, and gives what the page shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import SimpleWorker

from core.services.accounts import NewAccount
from core.setting_values import Listen
from core.store.db import Database
from tests.api_support import Api, api_settings
from tests.dns_server import running_dns
from tests.programs import find_program, missing
from tests.submission_support import TestAcceptor, running_listener
from tests.test_api_health import receiver, redis_url, worker  # noqa: F401 (fixtures)
from tests.web_process import WebProcess, running_web

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text("utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CURL = r"""
curl() { command curl --silent --show-error --write-out '%{stderr}STATUS %{http_code}\n' "$@"; }
"""
"""Has each call report its status on standard error, beside everything the page's own options do."""


@pytest.fixture
def web(
    tmp_path: Path,
    database_url: str,
    redis_url: str,  # noqa: F811
    receiver: Listen,  # noqa: F811
    worker: SimpleWorker,  # noqa: F811
) -> Iterator[WebProcess]:
    submission = running_listener(tmp_path / "submission", database_url, TestAcceptor())
    with running_dns() as dns, submission as listening:
        dns.records = {"example.com": ["10 mx.pillarbox.test."], "example.org": ["10 mail.example.net."]}
        environment = {
            "PILLARBOX_MX_CHECK": "on",
            "PILLARBOX_RESOLVER": f"127.0.0.1:{dns.port}",
            "PILLARBOX_SMTP": str(receiver),
            "PILLARBOX_SUBMISSION": listening.submission,
            "PILLARBOX_SUBMISSION_TLS": listening.submission_tls,
            "REDIS_URL": redis_url,
        }
        with running_web(tmp_path / "data", database_url, **environment) as server:
            yield server


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_example_gives_what_the_page_shows(
    database: Database, account: NewAccount, tmp_path: Path, web: WebProcess
) -> None:
    for program in ("bash", "curl", "jq"):
        if find_program(program) is None:
            missing(f"{program} is not installed")
    api = Api(database, account, api_settings(tmp_path))
    api.receive_and_attempt(api.new_address(), 404)
    credentials = {"account_id": account.account_id, "api_key": account.api_key, "api_url": web.url}
    (tmp_path / "data" / "credentials.json").write_text(json.dumps(credentials))
    results = run_blocks(tmp_path)
    assert len(results) == sum(kind == "bash" for kind, _ in BLOCKS)
    for block, output, statuses, documented in results:
        answers = read_answers(output)
        wanted = 422 if documented is not None and '"status": 422' in documented else None
        assert statuses, f"nothing was asked by {block}"
        assert all(status == wanted if wanted else status < 300 for status in statuses), f"{statuses}: {block}{output}"
        if documented is not None:
            assert shape(answers[0]) == shape(json.loads(documented)), f"{block}{output}"
            assert wanted is None or answers[0] == json.loads(documented)


def run_blocks(folder: Path) -> list[tuple[str, str, list[int], str | None]]:
    """Each bash block with its output, the HTTP statuses, and the JSON block behind it, if any."""
    texts = [text for kind, text in BLOCKS if kind == "bash"]
    marked = "".join(f"{text}\necho; echo @@@; echo @@@ >&2\n" for text in texts)
    script = f"set -eo pipefail\n{CURL}{marked}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outputs, errors = done.stdout.split("@@@\n")[:-1], done.stderr.split("@@@\n")[:-1]
    statuses = [[int(code) for code in re.findall(r"STATUS (\d+)", text)] for text in errors]
    return list(zip(texts, outputs, statuses, documented_answers(), strict=True))


def documented_answers() -> list[str | None]:
    """For each bash block the JSON block that follows it."""
    kinds, texts = zip(*BLOCKS, strict=True)
    following = zip((*kinds[1:], ""), (*texts[1:], ""), strict=True)
    pairs = zip(kinds, following, strict=True)
    return [text if next_kind == "json" else None for kind, (next_kind, text) in pairs if kind == "bash"]


def read_answers(output: str) -> list[Any]:
    """The JSON values in an output, one behind the other; none when it is something else."""
    decoder = json.JSONDecoder()
    found: list[Any] = []
    rest = output.strip()
    while rest.startswith(("{", "[")):
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].strip()
    return found


def shape(value: Any) -> Any:
    """Names and kinds of values, without the values; null and text are the same kind."""
    if isinstance(value, dict):
        return {name: shape(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [shape(entry) for entry in value[:1]]
    return "text" if value is None or isinstance(value, str) else type(value).__name__
