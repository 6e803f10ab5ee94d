"""`/suppressions`: addresses that get no more mail."""

from __future__ import annotations

from flask_openapi3.models.tag import Tag

from web.api.blueprint import make_blueprint

api = make_blueprint("suppressions", __name__, Tag(name="Suppressions", description="Addresses that get no more mail."))
