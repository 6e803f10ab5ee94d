"""Keeping the keys and logins of an account: made, listed, renamed, switched off, revoked.

A secret is given once, when it is made; only its digest is kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import orjson

from core.errors import InvalidField, NotFound
from core.ids import new_account_id, new_api_key, secret_digest
from core.services.accounts import CredentialKind
from core.services.credentials import SCOPES_OF, Scope, read_scopes
from core.services.gateway_account import GATEWAY_ACCOUNT_ID
from core.services.paging import CreationKey, Page, PageRequest, creation_page, creation_place
from core.store.db import Database, Row

MAX_CREDENTIALS = 500
"""Of one account."""
MAX_NAME_LENGTH = 100
BOUND_SCOPES = frozenset({Scope.SEND, Scope.READ})
"""All that a credential of one domain may do: who manages the account could give himself the others."""

_COLUMNS = """
c.username, c.kind, c.name, c.scopes, c.sending_domain_id, d.domain, c.is_active, c.last_used_ms, c.created_ms
FROM credential c LEFT JOIN sending_domain d ON d.id = c.sending_domain_id"""
_GET = f"SELECT {_COLUMNS} WHERE c.account_id = ? AND c.username = ?"
_LIST = f"""
SELECT {_COLUMNS} WHERE c.account_id = ? AND (c.kind = ? OR ? = '')
AND (c.created_ms < ? OR (c.created_ms = ? AND c.username < ?))
ORDER BY c.created_ms DESC, c.username DESC LIMIT ? OFFSET ?"""
_LOCK_ACCOUNT = "SELECT 1 FROM account WHERE id = ? {locking}"
_COUNT = "SELECT count(*) FROM credential WHERE account_id = ?"
_DOMAIN = "SELECT domain FROM sending_domain WHERE id = ? AND account_id = ? AND deleted_ms IS NULL"
_INSERT = """
INSERT INTO credential (account_id, kind, username, secret_sha256, created_ms, name, scopes, sending_domain_id,
                        is_active) VALUES (?, ?, ?, ?, ?, ?, ?, ?, TRUE)"""
_UPDATE = "UPDATE credential SET name = ?, scopes = coalesce(?, scopes), is_active = ? WHERE username = ?"
_DELETE = "DELETE FROM credential WHERE username = ?"
_ACTIVE_KEYS = "SELECT username, scopes FROM credential WHERE account_id = ? AND kind = 'api' AND is_active"


@dataclass(frozen=True, slots=True)
class CredentialDraft:
    """What a customer says of a new credential."""

    kind: CredentialKind
    name: str = ""
    scopes: frozenset[Scope] | None = None
    """None for all that its kind, or being bound to a domain, allows."""
    sending_domain_id: str | None = None
    """The one domain it may send from."""


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """A credential as it stands."""

    username: str
    """Its id as well."""
    kind: CredentialKind
    name: str
    scopes: frozenset[Scope]
    """Spelled out."""
    sending_domain_id: str | None
    sending_domain: str | None
    is_active: bool
    last_used_ms: int | None
    """Within an hour (`core.services.credential_use`)."""
    created_ms: int


@dataclass(frozen=True, slots=True)
class CredentialChange:
    """What is to be different; None leaves it as it is."""

    name: str | None = None
    scopes: frozenset[Scope] | None = None
    is_active: bool | None = None


def list_credentials(
    database: Database, account_id: str, request: PageRequest, kind: CredentialKind | None = None
) -> Page[CredentialRecord]:
    """The account's credentials, newest first. Raises `InvalidField` for a cursor that is none."""
    place = creation_place(request)
    wanted = "" if kind is None else kind.value
    with database.reading():
        rows = database.execute(_LIST, (account_id, wanted, wanted, *place))
    records = [_record(row) for row in rows[: request.size]]
    has_more = len(rows) > request.size
    return creation_page(records, has_more, lambda record: CreationKey(record.created_ms, record.username))


def get_credential(database: Database, account_id: str, username: str) -> CredentialRecord:
    """One credential. Raises `NotFound`."""
    with database.reading():
        return _find(database, account_id, username)


def create_credential(
    database: Database, account_id: str, draft: CredentialDraft, now_ms: int
) -> tuple[CredentialRecord, str]:
    """Make a credential; gives it with its secret in clear, the only time. Raises `InvalidField` and `NotFound`."""
    name = _checked_name(draft.name)
    scopes = _checked_scopes(draft)
    username, secret = new_account_id(), new_api_key()
    with database.transaction():
        _lock_account(database, account_id)
        if database.execute(_COUNT, (account_id,))[0][0] >= MAX_CREDENTIALS:
            raise InvalidField("credentials", f"there are {MAX_CREDENTIALS} already; delete those that are not in use")
        _require_domain(database, account_id, draft.sending_domain_id)
        values = (draft.kind.value, username, secret_digest(secret), now_ms, name, scopes, draft.sending_domain_id)
        database.execute(_INSERT, (account_id, *values))
        return _find(database, account_id, username), secret


