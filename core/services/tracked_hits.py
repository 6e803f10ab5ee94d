"""Hits on the pixel and links of a sent message, as customers read them: people and machines told apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import orjson

from core.errors import NotFound
from core.sending.tracking_hits import HitKind, Signal
from core.services.paging import Page, PageRequest, bad_cursor
from core.services.tracking import UNJUDGED, read_signals
from core.store.db import Database, Row, places

_SENT = "SELECT 1 FROM sent_message WHERE account_id = ? AND message_id = ?"
_LIST = """
SELECT h.id, h.delivery_id, d.recipients, h.link, h.url, h.at_ms, h.method, h.address, h.user_agent, h.headers, h.kind,
       h.reason
FROM delivery d JOIN tracking_hit h ON h.delivery_id = d.id
WHERE d.message_id = ? AND d.account_id = ? AND h.id < ? AND h.kind IN ({kinds})
ORDER BY h.id DESC LIMIT ? OFFSET ?"""
_NEWER_THAN_ALL = (1 << 62) - 1
_CURSOR = re.compile(r"[0-9]{1,18}")


class HitMaker(StrEnum):
    """Who made a hit."""

    PERSON = "person"
    """Somebody, perhaps through the mail provider."""
    MACHINE = "machine"


_KINDS = {
    HitMaker.PERSON: (HitKind.PERSON.value, HitKind.PROXY.value),
    HitMaker.MACHINE: (HitKind.PREFETCH.value, HitKind.SCANNER.value),
}
_ALL_KINDS = (*_KINDS[HitMaker.PERSON], *_KINDS[HitMaker.MACHINE], UNJUDGED)


@dataclass(frozen=True, slots=True)
class HitRecord:
    """A request for a pixel or link, and who is taken to have made it."""

    hit_id: int
    delivery_id: str
    recipient: str
    link: int | None
    """None for the pixel."""
    url: str | None
    at_ms: int
    method: str
    network: str
    """Whence it came; empty when that is not kept."""
    user_agent: str
    kind: HitKind | None
    """None in the first seconds, before it is judged."""
    reason: str
    """What weighs most; empty when nothing speaks for a machine."""
    signals: tuple[Signal, ...]
    points: int | None
    """0 to 100, for a machine; None before it is judged."""

    @property
    def maker(self) -> HitMaker | None:
        """None before it is judged."""
        if self.kind is None:
            return None
        return next(maker for maker, kinds in _KINDS.items() if self.kind.value in kinds)


def list_hits(
    database: Database, account_id: str, message_id: str, maker: HitMaker | None, page: PageRequest
) -> Page[HitRecord]:
    """Hits of a sent message, newest first. Raises `NotFound` for a message that the account has not sent, and
    `InvalidField` for a cursor of another list."""
    before = _NEWER_THAN_ALL if page.cursor is None else _read_cursor(page.cursor)
    kinds = _ALL_KINDS if maker is None else _KINDS[maker]
    parameters = (message_id, account_id, before, *kinds, page.size + 1, page.offset)
    with database.reading():
        if not database.execute(_SENT, (account_id, message_id)):
            raise NotFound("there is no sent message with this id")
        rows = database.execute(_LIST.format(kinds=places(kinds)), parameters)
    entries = [_record(row) for row in rows[: page.size]]
    return Page(entries, str(entries[-1].hit_id) if len(rows) > page.size else None)


def _read_cursor(cursor: str) -> int:
    if not _CURSOR.fullmatch(cursor):
        raise bad_cursor()
    return int(cursor)


def _record(row: Row) -> HitRecord:
    hit_id, delivery_id, recipients, link, url, at_ms, method, network, user_agent, headers, kind, reason = row
    signals, points = read_signals(headers)
    recipient = orjson.loads(recipients)[0]
    judged = None if kind == UNJUDGED else HitKind(kind)
    return HitRecord(
        hit_id, delivery_id, recipient, link, url, at_ms, method, network, user_agent, judged, reason, signals, points
    )
