"""Who is asking: a bearer key that opens the account in the path, and what it may do there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask import Response, current_app, g, request
from flask_openapi3.models.security_scheme import SecurityScheme
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from core.errors import StorageUnavailable
from core.services.accounts import CredentialKind
from core.services.credential_use import CredentialUse
from core.services.credentials import MAX_SECRET_LENGTH, Credential, Scope, find_credential
from web.context import context
from web.errors import error_response

SCHEME_NAME = "api_key"
SECURITY_SCHEMES: dict[str, SecurityScheme | dict[str, Any]] = {
    SCHEME_NAME: {
        "type": "http",
        "scheme": "bearer",
        "description": "The API key of the account in the path: `Authorization: Bearer <api key>`. Where mail is sent, "
        "the path may name an SMTP username instead, and the key is then its password.",
    }
}
FORBIDDEN = 403
USE_EXTENSION = "pillarbox_credential_use"
_ID = re.compile(r"[0-9a-f]{16}")
"""Accounts and SMTP logins have names of this form."""


def require_key() -> Response | None:
    """Let nobody into an account without a key that may manage it; runs before anything of the request is read.

    Raises `Unauthorized` (401); gives the answer 403 for a key that may do other things only.
    """
    found = _recognise()
    if found is not None and found.kind is CredentialKind.SMTP:
        raise _refusal("this is an SMTP login, which sends and reads what it has sent; use an API key of the account")
    if found is None or found.kind is not CredentialKind.API or _path_id() != found.account_id:
        raise _refusal("this API key does not open this account; check both, or make a new key")
    return _admit(found, Scope.MANAGE)


def require_sender(scope: Scope) -> Callable[[], Response | None]:
    """As `require_key`, where mail is sent: for keys of the account, and for SMTP logins, which name themselves in the
    path and give their password as the key. Register what this gives with `before_request`.

    It sets what `current_credential` and `web.context.account_id` give.
    """

    def require() -> Response | None:
        found = _recognise()
        if found is None:
            raise _refusal("this key does not open this account or SMTP username; check both, or make a new key")
        return _admit(found, scope)

    return require


def current_credential() -> Credential:
    """Who has authenticated this request."""
    authenticated: Credential = g.credential
    return authenticated


def _path_id() -> str:
    values = request.view_args or {}
    given: str = values.get("username") or values.get("account_id", "")
    return given


def _recognise() -> Credential | None:
    """Who asks; None for somebody unknown. Raises `Unauthorized` where there is no key at all."""
    given = request.authorization
    key = given.token if given is not None and given.type == "bearer" else None
    if key is None:
        raise _refusal("an API key is needed; send the header Authorization: Bearer <api key>")
    if not _ID.fullmatch(_path_id()) or len(key) > MAX_SECRET_LENGTH:
        return None
    return _asked_twice(_path_id(), key)


def _admit(found: Credential, scope: Scope) -> Response | None:
    if scope not in found.scopes:
        owned = ", ".join(sorted(found.scopes)) or "nothing"
        return error_response(FORBIDDEN, f"this key may not {scope} (it may: {owned}); use one with the scope {scope}")
    g.credential = found
    g.account_id = found.account_id
    _use().note(found)
    return None


def _use() -> CredentialUse:
    """The application's; its thread begins with the first note, in whatever process that is."""
    made: CredentialUse | None = current_app.extensions.get(USE_EXTENSION)
    if made is None:
        ctx = context()
        made = current_app.extensions.setdefault(USE_EXTENSION, CredentialUse(ctx.database, ctx.clock))
    return made


def _asked_twice(name: str, key: str) -> Credential | None:
    """Each request's first query is this one, so it meets connections that died since the last request.

    The store drops such a connection; asking again opens a new one, and a restarted database goes unnoticed.
    """
    database = context().database
    try:
        return find_credential(database, name, key)
    except StorageUnavailable:
        return find_credential(database, name, key)


def _refusal(text: str) -> Unauthorized:
    return Unauthorized(text, www_authenticate=WWWAuthenticate("bearer", {"realm": "pillarbox"}))
