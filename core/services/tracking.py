"""Hits on pixels and tracked links: stored as they come, judged when they have settled, told as events if people made
them.

In two steps, because the first click of a burst looks like a person's until the second has come, perhaps to another
web process; and because the host that looks into a mail before it accepts it does so before the delivery is recorded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from core.delivery import DeliveryState
from core.sending.events import EventDetails, EventKind, NewEvent
from core.sending.tracking_answers import network_address
from core.sending.tracking_hits import (
    SETTLED_MS,
    Hit,
    HitJudgement,
    HitKind,
    ReadEvidence,
    Signal,
    judge_signals,
    read_mark,
    timing_signals,
)
from core.services.events import insert_events
from core.store.db import Database, Row, places

MAX_HITS = 1_000
"""Kept of one delivery; further ones are answered and forgotten."""
MAX_OPEN_EVENTS = 20
"""Of one delivery. Who looks at a mail more often than that is a program, or has told us enough."""
MAX_CLICK_EVENTS = 100
"""Of one delivery, over all its links."""
NEIGHBOURS = 20
"""Hits before, and as many after, that one is looked at beside for bursts: whoever asks faster is found all the same,
and judging stays linear."""
UNJUDGED = ""
"""The kind of a hit that has not settled."""
RECENT_HITS = 20_000
"""How far back, in hits, those are looked for that a process has left behind unjudged."""

_TOLD_KINDS = (EventKind.OPEN, EventKind.CLICK, EventKind.READ)
_KNOWN = "SELECT id FROM delivery WHERE id IN ({places}) ORDER BY id{locking}"
_COUNT = "SELECT delivery_id, count(*) FROM tracking_hit WHERE delivery_id IN ({places}) GROUP BY delivery_id"
_INSERT = """
INSERT INTO tracking_hit (delivery_id, link, url, at_ms, method, address, user_agent, headers, kind, reason)
VALUES {rows}"""
_DELIVERIES = """
SELECT d.id, d.account_id, s.sending_domain_id, d.message_id, d.recipients, d.state, d.attempts, d.lease_token,
       d.finished_ms
FROM delivery d JOIN sent_message s ON s.message_id = d.message_id
WHERE d.id IN ({places}) ORDER BY d.id{locking}"""
_HITS = """
SELECT id, delivery_id, link, url, at_ms, address, user_agent, headers, kind FROM tracking_hit
WHERE delivery_id IN ({places}) ORDER BY at_ms, id"""
_TOLD = """
SELECT delivery_id, kind, count(*) FROM event
WHERE message_id IN ({messages}) AND delivery_id IN ({places}) AND kind IN ({kinds}) GROUP BY delivery_id, kind"""
_JUDGE = """
WITH result (id, kind, reason, headers) AS (VALUES {rows})
UPDATE tracking_hit SET kind = result.kind, reason = result.reason, headers = result.headers
FROM result WHERE tracking_hit.id = result.id"""
_LEFT_BEHIND = f"""
SELECT DISTINCT delivery_id FROM tracking_hit
WHERE id > (SELECT coalesce(max(id), 0) FROM tracking_hit) - {RECENT_HITS} AND kind = '{UNJUDGED}'"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class NewHit:
    """A request for a pixel or link, with no more in it than may be kept."""

    delivery_id: str
    hit: Hit
    """`address` is a network (`core.sending.tracking_answers.coarse_network`), or empty."""
    url: str | None
    """Of the link."""
    method: str
    signals: tuple[Signal, ...]
    """`core.sending.tracking_hits.request_signals`, of the whole request."""


@dataclass(frozen=True, slots=True)
class _Tracked:
    """A delivery with hits."""

    delivery_id: str
    account_id: str
    sending_domain_id: str | None
    message_id: str
    recipient: str
    state: str
    attempts: int
    is_leased: bool
    finished_ms: int | None

    def delivered_ms(self, at_ms: int) -> int | None:
        """When the host took the mail, as far as a hit at this moment goes.

        During the first attempt nobody has the mail yet but the host that is looking into it. After one that failed,
        somebody may: the answer may have been lost.
        """
        if self.state == DeliveryState.DELIVERED:
            return self.finished_ms
        return at_ms if self.is_leased and self.attempts == 1 else None


