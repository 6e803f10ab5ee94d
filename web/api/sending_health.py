"""`/sending_health`: limits, pauses and health of sending."""

from __future__ import annotations

from flask_openapi3.models.tag import Tag

from web.api.blueprint import make_blueprint

api = make_blueprint(
    "sending_health", __name__, Tag(name="Sending health", description="Limits, pauses and health of sending.")
)
