"""The OpenAPI document, and a page to read it and try it, all served from here: nothing comes from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from flask import Blueprint, Response, current_app, send_from_directory

from web.auth import SCHEME_NAME

DOCUMENT_PATH = "/openapi.json"
PAGE_PATH = "/docs"
_ASSETS = str(files("flask_openapi3_scalar") / "templates" / "scalar")
_SCRIPT = "js/scalar.standalone.js"
_ONE_DAY_S = 86_400

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Scalar brings its styles inline. Whatever else it would load from its makers' servers, the browser refuses."""

_PAGE = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Pillarbox API</title></head>
<body>
<script id="api-reference" data-url="{DOCUMENT_PATH}" data-configuration='{{"withDefaultFonts": false,
"telemetry": false, "hideClientButton": true, "showDeveloperTools": "never", "proxyUrl": "",
"agent": {{"disabled": true}}, "mcp": {{"disabled": true}},
"authentication": {{"preferredSecurityScheme": "{SCHEME_NAME}"}}}}'></script>
<script src="{PAGE_PATH}/{_SCRIPT}"></script>
</body>
</html>
"""

reference = Blueprint("reference", __name__)


@reference.get(DOCUMENT_PATH)
def document() -> Response:
    """The document, made from the models that validate requests."""
    return Response(current_app.json.dumps(current_app.api_doc), mimetype="application/json")  # type: ignore[attr-defined]


@reference.get(PAGE_PATH)
def page() -> Response:
    """The page."""
    return Response(_PAGE, mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


@reference.get(f"{PAGE_PATH}/{_SCRIPT}")
def script() -> Response:
    """The program of the page."""
    return send_from_directory(_ASSETS, _SCRIPT, max_age=_ONE_DAY_S)
