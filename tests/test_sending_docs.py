"""The records, lists and figures in `docs/sending-domains.md` are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from flask import Flask

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from core.sending.domain_judgement import LOST_AFTER_MISSES, LOST_AFTER_MS
from core.sending.domain_questions import VERIFY_S
from core.sending.domain_schedule import (
    ABANDONED_AFTER_MS,
    ABANDONED_MS,
    AGE_PART,
    DAILY_MS,
    DOUBT_MS,
    FIRST_CHECK_MS,
    SPREAD,
)
from core.sending.domain_status import CheckState
from core.sending.domain_tracking import tracking_record
from core.sending.key_rotation import OVERLAP_MS, KeyState
from core.sending.send_settings import SendSettings
from core.sending.sending_domains import (
    RSA_BITS,
    TXT_STRING_OCTETS,
    KeyRecord,
    SendingHosts,
    operator_records,
    records_without_cname,
    required_records,
)
from core.services.sending_domain_changes import MAX_DOMAINS
from core.services.sending_domain_keys import FORGOTTEN_AFTER_MS, MAX_PUBLISHED_KEYS
from outbound.dkim import MAX_FIELDS, MAX_HEADER_BYTES, OVERSIGNED, SIGNED_IF_PRESENT
from web.api.fields import PREFIX
from web.api.sending_domains import api

PAGE = (Path(__file__).parents[1] / "docs" / "sending-domains.md").read_text()
TEXT = " ".join(PAGE.split())
HOSTS = SendingHosts(
    "returns.gateway.example", "mx.gateway.example", ("192.0.2.1", "2001:db8::1"), "dmarc@gateway.example"
)


def test_the_records() -> None:
    needed = required_records("example.com", [KeyRecord("pb20260921k3fq", "v=DKIM1; k=rsa; p=MIIBIjANBgkq…")], HOSTS)
    others = [*(item.record for item in records_without_cname("example.com", HOSTS)), *operator_records(HOSTS)]
    for record in [*(item.record for item in needed), *others]:
        assert f"| `{record.name}` | {record.type} | `{record.value}` |" in PAGE
    assert (
        f"| `links.example.com` | CNAME | `{tracking_record('links.example.com', 'gateway.example').value}` |" in PAGE
    )
    unnamed = operator_records(SendingHosts("returns.gateway.example", "mx.gateway.example"))
    assert "`a:mx.gateway.example`" in TEXT
    assert "a:mx.gateway.example" in unnamed[1].value


def test_the_lists_of_fields() -> None:
    blocks = re.findall(r"((?:^> .*\n)+)", PAGE, re.MULTILINE)
    listed = [[name.strip().lower() for name in block.replace(">", "").split(",")] for block in blocks]
    assert listed == [[name.decode() for name in names] for names in (OVERSIGNED, SIGNED_IF_PRESENT)]


def test_the_states() -> None:
    before_settings = PAGE.partition("## Settings")[0]
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \|$", before_settings, re.MULTILINE) == [
        state.value for state in CheckState
    ]
    assert all(f"`{state.value}`" in TEXT for state in KeyState)


def test_the_figures() -> None:
    assert f"at most {VERIFY_S:.0f} seconds" in TEXT
    assert f"stay for {OVERLAP_MS // DAY_MS} days" in TEXT
    assert f"RSA with {RSA_BITS} bits" in TEXT
    assert f"more than {MAX_FIELDS} fields or more than {MAX_HEADER_BYTES // 1024**2} MiB" in TEXT
    assert f"at most {TXT_STRING_OCTETS} octets" in TEXT


def test_the_figures_of_the_checks() -> None:
    assert AGE_PART == 4
    assert f"looked at after {FIRST_CHECK_MS // MINUTE_MS} minutes, and then whenever a quarter" in TEXT
    assert f"after {ABANDONED_AFTER_MS // DAY_MS} days once in {ABANDONED_MS // DAY_MS} days" in TEXT
    assert DAILY_MS == DAY_MS
    assert f"was not found, after {DOUBT_MS // HOUR_MS} hours" in TEXT
    assert SPREAD / 2 == 0.1
    assert f"missing in {LOST_AFTER_MISSES} checks in a row, over {LOST_AFTER_MS // DAY_MS} days at least" in TEXT
    assert f"An account may have {MAX_DOMAINS}." in TEXT
    assert f"forgotten {FORGOTTEN_AFTER_MS // DAY_MS} days later" in TEXT
    assert f"may have {MAX_PUBLISHED_KEYS} keys" in TEXT


def test_the_settings() -> None:
    settings = PAGE.partition("## Settings")[2].partition("## ")[0]
    assert set(re.findall(r"`([a-z_]+)`", settings)) == {entry.name for entry in fields(SendSettings)}


def test_the_calls() -> None:
    listed = set(re.findall(r"^\| `([A-Z]+) (/sending_domains[^`?]*)(?:\?query=)?` \|", PAGE, re.MULTILINE))
    with_names = {
        (method, path.replace("{id}", "<sending_domain_id>").replace("{", "<").replace("}", ">"))
        for method, path in listed
    }
    app = Flask("docs")
    app.register_blueprint(api)
    routed = {
        (method, rule.rule.removeprefix(PREFIX))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if rule.rule.startswith(PREFIX) and method not in ("HEAD", "OPTIONS")
    }
    assert with_names == routed
