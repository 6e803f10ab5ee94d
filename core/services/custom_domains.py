"""Custom domains: domains of the customer's own whose mail all goes to one address."""

from __future__ import annotations

import re
from dataclasses import dataclass

import peewee

from core.addresses import normalise_domain
from core.errors import InvalidField, NotFound
from core.ids import new_domain_id
from core.mx_check import MxCheck
from core.netguard import check_url
from core.patterns import check_pattern
from core.routing import WILDCARD_PREFIX
from core.services.paging import CreationKey, Page, PageRequest, creation_page, creation_place
from core.store.db import Database, Row

MAX_DOMAIN_LENGTH = 255
LIKE_ESCAPE = "!"
_NUMERIC_LABEL = re.compile(r"\d+")

_SELECT = """
SELECT c.id, c.address_id, c.domain, c.auth_regex, c.domain_target, c.created_ms
FROM custom_domain c JOIN address a ON a.id = c.address_id
WHERE a.account_id = ? AND c.deleted_ms IS NULL"""
_GET = f"{_SELECT} AND c.id = ?"
_LIST = f"""{_SELECT} AND c.address_id = coalesce(?, c.address_id) AND c.domain LIKE ? ESCAPE '{LIKE_ESCAPE}'
AND (c.created_ms < ? OR (c.created_ms = ? AND c.id < ?)) ORDER BY c.created_ms DESC, c.id DESC LIMIT ? OFFSET ?"""
_LIVE_ADDRESS = "SELECT 1 FROM address WHERE id = ? AND account_id = ? AND deleted_ms IS NULL {locking}"
_TAKEN = "SELECT 1 FROM custom_domain WHERE domain = ? AND deleted_ms IS NULL"
_INSERT = """
INSERT INTO custom_domain (id, address_id, domain, auth_regex, domain_target, created_ms) VALUES (?, ?, ?, ?, ?, ?)"""
_DELETE = "UPDATE custom_domain SET deleted_ms = ? WHERE id = ?"


@dataclass(frozen=True, slots=True)
class DomainDraft:
    """What a customer says of a domain."""

    address_id: str
    domain: str
    auth_regex: str | None = None
    domain_target: str | None = None


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """A custom domain as it stands."""

    domain_id: str
    address_id: str
    domain: str
    """Lower-case A-labels, perhaps with `*.` before."""
    auth_regex: str | None
    domain_target: str | None
    created_ms: int


@dataclass(frozen=True, slots=True)
class DomainFilter:
    """Which domains to list."""

    address_id: str | None = None
    part: str = ""
    """Text that the domain contains."""


def list_domains(database: Database, account_id: str, wanted: DomainFilter, request: PageRequest) -> Page[DomainRecord]:
    """The account's domains, newest first. Raises `InvalidField` for a cursor that is none."""
    place = creation_place(request)
    parameters = (account_id, wanted.address_id, _containing(wanted.part), *place)
    with database.reading():
        rows = database.execute(_LIST, parameters)
    records = [DomainRecord(*row) for row in rows[: request.size]]
    has_more = len(rows) > request.size
    return creation_page(records, has_more, lambda record: CreationKey(record.created_ms, record.domain_id))


def get_domain(database: Database, account_id: str, domain_id: str) -> DomainRecord:
    """One domain. Raises `NotFound`."""
    with database.reading():
        return _find(database, account_id, domain_id)


def create_domain(
    database: Database,
    account_id: str,
    draft: DomainDraft,
    receiving_domain: str,
    mx_check: MxCheck | None,
    now_ms: int,
) -> DomainRecord:
    """Take mail for a domain. Raises `InvalidField`, `NotFound` (the address) and `DnsUnavailable`.

    The DNS is asked before the transaction; what could change meanwhile is looked at again within it.
    """
    made = _checked(draft, receiving_domain, now_ms)
    with database.reading():
        _require_free(database, account_id, made)
    if mx_check is not None:
        mx_check.require(made.domain)
    try:
        with database.transaction():
            _require_free(database, account_id, made, locking="FOR UPDATE" if database.is_postgres else "")
            values = (made.domain_id, made.address_id, made.domain, made.auth_regex, made.domain_target, now_ms)
            database.execute(_INSERT, values)
    except peewee.IntegrityError as error:  # another request was faster; the unique index decides
        raise _taken(made.domain) from error
    return made


def delete_domain(database: Database, account_id: str, domain_id: str, now_ms: int) -> DomainRecord:
    """Take no more mail for a domain; what was accepted is still delivered to its target. Raises `NotFound`."""
    with database.transaction():
        record = _find(database, account_id, domain_id)
        database.execute(_DELETE, (now_ms, domain_id))
        return record


def _containing(part: str) -> str:
    """The LIKE pattern for domains that contain a text, which may be in Unicode."""
    ascii_part = normalise_domain(part) or part.lower()
    return "%" + re.sub(r"([%_!])", rf"{LIKE_ESCAPE}\1", ascii_part) + "%"


def _checked(draft: DomainDraft, receiving_domain: str, now_ms: int) -> DomainRecord:
    domain = read_domain(draft.domain)
    if domain.removeprefix(WILDCARD_PREFIX) == receiving_domain:
        raise InvalidField("domain", f"{domain} is where all addresses live; name a domain of your own")
    if draft.auth_regex is not None:
        check_pattern("auth_regex", draft.auth_regex)
    if draft.domain_target is not None:
        check_url("domain_target", draft.domain_target)
    return DomainRecord(new_domain_id(), draft.address_id, domain, draft.auth_regex, draft.domain_target, now_ms)


def read_domain(text: str) -> str:
    """The one spelling of a domain, with or without `*.` before it. Raises `InvalidField`."""
    bare = text.removeprefix(WILDCARD_PREFIX)
    name = normalise_domain(bare) if len(text) <= MAX_DOMAIN_LENGTH else None
    labels = name.split(".") if name else []
    is_domain = len(labels) > 1 and not bare.startswith("[") and not _NUMERIC_LABEL.fullmatch(labels[-1])
    if name is None or not is_domain:
        raise InvalidField("domain", "is not a domain name; write example.com, or *.example.com for one label more")
    return text[: len(text) - len(bare)] + name


def _require_free(database: Database, account_id: str, made: DomainRecord, locking: str = "") -> None:
    if not database.execute(_LIVE_ADDRESS.format(locking=locking), (made.address_id, account_id)):
        raise NotFound(f"this account has no address {made.address_id}")
    if database.execute(_TAKEN, (made.domain,)):
        raise _taken(made.domain)


def _taken(domain: str) -> InvalidField:
    return InvalidField("domain", f"{domain} is in use already; delete that custom domain first, or take another name")


def _find(database: Database, account_id: str, domain_id: str) -> DomainRecord:
    rows: list[Row] = database.execute(_GET, (account_id, domain_id))
    if not rows:
        raise NotFound(f"this account has no custom domain {domain_id}")
    return DomainRecord(*rows[0])
