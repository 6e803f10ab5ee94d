"""`/webhooks`: where events are POSTed."""

from __future__ import annotations

from flask_openapi3.models.tag import Tag

from web.api.blueprint import make_blueprint

api = make_blueprint("webhooks", __name__, Tag(name="Webhooks", description="Where events are POSTed."))
