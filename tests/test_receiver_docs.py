"""`docs/receiving.md` says what the code does."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

from core.config import Settings
from core.loop_mark import FORWARDED_HEADER
from core.routing import Refusal
from core.setting_values import ENV_KEY
from inbound.smtp.replies import (
    Reply,
    accepted,
    blocked,
    loop_detected,
    oversize,
    recipient_refused,
    refused_by_callback,
    rejected_by_target,
    with_enhanced_code,
)
from inbound.smtp.session import FOREIGN_VERBS
from inbound.smtp.wire import TARPIT_LIMIT_S
from tests.programs import need_program

WITH_TEXT = (oversize, rejected_by_target, blocked, refused_by_callback)
PAGE = (Path(__file__).parents[1] / "docs" / "receiving.md").read_text()


def test_the_replies_are_those_of_the_table_in_the_code() -> None:
    documented = re.findall(r"^\| `(\d{3} [^`]+)` \|", _section("Replies"), re.MULTILINE)

    others_words = {reply(text) for reply in WITH_TEXT for text in ("<text>", None)} | {loop_detected("<text>")}
    assert sorted(documented) == sorted({*Reply, accepted("<id>"), *map(recipient_refused, Refusal), *others_words})


def test_the_limits_are_those_of_the_settings() -> None:
    documented = dict(re.findall(r"^\| `(PILLARBOX_\w+)` \| (\d+) \|", _section("Limits"), re.MULTILINE))
    defaults = {entry.metadata[ENV_KEY]: str(entry.default) for entry in fields(Settings)}

    assert len(documented) == 14
    assert documented == {name: defaults[name] for name in documented}


def test_the_page_names_what_protects() -> None:
    page = " ".join(_section("Protection").split())

    assert f"`{FORWARDED_HEADER}`" in page
    assert "up to ten seconds" in page
    assert TARPIT_LIMIT_S == 10
    assert {"BDAT", "GET"} <= FOREIGN_VERBS


def test_the_example_for_haproxy_is_one_that_haproxy_takes(tmp_path: Path) -> None:
    program = need_program("haproxy")
    example = _section("Behind a load balancer").partition("```\n")[2].partition("```")[0]
    path = tmp_path / "haproxy.cfg"
    path.write_text(f"defaults\n timeout connect 5s\n timeout client 5m\n timeout server 5m\n{example}")

    checked = subprocess.run([program, "-c", "-f", path], capture_output=True, text=True, timeout=20)

    assert checked.returncode == 0, checked.stderr


def test_failures_of_ours_are_temporary_and_every_reply_has_its_code() -> None:
    ours = (Reply.TRY_LATER, Reply.STORAGE_FULL, Reply.SHUTTING_DOWN, Reply.TOO_MANY_CONNECTIONS, Reply.NO_TLS)

    assert all(reply.startswith("4") for reply in ours)
    assert [reply for reply in Reply if not re.match(r"354 |([245])\d\d \1\.\d\.\d{1,2} ", reply)] == []
    assert [reply for reply in Reply if with_enhanced_code(reply) != reply] == []


def _section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
