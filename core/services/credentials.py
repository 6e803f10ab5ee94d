"""Keys and logins of accounts: what they open, and for which domain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import orjson

from core.errors import InvalidField
from core.ids import secret_digest
from core.services.accounts import CredentialKind
from core.store.db import Database, Row


class Scope(StrEnum):
    """What a credential may do. One without scopes may do all that its kind is for."""

    SEND = "send"
    """Send mail, by API and SMTP."""
    READ = "read"
    """See what became of it."""
    MANAGE = "manage"
    """Change addresses, domains, webhooks, lists."""


SCOPES_OF = {
    CredentialKind.API: frozenset(Scope),
    CredentialKind.SMTP: frozenset({Scope.SEND, Scope.READ}),
}
"""All that a kind is for: what lies in a mail program's settings must not open the account."""
MAX_USERNAME_LENGTH = 64
MAX_SECRET_LENGTH = 200

_SELECT = """
SELECT c.account_id, c.username, c.kind, c.scopes, c.sending_domain_id, c.last_used_ms FROM credential c
WHERE c.is_active"""
_FIND = f"{_SELECT} AND c.secret_sha256 = ? AND (c.username = ? OR (c.kind = 'api' AND c.account_id = ?))"
_FIND_ACTIVE = f"{_SELECT} AND c.username = ?"


@dataclass(frozen=True, slots=True)
class Credential:
    """A key that was recognised."""

    account_id: str
    username: str
    kind: CredentialKind
    scopes: frozenset[Scope]
    """What it may do, spelled out."""
    sending_domain_id: str | None
    """The one domain it may send from; None for all of the account's."""
    last_used_ms: int | None = None
    """Roughly (`core.services.credential_use`)."""


def find_credential(database: Database, username: str, secret: str) -> Credential | None:
    """The active credential that this name and secret open; None for wrong ones. Raises `StorageUnavailable`.

    An API key answers to its account's id as well as to its own name. Keys are looked up by digest, so a comparison
    never walks over a secret, and an unknown name costs what a wrong secret does.
    """
    if len(username) > MAX_USERNAME_LENGTH or len(secret) > MAX_SECRET_LENGTH or "\0" in username:
        return None
    with database.reading():
        rows = database.execute(_FIND, (secret_digest(secret), username, username))
    return _recognised(rows)


def find_active(database: Database, username: str) -> Credential | None:
    """The active credential of that name, as it is now. Raises `StorageUnavailable`."""
    with database.reading():
        rows = database.execute(_FIND_ACTIVE, (username,))
    return _recognised(rows)


def _recognised(rows: list[Row]) -> Credential | None:
    if not rows:
        return None
    account_id, username, kind, scopes, sending_domain_id, last_used_ms = rows[0]
    found = CredentialKind(kind)
    return Credential(account_id, username, found, read_scopes(found, scopes), sending_domain_id, last_used_ms)


def read_scope(name: str) -> Scope:
    """The scope of that name. Raises `InvalidField`."""
    try:
        return Scope(name)
    except ValueError as error:
        raise InvalidField("scope", f"{name!r} is none of {', '.join(Scope)}") from error


def read_scopes(kind: CredentialKind, written: str) -> frozenset[Scope]:
    """What the column says, spelled out; scopes that only a newer Pillarbox knows are left out."""
    names = orjson.loads(written)
    if not names:
        return SCOPES_OF[kind]
    known = {scope.value: scope for scope in Scope}
    return frozenset(known[name] for name in names if name in known)
