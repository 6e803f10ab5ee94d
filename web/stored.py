"""Files of the built-in store, to whoever has their URL: always as a download, never as a page of ours."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response

from core.built_in_store import FOLDER, open_built_in, read_stored_link
from core.clock import SECOND_MS
from core.errors import NotFound
from core.object_stores import content_disposition
from core.services.secrets import STORING_SECRET, shared_secret
from web.context import context
from web.errors import error_response

stored = Blueprint("stored", __name__)


@stored.get(f"/{FOLDER}/<token>/<file_name>")
def fetch(token: str, file_name: str) -> Response:
    """The file; 404 for a URL that we did not make, 410 once its time or the file's is over."""
    ctx = context()
    link = read_stored_link(shared_secret(ctx.database, STORING_SECRET), token, file_name)
    if link.expires_s * SECOND_MS <= ctx.clock():
        return error_response(HTTPStatus.GONE, "this URL has expired; replay the delivery to get a new one")
    try:
        opened = open_built_in(ctx.settings.blob_location).open(link.name)
    except NotFound:
        return error_response(HTTPStatus.GONE, "this file is not kept any more")
    # What came by mail is hostile: it must not run as a page of this host, nor be taken for what it is not.
    headers = {
        "Content-Length": str(opened.size),
        "Content-Disposition": content_disposition(file_name),
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex",
    }
    return Response(opened.chunks, headers=headers, content_type=link.content_type, direct_passthrough=True)
