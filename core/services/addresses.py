"""Addresses: where mail arrives, and the URL and format it is POSTed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from core.address_checks import check_settings, check_target
from core.address_settings import DEFAULT_ADDRESS_SETTINGS, AddressSettings, read_address_settings
from core.errors import NotFound
from core.formats import TargetFormat
from core.ids import new_address_id, new_signing_secret
from core.netguard import target_host
from core.routing import kind_of
from core.services.paging import CreationKey, Page, PageRequest, creation_page, creation_place
from core.store.db import Database, Row

MAX_NICKNAME_LENGTH = 100
UNLIMITED = 1 << 62
_DEFAULTS = {entry.name: getattr(DEFAULT_ADDRESS_SETTINGS, entry.name) for entry in fields(AddressSettings)}

_COLUMNS = (
    "id, target, target_format, nickname, settings, secret, previous_secret, previous_secret_until_ms, created_ms"
)
_LIST = f"""
SELECT {_COLUMNS} FROM address
WHERE account_id = ? AND deleted_ms IS NULL AND (created_ms < ? OR (created_ms = ? AND id < ?))
ORDER BY created_ms DESC, id DESC LIMIT ? OFFSET ?"""  # noqa: S608 (a constant)
_GET = f"SELECT {_COLUMNS} FROM address WHERE id = ? AND account_id = ? AND deleted_ms IS NULL {{locking}}"  # noqa: S608
_EXISTS = "SELECT 1 FROM address WHERE id = ? AND account_id = ?"
_INSERT = """
INSERT INTO address (id, account_id, target, target_format, nickname, settings, secret, created_ms, updated_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_UPDATE = """
UPDATE address SET target = ?, target_format = ?, nickname = ?, settings = ?, updated_ms = ? WHERE id = ?"""
_ROTATE = """
UPDATE address SET secret = ?, previous_secret = ?, previous_secret_until_ms = ?, updated_ms = ? WHERE id = ?"""
_DELETE = "UPDATE address SET deleted_ms = ? WHERE id = ? AND account_id = ? AND deleted_ms IS NULL"
_DELETE_DOMAINS = "UPDATE custom_domain SET deleted_ms = ? WHERE address_id = ? AND deleted_ms IS NULL"
_DELETE_RULES = "DELETE FROM rule WHERE address_id = ?"
_REDIRECT = """
UPDATE delivery SET target_host = ?, kind = ? WHERE id IN (
    SELECT id FROM delivery
    WHERE address_id = ? AND state = 'pending' AND custom_domain_id IS NULL AND target_host <> ?
          AND kind IN ('inbound', 'forward')
    ORDER BY id {locking})"""


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """An address as it stands."""

    address_id: str
    target: str
    target_format: TargetFormat
    nickname: str | None
    settings: AddressSettings
    secret: str
    """The Standard Webhooks secret with which POSTs to its target are signed."""
    created_ms: int
    previous_secret: str | None = None
    """Signs as well, until `previous_secret_until_ms`."""
    previous_secret_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AddressDraft:
    """What a customer says of an address."""

    target: str
    """A URL, or `mailto:` and a mailbox."""
    target_format: TargetFormat
    nickname: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What changes of `AddressSettings`, by field; None takes a field back to its default, the others stay."""


def list_addresses(database: Database, account_id: str, request: PageRequest) -> Page[AddressRecord]:
    """The account's addresses, newest first. Raises `InvalidField` for a cursor that is none."""
    place = creation_place(request)
    with database.reading():
        rows = database.execute(_LIST, (account_id, *place))
    records = [_record(row) for row in rows[: request.size]]
    has_more = len(rows) > request.size
    return creation_page(records, has_more, lambda record: CreationKey(record.created_ms, record.address_id))


def get_address(database: Database, account_id: str, address_id: str) -> AddressRecord:
    """One address. Raises `NotFound`."""
    with database.reading():
        return _find(database, account_id, address_id)


def require_known_address(database: Database, account_id: str, address_id: str) -> None:
    """Raises `NotFound` unless the account has or had this address: what it received outlives it."""
    with database.reading():
        if not database.execute(_EXISTS, (address_id, account_id)):
            raise NotFound(_missing(address_id))


def create_address(
    database: Database, account_id: str, draft: AddressDraft, now_ms: int, max_message_size: int = UNLIMITED
) -> AddressRecord:
    """Make an address, ready for mail. `max_message_size` is the server's. Raises `InvalidField`."""
    settings = _changed(DEFAULT_ADDRESS_SETTINGS, draft, max_message_size)
    made = AddressRecord(
        address_id=new_address_id(),
        target=draft.target,
        target_format=draft.target_format,
        nickname=draft.nickname,
        settings=settings,
        secret=new_signing_secret(),
        created_ms=now_ms,
    )
    values = (made.address_id, account_id, made.target, made.target_format.value, made.nickname)
    with database.transaction():
        database.execute(_INSERT, (*values, settings.to_json(), made.secret, now_ms, now_ms))
    return made


def update_address(
    database: Database,
    account_id: str,
    address_id: str,
    draft: AddressDraft,
    now_ms: int,
    max_message_size: int = UNLIMITED,
    *,
    keep_nickname: bool,
) -> AddressRecord:
    """Replace what a customer says of an address. Mail that still waits goes to the new target.

    Raises `InvalidField` and `NotFound`.
    """
    with database.transaction():
        before = _find(database, account_id, address_id, locking="FOR NO KEY UPDATE" if database.is_postgres else "")
        settings = _changed(before.settings, draft, max_message_size)
        nickname = before.nickname if keep_nickname else draft.nickname
        values = (draft.target, draft.target_format.value, nickname, settings.to_json(), now_ms, address_id)
        database.execute(_UPDATE, values)
        if before.target != draft.target:
            _redirect_waiting(database, address_id, draft.target)
        return _find(database, account_id, address_id)


def rotate_secret(database: Database, account_id: str, address_id: str, overlap_ms: int, now_ms: int) -> AddressRecord:
    """Give an address a new signing secret; the old one signs as well for a while. Raises `NotFound`.

    Of two rotations within one overlap only the last two secrets sign.
    """
    with database.transaction():
        before = _find(database, account_id, address_id, locking="FOR NO KEY UPDATE" if database.is_postgres else "")
        values = (new_signing_secret(), before.secret, now_ms + overlap_ms, now_ms, address_id)
        database.execute(_ROTATE, values)
        return _find(database, account_id, address_id)


def delete_address(database: Database, account_id: str, address_id: str, now_ms: int) -> AddressRecord:
    """Take no more mail for an address and its domains; what was accepted is still delivered. Raises `NotFound`.

    Its rules go with it.
    """
    with database.transaction():
        record = _find(database, account_id, address_id)
        database.execute(_DELETE, (now_ms, address_id, account_id))
        database.execute(_DELETE_DOMAINS, (now_ms, address_id))
        database.execute(_DELETE_RULES, (address_id,))
        return record


def _changed(before: AddressSettings, draft: AddressDraft, max_message_size: int) -> AddressSettings:
    """The settings with what the draft says of them, checked together with its target."""
    check_target("target", draft.target)
    values = {name: _DEFAULTS[name] if value is None else value for name, value in draft.settings.items()}
    settings = replace(before, **values)
    # A limit that the server has lowered since is no fault of a change to something else.
    check_settings(settings, draft.target, max_message_size if "max_message_size" in values else UNLIMITED)
    return settings


def _redirect_waiting(database: Database, address_id: str, target: str) -> None:
    """Each attempt reads the target afresh; fairness and transport go by these columns, so they follow.

    Rows are locked in the order of their ids, lest two transactions wait for each other.
    """
    host = target_host(target)
    kind = kind_of(target)
    locking = "FOR UPDATE" if database.is_postgres else ""
    database.execute(_REDIRECT.format(locking=locking), (host, kind, address_id, host))


def _find(database: Database, account_id: str, address_id: str, locking: str = "") -> AddressRecord:
    rows = database.execute(_GET.format(locking=locking), (address_id, account_id))
    if not rows:
        raise NotFound(_missing(address_id))
    return _record(rows[0])


def _record(row: Row) -> AddressRecord:
    address_id, target, target_format, nickname, settings, secret, previous, previous_until_ms, created_ms = row
    return AddressRecord(
        address_id=address_id,
        target=target,
        target_format=TargetFormat(target_format),
        nickname=nickname,
        settings=read_address_settings(settings),
        secret=secret,
        created_ms=created_ms,
        previous_secret=previous,
        previous_secret_until_ms=previous_until_ms,
    )


def _missing(address_id: str) -> str:
    return f"this account has no address {address_id}"
