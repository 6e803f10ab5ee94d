"""`docs/submission.md` says what the code does, and its examples work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import Settings
from inbound.smtp.hooks import COMMAND_OCTETS
from inbound.smtp.replies import Reply
from inbound.smtp.wire import TARPIT_LIMIT_S
from inbound.submission import handler, logins
from inbound.submission.handler import TAKING_S
from inbound.submission.replies import SubmissionReply, queued
from tests.gateway import Gateway, running_gateway
from tests.npm_packages import install_npm
from tests.postfix_server import running_postfix
from tests.programs import need_program
from tests.submission_support import MAIL
from tests.up_process import PILLARBOX

PAGE = (Path(__file__).parents[1] / "docs" / "submission.md").read_text()
NODEMAILER = "nodemailer@7.0.10"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("submission"), "submission") as started:
        yield started


def block(gateway: Gateway, language: str, number: int = 0) -> str:
    """An example, with the ports of this gateway."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number]
    ports = {"2587": str(gateway.submission_port), "2465": str(gateway.submission_tls_port)}
    return re.sub(r"\b(2587|2465)\b", lambda match: ports[match[0]], found)


def run(gateway: Gateway, command: list[str], folder: Path | None = None, **more: str) -> str:
    """Run an example with a login in its environment; gives what it printed."""
    login = {"SMTP_USERNAME": gateway.account.smtp_username, "SMTP_PASSWORD": gateway.account.smtp_password}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **login, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kinds(gateway: Gateway, subject: str) -> list[str]:
    """The kind of each delivery of the mail with a subject."""
    query = "SELECT d.kind FROM delivery d JOIN message m ON m.id = d.message_id WHERE m.subject = ?"
    with gateway.database.reading():
        return [row[0] for row in gateway.database.execute(query, (subject,))]


def test_the_example_for_swaks(gateway: Gateway) -> None:
    need_program("swaks")
    need_program("jq")
    script = block(gateway, "sh", 1) + block(gateway, "sh", 2)
    assert "Queued as" in run(gateway, ["sh", "-euc", script], gateway.settings.data.parent)
    assert kinds(gateway, "Hello by swaks") == ["send"]


def test_the_example_for_python(gateway: Gateway) -> None:
    run(gateway, [sys.executable, "-c", block(gateway, "python")])
    assert kinds(gateway, "Hello by smtplib") == ["send_priority"]


def test_the_example_for_nodemailer(gateway: Gateway, tmp_path: Path) -> None:
    node = need_program("node")
    modules = install_npm(tmp_path, NODEMAILER)
    printed = run(gateway, [node, "-e", block(gateway, "js")], NODE_PATH=str(modules / "node_modules"))
    assert printed.startswith("250 Thanks! Queued as: ")
    assert kinds(gateway, "Hello by Nodemailer") == ["send"]


def test_the_example_for_postfix(gateway: Gateway, tmp_path: Path) -> None:
    passwords = tmp_path / "sasl"
    passwords.write_text(
        f"[127.0.0.1]:{gateway.submission_port} {gateway.account.smtp_username}:{gateway.account.smtp_password}\n"
    )
    main_cf = "default_transport = smtp\n" + block(gateway, "cf").replace("/etc/postfix/sasl", str(passwords))
    with running_postfix(gateway.submission_port, main_cf) as postfix:
        postfix.send("shop@example.com", ["you@example.org"], MAIL.replace(b"Hello", b"Hello by Postfix"))
        postfix.wait_for_log("status=sent", "250 Thanks! Queued as: ")
    assert kinds(gateway, "Hello by Postfix") == ["send"]


def test_the_commands_for_logins(gateway: Gateway) -> None:
    filled = block(gateway, "sh").replace("<account id>", gateway.account.account_id)
    lines = [line.removeprefix("pillarbox ").split() for line in filled.splitlines()]
    made = ""
    for words in lines:
        command = " ".join(words).replace("<username>", made).split()
        done = subprocess.run(
            [*PILLARBOX, *command], env=gateway.environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        if "add-key" in command:
            made = done.stdout.split()[1]
    assert made in done.stdout


def test_the_replies_are_those_of_the_code() -> None:
    table = PAGE.partition("## Replies")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(\d{3} [^`]+)` \|", table, re.MULTILINE))
    composed = {reply for reply in documented if "<text>" in reply}

    assert documented - composed == {*SubmissionReply, Reply.MESSAGE_TOO_LARGE, queued("<id>")}
    assert {reply[:9] for reply in composed} == {"550 5.7.1", "550 5.1.3", "552 5.3.4", "554 5.6.0"}


def test_the_numbers_are_those_of_the_code() -> None:
    page = " ".join(PAGE.split())
    defaults = Settings()
    assert f"`{defaults.submission}`" in page
    assert f"`{defaults.submission_tls}`" in page
    assert f"after {logins.MAX_FAILURES} failures within {logins.FAILURE_PERIOD_MS // 60_000} minutes" in page
    assert f"looked up in {logins.THREADS} threads, messages checked and stored in {handler.THREADS}" in page
    assert f"Beyond {COMMAND_OCTETS:,} bytes" in page
    assert "up to ten seconds" in page
    assert TARPIT_LIMIT_S == 10
    assert "within a minute" in page
    assert logins.RECHECK_MS == 60_000
    assert "for two minutes" in page
    assert TAKING_S == 120
