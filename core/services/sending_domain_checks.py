"""Looking at sending domains: when asked, and when their time has come. The DNS is never asked inside a transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.clock import MINUTE_MS, Clock
from core.sending.domain_inspection import DomainInspector, Findings
from core.sending.domain_judgement import DomainState, judged
from core.sending.domain_schedule import next_check_ms
from core.sending.key_rotation import KeyState
from core.services.sending_domain_records import SendingDomainRecord, get_domain, load_domains, save_state
from core.store.db import Database, places

CLAIM_MS = 15 * MINUTE_MS
"""So long nobody else takes a domain that was taken to be looked at."""
_DUE = """
SELECT id FROM sending_domain WHERE deleted_ms IS NULL AND next_check_ms <= ?
ORDER BY next_check_ms LIMIT ? {skipping}"""
_TAKE = "UPDATE sending_domain SET next_check_ms = ? WHERE id IN ({places})"
_IS_LIVE = "SELECT 1 FROM sending_domain WHERE id = ? AND deleted_ms IS NULL"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at a domain found."""

    record: SendingDomainRecord
    """As it was when the look began."""
    begun_ms: int
    findings: Findings


def verify_domain(
    database: Database, inspector: DomainInspector, account_id: str, domain_id: str, clock: Clock
) -> SendingDomainRecord:
    """Look at a domain now, and give what has become of it. Raises `NotFound`."""
    record = get_domain(database, account_id, domain_id)
    record_inspection(database, inspect(inspector, record, clock), clock())
    return get_domain(database, account_id, domain_id)


def inspect(inspector: DomainInspector, record: SendingDomainRecord, clock: Clock) -> Inspection:
    """Ask the DNS about a domain. Takes up to `core.sending.domain_questions.VERIFY_S` seconds; touches no database."""
    begun_ms = clock()
    keys = record.published or (record.key_record(record.principal),)
    return Inspection(record, begun_ms, inspector.inspect(record.domain, keys, record.settings.tracking_host))


@dataclass(frozen=True, slots=True)
class DomainChange:
    """What a look made of a domain."""

    before: DomainState
    after: DomainState


def record_inspection(database: Database, inspection: Inspection, now_ms: int) -> DomainChange | None:
    """Write down what was found. None when that is of no use any more.

    It is of none if the domain was deleted meanwhile, or if somebody else looked later and was done earlier.
    """
    domain_id = inspection.record.domain_id
    with database.transaction():
        (before,) = load_domains(database, [domain_id], is_locking=True)
        if not database.execute(_IS_LIVE, (domain_id,)):
            return None
        if before.checked_ms is not None and before.checked_ms > inspection.begun_ms:
            return None
        findings = _still_asked(inspection, before)
        state = judged(before.state, findings, now_ms)
        save_state(database, before, state, inspection.begun_ms, _due_ms(before, state, inspection, now_ms))
        return DomainChange(before.state, state)


def take_due(database: Database, now_ms: int, limit: int) -> list[SendingDomainRecord]:
    """Domains whose time has come; nobody else gets them for `CLAIM_MS`."""
    skipping = "FOR NO KEY UPDATE SKIP LOCKED" if database.is_postgres else ""
    with database.transaction():
        ids = [row[0] for row in database.execute(_DUE.format(skipping=skipping), (now_ms, limit))]
        if ids:
            database.execute(_TAKE.format(places=places(ids)), (now_ms + CLAIM_MS, *ids))
    with database.reading():
        return load_domains(database, ids)


def _still_asked(inspection: Inspection, now: SendingDomainRecord) -> Findings:
    """Without what was found of a tracking host that is another one now."""
    is_same = inspection.record.settings.tracking_host == now.settings.tracking_host
    return inspection.findings if is_same else replace(inspection.findings, tracking=None)


def _due_ms(record: SendingDomainRecord, state: DomainState, inspection: Inspection, now_ms: int) -> int:
    """When to look again: at once for a tracking host that was named meanwhile."""
    if inspection.record.settings.tracking_host != record.settings.tracking_host:
        return now_ms
    return next_check_ms(record.domain_id, state, _waiting_since_ms(record, state), now_ms)


def _waiting_since_ms(record: SendingDomainRecord, state: DomainState) -> int:
    """When the customer last had reason to change the DNS: a new domain, a new key, one that is gone."""
    reasons = [record.created_ms, *(key.since_ms for key in state.keys if key.state is KeyState.PENDING)]
    reasons += [report.missing_since_ms or 0 for report in state.report.keys.values() if report.seen_at is None]
    return max(reasons)
