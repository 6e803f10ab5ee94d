"""`/messages`: mail to be sent."""

from __future__ import annotations

from flask_openapi3.models.tag import Tag

from web.api.blueprint import make_blueprint

api = make_blueprint("messages", __name__, Tag(name="Messages", description="Mail to be sent."))