def change_credential(database: Database, account_id: str, username: str, change: CredentialChange) -> CredentialRecord:
    """Rename a credential, give it other scopes, switch it off or on again. Raises `InvalidField` and `NotFound`."""
    with database.transaction():
        _lock_account(database, account_id)
        before = _find(database, account_id, username)
        scopes = None if change.scopes is None else _checked_scopes(_draft_of(before, change.scopes))
        after = replace(
            before,
            name=before.name if change.name is None else _checked_name(change.name),
            scopes=before.scopes if change.scopes is None else change.scopes,
            is_active=before.is_active if change.is_active is None else change.is_active,
        )
        if not (after.is_active and Scope.MANAGE in after.scopes):
            _require_other_manager(database, account_id, before)
        database.execute(_UPDATE, (after.name, scopes, after.is_active, username))
    return after


def delete_credential(database: Database, account_id: str, username: str) -> CredentialRecord:
    """Revoke a credential for good; what it has sent is still delivered. Raises `InvalidField` and `NotFound`."""
    with database.transaction():
        _lock_account(database, account_id)
        record = _find(database, account_id, username)
        _require_other_manager(database, account_id, record)
        database.execute(_DELETE, (username,))
    return record


def _draft_of(record: CredentialRecord, scopes: frozenset[Scope]) -> CredentialDraft:
    return CredentialDraft(record.kind, record.name, scopes, record.sending_domain_id)


def _checked_name(name: str) -> str:
    name = name.strip()
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidField("name", f"must be printable, of at most {MAX_NAME_LENGTH} characters")
    return name


def _checked_scopes(draft: CredentialDraft) -> str:
    """The column's text. Raises `InvalidField`."""
    allowed = SCOPES_OF[draft.kind]
    if draft.sending_domain_id is not None:
        allowed &= BOUND_SCOPES
    if draft.scopes is None:
        return "[]" if allowed == SCOPES_OF[draft.kind] else _written(allowed)
    if not draft.scopes or not draft.scopes <= allowed:
        bound = " bound to a domain" if draft.sending_domain_id is not None else ""
        raise InvalidField("scopes", f"of an {draft.kind} credential{bound} may be {', '.join(sorted(allowed))}")
    return _written(draft.scopes)


def _written(scopes: Collection[Scope]) -> str:
    return orjson.dumps(sorted(scopes)).decode()


def _require_domain(database: Database, account_id: str, sending_domain_id: str | None) -> None:
    if sending_domain_id is not None and not database.execute(_DOMAIN, (sending_domain_id, account_id)):
        raise InvalidField("sending_domain_id", "is no sending domain of this account; see /sending_domains")


def _require_other_manager(database: Database, account_id: str, record: CredentialRecord) -> None:
    """Without a key that may manage it, an account could be opened from the command line only."""
    if not record.is_active or record.kind is not CredentialKind.API or Scope.MANAGE not in record.scopes:
        return
    for username, scopes in database.execute(_ACTIVE_KEYS, (account_id,)):
        if username != record.username and Scope.MANAGE in read_scopes(CredentialKind.API, scopes):
            return
    raise InvalidField("credential", "is the last key that may manage this account; make another before")


def _lock_account(database: Database, account_id: str) -> None:
    """Those who count, or look whether another is left, do so one after the other. Raises `NotFound`."""
    locking = "FOR UPDATE" if database.is_postgres else ""
    is_known = bool(database.execute(_LOCK_ACCOUNT.format(locking=locking), (account_id,)))
    if not is_known or account_id == GATEWAY_ACCOUNT_ID:
        raise NotFound(f"there is no account {account_id}")


def _find(database: Database, account_id: str, username: str) -> CredentialRecord:
    rows = database.execute(_GET, (account_id, username))
    if not rows:
        raise NotFound(f"this account has no credential {username}")
    return _record(rows[0])


def _record(row: Row) -> CredentialRecord:
    username, kind, name, scopes, sending_domain_id, sending_domain, is_active, last_used_ms, created_ms = row
    found = CredentialKind(kind)
    return CredentialRecord(
        username, found, name, read_scopes(found, scopes), sending_domain_id, sending_domain, bool(is_active),
        last_used_ms, created_ms,
    )  # fmt: skip
