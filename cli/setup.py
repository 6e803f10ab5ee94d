"""What is made once for an installation: folder, schema, certificate, first account."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import peewee

from cli.data_folder import CREDENTIALS_FILE, make_data_folder
from core.clock import system_clock
from core.config import Settings
from core.errors import ConfigurationError, StorageUnavailable
from core.mta_sts import report_uri
from core.services.accounts import NewAccount, create_account, has_accounts
from core.store.blobs import open_blobs
from core.store.db import Database
from inbound.scanning import Scanners
from inbound.scanning.sent_mail import open_sent_mail_check
from inbound.smtp.certificate import ensure_certificate, tls_context
from workers.doorbell import open_redis

PRIVATE_FILE_MODE = 0o600


def prepare(settings: Settings) -> Database:
    """Make whatever is missing and try every setting; repeating it changes nothing. Raises `ConfigurationError`."""
    make_data_folder(settings.data)
    _open_services(settings)
    database = Database(settings.database_location)
    try:
        database.migrate()
        _make_first_account(settings, database)
    except (StorageUnavailable, peewee.DatabaseError) as error:
        database.close()
        raise ConfigurationError(f"DATABASE_URL: the database cannot be used ({_reason(error)})") from error
    ensure_certificate(settings)
    tls_context(settings)
    return database


def credentials(settings: Settings, account: NewAccount) -> dict[str, Any]:
    """Everything a client needs, as `credentials.json` has it."""
    return {
        "account_id": account.account_id,
        "api_key": account.api_key,
        "smtp_username": account.smtp_username,
        "smtp_password": account.smtp_password,
        "api_url": settings.api_url,
        "smtp_host": settings.smtp.reachable_host,
        "smtp_port": settings.smtp.port,
        **_submission(settings),
    }


def _submission(settings: Settings) -> dict[str, Any]:
    """Where mail programs log in: the first place of each kind."""
    starttls, tls = settings.submission_places, settings.submission_tls_places
    found: dict[str, Any] = {}
    if starttls or tls:
        found["smtp_submission_host"] = (starttls or tls)[0].reachable_host
    if starttls:
        found["smtp_submission_port"] = starttls[0].port
    if tls:
        found["smtp_submission_tls_port"] = tls[0].port
    return found


def _open_services(settings: Settings) -> None:
    """Have the settings read that name other services: a wrong one is told now, not by processes that cannot start."""
    Scanners(settings)
    open_sent_mail_check(settings, system_clock)
    report_uri(settings.tls_rpt)
    try:
        open_blobs(settings.blob_location)
    except OSError as error:
        raise ConfigurationError(f"BLOB_URL: the folder cannot be made ({error})") from error
    try:
        open_redis(settings.redis_location).close()
    except ValueError as error:
        raise ConfigurationError(f"REDIS_URL: cannot be read ({error})") from error


def _make_first_account(settings: Settings, database: Database) -> None:
    """The file is on disk before the commit: killed between the two, we make and write another account next time."""
    with database.transaction():
        if database.is_postgres:  # SQLite has locked by now
            database.execute("LOCK TABLE account IN SHARE ROW EXCLUSIVE MODE")
        if not has_accounts(database):
            account = create_account(database, "default", system_clock())
            text = json.dumps(credentials(settings, account), indent=2) + "\n"
            _write_private(settings.data / CREDENTIALS_FILE, text)


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, not even for a moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, PRIVATE_FILE_MODE)  # a file that was there keeps its mode otherwise
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _reason(error: BaseException) -> str:
    """What the driver said, on one line."""
    return " ".join(str(error.__cause__ or error).split())
