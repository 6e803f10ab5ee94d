"""`docs/protection.md` says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from core.clock import DAY_MS, HOUR_MS
from core.config import Settings
from core.sending import health
from core.sending.events import EventKind
from core.sending.pacing import DIGESTS_A_MINUTE, PIECE, PIECES, RAMP, RESERVE_SHARE, hourly
from core.services.pauses import RELEASED_AT_ONCE
from core.services.sent_retention import COUNTS_DAYS, HELD_DAYS
from core.setting_values import ENV_KEY
from inbound.scanning.sent_mail import OWN_NETWORK
from workers.housekeeping import GUARD_EVERY_S

PAGE = " ".join((Path(__file__).parents[1] / "docs" / "protection.md").read_text().split())
SCALES = {
    "delivery": health.DELIVERY, "bounce": health.BOUNCE, "complaint": health.COMPLAINT,
    "engagement": health.ENGAGEMENT,
}  # fmt: skip


def percent(share: float) -> str:
    return f"{share * 100:.2f}".rstrip("0").rstrip(".") + " %"


def test_every_setting_it_names_exists_and_has_the_default_it_says() -> None:
    known = {entry.metadata[ENV_KEY]: entry.default for entry in fields(Settings)}
    named = set(re.findall(r"PILLARBOX_[A-Z_]+", PAGE))
    assert len(named) >= 6
    assert named <= set(known)
    assert (known["PILLARBOX_SEND_HOURLY_LIMIT"], known["PILLARBOX_SEND_DAILY_LIMIT"]) == (0, 0)
    assert known["PILLARBOX_RAMP"] is False
    assert f"| {known['PILLARBOX_PAUSE_BOUNCE_PERCENT']} % | `PILLARBOX_PAUSE_BOUNCE_PERCENT` |" in PAGE
    assert f"| {known['PILLARBOX_PAUSE_COMPLAINT_PERMILLE']} ‰ | `PILLARBOX_PAUSE_COMPLAINT_PERMILLE` |" in PAGE


def test_the_events_exist() -> None:
    table = PAGE[PAGE.index("in this order") : PAGE.index("Mail is taken in all")]
    assert set(re.findall(r"\| `(\w+)` \|", table)) <= {kind.value for kind in EventKind}


def test_the_ramp() -> None:
    days = " | ".join(str(day) for day in range(1, len(RAMP) + 1))
    assert f"| day | {days} |" in PAGE
    assert f"| mails | {' | '.join(f'{count:,}' for count in RAMP)} |" in PAGE


@pytest.mark.parametrize("part", SCALES)
def test_the_scales(part: str) -> None:
    scale = SCALES[part]
    (row,) = re.findall(rf"\| `{part}` \|[^|]*\|([^|]*)\|([^|]*)\|([^|]*)\|", PAGE)
    good, bad, points = (cell.strip() for cell in row)
    word = "from" if scale.good > scale.bad else "up to"
    assert (good, bad, points) == (f"{word} {percent(scale.good)}", f"at {percent(scale.bad)}", str(scale.points))


def test_the_levels() -> None:
    tops = [100, *(bound - 1 for bound, _ in health.LEVELS)]
    spans = " | ".join(f"{bound} to {top}" for (bound, _), top in zip(health.LEVELS, tops, strict=False))
    assert f"| score | {spans} |" in PAGE
    assert f"| level | {' | '.join(f'`{level}`' for _, level in health.LEVELS)} |" in PAGE


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("cut into {} equal slices", PIECES[0]),
        ("so that each has {} places or more", PIECE),
        ("One place of {} is for `priority`", RESERVE_SHARE),
        ("at most {} a minute", DIGESTS_A_MINUTE),
        ("{:,} recipients before it answers", RELEASED_AT_ONCE),
        ("held for longer than {} days is cancelled", HELD_DAYS),
        ("counts are kept for {} days", COUNTS_DAYS),
        ("of at least {} recipients", health.MIN_RECIPIENTS),
        ("Below {} recipients there is no score", health.MIN_RECIPIENTS),
        ("(taken as {:,} where there were fewer)", health.MIN_DELIVERIES_FOR_COMPLAINTS),
        ("client is `{}`", OWN_NETWORK),
    ],
)
def test_the_numbers(words: str, number: object) -> None:
    assert words.format(number) in PAGE


def test_the_numbers_that_are_words() -> None:
    assert GUARD_EVERY_S == 60
    assert [hourly("a", count).pieces for count in (9, 19, 20, 49, 50, 99, 100)] == [1, 1, 2, 2, 5, 5, 10]
    assert hourly("a", 1_000).burst == 100
    assert (HOUR_MS < 4_000_000, DAY_MS < 100_000_000) == (True, True)


def test_every_call_it_names_exists(tmp_path: Path) -> None:
    reference = (Path(__file__).parents[1] / "web" / "api").rglob("*.py")
    code = "".join(path.read_text() for path in reference)
    for method, path in re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) (/[a-z_/{}]+)", PAGE):
        route = re.sub(r"\{id\}", "<sending_domain_id>", path)
        route = re.sub(r"\{(\w+)\}", r"<\1>", route)
        assert re.search(rf'@api\.{method.lower()}\(\s*"{re.escape(route)}"', code), (method, path)
