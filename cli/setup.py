"""What is made once for an installation: folder, schema, certificate, first account."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from core.clock import system_clock
from core.config import Settings
from core.errors import ConfigurationError
from core.services.accounts import NewAccount, create_account, has_accounts
from core.store.db import Database
from inbound.certificate import ensure_certificate

CREDENTIALS_FILE = "credentials.json"
PRIVATE_FOLDER_MODE = 0o700
PRIVATE_FILE_MODE = 0o600


def prepare(settings: Settings) -> Database:
    """Make whatever is missing; repeating it changes nothing. Raises `ConfigurationError`, `StorageUnavailable`."""
    _make_data_folder(settings.data)
    database = Database(settings.database_location)
    database.migrate()
    ensure_certificate(settings)
    credentials_path = settings.data / CREDENTIALS_FILE
    if not has_accounts(database):
        account = create_account(database, "default", system_clock())
        _write_private(credentials_path, json.dumps(credentials(settings, account), indent=2) + "\n")
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
    }


def _make_data_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER_MODE)
    except OSError as error:
        raise ConfigurationError(f"PILLARBOX_DATA: the folder {folder} cannot be made ({error})") from error


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, not even for a moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
