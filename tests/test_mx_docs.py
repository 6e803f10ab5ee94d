"""The figures in `docs/forwarding.md` are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from core.dsn import MAX_RETURNED_BYTES
from core.loop_mark import FORWARDED_HEADER
from core.mta_sts import policy_text
from core.srs import VALIDITY_DAYS
from outbound.hosts import MAX_HOSTS
from outbound.mx import MAX_PLACES
from outbound.policy import SMTP_POLICY
from outbound.replies import MAX_LINE_BYTES, MAX_LINES
from outbound.smtp_client import BLOCK_BYTES
from outbound.timing import Timeouts

PAGE = (Path(__file__).parents[1] / "docs" / "forwarding.md").read_text()
TEXT = " ".join(PAGE.split())


def test_the_phases() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+)(?: each)? \|$", PAGE, re.MULTILINE))
    limits = Timeouts()
    assert {name: float(seconds) for name, seconds in rows.items()} == {
        "connect": limits.connect_s,
        "greeting": limits.greeting_s,
        "EHLO, TLS": limits.helo_s,
        "MAIL, RCPT, DATA": limits.command_s,
        f"{BLOCK_BYTES // 1024} KB of content": limits.block_s,
        "the answer to the content": limits.dot_s,
        "all": limits.total_s,
    }
    assert limits.helo_s == limits.tls_s


def test_the_schedule() -> None:
    minutes = [pause // MINUTE_MS for pause in SMTP_POLICY.schedule_ms if pause < HOUR_MS]
    hours = [pause // HOUR_MS for pause in SMTP_POLICY.schedule_ms if pause >= HOUR_MS]
    assert f"{', '.join(map(str, minutes))} minutes, {', '.join(map(str, hours))} hours." in TEXT
    assert SMTP_POLICY.give_up_after_ms == 2 * DAY_MS
    assert "No attempt later than two days" in TEXT


def test_the_limits() -> None:
    assert f"at most {MAX_HOSTS} hosts, {MAX_PLACES} connections, {Timeouts().total_s / 60:.0f} minutes" in TEXT
    assert f"At most {MAX_LINES} lines of {MAX_LINE_BYTES:,} bytes" in TEXT
    assert f"good for {VALIDITY_DAYS} days" in TEXT
    assert f"up to {MAX_RETURNED_BYTES // 1024} KB" in TEXT
    assert f"`{FORWARDED_HEADER}:`" in TEXT


def test_the_policy() -> None:
    assert policy_text("testing", "mx.in.example.net").replace("\r\n", "\n") in PAGE
