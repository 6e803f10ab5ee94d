"""`/outbound_messages`: what became of sent mail."""

from __future__ import annotations

from flask_openapi3.models.tag import Tag

from web.api.blueprint import make_blueprint

api = make_blueprint(
    "outbound_messages", __name__, Tag(name="Outbound messages", description="What became of sent mail.")
)
