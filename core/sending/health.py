"""How well an account or a domain sends: rates, a score made of them, and when it is better to stop.

Pure. The rates are of counted events (`core.services.tallies`). 100 points are there to begin with; each part takes
some away, by how far its rate lies between a good one and a bad one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from core.sending.events import EventKind

MIN_RECIPIENTS = 50
"""Below this many recipients there is no score, and nothing is paused: one bounce would be a scandal."""
MIN_DELIVERIES_FOR_COMPLAINTS = 1_000
"""The complaint rate that points and pauses go by is taken of at least so many deliveries: one angry reader among
fifty says nothing."""
FULL_SCORE = 100
PERCENT = 100
PERMILLE = 1_000


class HealthLevel(StrEnum):
    """A score in a word; the bounds are CloudMailin's."""

    HEALTHY = "healthy"
    WARNING = "warning"
    DANGER = "danger"
    CRITICAL = "critical"


LEVELS = ((90, HealthLevel.HEALTHY), (75, HealthLevel.WARNING), (50, HealthLevel.DANGER), (0, HealthLevel.CRITICAL))
"""From which score on."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What a rate costs: nothing up to `good`, all of `points` from `bad` on, in between in proportion."""

    good: float
    bad: float
    points: int

    def cost(self, rate: float) -> float:
        """In points."""
        share = (rate - self.good) / (self.bad - self.good)
        return self.points * min(1.0, max(0.0, share))


DELIVERY = Scale(good=0.95, bad=0.75, points=20)
"""Arrived, of all that has ended. Bounces cost more by their own scale."""
BOUNCE = Scale(good=0.02, bad=0.10, points=50)
"""Hard bounces of recipients mailed: lists that are kept clean have less than 2 %; providers act at 5 to 10."""
COMPLAINT = Scale(good=0.0005, bad=0.003, points=60)
"""Complaints of deliveries: Gmail asks for less than 0.1 % and never 0.3 % (its Email sender guidelines)."""
ENGAGEMENT = Scale(good=0.10, bad=0.0, points=10)
"""Opens and clicks of deliveries, of mail that is tracked."""


@dataclass(frozen=True, slots=True)
class SendCounts:
    """Events of a stretch of time."""

    recipients: int = 0
    """Mailed: their first attempt has begun."""
    delivered: int = 0
    bounced: int = 0
    failed: int = 0
    """Ended without arriving, not counting hard bounces."""
    complaints: int = 0
    engaged: int = 0

    @classmethod
    def of(cls, counts: Mapping[EventKind, int]) -> SendCounts:
        """Of how many events each kind has had."""
        delivered, bounced = counts.get(EventKind.DELIVERY, 0), counts.get(EventKind.BOUNCE, 0)
        return cls(
            # What was mailed before the stretch began may end within it.
            recipients=max(counts.get(EventKind.DISPATCH, 0), delivered, bounced),
            delivered=delivered,
            bounced=bounced,
            failed=sum(counts.get(kind, 0) for kind in _FAILED),
            complaints=counts.get(EventKind.COMPLAINT, 0),
            engaged=max(counts.get(kind, 0) for kind in _ENGAGED),
        )


_FAILED = (EventKind.SOFT_BOUNCE, EventKind.RETRIES_EXHAUSTED, EventKind.ERROR)
_ENGAGED = (EventKind.OPEN, EventKind.READ, EventKind.CLICK)
COUNTED = (EventKind.DISPATCH, EventKind.DELIVERY, EventKind.BOUNCE, EventKind.COMPLAINT, *_FAILED, *_ENGAGED)
"""The kinds that any of this goes by."""


@dataclass(frozen=True, slots=True)
class HealthPart:
    """One rate, and what it costs."""

    rate: float | None
    """A share from 0 to 1; None when there is too little to tell, or nothing is tracked."""
    points_lost: int
    points: int
    """That it can cost at most."""


@dataclass(frozen=True, slots=True)
class Health:
    """The score of a stretch of time, with its parts."""

    counts: SendCounts
    score: int | None
    """0 to 100; None when there is too little to tell."""
    delivery: HealthPart
    bounce: HealthPart
    complaint: HealthPart
    engagement: HealthPart

    @property
    def level(self) -> HealthLevel | None:
        """The score in a word."""
        return None if self.score is None else level_of(self.score)


@dataclass(frozen=True, slots=True)
class PauseBounds:
    """Above which rates sending is paused; 0 for never."""

    bounce_percent: int
    complaint_permille: int


def level_of(score: int) -> HealthLevel:
    """A score in a word."""
    return next(level for bound, level in LEVELS if score >= bound)


def health_of(counts: SendCounts) -> Health:
    """The score of what was counted."""
    is_known = counts.recipients >= MIN_RECIPIENTS
    ended = counts.delivered + counts.bounced + counts.failed
    parts = (
        _part(DELIVERY, _share(counts.delivered, ended), is_known),
        _part(BOUNCE, _share(counts.bounced, counts.recipients), is_known),
        _part(COMPLAINT, _share(counts.complaints, counts.delivered), is_known, _complaint_rate(counts)),
        _part(ENGAGEMENT, _share(counts.engaged, counts.delivered) if counts.engaged else None, is_known),
    )
    score = max(0, FULL_SCORE - sum(part.points_lost for part in parts)) if is_known else None
    return Health(counts, score, *parts)


def reason_to_pause(counts: SendCounts, bounds: PauseBounds) -> str | None:
    """Why sending is better stopped, in words for its owner; None when it may go on."""
    if counts.recipients < MIN_RECIPIENTS:
        return None
    bounced = counts.bounced / counts.recipients
    if bounds.bounce_percent and bounced * PERCENT > bounds.bounce_percent:
        return (
            f"{counts.bounced} of {counts.recipients} recipients bounced in the last day ({bounced:.1%}; the limit is "
            f"{bounds.bounce_percent} %): see which addresses do not exist, and clean the list before you resume"
        )
    complained = _complaint_rate(counts)
    if bounds.complaint_permille and complained * PERMILLE > bounds.complaint_permille:
        return (
            f"{counts.complaints} recipients complained of spam in the last day, of {counts.delivered} deliveries "
            f"({_share(counts.complaints, counts.delivered) or 1:.2%}; the limit is "
            f"{bounds.complaint_permille / PERMILLE:.1%}): write only to those who asked for it before you resume"
        )
    return None


def _complaint_rate(counts: SendCounts) -> float:
    return counts.complaints / max(counts.delivered, MIN_DELIVERIES_FOR_COMPLAINTS)


def _share(part: int, whole: int) -> float | None:
    return min(1.0, part / whole) if whole else None


def _part(scale: Scale, rate: float | None, is_known: bool, judged: float | None = None) -> HealthPart:
    """`judged` is the rate that the cost goes by, where that is another."""
    shown = rate if is_known else None
    cost = 0.0 if shown is None else scale.cost(shown if judged is None else judged)
    return HealthPart(shown, round(cost), scale.points)
