"""Webhooks: the URLs of an account that events are POSTed to, and which events each of them wants."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson

from core.errors import InvalidField, NotFound
from core.ids import new_domain_id, new_signing_secret
from core.netguard import check_url, webhook_place
from core.sending.events import EventKind
from core.services.paging import CreationKey, Page, PageRequest, creation_page, creation_place
from core.store.db import Database, Row, places

MAX_WEBHOOKS = 50
"""Of one account: every event asks all of them."""
MAX_FILTER_ENTRIES = 100
"""Tags, and domains, that one webhook may name."""
MAX_TAG_LENGTH = 1_000
"""As `outbound.composing` takes them."""
MAX_NOTE_LENGTH = 200

_COLUMNS = """
id, url, kinds, tags, domains, note, secret, previous_secret_until_ms, is_active, disabled_because, created_ms,
updated_ms"""
_LIST = f"""
SELECT {_COLUMNS} FROM webhook
WHERE account_id = ? AND deleted_ms IS NULL AND (created_ms < ? OR (created_ms = ? AND id < ?))
ORDER BY created_ms DESC, id DESC LIMIT ? OFFSET ?"""  # noqa: S608 (a constant)
_GET = f"SELECT {_COLUMNS} FROM webhook WHERE id = ? AND account_id = ? AND deleted_ms IS NULL {{locking}}"  # noqa: S608
_LOCK_ACCOUNT = "SELECT 1 FROM account WHERE id = ? {locking}"
_COUNT = "SELECT count(*) FROM webhook WHERE account_id = ? AND deleted_ms IS NULL"
_KNOWN_DOMAINS = "SELECT id FROM sending_domain WHERE account_id = ? AND id IN ({places})"
_INSERT = """
INSERT INTO webhook (id, account_id, url, kinds, tags, domains, note, is_active, disabled_because, secret, created_ms,
                     updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_UPDATE = """
UPDATE webhook SET url = ?, kinds = ?, tags = ?, domains = ?, note = ?, is_active = ?, disabled_because = ?,
                   updated_ms = ? WHERE id = ?"""
_ROTATE = """
UPDATE webhook SET previous_secret = secret, secret = ?, previous_secret_until_ms = ?, updated_ms = ? WHERE id = ?"""
_DELETE = "UPDATE webhook SET deleted_ms = ?, updated_ms = ?, is_active = FALSE WHERE id = ?"
# What a worker is recording at this moment is passed over: waiting for it could wait for ever, since it may want the
# webhook's row. Only fairness goes by the host; every attempt reads the URL afresh.
_REDIRECT = """
UPDATE delivery SET target_host = ? WHERE id IN (
    SELECT id FROM delivery WHERE webhook_id = ? AND state = 'pending' AND target_host <> ? ORDER BY id {locking})"""


class DisabledBecause(StrEnum):
    """Why we have switched a webhook off."""

    GONE = "gone"
    """It answered 410."""
    FAILING = "failing"
    """A batch has used up all its attempts, and in all that time no other was taken either."""


@dataclass(frozen=True, slots=True)
class WebhookDraft:
    """What a customer says of a webhook."""

    url: str
    kinds: tuple[EventKind, ...] = ()
    """Empty for all but `INTERNAL_KINDS`."""
    tags: tuple[str, ...] = ()
    """Only events of messages with one of these; empty for all."""
    sending_domain_ids: tuple[str, ...] = ()
    """Only events of mail from these; empty for all."""
    note: str | None = None
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class WebhookRecord:
    """A webhook as it stands."""

    webhook_id: str
    draft: WebhookDraft
    secret: str
    """Standard Webhooks."""
    previous_secret_until_ms: int | None
    """Until then the secret before this one signs as well."""
    disabled_because: DisabledBecause | None
    """None while it is active, and when its owner has switched it off."""
    created_ms: int
    updated_ms: int


def list_webhooks(database: Database, account_id: str, request: PageRequest) -> Page[WebhookRecord]:
    """The account's webhooks, newest first. Raises `InvalidField` for a cursor that is none."""
    place = creation_place(request)
    with database.reading():
        rows = database.execute(_LIST, (account_id, *place))
    records = [_record(row) for row in rows[: request.size]]
    has_more = len(rows) > request.size
    return creation_page(records, has_more, lambda record: CreationKey(record.created_ms, record.webhook_id))


def get_webhook(database: Database, account_id: str, webhook_id: str) -> WebhookRecord:
    """One webhook. Raises `NotFound`."""
    with database.reading():
        return _find(database, account_id, webhook_id)


def create_webhook(database: Database, account_id: str, draft: WebhookDraft, now_ms: int) -> WebhookRecord:
    """Make a webhook; it is told of all that happens from now on. Raises `InvalidField`."""
    checked = _checked(draft)
    made = WebhookRecord(new_domain_id(), checked, new_signing_secret(), None, None, now_ms, now_ms)
    with database.transaction():
        database.execute(_LOCK_ACCOUNT.format(locking=_locking(database)), (account_id,))
        if database.execute(_COUNT, (account_id,))[0][0] >= MAX_WEBHOOKS:
            raise InvalidField("webhooks", f"there are {MAX_WEBHOOKS} already, the most of one account")
        _require_domains(database, account_id, checked.sending_domain_ids)
        values = (made.webhook_id, account_id, *_settings(checked), None, made.secret, now_ms, now_ms)
        database.execute(_INSERT, values)
    return made


def update_webhook(
    database: Database,
    account_id: str,
    webhook_id: str,
    draft: WebhookDraft,
    now_ms: int,
    kept: Collection[str] = (),
) -> tuple[WebhookRecord, bool]:
    """Replace what a customer says of a webhook, but for the fields of `WebhookDraft` named in `kept`.

    What still waits goes to the new URL. Gives the record, and whether it was switched on: then what it holds is to be
    released (`core.services.webhook_deliveries.release_held`). Raises `InvalidField` and `NotFound`.
    """
    with database.transaction():
        before = _find(database, account_id, webhook_id, _locking(database))
        checked = _checked(replace(draft, **{name: getattr(before.draft, name) for name in kept}))
        _require_domains(database, account_id, checked.sending_domain_ids)
        is_switched = checked.is_active != before.draft.is_active
        reason = None if is_switched else before.disabled_because
        database.execute(_UPDATE, (*_settings(checked), reason, now_ms, webhook_id))
        if checked.url != before.draft.url:
            locking = "FOR UPDATE SKIP LOCKED" if database.is_postgres else ""
            place = webhook_place(checked.url, webhook_id)
            database.execute(_REDIRECT.format(locking=locking), (place, webhook_id, place))
    return replace(before, draft=checked, disabled_because=reason, updated_ms=now_ms), is_switched and checked.is_active


def rotate_webhook_secret(
    database: Database, account_id: str, webhook_id: str, overlap_ms: int, now_ms: int
) -> WebhookRecord:
    """Give a webhook a new secret; the one before signs as well for a while. Raises `NotFound`.

    Of two rotations within one overlap only the last two secrets sign.
    """
    with database.transaction():
        before = _find(database, account_id, webhook_id, _locking(database))
        secret, until_ms = new_signing_secret(), now_ms + overlap_ms
        database.execute(_ROTATE, (secret, until_ms, now_ms, webhook_id))
    return replace(before, secret=secret, previous_secret_until_ms=until_ms, updated_ms=now_ms)


def delete_webhook(database: Database, account_id: str, webhook_id: str, now_ms: int) -> WebhookRecord:
    """Tell a webhook nothing more; what still waits ends as it comes due. Raises `NotFound`."""
    with database.transaction():
        record = _find(database, account_id, webhook_id, _locking(database))
        database.execute(_DELETE, (now_ms, now_ms, webhook_id))
    return record


def _checked(draft: WebhookDraft) -> WebhookDraft:
    """The draft with every entry once. Raises `InvalidField`."""
    check_url("url", draft.url)
    tags = tuple(dict.fromkeys(tag.strip() for tag in draft.tags))
    if any(not tag or len(tag) > MAX_TAG_LENGTH for tag in tags):
        raise InvalidField("tags", f"must have 1 to {MAX_TAG_LENGTH} characters each")
    domains = tuple(dict.fromkeys(draft.sending_domain_ids))
    for field, entries in (("tags", tags), ("sending_domain_ids", domains)):
        if len(entries) > MAX_FILTER_ENTRIES:
            raise InvalidField(field, f"are {len(entries)}, {MAX_FILTER_ENTRIES} are allowed; make another webhook")
    return replace(draft, kinds=tuple(dict.fromkeys(draft.kinds)), tags=tags, sending_domain_ids=domains)


def _require_domains(database: Database, account_id: str, domain_ids: Sequence[str]) -> None:
    """Deleted ones too: events of what they sent still come."""
    if not domain_ids:
        return
    rows = database.execute(_KNOWN_DOMAINS.format(places=places(domain_ids)), (account_id, *domain_ids))
    known = {row[0] for row in rows}
    unknown = [domain_id for domain_id in domain_ids if domain_id not in known]
    if unknown:
        raise InvalidField(
            "sending_domain_ids", f"{unknown[0]} is no sending domain of this account; see /sending_domains"
        )


def _find(database: Database, account_id: str, webhook_id: str, locking: str = "") -> WebhookRecord:
    rows = database.execute(_GET.format(locking=locking), (webhook_id, account_id))
    if not rows:
        raise NotFound(f"this account has no webhook {webhook_id}")
    return _record(rows[0])


def _locking(database: Database) -> str:
    return "FOR NO KEY UPDATE" if database.is_postgres else ""


def _settings(draft: WebhookDraft) -> tuple[Any, ...]:
    lists = (draft.kinds, draft.tags, draft.sending_domain_ids)
    return draft.url, *(orjson.dumps(list(entries)).decode() for entries in lists), draft.note, draft.is_active


def _record(row: Row) -> WebhookRecord:
    (
        webhook_id, url, kinds, tags, domains, note, secret, previous_until_ms, is_active, disabled_because, created_ms,
        updated_ms,
    ) = row  # fmt: skip
    return WebhookRecord(
        webhook_id=webhook_id,
        draft=WebhookDraft(
            url=url,
            kinds=tuple(EventKind(kind) for kind in orjson.loads(kinds)),
            tags=tuple(orjson.loads(tags)),
            sending_domain_ids=tuple(orjson.loads(domains)),
            note=note,
            is_active=bool(is_active),
        ),
        secret=secret,
        previous_secret_until_ms=previous_until_ms,
        disabled_because=None if disabled_because is None else DisabledBecause(disabled_because),
        created_ms=created_ms,
        updated_ms=updated_ms,
    )
