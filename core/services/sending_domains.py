"""Domains that accounts send from, as whatever sends mail asks for them.

`core.services.sending_domain_*` make, change and verify them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from core.sending.domain_report import DomainReport, read_report
from core.sending.key_rotation import KeyState
from core.sending.send_settings import SendSettings, read_send_settings
from core.sending.sending_domains import KeyAlgorithm
from core.services.sending_domain_records import NO_REASON
from core.store.db import Database, Row, places

_SENDER = """
SELECT d.id, d.account_id, d.domain, d.dkim_verified, d.return_path_verified, d.signing_domain, d.settings,
       d.tracking_verified, d.paused_ms, d.paused_because, a.paused_ms, a.paused_because
FROM sending_domain d JOIN account a ON a.id = d.account_id"""
_FIND = f"{_SENDER} WHERE d.account_id = ? AND d.domain = ? AND d.deleted_ms IS NULL"
_LOAD = f"{_SENDER} WHERE d.id IN ({{places}})"
_KEYS = """
SELECT sending_domain_id, selector, algorithm, private_pem FROM domain_key
WHERE sending_domain_id IN ({places}) AND state = ?"""
_REPORTS = "SELECT id, report FROM sending_domain WHERE id IN ({places})"


@dataclass(frozen=True, slots=True)
class SenderKey:
    """A key that signs now."""

    selector: str
    algorithm: KeyAlgorithm
    private_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sender:
    """What sending needs to know of a sending domain."""

    sending_domain_id: str
    account_id: str
    domain: str
    """Lower-case A-labels."""
    is_verified: bool
    """Whether mail may be sent: a DKIM key of it was seen in the DNS."""
    has_return_path: bool
    """Whether `mta.<domain>` leads to us, so that bounces come back."""
    signing_domain: str | None
    """`d=` of signatures."""
    keys: tuple[SenderKey, ...]
    """RSA first; empty while none is active."""
    settings: SendSettings
    """Its own; the account's come behind them (`core.sending.send_settings.combined`)."""
    tracking_verified: bool
    """Whether `settings.tracking_host` leads to us."""
    paused_because: str | None
    """Why its mail is held, by its own pause or its account's; None when it is not."""


def find_sender(database: Database, account_id: str, domain: str) -> Sender | None:
    """The live sending domain of an account with this name (lower-case A-labels). Raises `StorageUnavailable`."""
    with database.reading():
        return next(iter(_senders(database, database.execute(_FIND, (account_id, domain)))), None)


def load_senders(database: Database, sending_domain_ids: Collection[str]) -> dict[str, Sender]:
    """Sending domains by id, deleted ones too: what was accepted is still sent. Inside `reading` or a transaction."""
    ids = sorted(set(sending_domain_ids))
    rows = database.execute(_LOAD.format(places=places(ids)), ids) if ids else []
    return {sender.sending_domain_id: sender for sender in _senders(database, rows)}


def _senders(database: Database, rows: Sequence[Row]) -> list[Sender]:
    if not rows:
        return []
    ids = [row[0] for row in rows]
    keys: dict[str, list[SenderKey]] = {domain_id: [] for domain_id in ids}
    statement = _KEYS.format(places=places(ids))
    for domain_id, selector, algorithm, pem in database.execute(statement, (*ids, KeyState.ACTIVE)):
        keys[domain_id].append(SenderKey(selector, KeyAlgorithm(algorithm), pem))
    reports = _reports(database, [domain_id for domain_id in ids if len(keys[domain_id]) > 1])
    return [_sender(row, keys[row[0]], reports.get(row[0], DomainReport())) for row in rows]


def _reports(database: Database, ids: Sequence[str]) -> dict[str, DomainReport]:
    rows = database.execute(_REPORTS.format(places=places(ids)), ids) if ids else []
    return {domain_id: read_report(text) for domain_id, text in rows}


def _sender(row: Row, keys: Sequence[SenderKey], report: DomainReport) -> Sender:
    domain_id, account_id, domain, is_verified, has_path, signing_domain, settings, tracking = row[:8]
    paused_ms, because, account_paused_ms, account_because = row[8:]
    reasons = [because or NO_REASON] if paused_ms is not None else []
    reasons += [account_because or NO_REASON] if account_paused_ms is not None else []
    return Sender(
        sending_domain_id=domain_id,
        account_id=account_id,
        domain=domain,
        is_verified=bool(is_verified),
        has_return_path=bool(has_path),
        signing_domain=signing_domain,
        keys=_usable(keys, signing_domain, report),
        settings=read_send_settings(settings),
        tracking_verified=bool(tracking),
        paused_because=reasons[0] if reasons else None,
    )


def _usable(keys: Sequence[SenderKey], signing_domain: str | None, report: DomainReport) -> tuple[SenderKey, ...]:
    """Those whose record lies at the signing domain: a signature names one domain, and so the place of its key."""
    if signing_domain is None:
        return ()
    found = [key for key in keys if key.selector not in report.keys or report.place_of(key.selector) == signing_domain]
    return tuple(sorted(found, key=lambda key: key.algorithm is not KeyAlgorithm.RSA))
