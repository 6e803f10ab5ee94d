"""`/credentials`: keys and SMTP logins."""

from __future__ import annotations

from flask_openapi3.models.tag import Tag

from web.api.blueprint import make_blueprint

api = make_blueprint("credentials", __name__, Tag(name="Credentials", description="Keys and SMTP logins."))
