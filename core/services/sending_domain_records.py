"""Sending domains as they stand: read for people and for checks, and written after either changed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.addresses import normalise_domain
from core.errors import NotFound
from core.sending.domain_judgement import DomainState, principal_key
from core.sending.domain_report import read_report, report_json
from core.sending.key_rotation import DomainKey, KeyState, published_keys
from core.sending.send_settings import SendSettings, read_send_settings
from core.sending.sending_domains import KeyAlgorithm, KeyRecord
from core.services.paging import CreationKey, Page, PageRequest, creation_page, creation_place
from core.store.db import Database, Row, places

NO_REASON = "sending is paused"
_SELECT = """
SELECT d.id, d.account_id, d.domain, d.dkim_verified, d.return_path_verified, d.spf_verified, d.dmarc_verified,
       d.tracking_verified, d.signing_domain, d.report, d.checked_ms, d.next_check_ms, d.settings, d.created_ms,
       CASE WHEN d.paused_ms IS NOT NULL THEN coalesce(d.paused_because, ?) END,
       CASE WHEN a.paused_ms IS NOT NULL THEN coalesce(a.paused_because, ?) END
FROM sending_domain d JOIN account a ON a.id = d.account_id"""
_GET = f"{_SELECT} WHERE d.account_id = ? AND d.id = ? AND d.deleted_ms IS NULL"
_GET_ALL = f"{_SELECT} WHERE d.id IN ({{places}}) ORDER BY d.next_check_ms, d.id"
_LIST = f"""{_SELECT} WHERE d.account_id = ? AND d.deleted_ms IS NULL
AND (CAST(? AS TEXT) = '' OR replace(d.domain, ?, '') <> d.domain)
AND (d.created_ms < ? OR (d.created_ms = ? AND d.id < ?)) ORDER BY d.created_ms DESC, d.id DESC LIMIT ? OFFSET ?"""
_KEYS = """
SELECT sending_domain_id, selector, algorithm, state, since_ms, public_record FROM domain_key
WHERE sending_domain_id IN ({places}) ORDER BY since_ms, selector"""
_LOCK = "SELECT 1 FROM sending_domain WHERE id = ? {locking}"
_SAVE = """
UPDATE sending_domain SET dkim_verified = ?, return_path_verified = ?, spf_verified = ?, dmarc_verified = ?,
       tracking_verified = ?, signing_domain = ?, report = ?, checked_ms = ?, next_check_ms = ? WHERE id = ?"""
_SAVE_KEY = """
UPDATE domain_key SET state = ?, since_ms = ?, private_pem = CASE WHEN CAST(? AS TEXT) = ? THEN '' ELSE private_pem END
WHERE sending_domain_id = ? AND selector = ?"""


@dataclass(frozen=True, slots=True)
class SendingDomainRecord:
    """A sending domain as it stands; nothing of its private keys."""

    domain_id: str
    account_id: str
    domain: str
    """Lower-case A-labels."""
    state: DomainState
    public_records: Mapping[str, str]
    """Of its keys, by selector."""
    settings: SendSettings
    paused_because: str | None
    """Why its mail is held, by its own pause or its account's."""
    checked_ms: int | None
    """When the check began whose result this is."""
    next_check_ms: int
    created_ms: int

    @property
    def principal(self) -> DomainKey:
        """The key that stands for the domain."""
        found = principal_key(self.state.keys)
        assert found is not None, "every domain is made with an RSA key, and the newest is never forgotten"
        return found

    @property
    def published(self) -> tuple[KeyRecord, ...]:
        """The keys whose records must be in the DNS, the principal one first."""
        keys = sorted(published_keys(self.state.keys), key=lambda key: key is not self.principal)
        return tuple(self.key_record(key) for key in keys)

    def key_record(self, key: DomainKey) -> KeyRecord:
        """The public side of one of its keys."""
        return KeyRecord(key.selector, self.public_records[key.selector])


def list_domains(database: Database, account_id: str, part: str, request: PageRequest) -> Page[SendingDomainRecord]:
    """The account's domains whose name contains a text, newest first. Raises `InvalidField` for a wrong cursor."""
    place = creation_place(request)
    wanted = normalise_domain(part) or part.lower()
    values = (NO_REASON, NO_REASON, account_id, wanted, wanted, *place)
    with database.reading():
        rows = database.execute(_LIST, values)
        records = _records(database, rows[: request.size])
    has_more = len(rows) > request.size
    return creation_page(records, has_more, lambda record: CreationKey(record.created_ms, record.domain_id))