@dataclass(frozen=True, slots=True)
class _StoredHit:
    hit_id: int
    hit: Hit
    url: str | None
    signals: tuple[Signal, ...]
    kind: str


def store_hits(database: Database, hits: Sequence[NewHit]) -> list[str]:
    """Commit hits, unjudged; gives the deliveries they belong to, for `judge_hits`. Raises `StorageUnavailable`.

    Those of deliveries that are not kept any more are passed over, as those beyond `MAX_HITS`.
    """
    ids = sorted({hit.delivery_id for hit in hits})
    if not ids:
        return []
    with database.transaction():
        locking = " FOR KEY SHARE" if database.is_postgres else ""
        known = {row[0] for row in database.execute(_KNOWN.format(places=places(ids), locking=locking), ids)}
        counts: Counter[str] = Counter(dict(database.execute(_COUNT.format(places=places(ids)), ids)))
        rows = []
        for hit in hits:
            if hit.delivery_id in known and counts[hit.delivery_id] < MAX_HITS:
                counts[hit.delivery_id] += 1
                rows.append(_hit_row(hit))
        database.execute_values(_INSERT, rows)
    return sorted({row[0] for row in rows})


def judge_hits(database: Database, delivery_ids: Collection[str], now_ms: int, settled_ms: int = SETTLED_MS) -> int:
    """Judge the hits of these deliveries that have settled, and write events; gives how many. One commit.

    Any number of processes may judge the same: each hit is judged once. Whoever calls it rings for
    `DeliveryKind.EVENTS` if there were some. Raises `StorageUnavailable`.
    """
    ids = sorted(set(delivery_ids))
    if not ids:
        return 0
    with database.transaction():
        tracked = _load_deliveries(database, ids)
        hits = _load_hits(database, sorted(tracked))
        told = _count_told(database, tracked)
        judged: list[Row] = []
        events: list[NewEvent] = []
        for delivery_id, entries in hits.items():
            verdicts = _judge(tracked[delivery_id], entries, now_ms - settled_ms)
            judged += [_verdict_row(hit_id, verdict) for hit_id, verdict in verdicts.items()]
            events += _events(tracked[delivery_id], entries, verdicts, told)
        database.execute_values(_JUDGE, judged)
        insert_events(database, events, now_ms)
    return len(events)


def left_behind(database: Database) -> list[str]:
    """Deliveries with hits that nobody has judged yet: what a process that was killed leaves. Raises
    `StorageUnavailable`."""
    with database.reading():
        return sorted(row[0] for row in database.execute(_LEFT_BEHIND))


def signals_json(signals: Sequence[Signal], points: int | None) -> str:
    """What the column `headers` holds: what speaks for a machine, and how much, once judged."""
    return orjson.dumps({"signals": [signal.value for signal in signals], "points": points}).decode()


def read_signals(text: str) -> tuple[tuple[Signal, ...], int | None]:
    """What `signals_json` wrote; signals that this version does not know are passed over."""
    found: dict[str, Any] = orjson.loads(text)
    known = {signal.value: signal for signal in Signal}
    return tuple(known[name] for name in found["signals"] if name in known), found["points"]


def _hit_row(new: NewHit) -> Row:
    return (
        new.delivery_id, new.hit.link, new.url, new.hit.at_ms, new.method, new.hit.address, new.hit.user_agent,
        signals_json(new.signals, None), UNJUDGED, "",
    )  # fmt: skip


def _load_deliveries(database: Database, ids: Sequence[str]) -> dict[str, _Tracked]:
    """Locked, in the order of their ids: two that judge at once would both tell the same."""
    locking = " FOR NO KEY UPDATE OF d" if database.is_postgres else ""
    rows = database.execute(_DELIVERIES.format(places=places(ids), locking=locking), ids)
    return {row[0]: _tracked(row) for row in rows}


def _tracked(row: Row) -> _Tracked:
    delivery_id, account_id, domain_id, message_id, recipients, state, attempts, lease_token, finished_ms = row
    recipient = orjson.loads(recipients)[0]
    is_leased = lease_token is not None
    return _Tracked(delivery_id, account_id, domain_id, message_id, recipient, state, attempts, is_leased, finished_ms)


