"""`/sending_domains`: domains that you send from."""

from __future__ import annotations

import threading
from dataclasses import asdict

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from core.clock import DAY_MS, to_rfc3339
from core.dns_lookup import open_lookup
from core.mx_check import DnsUnavailable
from core.sending.domain_inspection import GatewayNames, domain_inspector, gateway_names
from core.sending.domain_questions import VERIFY_S
from core.sending.domain_report import DomainReport
from core.sending.domain_status import CheckResult
from core.sending.domain_tracking import tracking_record
from core.sending.key_rotation import OVERLAP_MS, DomainKey, KeyState
from core.sending.sending_domains import (
    KeyAlgorithm,
    RequiredRecord,
    key_name,
    mta_domain,
    records_without_cname,
    required_records,
    zone_line,
)
from core.services import sending_domain_changes as changes
from core.services import sending_domain_keys as keys
from core.services import sending_domain_records as records
from core.services.sending_domain_checks import verify_domain
from core.services.sending_domain_records import SendingDomainRecord
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import AccountPath
from web.api.paging import json_response, list_response
from web.api.sending_domain_models import (
    FoundRecord,
    SendingCheck,
    SendingChecks,
    SendingDomain,
    SendingDomainBody,
    SendingDomainList,
    SendingDomainListQuery,
    SendingDomainPath,
    SendingKey,
    SendingKeyBody,
    SendingKeyPath,
    SendingRecord,
    SendingSettings,
    SendingSettingsBody,
)
from web.context import account_id, context
from web.errors import Error

VERIFICATIONS_AT_ONCE = 4
"""Of one process: name servers that are silent must not keep all its threads from other work."""
OVERLAP_DAYS = OVERLAP_MS // DAY_MS
_places = threading.BoundedSemaphore(VERIFICATIONS_AT_ONCE)

api: APIBlueprint = make_blueprint(
    "sending_domains", __name__, Tag(name="sending_domains", description="Domains that you send from.")
)


@api.get("/sending_domains", responses={200: SendingDomainList, **INVALID})
def list_sending_domains(path: AccountPath, query: SendingDomainListQuery) -> Response:
    """List your sending domains, newest first."""
    page = records.list_domains(context().database, account_id(), query.query or "", query.to_request())
    return list_response(SendingDomainList([_answer(record) for record in page.entries]), page.next_cursor)


@api.post(
    "/sending_domains",
    responses={201: SendingDomain, **INVALID_BODY},
    description=f"The answer has the records to publish. An account may have {changes.MAX_DOMAINS} sending domains.",
)
def create_sending_domain(path: AccountPath, body: SendingDomainBody) -> Response:
    """Add a sending domain."""
    ctx = context()
    others = [KeyAlgorithm.ED25519] if body.ed25519 else []
    return json_response(
        _answer(changes.create_domain(ctx.database, account_id(), body.domain, others, ctx.clock())), 201
    )


@api.get("/sending_domains/<sending_domain_id>", responses={200: SendingDomain, 404: Error})
def get_sending_domain(path: SendingDomainPath) -> Response:
    """Show a sending domain."""
    return json_response(_answer(records.get_domain(context().database, account_id(), path.sending_domain_id)))


@api.delete(
    "/sending_domains/<sending_domain_id>",
    responses={202: SendingDomain, 404: Error},
    description="Nothing more is sent from it, but what was accepted before is. Leave its DNS records until then.",
)
def delete_sending_domain(path: SendingDomainPath) -> Response:
    """Delete a sending domain."""
    ctx = context()
    record = changes.delete_domain(ctx.database, account_id(), path.sending_domain_id, ctx.clock())
    return json_response(_answer(record), 202)


@api.post(
    "/sending_domains/<sending_domain_id>/verify",
    responses={200: SendingDomain, 404: Error},
    description=f"Asks the DNS now, for at most {VERIFY_S:.0f} seconds. What is `unknown` takes nothing away. Verified "
    "domains are looked at each day without this, others more often.",
)
def verify_sending_domain(path: SendingDomainPath) -> Response:
    """Verify a sending domain."""
    ctx = context()
    if not _places.acquire(blocking=False):
        raise DnsUnavailable("as many domains as possible are being verified at this moment; try again in some seconds")
    try:
        inspector = domain_inspector(open_lookup(ctx.settings, ctx.clock), ctx.settings, ctx.clock)
        record = verify_domain(ctx.database, inspector, account_id(), path.sending_domain_id, ctx.clock)
    finally:
        _places.release()
    return json_response(_answer(record))


@api.patch(
    "/sending_domains/<sending_domain_id>",
    responses={200: SendingDomain, 404: Error, **INVALID_BODY},
    description="Settings that are left out stay as they are; null takes a choice back.",
)
def change_sending_domain(path: SendingDomainPath, body: SendingSettingsBody) -> Response:
    """Change some settings of a sending domain."""
    return _changed(path.sending_domain_id, body.settings.model_dump(exclude_unset=True))


