"""The tables and figures in `docs/bounces.md` are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.clock import DAY_MS
from core.config import Settings
from core.sending.returned import (
    Complaint,
    DsnAction,
    FeedbackType,
    Returned,
    ReturnedKind,
    ReturnedRecipient,
    Severity,
)
from core.sending.returned_steps import step_of
from core.sending.suppression import SuppressionReason
from core.sending.verp import RETURN_HEADER, VALIDITY_DAYS
from core.services.accounts import NewAccount
from core.services.returned import SAME_EVENT_MS
from core.services.suppression_lists import MAX_ADDED
from core.services.suppressions import SOFT_BOUNCE_SPAN_MS
from core.store.db import Database
from inbound.returned_mail.opened import MAX_READ_BYTES
from inbound.smtp.returns import BOUNCE_SETTINGS, FEEDBACK_MAILBOX, MAILS_A_DAY, SAME_MAIL_S
from tests.api_support import Api, api_settings

PAGE = (Path(__file__).parents[1] / "docs" / "bounces.md").read_text()
TEXT = " ".join(PAGE.split())
ANN = "ann@example.com"
FAILED = {
    ReturnedKind.HARD_BOUNCE: (ReturnedRecipient(ANN, action=DsnAction.FAILED, severity=Severity.HARD),),
    ReturnedKind.SOFT_BOUNCE: (ReturnedRecipient(ANN, action=DsnAction.FAILED, severity=Severity.SOFT),),
}


def example(kind: ReturnedKind) -> Returned:
    complaint = Complaint(FeedbackType.ABUSE) if kind is ReturnedKind.COMPLAINT else None
    return Returned(kind, "a test", FAILED.get(kind, ()), complaint=complaint, was_displayed=True)


def test_the_kinds_and_their_events() -> None:
    documented = re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:`(\w+)`)? ?\| ([^|]+) \|$", _section("What comes back"), re.M)
    assert [kind for kind, _, _ in documented] == list(ReturnedKind)
    for name, event, follows in documented:
        step = step_of(example(ReturnedKind(name)), ANN)
        assert event == (step.event or ""), name
        assert (step.suppress is not None) == follows.startswith("No more mail"), name
        assert step.is_soft == follows.startswith("Counted"), name


def test_the_reasons() -> None:
    assert re.findall(r"^\| `(\w+)` \|", _section("Suppression"), re.M) == list(SuppressionReason)


def test_the_figures() -> None:
    settings = Settings()
    assert f"good for {VALIDITY_DAYS} days" in TEXT
    assert f"the header `{RETURN_HEADER}`" in TEXT
    assert f"reads {MAX_READ_BYTES // 1024**2} MiB at most" in TEXT
    assert f"{(BOUNCE_SETTINGS.max_message_size or 0) // 1024**2} MiB more" in TEXT
    assert f"takes {MAILS_A_DAY} mails a day" in TEXT
    assert f"`{FEEDBACK_MAILBOX}@` at the receiving domain" in TEXT
    assert f"`PILLARBOX_SOFT_BOUNCE_LIMIT` ({settings.soft_bounce_limit}) mails in a row" in TEXT
    assert f"at least {SOFT_BOUNCE_SPAN_MS // DAY_MS} days after the first" in TEXT
    assert f"up to {MAX_ADDED} `addresses`" in TEXT
    assert SAME_EVENT_MS == SAME_MAIL_S * 1_000 == DAY_MS
    assert "The same bytes within a day" in TEXT
    assert "about the same delivery within a day" in TEXT


@pytest.fixture
def api(database: Database, account: NewAccount, tmp_path: Path) -> Api:
    return Api(database, account, api_settings(tmp_path))


def test_the_calls_are_those_of_the_api(api: Api) -> None:
    documented = re.findall(r"^\| `(\w+) (/[^`]+)` \|", _section("API"), re.M)
    prefix = "/api/v0.1/{account_id}"
    paths = api.client.get("/openapi.json").json["paths"]  # type: ignore[index]
    ours = {path: operations for path, operations in paths.items() if path.startswith(f"{prefix}/suppressions")}
    known = {(method.upper(), path.removeprefix(prefix)) for path, operations in ours.items() for method in operations}
    assert set(documented) == known


def _section(title: str) -> str:
    found = re.search(rf"^##? {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]
