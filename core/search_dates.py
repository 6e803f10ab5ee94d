"""Points in time as search queries write them: ISO 8601 prefixes and date math.

The notation is Elasticsearch's ("Date math" in its reference): an anchor, `now` or a date followed by `||`, then
steps such as `+1h`, `-7d` or the rounding `/d`. Everything is UTC unless the date carries an offset.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum

from core.clock import to_datetime

MAX_STEPS = 8
NOW = "now"
ANCHOR_END = "||"
_MONTHS_IN_YEAR = 12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ISO = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"(?P<zone>Z|[+-]\d\d:?\d\d)?)?)?)?",
    re.IGNORECASE | re.ASCII,
)
_STEP = re.compile(r"(?:(?P<sign>[+-])(?P<count>\d{1,6})|(?P<round>/))(?P<unit>[yMwdhHms])", re.ASCII)


class Unit(StrEnum):
    """The units of date math, as Elasticsearch spells them; `H` is another spelling of `h`."""

    YEAR = "y"
    MONTH = "M"
    WEEK = "w"
    DAY = "d"
    HOUR = "h"
    MINUTE = "m"
    SECOND = "s"


_FIXED = {
    Unit.WEEK: timedelta(weeks=1),
    Unit.DAY: timedelta(days=1),
    Unit.HOUR: timedelta(hours=1),
    Unit.MINUTE: timedelta(minutes=1),
    Unit.SECOND: timedelta(seconds=1),
}
_PRECISION = (
    ("second", Unit.SECOND),
    ("minute", Unit.MINUTE),
    ("hour", Unit.HOUR),
    ("day", Unit.DAY),
    ("month", Unit.MONTH),
    ("year", Unit.YEAR),
)


@dataclass(frozen=True, slots=True)
class Span:
    """What an expression covers, in milliseconds since the epoch: `2026-08` is a whole month, `now` one moment."""

    start_ms: int
    end_ms: int
    """The last millisecond, inclusive."""


def parse_date(text: str, now_ms: int) -> Span:
    """Read a date expression. Raises `ValueError` with words for the person who wrote it."""
    try:
        anchor, precision, steps = _split(text, now_ms)
        moment, rounding = _take_steps(anchor, steps)
        unit = rounding if steps else precision
        end_ms = _to_ms(_add(moment, 1, unit)) - 1 if unit else _to_ms(moment)
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range; years end with {datetime.max.year - 1}") from error
    return Span(max(0, _to_ms(moment)), max(0, end_ms))


def _split(text: str, now_ms: int) -> tuple[datetime, Unit | None, str]:
    """The anchor, how precisely it was given, and the steps behind it."""
    if text.startswith(NOW):
        return to_datetime(now_ms), None, text.removeprefix(NOW)
    date, _, steps = text.partition(ANCHOR_END)
    match = _ISO.fullmatch(date)
    if match is None:
        raise ValueError(f"{text!r} is not a date; write 2026-08-24, 2026-08-24T14:15:22Z, now or now-1d/d")
    try:
        return _read_iso(match), _precision(match), steps
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date of the calendar") from error


def _read_iso(match: re.Match[str]) -> datetime:
    fraction = (match["fraction"] or "").ljust(6, "0")[:6]
    moment = datetime(
        int(match["year"]),
        int(match["month"] or 1),
        int(match["day"] or 1),
        int(match["hour"] or 0),
        int(match["minute"] or 0),
        int(match["second"] or 0),
        int(fraction) // 1000 * 1000,
        tzinfo=_read_zone(match["zone"]),
    )
    return moment.astimezone(UTC)


def _read_zone(text: str | None) -> timezone:
    if text is None or text.upper() == "Z":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=minutes if text[0] == "+" else -minutes))


def _precision(match: re.Match[str]) -> Unit | None:
    """The smallest part that was written; None when that is the milliseconds."""
    if match["fraction"]:
        return None
    return next(unit for name, unit in _PRECISION if match[name])


def _take_steps(moment: datetime, text: str) -> tuple[datetime, Unit | None]:
    """Apply the steps; with the unit of the last one if it rounds."""
    rounding: Unit | None = None
    position = 0
    for _ in range(MAX_STEPS + 1):
        if position == len(text):
            return moment, rounding
        step = _STEP.match(text, position)
        if step is None:
            raise ValueError(f"{text!r} is not date math; write steps such as -1d, +2h or /d (units y M w d h m s)")
        unit = Unit("h" if step["unit"] == "H" else step["unit"])
        rounding = unit if step["round"] else None
        moment = _floor(moment, unit) if rounding else _add(moment, int(step["sign"] + step["count"]), unit)
        position = step.end()
    raise ValueError(f"{text!r} has more than {MAX_STEPS} steps")


def _add(moment: datetime, count: int, unit: Unit) -> datetime:
    if unit in _FIXED:
        return moment + count * _FIXED[unit]
    months = count * (_MONTHS_IN_YEAR if unit is Unit.YEAR else 1)
    year, month0 = divmod(moment.year * _MONTHS_IN_YEAR + moment.month - 1 + months, _MONTHS_IN_YEAR)
    if not datetime.min.year <= year <= datetime.max.year:
        raise OverflowError
    last_day = calendar.monthrange(year, month0 + 1)[1]
    return moment.replace(year=year, month=month0 + 1, day=min(moment.day, last_day))


def _floor(moment: datetime, unit: Unit) -> datetime:
    if unit is Unit.WEEK:
        return _floor(moment, Unit.DAY) - timedelta(days=moment.weekday())
    if unit in (Unit.YEAR, Unit.MONTH):
        month = 1 if unit is Unit.YEAR else moment.month
        return moment.replace(month=month, day=1, hour=0, minute=0, second=0, microsecond=0)
    since = moment - _EPOCH
    return _EPOCH + since // _FIXED[unit] * _FIXED[unit]


def _to_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
