"""docs/modes.md: its tables are what the code does, and its samples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.address_settings import (
    DEFAULT_ADDRESS_SETTINGS,
    DEFAULT_INLINE_DEADLINE_S,
    INLINE_DUPLICATE_WINDOW_S,
    AddressSettings,
    AuthorizationCallback,
    CallbackFormat,
    DeliveryMode,
    OnDeadline,
)
from core.clock import DAY_MS, SECOND_MS, system_clock
from core.rules import RuleAction
from core.services.notices import ErrorReport
from core.services.rules import RuleDraft, create_rule
from inbound.callbacks import AUTHORIZATION_DEADLINE_S, AuthorizationQuestion, _error_payload, _fields
from inbound.forward import MAX_REDIRECTS
from tests.gateway import Gateway, running_gateway
from tests.http_target import running_target
from tests.ports import free_port

PAGE = (Path(__file__).parents[1] / "docs" / "modes.md").read_text()
MESSAGE = b"From: A <a@example.com>\r\nSubject: invoice\r\n\r\nHi.\r\n"


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def code(title: str, language: str) -> str:
    return section(title).partition(f"```{language}\n")[2].partition("```")[0]


def field_rows(title: str) -> set[str]:
    table = section(title).partition("| field | |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_figures_and_words_are_those_of_the_code() -> None:
    assert f"`inline_deadline_s` ({DEFAULT_INLINE_DEADLINE_S})" in PAGE
    assert INLINE_DUPLICATE_WINDOW_S * SECOND_MS == DAY_MS
    assert f"within {AUTHORIZATION_DEADLINE_S:g} seconds" in PAGE
    assert f"At most {MAX_REDIRECTS} redirects" in PAGE
    for choice in (*DeliveryMode, *OnDeadline, *CallbackFormat):
        assert f"`{choice}`" in PAGE
    assert not DEFAULT_ADDRESS_SETTINGS.bounce_rejected
    assert DEFAULT_ADDRESS_SETTINGS.duplicate_window_ms == 0


def test_the_fields_of_the_callbacks_are_all_named() -> None:
    question = AuthorizationQuestion("a@b", "", None, "192.0.2.1", "h", None)
    assert field_rows("Authorization callback") == set(_fields(question))
    report = ErrorReport(500, "a@b", "c@d", None, 1, False, "id")
    _, body = _error_payload(report, "https://example.com/x.json")
    assert field_rows("Error callback") == set(re.findall(r'"(\w+)":', body.decode()))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("modes"), "redis", "smtp", "worker", "web") as started:
        yield started


def test_the_sample_authorization_server_works(gateway: Gateway, tmp_path: Path) -> None:
    sample = tmp_path / "may_come.py"
    sample.write_text(code("Authorization callback", "python"))
    port = free_port()
    server = subprocess.Popen([sys.executable, sample, str(port)], stderr=subprocess.DEVNULL)
    try:
        callback = AuthorizationCallback(f"http://127.0.0.1:{port}/may-come")
        mailbox = gateway.add_address("http://127.0.0.1:9/", settings=AddressSettings(authorization=callback).to_json())
        deadline = time.monotonic() + 10
        while (answer := rcpt(gateway, mailbox, "ann@example.com"))[0] == 450 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert answer[0] == 250
        assert rcpt(gateway, mailbox, "eve@example.com") == (550, b"5.7.1 Members only")
    finally:
        server.kill()
        server.wait()


def rcpt(gateway: Gateway, mailbox: str, sender: str) -> tuple[int, bytes]:
    with gateway.connect() as client:
        client.mail(sender)
        return client.rcpt(mailbox)


def test_the_commands_of_the_quarantine_work(gateway: Gateway) -> None:
    with running_target() as target:
        mailbox = gateway.add_address(target.url("/ok"))
        draft = RuleDraft(RuleAction.QUARANTINE, {"subject_pattern": ["invoice"]}, mailbox.partition("@")[0])
        create_rule(gateway.database, gateway.account.account_id, draft, system_clock())
        gateway.send(mailbox, MESSAGE)
        gateway.send(mailbox, MESSAGE)
        gateway.wait_until("SELECT 1 FROM delivery WHERE state = 'quarantined' LIMIT 1 OFFSET 1")
        held = gateway.api("GET", "/incoming_statuses?query=status_category:quarantined")
        environment = {
            **os.environ,
            "API": f"{gateway.settings.api_url}/api/v0.1/{gateway.account.account_id}",
            "AUTH": f"Authorization: Bearer {gateway.account.api_key}",
            "ID": held[0]["id"],
        }
        for command in code("Quarantine", "bash").strip().splitlines():
            done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, check=True, text=True)
            assert not re.search(r'"status":4\d\d', done.stdout), done.stdout
        assert len(target.wait_for(2)) == 2