def _load_hits(database: Database, ids: Sequence[str]) -> dict[str, list[_StoredHit]]:
    hits: dict[str, list[_StoredHit]] = defaultdict(list)
    rows = database.execute(_HITS.format(places=places(ids)), ids) if ids else []
    for hit_id, delivery_id, link, url, at_ms, address, user_agent, headers, kind in rows:
        signals, _ = read_signals(headers)
        hits[delivery_id].append(_StoredHit(hit_id, Hit(at_ms, link, user_agent, address), url, signals, kind))
    return hits


def _count_told(database: Database, tracked: Mapping[str, _Tracked]) -> Counter[tuple[str, str]]:
    """How many events of each kind each delivery has had."""
    if not tracked:
        return Counter()
    messages = sorted({entry.message_id for entry in tracked.values()})
    statement = _TOLD.format(messages=places(messages), places=places(list(tracked)), kinds=places(_TOLD_KINDS))
    rows = database.execute(statement, (*messages, *tracked, *_TOLD_KINDS))
    return Counter({(delivery_id, kind): count for delivery_id, kind, count in rows})


def _judge(tracked: _Tracked, entries: Sequence[_StoredHit], until_ms: int) -> dict[int, HitJudgement]:
    """The judgements of those hits, by id, that have none and came by then."""
    hits = [entry.hit for entry in entries]
    verdicts = {}
    for place, entry in enumerate(entries):
        if entry.kind == UNJUDGED and entry.hit.at_ms <= until_ms:
            near = hits[max(0, place - NEIGHBOURS) : place] + hits[place + 1 : place + 1 + NEIGHBOURS]
            timing = timing_signals(entry.hit, tracked.delivered_ms(entry.hit.at_ms), near)
            verdicts[entry.hit_id] = judge_signals((*entry.signals, *timing))
    return verdicts


def _verdict_row(hit_id: int, verdict: HitJudgement) -> Row:
    return hit_id, verdict.kind.value, verdict.reason, signals_json(verdict.signals, verdict.machine_points)


def _events(
    tracked: _Tracked,
    entries: Sequence[_StoredHit],
    verdicts: Mapping[int, HitJudgement],
    told: Counter[tuple[str, str]],
) -> list[NewEvent]:
    """What people's hits that were judged just now are told as, in the order of time."""
    limits = {EventKind.OPEN: MAX_OPEN_EVENTS, EventKind.CLICK: MAX_CLICK_EVENTS}
    events = []
    for entry in entries:
        verdict = verdicts.get(entry.hit_id)
        kind = EventKind.OPEN if entry.hit.link is None else EventKind.CLICK
        if verdict is not None and verdict.counts and told[tracked.delivery_id, kind] < limits[kind]:
            told[tracked.delivery_id, kind] += 1
            events.append(_event(tracked, kind, entry, None))
    if not told[tracked.delivery_id, EventKind.READ]:
        events += _read_event(tracked, entries, verdicts)
    return sorted(events, key=lambda event: event.at_ms)


def _read_event(
    tracked: _Tracked, entries: Sequence[_StoredHit], verdicts: Mapping[int, HitJudgement]
) -> list[NewEvent]:
    judged = {entry.hit_id: HitJudgement(HitKind(entry.kind), 0, ()) for entry in entries if entry.kind != UNJUDGED}
    judged.update(verdicts)
    mark = read_mark([(entry.hit, judged[entry.hit_id]) for entry in entries if entry.hit_id in judged])
    if mark is None:
        return []
    is_click = mark.evidence is ReadEvidence.CLICKED
    entry = next(
        found
        for found in entries
        if found.hit.at_ms == mark.at_ms
        and (found.hit.link is not None) is is_click
        and found.hit_id in judged
        and judged[found.hit_id].kind is HitKind.PERSON
    )
    reason = "a link was followed" if is_click else "the mail was opened again"
    return [_event(tracked, EventKind.READ, entry, reason)]


def _event(tracked: _Tracked, kind: EventKind, entry: _StoredHit, reason: str | None) -> NewEvent:
    details = EventDetails(
        agent=entry.hit.user_agent or None,
        ip=network_address(entry.hit.address) or None,
        url=entry.url if kind is EventKind.CLICK else None,
        reason=reason,
    )
    return NewEvent(
        kind, tracked.account_id, tracked.sending_domain_id, tracked.message_id, tracked.delivery_id,
        tracked.recipient, entry.hit.at_ms, details,
    )  # fmt: skip
