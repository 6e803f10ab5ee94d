"""`docs/receiving.md` says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from core.config import ENV_KEY, Settings
from core.routing import Refusal
from inbound.replies import Reply, accepted, recipient_refused, with_enhanced_code

PAGE = (Path(__file__).parents[1] / "docs" / "receiving.md").read_text()


def test_the_replies_are_those_of_the_table_in_the_code() -> None:
    documented = re.findall(r"^\| `(\d{3} [^`]+)` \|", _section("Replies"), re.MULTILINE)

    assert sorted(documented) == sorted([*Reply, accepted("<id>"), *map(recipient_refused, Refusal)])


def test_the_limits_are_those_of_the_settings() -> None:
    documented = dict(re.findall(r"^\| `(PILLARBOX_\w+)` \| (\d+) \|", _section("Limits"), re.MULTILINE))
    defaults = {entry.metadata[ENV_KEY]: str(entry.default) for entry in fields(Settings)}

    assert len(documented) == 9
    assert documented == {name: defaults[name] for name in documented}


def test_failures_of_ours_are_temporary_and_every_reply_has_its_code() -> None:
    ours = (Reply.TRY_LATER, Reply.STORAGE_FULL, Reply.SHUTTING_DOWN, Reply.TOO_MANY_CONNECTIONS, Reply.NO_TLS)

    assert all(reply.startswith("4") for reply in ours)
    assert [reply for reply in Reply if not re.match(r"354 |([245])\d\d \1\.\d\.\d ", reply)] == []
    assert [reply for reply in Reply if with_enhanced_code(reply) != reply] == []


def _section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
