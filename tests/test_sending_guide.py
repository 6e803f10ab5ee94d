"""Every example of docs/sending.md runs, in order, against a live server, and gives what the page shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import Settings
from core.services.idempotency import KEPT_MS, MAX_KEY_LENGTH
from core.services.layouts import MAX_LAYOUTS
from outbound.composing.attachment_rules import FORBIDDEN_EXTENSIONS
from outbound.composing.control_headers import MAX_TAGS
from outbound.composing.layouts import MAX_LAYOUT_LENGTH
from tests.gateway import Gateway, running_gateway
from tests.npm_packages import install_npm
from tests.programs import need_program
from tests.test_api_docs import CURL, read_answers, shape
from tests.test_messages_node import CLIENT
from web.api.message_models import MAX_METADATA, MAX_METADATA_LENGTH, MAX_SCHEDULE_DAYS, MessageBody
from web.api.messages import BODY_SLACK_BYTES

PAGE = (Path(__file__).parents[1] / "docs" / "sending.md").read_text("utf-8")
TEXT = " ".join(PAGE.split())
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = [text for kind, text in BLOCKS if kind == "bash"]
TIMEOUT_S = 120
SHOWN_ADDRESS = "aaaa740b4c5c37b1aaaa"
PATIENT_SLEEP = """
sleep() {
  for TURN in $(seq 200); do
    [ "$(command curl -s "$API/outbound_messages?query=state:pending" -H "$AUTH")" = "[]" ] && return
    command sleep 0.1
  done
}
"""
"""A machine that is busy with tests may take longer than the page's second; nothing else is pending at those places."""


def documented() -> list[str | None]:
    """For each bash block the JSON block that follows it."""
    following = [*BLOCKS[1:], ("", "")]
    return [
        after[1] if after[0] == "json" else None
        for (kind, _), after in zip(BLOCKS, following, strict=True)
        if kind == "bash"
    ]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """All that `make up` starts but submission."""
    with running_gateway(tmp_path_factory.mktemp("guide"), "redis", "smtp", "worker", "web") as started:
        yield started


def test_every_example_gives_what_the_page_shows(gateway: Gateway) -> None:
    for program in ("curl", "jq"):
        need_program(program)
    marked = "".join(f"{text}\necho; echo @@@; echo @@@ >&2\n" for text in EXAMPLES)
    done = subprocess.run(
        ["bash", "-c", f"set -eo pipefail\n{CURL}{PATIENT_SLEEP}{marked}"],
        cwd=gateway.settings.data.parent, env=os.environ, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    outputs, reports = done.stdout.split("@@@\n")[:-1], done.stderr.split("@@@\n")[:-1]
    (mailbox,) = set(re.findall(r"[0-9a-f]{20}@pillarbox\.test", done.stdout))
    for block, output, report, wanted in zip(EXAMPLES, outputs, reports, documented(), strict=True):
        statuses = [int(status) for status in re.findall(r"STATUS (\d+)", report)]
        is_error = wanted is not None and '"status": 422' in wanted
        assert statuses, f"nothing was asked by {block}"
        assert all(status == 422 if is_error else status < 300 for status in statuses), f"{statuses}: {block}{output}"
        if wanted is not None:
            (answer,) = read_answers(output.replace(mailbox.partition("@")[0], SHOWN_ADDRESS))
            example = json.loads(wanted)
            is_exact = "created_at" not in example and example.get("id") is None
            assert (answer == example) if is_exact else (shape(answer) == shape(example)), f"{block}{output}"
    assert outputs[-1].strip() == "X-Order: 1234"


def test_the_example_for_node(gateway: Gateway, tmp_path: Path) -> None:
    account = gateway.account
    printed = run_node_example(tmp_path, gateway.settings.api_url, account.smtp_username, account.smtp_password)
    assert re.fullmatch(r"[0-9a-f-]{36}\n", printed)


def run_node_example(folder: Path, url: str, username: str, password: str) -> str:
    """What the example for Node prints."""
    node = need_program("node")
    (script,) = [text for kind, text in BLOCKS if kind == "js"]
    modules = install_npm(folder / "node", CLIENT)
    environment = {**os.environ, "API_URL": url, "USERNAME": username, "API_KEY": password}
    done = subprocess.run(
        [node, "-e", script], cwd=modules, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_names_every_field() -> None:
    table = PAGE.partition("\n## Fields\n")[2].partition("\n\n```")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {entry.alias or name for name, entry in MessageBody.model_fields.items()}


def test_the_figures_are_those_of_the_code() -> None:
    settings = Settings()
    assert f"together | {settings.max_send_recipients} | `PILLARBOX_MAX_SEND_RECIPIENTS`" in PAGE
    assert f"as composed | {settings.max_send_size // 1024**2} MiB | `PILLARBOX_MAX_SEND_SIZE`" in PAGE
    assert f"4/3 of that, and {BODY_SLACK_BYTES // 1024**2} MiB" in PAGE
    (line,) = [line for line in PAGE.splitlines() if line.startswith("| attachments' types")]
    assert set(re.findall(r"\.(\w+)", line)) == FORBIDDEN_EXTENSIONS
    assert f"with commas; at most {MAX_TAGS}." in PAGE
    assert f"Up to {MAX_METADATA} texts of at most {MAX_METADATA_LENGTH} characters" in PAGE
    assert f"within {MAX_SCHEDULE_DAYS} days" in PAGE
    assert f"at most {MAX_KEY_LENGTH} characters" in TEXT
    assert KEPT_MS == 24 * 3_600_000
    assert f"{MAX_LAYOUTS} layouts of at most {MAX_LAYOUT_LENGTH:,} characters" in TEXT


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((\w[\w-]*\.md)", PAGE))))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[1] / "docs" / link).is_file()
