"""Every command of docs/operations.md, run."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pytest

from core.config import Settings, load_settings
from core.setting_values import ENV_KEY
from tests.http_target import running_target
from tests.ports import free_port
from tests.programs import need_program
from tests.test_up import send
from tests.up_process import PILLARBOX, Up, clean_environment, running_up, wait_until

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def with_pillarbox_on_the_path(folder: Path) -> str:
    """A PATH on which `pillarbox` and `python3` are those of this test."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "pillarbox").write_text(f'#!/bin/sh\nexec {" ".join(PILLARBOX)} "$@"\n')
    (programs / "pillarbox").chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    return f"{programs}:/usr/local/bin:/usr/bin:/bin"


def test_the_commands_for_one_machine_do_what_the_page_says(tmp_path: Path) -> None:
    need_program("curl")
    path = with_pillarbox_on_the_path(tmp_path)
    with running_up(tmp_path) as up:
        keys = up.credentials()
        script = "\necho ==STEP==\n".join(blocks("bash")).replace("127.0.0.1:8080", str(up.settings.http))
        address = {
            "API": f"http://{up.settings.http}/api/v0.1/{keys['account_id']}",
            "AUTH": f"Authorization: Bearer {keys['api_key']}",
        }
        environment = {**up.environment, "PATH": path, **address}
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        created, _, purged, health, delayed, config = ran.stdout.split("==STEP==\n")
        assert json.loads(created)["account_id"] != keys["account_id"]
        assert purged == "There was nothing to remove.\n"
        assert json.loads(health)["status"] == "ok"
        assert delayed.strip() == "[][]"
        assert "PILLARBOX_DATA" in config

    copied = sqlite3.connect(tmp_path / "backup" / "pillarbox.sqlite3")
    assert copied.execute("SELECT count(*) FROM account").fetchone() == (2,)
    copied.close()
    assert json.loads((tmp_path / "backup" / "credentials.json").read_text()) == keys
    assert (tmp_path / "backup" / "messages").is_dir()
    assert len(list((tmp_path / "backup").glob("*.pem"))) == 2


def test_a_backup_put_in_place_of_the_data_folder_works(tmp_path: Path) -> None:
    path = with_pillarbox_on_the_path(tmp_path)
    backup = next(block for block in blocks("bash") if "VACUUM" in block)
    with running_target() as target, running_up(tmp_path) as up:
        mailbox = up.add_address(target.url("/status/500"))
        send(up, mailbox)
        subprocess.run(["bash", "-euc", backup], cwd=tmp_path, env={**up.environment, "PATH": path}, check=True)
        keys = up.credentials()
        assert up.stop() == 0
        up.settings.data.rename(tmp_path / "lost")
        (tmp_path / "backup").rename(up.settings.data)
        with running_up(tmp_path, PILLARBOX_HTTP=str(up.settings.http), PILLARBOX_SMTP=str(up.settings.smtp)) as again:
            assert again.credentials() == keys
            assert again.api("GET", "incoming_statuses").json()[0]["subject"] == "Hello"


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_the_commands_for_several_machines_make_a_gateway(tmp_path: Path, database_url: str) -> None:
    lines = [line.partition("#")[0].split() for line in "".join(blocks("sh")).splitlines()]
    exported = [words[1].partition("=")[0] for words in lines if words[0] == "export"]
    commands = [words[1:] for words in lines if words[0] == "pillarbox"]
    assert exported == ["DATABASE_URL", "REDIS_URL", "BLOB_URL"]
    assert commands == [["migrate"], ["smtp"], ["submission"], ["web"], ["worker"], ["scheduler"]]

    redis_socket = tmp_path / "redis.sock"
    given = {
        "DATABASE_URL": database_url,
        "REDIS_URL": f"unix://{redis_socket}",
        "BLOB_URL": f"file://{tmp_path}/bucket",  # in place of the object store, which is not here
        "PILLARBOX_DATA": str(tmp_path / "data"),
        "PILLARBOX_HTTP": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SMTP": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION_TLS": f"127.0.0.1:{free_port()}",
    }
    redis = [need_program("redis-server"), "--port", "0", "--unixsocket", str(redis_socket), "--save", ""]
    with ExitStack() as running, running_target() as target:
        log = running.enter_context((tmp_path / "log").open("wb"))
        start = [redis, *([*PILLARBOX, *command] for command in commands[1:])]
        subprocess.run(
            [*PILLARBOX, *commands[0]], env={**clean_environment(), **given}, cwd=tmp_path, timeout=30, check=True
        )
        processes = [
            running.enter_context(
                subprocess.Popen(command, env={**clean_environment(), **given}, cwd=tmp_path, stdout=log, stderr=log)
            )
            for command in start
        ]
        running.callback(lambda: [process.send_signal(signal.SIGTERM) for process in processes[::-1]])
        up = Up(load_settings(given), given, tmp_path / "log", processes[0])
        wait_until(lambda: up.health() == (200, []), 30, up.log)
        send(up, up.add_address(target.url()))
        target.wait_for(1)


def test_every_setting_the_page_names_exists() -> None:
    known = {entry.metadata[ENV_KEY] for entry in fields(Settings)}
    named = set(re.findall(r"\b(?:PILLARBOX_[A-Z_]+|[A-Z]+_URL)\b", PAGE))
    assert named
    assert named <= known


def test_every_log_line_the_page_explains_is_written_by_the_code() -> None:
    rooms = ("cli", "core", "inbound", "workers")
    code = "".join(path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py"))
    table = PAGE.partition("| event | meaning |")[2].partition("\n\n")[0]
    events = re.findall(r"^\| `([^`|]+)` \|", table, re.MULTILINE)
    assert len(events) > 8
    assert [event for event in events if event not in code] == []
