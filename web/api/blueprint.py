"""What the blueprints of the API have in common: prefix, key, and the errors any call can end in."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from flask_openapi3.types import ResponseDict

from web.api.fields import PREFIX
from web.auth import SCHEME_NAME, require_key
from web.errors import Error

INVALID: ResponseDict = {422: Error}
"""What calls with parameters may end in."""
INVALID_BODY: ResponseDict = {413: Error, 415: Error, 422: Error}
"""What calls with a JSON body may end in."""


def operation_id(*, name: str, **_: str) -> str:
    """The name of the function."""
    return name


def make_blueprint(
    name: str, import_name: str, tag: Tag, require: Callable[[], Response | None] = require_key
) -> APIBlueprint:
    """A blueprint behind a key: one that may manage the account, unless `require` (see `web.auth`) asks for another."""
    blueprint = APIBlueprint(
        name,
        import_name,
        url_prefix=PREFIX,
        abp_tags=[tag],
        abp_security=[{SCHEME_NAME: []}],
        abp_responses=dict.fromkeys((401, 403, 500, 503), Error),
        operation_id_callback=operation_id,
    )
    blueprint.before_request(require)
    return blueprint
