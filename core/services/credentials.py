"""Keys and logins of accounts: what they open, and for which domain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.services.accounts import CredentialKind
from core.store.db import Database


class Scope(StrEnum):
    """What a credential may do. One without scopes may do all that its kind is for."""

    SEND = "send"
    """Send mail, by API and SMTP."""
    READ = "read"
    """See what became of it."""
    MANAGE = "manage"
    """Change addresses, domains, webhooks, lists."""


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


def find_credential(database: Database, username: str, secret: str) -> Credential | None:
    """The active credential that this name and secret open; None for wrong ones. Raises `StorageUnavailable`."""
    raise NotImplementedError
