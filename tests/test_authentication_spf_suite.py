"""The openspf.org suite for RFC 7208, all of it, over a real DNS server; skipped where the suite is absent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.authentication.spf import SpfQuestion, check_spf
from core.dns_lookup import DnsLookup, LookupBudget
from core.mx_check import make_resolver
from core.verdicts import AuthResult
from tests.authentication_zones import ZoneServer, running_zones

yaml = pytest.importorskip("yaml")
SUITE = Path(__file__).parents[2] / "shared" / "corpus" / "spf" / "rfc7208-tests.yml"
TESTS_IN_SUITE = 203
NO_ANSWER_S = 1.0
"""After this a name marked TIMEOUT has timed out."""


def read_scenarios() -> list[dict[str, Any]]:
    if not SUITE.exists():
        return []
    return [scenario for scenario in yaml.safe_load_all(SUITE.read_text(encoding="utf-8")) if scenario]


SCENARIOS = read_scenarios()


@pytest.fixture(scope="module")
def zones() -> Iterator[ZoneServer]:
    with running_zones() as server:
        yield server


@pytest.mark.skipif(not SCENARIOS, reason="the suite is not here")
def test_the_suite_is_whole() -> None:
    assert sum(len(scenario["tests"]) for scenario in SCENARIOS) == TESTS_IN_SUITE


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["description"].replace(" ", "-"))
def test_every_case_of_the_suite(zones: ZoneServer, scenario: dict[str, Any]) -> None:
    load(zones, scenario["zonedata"])
    assert {name: got for name, case in scenario["tests"].items() if (got := judge(zones, case))} == {}


def judge(zones: ZoneServer, case: dict[str, Any]) -> str | None:
    """What is wrong with our verdict; None when it is one of those the suite accepts."""
    resolver = make_resolver(f"127.0.0.1:{zones.port}")
    lookup = DnsLookup(resolver, query_timeout_s=NO_ANSWER_S)
    question = SpfQuestion(
        case["host"], case["helo"], case["mailfrom"], receiver="receiver.example.net", now_s=int(time.time())
    )
    verdict = check_spf(question, lookup, LookupBudget(20))
    accepted = case["result"] if isinstance(case["result"], list) else [case["result"]]
    if verdict.result not in accepted:
        return f"{verdict} instead of {accepted}"
    expected = case.get("explanation")
    wanted = None if expected == "DEFAULT" else expected
    if expected is not None and verdict.result is AuthResult.FAIL and verdict.explanation != wanted:
        return f"explained as {verdict.explanation!r} instead of {wanted!r}"
    return None


def load(zones: ZoneServer, zonedata: dict[str, list[Any]]) -> None:
    """Serve a scenario's zone. An entry `SPF` stands for a TXT record, unless the name has TXT entries of its own."""
    zones.records.clear()
    zones.silent.clear()
    for name, entries in zonedata.items():
        has_text = any("TXT" in entry for entry in entries if isinstance(entry, dict))
        for entry in entries:
            if entry == "TIMEOUT":
                zones.make_silent(str(name))
                continue
            ((kind, value),) = entry.items()
            if value != "NONE" and not (kind == "SPF" and has_text):
                add(zones, str(name), "TXT" if kind == "SPF" else kind, value)


def add(zones: ZoneServer, name: str, kind: str, value: Any) -> None:
    if kind == "TXT":
        strings = value if isinstance(value, list) else [value]
        zones.add(name, kind, [string.encode("latin-1") for string in strings])
    elif kind == "MX":
        zones.add(name, kind, (value[0], value[1]))
    else:
        zones.add(name, kind, value)
