"""Targets to try things with: they take any POST and answer 200, 404 or 500, so each path of a delivery can be seen."""

from __future__ import annotations

from flask import Blueprint, Response, request

from web.context import context

CHUNK_BYTES = 64 * 1024
BODY_FACTOR = 3
"""A POST may be this many times as large as the largest message: base64 and the parsed text come on top."""
TEXTS = {
    200: "Thank you. This test target accepts everything.",
    404: "This test target rejects everything for good.",
    500: "This test target always fails for now; try again later.",
}

targets = Blueprint("test_targets", __name__)


def _answer_with(status: int) -> Response:
    """Read the body without keeping it, then answer."""
    request.max_content_length = BODY_FACTOR * context().settings.max_message_size
    while request.stream.read(CHUNK_BYTES):
        pass
    return Response(TEXTS[status] + "\n", status, mimetype="text/plain")


for _status in TEXTS:
    targets.add_url_rule(
        f"/target/{_status}",
        endpoint=str(_status),
        view_func=_answer_with,
        defaults={"status": _status},
        methods=["POST"],
    )
