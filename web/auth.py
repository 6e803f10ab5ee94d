"""Who is asking: a bearer key that opens the account in the path."""

from __future__ import annotations

import re
from typing import Any

from flask import g, request
from flask_openapi3.models.security_scheme import SecurityScheme
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from core.errors import StorageUnavailable
from core.services.accounts import authenticates
from core.store.db import Database
from web.context import context

SCHEME_NAME = "api_key"
SECURITY_SCHEMES: dict[str, SecurityScheme | dict[str, Any]] = {
    SCHEME_NAME: {
        "type": "http",
        "scheme": "bearer",
        "description": "The API key of the account in the path: `Authorization: Bearer <api key>`.",
    }
}
_ACCOUNT_ID = re.compile(r"[0-9a-f]{16}")
_MAX_KEY_LENGTH = 200


def require_key() -> None:
    """Let nobody in without a key; runs before anything of the request is read. Raises `Unauthorized` (401)."""
    account_id = (request.view_args or {}).get("account_id", "")
    given = request.authorization
    key = given.token if given is not None and given.type == "bearer" else None
    if key is None:
        raise _refusal("an API key is needed; send the header Authorization: Bearer <api key>")
    if not _is_valid(account_id, key):
        raise _refusal("this API key does not open this account; check both, or make a new key")
    g.account_id = account_id


def _is_valid(account_id: str, key: str) -> bool:
    if not _ACCOUNT_ID.fullmatch(account_id) or len(key) > _MAX_KEY_LENGTH:
        return False
    database = context().database
    return _asked_twice(database, account_id, key)


def _asked_twice(database: Database, account_id: str, key: str) -> bool:
    """Each request's first query is this one, so it meets connections that died since the last request.

    The store drops such a connection; asking again opens a new one, and a restarted database goes unnoticed.
    """
    try:
        return authenticates(database, account_id, key)
    except StorageUnavailable:
        return authenticates(database, account_id, key)


def _refusal(text: str) -> Unauthorized:
    return Unauthorized(text, www_authenticate=WWWAuthenticate("bearer", {"realm": "pillarbox"}))
