"""The commands of `pillarbox` other than the servers, as an operator runs them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from core.config import Settings
from core.services.accounts import authenticates
from core.services.credentials import Scope, find_credential
from core.setting_values import DOC_KEY, ENV_KEY
from core.store.db import Database
from tests.up_process import PILLARBOX, clean_environment

COMMANDS = ("up", "smtp", "submission", "web", "worker", "scheduler", "migrate", "config", "account")


def pillarbox(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    given = {"PILLARBOX_DATA": str(folder / "data"), "COLUMNS": "200", **environment}
    return subprocess.run(
        [*PILLARBOX, *arguments], env={**clean_environment(), **given}, cwd=folder, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip


def test_config_lists_every_setting_with_its_value(tmp_path: Path) -> None:
    done = pillarbox(tmp_path, "config", PILLARBOX_WORKERS="7")
    assert done.returncode == 0
    shown = [line.split() for line in done.stdout.splitlines()]
    for entry in fields(Settings):
        assert any(words[:1] == [entry.metadata[ENV_KEY]] for words in shown), entry.name
        assert entry.metadata[DOC_KEY]
    assert any(words[:3] == ["PILLARBOX_WORKERS", "7", "1"] for words in shown)
    assert not (tmp_path / "data").exists()


def test_config_shows_no_password(tmp_path: Path) -> None:
    secrets = {"DATABASE_URL": "postgresql://user:hunter2@db/x", "REDIS_URL": "redis://:hunter3@redis:6379/0"}
    done = pillarbox(tmp_path, "config", **secrets)
    assert "postgresql://user:***@db/x" in done.stdout
    assert "redis://:***@redis:6379/0" in done.stdout
    assert "hunter" not in done.stdout


def test_the_reference_page_has_a_row_for_every_setting(tmp_path: Path) -> None:
    page = pillarbox(tmp_path, "config", "--markdown").stdout
    for entry in fields(Settings):
        assert f"| `{entry.metadata[ENV_KEY]}` |" in page


def test_account_create_prints_credentials_that_work(tmp_path: Path) -> None:
    done = pillarbox(tmp_path, "account", "create", "--name", "second", "--json", PILLARBOX_SMTP="0.0.0.0:2525")
    keys = json.loads(done.stdout)
    assert done.returncode == 0
    assert list(keys) == [
        "account_id", "api_key", "smtp_username", "smtp_password", "api_url", "smtp_host", "smtp_port",
        "smtp_submission_host", "smtp_submission_port", "smtp_submission_tls_port",
    ]  # fmt: skip
    database = Database(f"sqlite:///{tmp_path}/data/pillarbox.sqlite3")
    assert authenticates(database, keys["account_id"], keys["api_key"])
    assert not authenticates(database, keys["account_id"], keys["smtp_password"])
    database.close()

    plain = pillarbox(tmp_path, "account", "create")
    assert [line.split()[0] for line in plain.stdout.splitlines()] == list(keys)


def test_the_operator_pauses_an_account_and_resumes_it(tmp_path: Path) -> None:
    account_id = json.loads(pillarbox(tmp_path, "account", "create", "--json").stdout)["account_id"]
    paused = pillarbox(tmp_path, "account", "pause", account_id, "--reason", "spam was reported")
    assert (paused.returncode, paused.stdout) == (0, "Paused by the operator: spam was reported\n")
    resumed = pillarbox(tmp_path, "account", "resume", account_id)
    assert (resumed.returncode, resumed.stdout) == (0, "0 held recipients let go.\n")
    assert pillarbox(tmp_path, "account", "pause", "ff" * 8, "--reason", "x").stderr.startswith("pillarbox: ")


def test_migrate_sets_up_and_repeating_it_changes_nothing(tmp_path: Path) -> None:
    assert pillarbox(tmp_path, "migrate").returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file()}
    assert {"credentials.json", "pillarbox.sqlite3", "smtp-certificate.pem", "smtp-key.pem"} <= before.keys()
    done = pillarbox(tmp_path, "migrate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file()} == before


def test_credentials_that_were_written_without_their_account_are_made_anew(tmp_path: Path) -> None:
    # As after a power cut between the file and the commit.
    data = tmp_path / "data"
    data.mkdir()
    (data / "credentials.json").write_text("{}")
    (data / "credentials.json").chmod(0o644)
    assert pillarbox(tmp_path, "migrate").returncode == 0
    keys = json.loads((data / "credentials.json").read_text())
    assert (data / "credentials.json").stat().st_mode & 0o777 == 0o600
    database = Database(f"sqlite:///{data}/pillarbox.sqlite3")
    assert authenticates(database, keys["account_id"], keys["api_key"])
    database.close()


def test_help_names_every_command_and_each_explains_itself(tmp_path: Path) -> None:
    page = pillarbox(tmp_path, "--help")
    assert page.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in page.stdout
        described = pillarbox(tmp_path, command, "-h")
        assert described.returncode == 0
        assert f"Usage: python -m cli.main {command}" in described.stdout
        assert len(described.stdout.splitlines()[2].strip()) > 10
    assert "--json" in pillarbox(tmp_path, "account", "create", "--help").stdout


def test_the_version_is_told(tmp_path: Path) -> None:
    assert pillarbox(tmp_path, "--version").stdout.startswith("pillarbox, version ")


@pytest.mark.parametrize("command", [["config"], ["migrate"], ["smtp"], ["worker"], ["account", "create"]])
def test_a_bad_setting_is_one_line_whatever_the_command(tmp_path: Path, command: list[str]) -> None:
    done = pillarbox(tmp_path, *command, PILLARBOX_HTTP="nowhere")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "pillarbox: PILLARBOX_HTTP: 'nowhere' is not `host:port`, such as 127.0.0.1:2525\n"


@pytest.mark.parametrize(("command", "setting"), [("smtp", "PILLARBOX_SMTP"), ("web", "PILLARBOX_HTTP")])
def test_a_server_that_cannot_listen_says_so_in_one_line(tmp_path: Path, command: str, setting: str) -> None:
    assert pillarbox(tmp_path, "migrate").returncode == 0
    done = pillarbox(tmp_path, command, **{setting: "192.0.2.1:2525"})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"pillarbox: {setting}: cannot listen on 192.0.2.1:2525 (")


def test_each_process_loads_only_its_own_parts(tmp_path: Path) -> None:
    # Everything in every process would cost 20 to 70 MB and half a second each.
    code = "import sys, cli.main, cli.up; print(*sys.modules)"
    loaded = set(subprocess.run([PILLARBOX[0], "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "cli.up" in loaded
    assert not loaded & {"peewee", "psycopg", "flask", "rq", "redis", "requests", "aiosmtpd", "cryptography"}


def test_an_account_whose_keys_are_all_lost_gets_another(tmp_path: Path) -> None:
    made = json.loads(pillarbox(tmp_path, "account", "create", "--name", "shop", "--json").stdout)
    accounts = pillarbox(tmp_path, "account", "list").stdout.splitlines()
    assert [line.split()[0] for line in accounts if line.endswith("shop")] == [made["account_id"]]
    added = json.loads(
        pillarbox(tmp_path, "account", "add-key", made["account_id"], "--name", "second", "--json").stdout
    )
    login = pillarbox(
        tmp_path, "account", "add-key", made["account_id"], "--kind", "smtp", "--scope", "send"
    ).stdout.split()  # fmt: skip
    database = Database(f"sqlite:///{tmp_path}/data/pillarbox.sqlite3")
    key = find_credential(database, made["account_id"], added["secret"])
    assert key is not None
    assert key.scopes == frozenset(Scope)
    found = find_credential(database, login[1], login[3])
    assert found is not None
    assert found.scopes == {Scope.SEND}

    keys = pillarbox(tmp_path, "account", "keys", made["account_id"]).stdout
    assert sorted(line.split()[1] for line in keys.splitlines()) == ["api", "api", "smtp", "smtp"]
    assert added["secret"] not in keys
    assert pillarbox(tmp_path, "account", "revoke-key", made["account_id"], made["account_id"]).returncode == 0
    assert find_credential(database, made["account_id"], made["api_key"]) is None
    database.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add-key", "ffffffffffffffff"), "there is no account ffffffffffffffff"),
        (("add-key", "0000000000000000"), "there is no account 0000000000000000"),
        (("revoke-key", "ffffffffffffffff", "x"), "there is no account ffffffffffffffff"),
        (("add-key", "ffffffffffffffff", "--scope", "fly"), "scope: 'fly' is none of send, read, manage"),
    ],
)
def test_a_key_that_cannot_be_is_told_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    assert pillarbox(tmp_path, "migrate").returncode == 0
    done = pillarbox(tmp_path, "account", *arguments)
    assert (done.returncode, done.stderr) == (1, f"pillarbox: {said}\n")
