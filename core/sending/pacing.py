"""When a mail may go under limits by the hour and the day, while a domain is new, and as part of a digest.

A limit cuts time into slices and gives each an equal share of what it allows. A mail takes a place in the slice of its
own moment, or in the next one that has a place free; so mail for tomorrow takes tomorrow's places and keeps nobody
waiting today, and a mail under several limits takes a place in each at one and the same moment. (One "next free moment"
for a limit, as in GCRA, cannot do that: whoever must wait for one limit would push all the others ahead of himself.)

Pure: what is taken is read and written through a `Ledger`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from core.clock import DAY_MS, HOUR_MS, MINUTE_MS

PIECES = (10, 5, 2, 1)
"""How many slices a period may be cut into: the most that leaves each `PIECE` places."""
PIECE = 10
RESERVE_SHARE = 10
"""One place of so many is kept for priority mail; where a slice has fewer, none is."""
RAMP = tuple(200 << day for day in range(10))
"""Mails of a new domain on its first day, its second, …; after the last there is no limit by age. Providers distrust
a domain that begins with a crowd (M3AAWG Sending Domains and IPs Best Practices); doubling is what most advise."""
DIGESTS_A_MINUTE = 240
"""Digest mail of one account to the hosts of one domain: four a second, evenly."""


class Limit(Protocol):
    """What gives each moment a slice."""

    @property
    def is_even(self) -> bool:
        """Whether mail is spaced evenly, rather than sent as soon as its slice has a place."""

    def slice_at(self, moment_ms: int) -> Slice | None:
        """The slice of a moment; None when nothing is limited then, nor later."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of time and how many mails may go in it."""

    scope: str
    """Its name in the ledger."""
    start_ms: int
    end_ms: int
    places: int
    """At most one a millisecond."""

    def moment_of(self, place: int) -> int:
        """When the place of this number begins; the slice's end for the one behind the last."""
        return self.start_ms - (-place * (self.end_ms - self.start_ms)) // self.places

    def place_at(self, moment_ms: int) -> int:
        """The number of the first place that begins at a moment or after it."""
        place = max(0, moment_ms - self.start_ms) * self.places // (self.end_ms - self.start_ms)
        return place if self.moment_of(place) >= moment_ms else place + 1


