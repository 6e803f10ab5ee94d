"""The vendor's own Node client, unchanged, sends through a running web server: only its base URL is another."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from core.services.accounts import NewAccount, create_account
from core.store.db import Database
from tests.conftest import NOW_MS
from tests.npm_packages import install_npm
from tests.programs import need_program
from tests.web_process import WebProcess, running_web

CLIENT = "cloudmailin@0.1.0"
TIMEOUT_S = 60
SCRIPT = """
const { MessageClient } = require('cloudmailin');
const { CloudMailinError } = require('cloudmailin/dist/models/errors');
const calls = JSON.parse(require('fs').readFileSync(0));
(async () => {
  const answers = [];
  for (const { options, method, message } of calls) {
    try {
      answers.push({ answer: await new MessageClient(options)[method](message) });
    } catch (error) {
      const { status, details, message: text } = error;
      answers.push({ isTheirs: error instanceof CloudMailinError, status, details, text });
    }
  }
  console.log(JSON.stringify(answers));
})();
"""
PIXEL = base64.b64encode(bytes(range(256)) * 2_000).decode()
MESSAGE = {
    "from": "Sender Name <sender@example.com>",
    "to": ["Recipient <recipient@example.com>", "Another <another@example.com>"],
    "cc": ["Carbon Copy <cc@example.com>"],
    "test_mode": False,
    "subject": "Hello from CloudMailin 😃",
    "tags": ["api-tag", "cloudmailin-tag"],
    "plain": "Hello Plain Text",
    "html": '<h1>Hello Html</h1><p>An image: <img src="cid:pixel" alt="a pixel" /></p>',
    "headers": {"x-api-test": "Test", "x-additional-header": "Value"},
    "priority": "standard",
    "attachments": [
        {"file_name": "pixel.png", "content": PIXEL, "content_type": "image/png", "content_id": "pixel"},
        {"file_name": "notes.txt", "content": "aGVsbG8=", "content_type": "text/plain"},
    ],
}
"""What the vendor's reference gives as its example, with more in the attachment."""
RAW = "From: sender@example.com\r\nTo: recipient@example.com\r\nSubject: whole\r\n\r\nAs it is.\r\n"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_program("node")
    return install_npm(tmp_path_factory.mktemp("node"), CLIENT)


@pytest.fixture(scope="module")
def account_and_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NewAccount, WebProcess, str]]:
    folder = tmp_path_factory.mktemp("web")
    url = f"sqlite:///{folder / 'node.sqlite3'}"
    database = Database(url)
    database.migrate()
    account = create_account(database, "node", NOW_MS)
    database.close()
    with running_web(folder / "data", url) as web:
        yield account, web, url