@api.put(
    "/sending_domains/<sending_domain_id>",
    responses={200: SendingDomain, 404: Error, **INVALID_BODY},
    description="Settings that are left out become null.",
)
def replace_sending_domain(path: SendingDomainPath, body: SendingSettingsBody) -> Response:
    """Replace all settings of a sending domain."""
    return _changed(path.sending_domain_id, body.settings.model_dump())


@api.post(
    "/sending_domains/<sending_domain_id>/keys",
    responses={201: SendingDomain, 404: Error, 409: Error, **INVALID_BODY},
    description="Publish its record; when that is seen, the new key takes over, and the record of the one before must "
    f"stay for {OVERLAP_DAYS} more days.",
)
def rotate_sending_key(path: SendingDomainPath, body: SendingKeyBody) -> Response:
    """Make a new key for a sending domain."""
    ctx = context()
    record = keys.add_key(ctx.database, account_id(), path.sending_domain_id, body.algorithm, ctx.clock())
    return json_response(_answer(record), 201)


@api.delete(
    "/sending_domains/<sending_domain_id>/keys/<selector>",
    responses={202: SendingDomain, 404: Error},
    description="It signs no more from this moment. Without an active RSA key the domain is not verified; make a new "
    "one first, unless this one was stolen.",
)
def withdraw_sending_key(path: SendingKeyPath) -> Response:
    """Withdraw a key of a sending domain."""
    ctx = context()
    record = keys.withdraw_key(ctx.database, account_id(), path.sending_domain_id, path.selector, ctx.clock())
    return json_response(_answer(record), 202)


def _changed(domain_id: str, settings: dict[str, object]) -> Response:
    ctx = context()
    ours = ctx.settings.source_addresses
    record = changes.update_settings(ctx.database, account_id(), domain_id, settings, ours, ctx.clock())
    return json_response(_answer(record))


def _answer(record: SendingDomainRecord) -> SendingDomain:
    names = gateway_names(context().settings)
    principal, state = record.principal, record.state
    return SendingDomain(
        id=record.domain_id,
        domain=record.domain,
        mta_domain=mta_domain(record.domain),
        dkim_selector=principal.selector,
        dkim_domain=key_name(principal.selector, record.domain),
        dkim_public_record=record.public_records[principal.selector],
        required_cname=names.hosts.return_path_host,
        dkim_verified=state.dkim_verified,
        return_path_verified=state.return_path_verified,
        spf_verified=state.spf_verified,
        dmarc_verified=state.dmarc_verified,
        tracking_verified=state.tracking_verified,
        signing_domain=state.signing_domain,
        dmarc_policy=state.report.dmarc_policy,
        records=[_record(needed) for needed in _needed(record, names)],
        records_without_cname=[_record(needed) for needed in records_without_cname(record.domain, names.hosts)],
        checks=_checks(state.report, principal),
        keys=[_key(record, key) for key in state.keys],
        settings=SendingSettings(**asdict(record.settings)),
        paused_because=record.paused_because,
        checked_at=_moment(record.checked_ms),
        next_check_at=to_rfc3339(record.next_check_ms),
        created_at=to_rfc3339(record.created_ms),
    )


def _needed(record: SendingDomainRecord, names: GatewayNames) -> tuple[RequiredRecord, ...]:
    host = record.settings.tracking_host
    tracking = tracking_record(host, names.tracking_goal) if host is not None else None
    return required_records(record.domain, record.published, names.hosts, tracking)


def _record(needed: RequiredRecord) -> SendingRecord:
    found = needed.record
    return SendingRecord(
        purpose=needed.purpose,
        name=found.name,
        type=found.type,
        value=found.value,
        is_required=needed.is_required,
        zone_line=zone_line(found),
    )


def _checks(report: DomainReport, principal: DomainKey) -> SendingChecks:
    key = report.keys.get(principal.selector)
    return SendingChecks(
        dkim=_check(key.check) if key is not None else None,
        return_path=_check(report.return_path),
        spf=_check(report.spf),
        dmarc=_check(report.dmarc),
        tracking=_check(report.tracking),
    )


def _check(result: CheckResult | None) -> SendingCheck | None:
    if result is None:
        return None
    looked_for, found = (
        [FoundRecord.model_validate(record, from_attributes=True) for record in some]
        for some in (result.looked_for, result.found)
    )
    return SendingCheck(state=result.state, looked_for=looked_for, found=found, cure=result.cure)


def _key(record: SendingDomainRecord, key: DomainKey) -> SendingKey:
    report = record.state.report.keys.get(key.selector) if key.state is not KeyState.RETIRED else None
    return SendingKey(
        selector=key.selector,
        algorithm=key.algorithm,
        state=key.state,
        since=to_rfc3339(key.since_ms),
        name=key_name(key.selector, record.domain),
        public_record=record.public_records[key.selector],
        seen_at=report.seen_at if report is not None else None,
        missing_since=_moment(report.missing_since_ms) if report is not None else None,
        check=_check(report.check) if report is not None else None,
    )


def _moment(moment_ms: int | None) -> str | None:
    return to_rfc3339(moment_ms) if moment_ms is not None else None
