"""How accounts and domains send: settings, limits and pauses, read at once; and changing an account's settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from core.config import Settings
from core.errors import InvalidField, NotFound
from core.sending.send_settings import SendSettings, combined, read_send_settings, settings_json
from core.store.db import Database, Row

NO_SETTINGS = SendSettings()
SendPlace = tuple[str, str | None]
"""An account, and the sending domain that it sends from."""

_STANDINGS = """
WITH wanted (account_id, sending_domain_id) AS (VALUES {rows})
SELECT a.id, wanted.sending_domain_id, a.settings, a.paused_ms, a.paused_because, d.settings, d.paused_ms,
       d.paused_because
FROM wanted CROSS JOIN account a LEFT JOIN sending_domain d ON d.id = wanted.sending_domain_id AND d.account_id = a.id
WHERE a.id = wanted.account_id"""
_GET_SETTINGS = "SELECT settings FROM account WHERE id = ? {locking}"
_SET_SETTINGS = "UPDATE account SET settings = ? WHERE id = ?"


@dataclass(frozen=True, slots=True)
class SendStanding:
    """What the gate goes by, of an account and the domain that is sent from."""

    account_id: str
    sending_domain_id: str | None
    account: SendSettings
    domain: SendSettings
    paused_because: str | None
    """Of either; the account's goes before. None when neither is paused."""


def gateway_send_settings(settings: Settings) -> SendSettings:
    """What holds for accounts that say nothing else: limits and ramp."""
    return SendSettings(
        hourly_limit=settings.send_hourly_limit, daily_limit=settings.send_daily_limit, ramp=settings.ramp
    )


def read_standing(database: Database, account_id: str, sending_domain_id: str | None) -> SendStanding:
    """Settings and pauses. Inside a transaction or `reading`. Raises `NotFound` for an account that is gone."""
    place = (account_id, sending_domain_id)
    return read_standings(database, {place})[place]


def read_standings(database: Database, places: Collection[SendPlace]) -> dict[SendPlace, SendStanding]:
    """The same of several, at once."""
    asked = sorted(places, key=lambda place: (place[0], place[1] or ""))
    found = [_standing(row) for row in database.execute_values(_STANDINGS, asked)]
    standings = {(standing.account_id, standing.sending_domain_id): standing for standing in found}
    for place in asked:
        if place not in standings:
            raise NotFound(f"there is no account {place[0]}")
    return standings


def _standing(row: Row) -> SendStanding:
    account_id, sending_domain_id, account, account_paused_ms, account_because = row[:5]
    domain, domain_paused_ms, domain_because = row[5:]
    reasons = [
        because or "no reason was given"
        for paused_ms, because in ((account_paused_ms, account_because), (domain_paused_ms, domain_because))
        if paused_ms is not None
    ]
    return SendStanding(
        account_id=account_id,
        sending_domain_id=sending_domain_id,
        account=read_send_settings(account),
        domain=read_send_settings(domain) if domain else NO_SETTINGS,
        paused_because=reasons[0] if reasons else None,
    )


def read_account_settings(database: Database, account_id: str) -> SendSettings:
    """What an account says itself. Raises `NotFound`."""
    with database.reading():
        return _read(database, account_id, "")


def save_account_settings(database: Database, account_id: str, wanted: SendSettings, gateway: Settings) -> SendSettings:
    """Replace what an account says. Raises `InvalidField` and `NotFound`.

    Limits may only be stricter than the gateway's: those are there to protect the other accounts.
    """
    _check_limit("hourly_limit", wanted.hourly_limit, gateway.send_hourly_limit, "PILLARBOX_SEND_HOURLY_LIMIT")
    _check_limit("daily_limit", wanted.daily_limit, gateway.send_daily_limit, "PILLARBOX_SEND_DAILY_LIMIT")
    _check_source(wanted.source_ip, gateway)
    with database.transaction():
        before = _read(database, account_id, "FOR NO KEY UPDATE" if database.is_postgres else "")
        kept = SendSettings(tracking_host=before.tracking_host)  # a domain's alone: not to be changed here
        database.execute(_SET_SETTINGS, (settings_json(combined(kept, wanted)), account_id))
    return wanted


def _read(database: Database, account_id: str, locking: str) -> SendSettings:
    rows = database.execute(_GET_SETTINGS.format(locking=locking), (account_id,))
    if not rows:
        raise NotFound(f"there is no account {account_id}")
    return read_send_settings(rows[0][0])


def _check_limit(field: str, wanted: int | None, most: int, variable: str) -> None:
    if most and wanted is not None and not 0 < wanted <= most:
        raise InvalidField(field, f"must be 1 to {most}, the limit of this gateway ({variable}); or null for that")


def _check_source(wanted: str | None, gateway: Settings) -> None:
    if wanted is not None and wanted not in gateway.source_addresses:
        choice = ", ".join(gateway.source_addresses) or "there are none"
        raise InvalidField("source_ip", f"is none of PILLARBOX_SOURCE_IPS; choose from: {choice}")