class Node:
    """The client, at work."""

    def __init__(self, modules: Path, account: NewAccount, web: WebProcess) -> None:
        self.modules, self.account, self.web = modules, account, web

    def call(self, *calls: tuple[str, dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        """What came of each call: the answer, or the error."""
        given = {
            "username": self.account.smtp_username,
            "apiKey": self.account.smtp_password,
            "baseURL": f"{self.web.url}/api/v0.1",
            **options,
        }
        told = [{"options": given, "method": method, "message": message} for method, message in calls]
        done = subprocess.run(
            [need_program("node"), "-e", SCRIPT],
            cwd=self.modules, input=json.dumps(told).encode(), capture_output=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def send(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to one call."""
        (found,) = self.call((method, message))
        assert "answer" in found, found
        answer: dict[str, Any] = found["answer"]
        return answer


@pytest.fixture
def node(modules: Path, account_and_web: tuple[NewAccount, WebProcess, str]) -> Node:
    return Node(modules, *account_and_web[:2])


@pytest.fixture
def database(account_and_web: tuple[NewAccount, WebProcess, str]) -> Iterator[Database]:
    opened = Database(account_and_web[2])
    yield opened
    opened.close()


def stored(database: Database, message_id: str) -> tuple[Any, ...]:
    query = "SELECT username, priority, tags, is_test FROM sent_message WHERE message_id = ?"
    with database.reading():
        found: tuple[Any, ...] = database.execute(query, (message_id,))[0]
    return found


UUID_OF_THE_VENDORS_TEST = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def test_the_id_is_one_that_the_vendors_own_test_takes(node: Node) -> None:
    answer = node.send("sendMessage", {**MESSAGE, "attachments": []})
    assert re.fullmatch(UUID_OF_THE_VENDORS_TEST, answer["id"], re.IGNORECASE)


def test_the_vendors_example(node: Node, database: Database, account_and_web: Any) -> None:
    answer = node.send("sendMessage", MESSAGE)
    shown = ("from", "to", "cc", "subject", "tags", "test_mode")
    assert {name: answer[name] for name in shown} == {name: MESSAGE[name] for name in shown}
    assert stored(database, answer["id"]) == (
        node.account.smtp_username, "standard", '["api-tag","cloudmailin-tag"]', 0
    )  # fmt: skip
    blob = next((account_and_web[1].log.parent / "messages").rglob(answer["id"]))  # beyond 128 KiB
    mail = message_from_bytes(blob.read_bytes(), policy=policy.default)
    assert (mail["subject"], mail["x-api-test"]) == (MESSAGE["subject"], "Test")
    files = {part.get_filename(): part.get_payload(decode=True) for part in mail.walk() if part.get_filename()}
    assert files == {"pixel.png": base64.b64decode(PIXEL), "notes.txt": b"hello"}


@pytest.mark.parametrize(
    ("message", "is_test"),
    [
        ({"plain": "only plain"}, 0),
        ({"html": "<p>only html</p>"}, 0),
        ({"plain": "x", "test_mode": True}, 1),
        ({"plain": "x", "to": "recipient@example.com", "cc": "cc@example.com", "tags": "one"}, 0),
        ({"plain": "x", "priority": "priority"}, 0),
    ],
)
def test_small_messages(node: Node, database: Database, message: dict[str, Any], is_test: int) -> None:
    whole = {"from": "sender@example.com", "to": ["recipient@example.com"], "subject": "s", **message}
    answer = node.send("sendMessage", whole)
    _, priority, tags, was_test = stored(database, answer["id"])
    assert (priority, was_test) == (message.get("priority", "standard"), is_test)
    assert json.loads(tags) == ([message["tags"]] if "tags" in message else [])


def test_raw_messages(node: Node, database: Database) -> None:
    answer = node.send("sendRawMessage", {"from": "sender@example.com", "to": "recipient@example.com", "raw": RAW})
    with database.reading():
        ((body,),) = database.execute("SELECT body FROM raw_message WHERE message_id = ?", (answer["id"],))
    assert bytes(body).startswith(b"From: sender@example.com\r\nTo: recipient@example.com\r\nSubject: whole\r\n")
    assert bytes(body).endswith(b"\r\n\r\nAs it is.\r\n")


def test_errors_are_the_clients_own(node: Node) -> None:
    small = {"from": "sender@example.com", "to": "recipient@example.com", "subject": "s"}
    bodiless, mismatched = node.call(
        ("sendMessage", small), ("sendRawMessage", {**small, "raw": RAW, "to": "another@example.com"})
    )
    assert (bodiless["isTheirs"], bodiless["status"]) == (True, 422)
    assert "Body not found" in bodiless["details"] == bodiless["text"]
    assert (mismatched["status"], "must name the same addresses" in mismatched["details"]) == (422, True)
    (unauthorized,) = node.call(("sendMessage", {**small, "plain": "x"}), apiKey="wrong")
    assert (unauthorized["isTheirs"], unauthorized["status"]) == (True, 401)
    assert unauthorized["details"].startswith("this key does not open this account or SMTP username")
    with_key = node.call(
        ("sendMessage", {**small, "plain": "x"}), username=node.account.account_id, apiKey=node.account.api_key
    )
    assert "answer" in with_key[0], "an account's own key sends too"
