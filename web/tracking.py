"""Open pixels, tracked links and one-click unsubscribing: what recipients' programs ask for."""

from __future__ import annotations

from flask import Blueprint

tracking = Blueprint("tracking", __name__)
