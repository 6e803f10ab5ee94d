"""Accounts and their keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.ids import new_account_id, new_api_key, secret_digest
from core.services.gateway_account import GATEWAY_ACCOUNT_ID
from core.store.db import Database
from core.store.models import Account, Credential

_LIST = "SELECT id, name, created_ms FROM account WHERE id <> ? ORDER BY created_ms, id"


class CredentialKind(StrEnum):
    """What a key opens."""

    API = "api"
    SMTP = "smtp"


@dataclass(frozen=True, slots=True)
class NewAccount:
    """A fresh account with its keys in clear: the only time they are seen."""

    account_id: str
    api_key: str
    smtp_username: str
    smtp_password: str


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """An account as it stands."""

    account_id: str
    name: str
    created_ms: int


def create_account(database: Database, name: str, now_ms: int) -> NewAccount:
    """Make an account with one API key and one SMTP login. Raises `StorageUnavailable`."""
    made = NewAccount(new_account_id(), new_api_key(), new_account_id(), new_api_key())
    with database.transaction():
        account = Account.create(id=made.account_id, name=name, created_ms=now_ms)
        for kind, username, secret in (
            (CredentialKind.API, made.account_id, made.api_key),
            (CredentialKind.SMTP, made.smtp_username, made.smtp_password),
        ):
            Credential.create(
                account=account,
                kind=kind,
                username=username,
                secret_sha256=secret_digest(secret),
                created_ms=now_ms,
            )
    return made


def authenticates(database: Database, account_id: str, api_key: str) -> bool:
    """Whether this key opens the API of this account.

    Keys are looked up by digest, so a comparison never walks over a secret.
    """
    with database.reading():
        return (
            Credential.select()
            .where(
                Credential.account == account_id,
                Credential.kind == CredentialKind.API,
                Credential.secret_sha256 == secret_digest(api_key),
                Credential.is_active,
            )
            .exists()
        )


def list_accounts(database: Database) -> list[AccountRecord]:
    """All customers, oldest first. Raises `StorageUnavailable`."""
    with database.reading():
        rows = database.execute(_LIST, (GATEWAY_ACCOUNT_ID,))
    return [AccountRecord(*row) for row in rows]


def has_accounts(database: Database) -> bool:
    """Whether the installation has been set up."""
    with database.reading():
        return Account.select().where(Account.id != GATEWAY_ACCOUNT_ID).exists()