@dataclass(frozen=True, slots=True)
class Quota:
    """So many in a period, and never more than that and `burst` in any stretch of time as long as the period."""

    name: str
    """Of whom, and by what: `a:<account>:h`."""
    count: int
    """At least 1, at most one a millisecond."""
    period_ms: int
    is_even: bool = False
    origin_ms: int = 0
    """Where the periods begin to be counted."""

    @property
    def pieces(self) -> int:
        """Slices in a period."""
        return next((pieces for pieces in PIECES if self.count >= pieces * PIECE), 1)

    @property
    def burst(self) -> int:
        """The places of the fullest slice."""
        return -(-self.count // self.pieces)

    def slice_at(self, moment_ms: int) -> Slice:
        """The slice of a moment."""
        length = self.period_ms // self.pieces
        number = (moment_ms - self.origin_ms) // length
        piece = number % self.pieces
        places = (piece + 1) * self.count // self.pieces - piece * self.count // self.pieces
        start = self.origin_ms + number * length
        return Slice(f"{self.name}:{self.count}:{number}", start, start + length, places)


@dataclass(frozen=True, slots=True)
class NewDomainRamp:
    """The first days of a sending domain."""

    name: str
    began_ms: int
    """When it began to send."""
    is_even: bool = False

    def slice_at(self, moment_ms: int) -> Slice | None:
        """The slice of a moment; None once the domain is known."""
        day = max(0, (moment_ms - self.began_ms) // DAY_MS)
        if day >= len(RAMP):
            return None
        return Quota(f"{self.name}:{day}", RAMP[day], DAY_MS, origin_ms=self.began_ms + day * DAY_MS).slice_at(
            max(moment_ms, self.began_ms)
        )


def hourly(name: str, count: int) -> Quota:
    """So many an hour."""
    return Quota(name, count, HOUR_MS)


def daily(name: str, count: int) -> Quota:
    """So many a day."""
    return Quota(name, count, DAY_MS)


def digest_spacing(name: str) -> Quota:
    """Of digest mail to one domain."""
    return Quota(name, DIGESTS_A_MINUTE, MINUTE_MS, is_even=True)


def is_limit(count: int | None, period_ms: int) -> bool:
    """Whether a number limits anything: 0 does not, nor does more than one a millisecond."""
    return count is not None and 0 < count <= period_ms


@dataclass(slots=True)
class Ledger:
    """What is taken of each slice, as the moment from which on it has room: beyond its end when it has none."""

    read: Callable[[str], int]
    """Gives that moment; 0 for a slice that nothing was taken of."""
    changed: dict[str, int] = field(default_factory=dict)
    """To be written down."""
    _known: dict[str, int] = field(default_factory=dict)

    def room_from(self, scope: str) -> int:
        """From when on a slice has room, or where to look for some."""
        if scope not in self._known:
            self._known[scope] = self.read(scope)
        return self._known[scope]

    def note(self, scope: str, moment_ms: int) -> None:
        """Something was taken."""
        if self.room_from(scope) != moment_ms:
            self._known[scope] = self.changed[scope] = moment_ms


def find_moment(ledger: Ledger, limits: Sequence[Limit], earliest_ms: int, is_priority: bool = False) -> int:
    """The first moment, not before `earliest_ms`, at which every limit has a place."""
    lanes = [_lanes(limit, is_priority) for limit in limits]
    moment = earliest_ms
    while True:
        before = moment
        for choices in lanes:
            moment = min(_first_room(ledger, lane, moment) for lane in choices)
        if moment == before:
            return moment


def reserve(ledger: Ledger, limits: Sequence[Limit], earliest_ms: int, is_priority: bool = False) -> int:
    """Take a place of every limit at that moment; gives the moment."""
    moment = find_moment(ledger, limits, earliest_ms, is_priority)
    for limit in limits:
        choices = _lanes(limit, is_priority)
        lane = next(lane for lane in choices if _first_room(ledger, lane, moment) == moment)
        _take(ledger, lane, moment)
    return moment


@dataclass(frozen=True, slots=True)
class _Lane:
    """The places of a limit that are for all mail, or those that are kept for priority mail."""

    limit: Limit
    is_reserve: bool

    def slice_at(self, moment_ms: int) -> Slice | None:
        whole = self.limit.slice_at(moment_ms)
        if whole is None or self.limit.is_even:
            return whole
        kept = whole.places // RESERVE_SHARE
        if self.is_reserve and kept:
            return replace(whole, scope=f"{whole.scope}:p", places=kept)
        return replace(whole, places=whole.places - kept)


def _lanes(limit: Limit, is_priority: bool) -> list[_Lane]:
    common = [_Lane(limit, is_reserve=False)]
    return [*common, _Lane(limit, is_reserve=True)] if is_priority and not limit.is_even else common


def _first_room(ledger: Ledger, lane: _Lane, moment_ms: int) -> int:
    """The first moment at which a lane has a place. Full slices lead to where there was room when last looked."""
    moment = moment_ms
    full: list[Slice] = []
    while (piece := lane.slice_at(moment)) is not None:
        found = _room_in(piece, ledger.room_from(piece.scope), moment, moment_ms, lane.limit.is_even)
        if found < piece.end_ms:
            moment = found
            break
        if ledger.room_from(piece.scope) >= piece.end_ms:
            full.append(piece)
        moment = max(piece.end_ms, ledger.room_from(piece.scope))
    for passed in full[:-1]:  # they lead straight to where there is room, so that the next one to look need not walk
        target = moment if piece is None else piece.start_ms
        ledger.note(passed.scope, max(target, ledger.room_from(passed.scope)))
    return moment


def _room_in(piece: Slice, room_from: int, moment: int, asked_ms: int, is_even: bool) -> int:
    """A moment in this slice, or one not before its end."""
    if room_from >= piece.end_ms:
        return piece.end_ms
    if is_even:
        return piece.moment_of(min(piece.places, max(piece.place_at(room_from), piece.place_at(moment))))
    if piece.start_ms <= asked_ms:
        return moment  # a place is free at the very moment that was asked for
    return max(moment, room_from)  # whoever waits for a later slice is spread over it


def _take(ledger: Ledger, lane: _Lane, moment: int) -> None:
    piece = lane.slice_at(moment)
    if piece is None:
        return
    room_from = ledger.room_from(piece.scope)
    place = piece.place_at(max(room_from, moment) if lane.limit.is_even else room_from)
    ledger.note(piece.scope, piece.moment_of(place + 1))
