"""`/layouts`: hTML frames for messages."""

from __future__ import annotations

from flask_openapi3.models.tag import Tag

from web.api.blueprint import make_blueprint

api = make_blueprint("layouts", __name__, Tag(name="Layouts", description="HTML frames for messages."))