def get_domain(database: Database, account_id: str, domain_id: str) -> SendingDomainRecord:
    """One live domain. Raises `NotFound`."""
    with database.reading():
        return find_domain(database, account_id, domain_id)


def find_domain(database: Database, account_id: str, domain_id: str) -> SendingDomainRecord:
    """The same, inside `reading` or a transaction."""
    records = _records(database, database.execute(_GET, (NO_REASON, NO_REASON, account_id, domain_id)))
    if not records:
        raise NotFound(f"this account has no sending domain {domain_id}")
    return records[0]


def lock_domain(database: Database, account_id: str, domain_id: str) -> SendingDomainRecord:
    """The same, and nobody else changes it until the transaction ends. Raises `NotFound`."""
    _lock(database, domain_id)
    return find_domain(database, account_id, domain_id)


def load_domains(database: Database, domain_ids: Sequence[str], is_locking: bool = False) -> list[SendingDomainRecord]:
    """Domains by id, deleted ones too, those first whose check is due first."""
    if not domain_ids:
        return []
    if is_locking:
        for domain_id in sorted(domain_ids):
            _lock(database, domain_id)
    statement = _GET_ALL.format(places=places(domain_ids))
    return _records(database, database.execute(statement, (NO_REASON, NO_REASON, *domain_ids)))


def save_state(
    database: Database, before: SendingDomainRecord, state: DomainState, checked_ms: int | None, next_check_ms: int
) -> None:
    """Write what has become of a domain that is locked. The private half of a key that has retired is forgotten."""
    database.execute(
        _SAVE,
        (
            state.dkim_verified, state.return_path_verified, state.spf_verified, state.dmarc_verified,
            state.tracking_verified, state.signing_domain, report_json(state.report), checked_ms, next_check_ms,
            before.domain_id,
        ),
    )  # fmt: skip
    known = set(before.state.keys)
    for key in state.keys:
        if key not in known:
            values = (key.state, key.since_ms, key.state, KeyState.RETIRED, before.domain_id, key.selector)
            database.execute(_SAVE_KEY, values)


def locking(database: Database) -> str:
    """Keeps others from changing a row, but not from referring to it: mail is stored meanwhile."""
    return "FOR NO KEY UPDATE" if database.is_postgres else ""


def _lock(database: Database, domain_id: str) -> None:
    database.execute(_LOCK.format(locking=locking(database)), (domain_id,))


def _records(database: Database, rows: Sequence[Row]) -> list[SendingDomainRecord]:
    if not rows:
        return []
    ids = [row[0] for row in rows]
    keys: dict[str, list[DomainKey]] = {domain_id: [] for domain_id in ids}
    public: dict[str, dict[str, str]] = {domain_id: {} for domain_id in ids}
    for domain_id, selector, algorithm, state, since_ms, record in database.execute(
        _KEYS.format(places=places(ids)), ids
    ):
        keys[domain_id].append(DomainKey(selector, KeyAlgorithm(algorithm), KeyState(state), since_ms))
        public[domain_id][selector] = record
    return [_record(row, keys[row[0]], public[row[0]]) for row in rows]


def _record(row: Row, keys: Sequence[DomainKey], public: Mapping[str, str]) -> SendingDomainRecord:
    domain_id, account_id, domain, dkim, path, spf, dmarc, tracking, signing_domain, report = row[:10]
    checked_ms, next_check_ms, settings, created_ms, paused, account_paused = row[10:]
    state = DomainState(
        keys=tuple(keys),
        dkim_verified=bool(dkim),
        return_path_verified=bool(path),
        spf_verified=bool(spf),
        dmarc_verified=bool(dmarc),
        tracking_verified=bool(tracking),
        signing_domain=signing_domain,
        report=read_report(report),
    )
    return SendingDomainRecord(
        domain_id=domain_id,
        account_id=account_id,
        domain=domain,
        state=state,
        public_records=public,
        settings=read_send_settings(settings),
        paused_because=paused or account_paused,
        checked_ms=checked_ms,
        next_check_ms=next_check_ms,
        created_ms=created_ms,
    )
