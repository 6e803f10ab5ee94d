"""`/sending_domains`: domains that you send from."""

from __future__ import annotations

from flask_openapi3.models.tag import Tag

from web.api.blueprint import make_blueprint

api = make_blueprint(
    "sending_domains", __name__, Tag(name="Sending domains", description="Domains that you send from.")
)
