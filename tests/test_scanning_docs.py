"""`docs/scanning.md` says what the code does."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from core.address_settings import AddressSettings, FailAction, OnScannerFailure
from core.config import Settings
from core.setting_values import ENV_KEY
from inbound.scanning.availability import PING_TIMEOUT_S, REMINDER_INTERVAL_S, REST_S
from inbound.scanning.endpoint import CONNECT_TIMEOUT_S
from inbound.scanning.reverse_names import LOOKUP_TIMEOUT_S
from inbound.scanning.rspamd import MAX_ANSWER_BYTES, MAX_RECIPIENTS_NAMED, SPAM_ACTIONS
from inbound.scanning.spamd import MAX_MESSAGE_BYTES
from inbound.scanning.verdict_text import MAX_DESCRIPTION_CHARACTERS, MAX_SYMBOLS

PAGE = " ".join((Path(__file__).parent.parent / "docs" / "scanning.md").read_text().split())


@pytest.mark.parametrize("name", ["spamd", "rspamd", "clamd", "scan_timeout"])
def test_the_settings_are_there(name: str) -> None:
    entry = next(entry for entry in fields(Settings) if entry.name == name)
    assert f"| `{entry.metadata[ENV_KEY]}` |" in PAGE


def test_the_default_timeout_is_the_example() -> None:
    assert f"| `{Settings().scan_timeout}` |" in PAGE


def test_the_reactions_and_their_defaults() -> None:
    defaults = AddressSettings()
    for name, choices in (("on_spam", FailAction), ("on_virus", FailAction), ("on_scanner_failure", OnScannerFailure)):
        default = getattr(defaults, name)
        shown = ", ".join(f"`{choice}`{' (default)' * (choice is default)}" for choice in choices)
        assert f"| `{name}` | {shown} |" in PAGE


def test_the_actions_of_rspamd_that_mean_spam() -> None:
    sentence = PAGE[PAGE.index("of rspamd's actions") :].partition(".")[0]
    assert set(sentence.split("`")[1::2]) == SPAM_ACTIONS


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("({:,} bytes, the limit of `spamc`)", MAX_MESSAGE_BYTES),
        ("at most {:,}.", MAX_SYMBOLS),
        ("at most {:,} characters", MAX_DESCRIPTION_CHARACTERS),
        ("up to {:,} recipients", MAX_RECIPIENTS_NAMED),
        ("left alone for {:.0f} seconds", REST_S),
        ("Connecting takes at most {:.0f} seconds", CONNECT_TIMEOUT_S),
    ],
)
def test_the_numbers(words: str, number: float) -> None:
    assert words.format(number) in PAGE


def test_the_numbers_that_are_words() -> None:
    assert (PING_TIMEOUT_S, REMINDER_INTERVAL_S, LOOKUP_TIMEOUT_S, MAX_ANSWER_BYTES) == (1, 600, 2, 1 << 20)
