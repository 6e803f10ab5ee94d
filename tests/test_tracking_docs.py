"""The tables and figures in `docs/tracking.md` are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from core.config import Settings
from core.sending.send_settings import SendOptions, SendSettings
from core.sending.tracking_answers import KEPT_IPV4_BITS, KEPT_IPV6_BITS, PrivacySignals
from core.sending.tracking_choice import UNSUBSCRIBE_UNLESS_SAID
from core.sending.tracking_hits import MACHINE_POINTS, MEANINGS, SETTLED_MS, HitKind, ReadEvidence
from core.sending.tracking_tokens import CLICK_PATH, OPEN_PATH, UNSUBSCRIBE_PATH
from core.services.tracked_hits import HitMaker
from core.services.tracking import MAX_CLICK_EVENTS, MAX_HITS, MAX_OPEN_EVENTS
from core.setting_values import ENV_KEY
from outbound.composing.list_unsubscribe import HEADER, ONE_CLICK, POST_HEADER
from outbound.tracking import MAX_BODY_CHARACTERS, MAX_LINKS
from web.api.tracking_hits import HitListQuery
from web.hit_recorder import MAX_WAITING, MAX_WAITING_PER_DELIVERY

PAGE = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text()
TEXT = " ".join(PAGE.split())
GATEWAY = {entry.metadata[ENV_KEY]: entry for entry in fields(Settings)}


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2]
    match = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert match
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in match[0].splitlines()[2:]]


def test_who_chooses() -> None:
    on_messages, on_domains = ({entry.name for entry in fields(kind)} for kind in (SendOptions, SendSettings))
    unless_said = []
    for _, message, domain, gateway, default in rows_of("Who chooses")[:4]:
        assert message.strip("`") in on_messages
        assert domain.strip("`") in on_domains
        known = GATEWAY.get(gateway.strip("`"))
        unless_said.append(UNSUBSCRIBE_UNLESS_SAID if known is None else known.default)
        assert default == ("yes" if unless_said[-1] else "no")
    assert unless_said == [True, True, False, False]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"PILLARBOX_\w+", PAGE))))
def test_settings_are_named_rightly(name: str) -> None:
    assert name in GATEWAY


def test_kinds_and_signals() -> None:
    kinds = re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \|$", PAGE, re.MULTILINE)
    assert {kind for kind, _ in kinds} == {kind.value for kind in HitKind}
    points = {
        name: int(cells[1])
        for cells in (line.strip("|").split("|") for line in PAGE.splitlines() if re.search(r"\| \d+ \| ", line))
        for name in re.findall(r"`(\w+)`", cells[0].replace("`Mozilla/5.0`", "").replace("`Sec-Purpose: prefetch`", ""))
    }
    assert points == {signal.value: meaning.points for signal, meaning in MEANINGS.items()}
    assert f"From {MACHINE_POINTS} on" in TEXT
    assert all(f"`{evidence.value}`:" in PAGE for evidence in ReadEvidence)


def test_the_figures() -> None:
    assert f"Hits are judged {SETTLED_MS // 1000} seconds after they came" in TEXT
    assert f"up to {MAX_HITS:,} for a delivery" in TEXT
    assert f"at most {MAX_OPEN_EVENTS} opens and {MAX_CLICK_EVENTS} clicks of one delivery" in TEXT
    assert f"{MAX_WAITING:,} at most and {MAX_WAITING_PER_DELIVERY} of one mail" in TEXT
    assert TEXT.count(f"/{KEPT_IPV4_BITS}, /{KEPT_IPV6_BITS}") == 2
    assert f"links after the first {MAX_LINKS:,}; bodies above {MAX_BODY_CHARACTERS // 1024**2} million" in TEXT
    assert f"`PILLARBOX_KEEP_STATUSES_DAYS`, {Settings(data=Path()).keep_statuses_days} by default" in TEXT


def test_paths_and_words() -> None:
    for path in (OPEN_PATH, CLICK_PATH, UNSUBSCRIBE_PATH):
        assert f"`<base>/{path}/<token>`" in TEXT
        assert f"`/{path}/`" in TEXT
    assert f"{HEADER}: <https://" in PAGE
    assert f"{POST_HEADER}: {ONE_CLICK}" in PAGE
    assert all(f"`{signal.value}`" in PAGE for signal in PrivacySignals)
    assert f"`{Settings(data=Path()).privacy.value}` (it counts, without address and program; the default)" in TEXT
    assert {"message_id", "made_by"} <= set(HitListQuery.model_fields)
    assert all(f"`{maker.value}`" in PAGE for maker in HitMaker)
