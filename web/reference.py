"""The OpenAPI document, and a page to read it and try it, all served from here: nothing comes from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

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

ERROR_EXAMPLES = {
    "401": "this key does not open this account or SMTP username; check both, or make a new key",
    "403": "this key may not manage (it may: send); use one with the scope manage",
    "415": "the body must be JSON, sent with Content-Type: application/json",
    "500": "an unexpected error on our side; it is in the log, and trying again may help",
    "503": "the database cannot be used now",
}
"""What errors say that any call may end in; the others are about one field or thing."""
_ERROR_SCHEMA = "#/components/schemas/Error"

reference = Blueprint("reference", __name__)


@reference.get(DOCUMENT_PATH)
def document() -> Response:
    """The document, made from the models that validate requests.

    Characters are written as they are: many tools read JSON as YAML, which does not know pairs of surrogates.
    """
    made: dict[str, Any] = current_app.api_doc  # type: ignore[attr-defined]
    _show_errors(made)
    return Response(current_app.json.dumps(made, ensure_ascii=False), mimetype="application/json")


def _show_errors(made: dict[str, Any]) -> None:
    """Put an example into each answer that is one of `ERROR_EXAMPLES`."""
    operations = (operation for path in made["paths"].values() for operation in path.values())
    answers = (answer for operation in operations for answer in operation["responses"].items())
    for status, answer in answers:
        content = answer.get("content", {}).get("application/json", {})
        if status in ERROR_EXAMPLES and content.get("schema") == {"$ref": _ERROR_SCHEMA}:
            content["example"] = {"status": int(status), "error": ERROR_EXAMPLES[status]}


@reference.get(PAGE_PATH)
def page() -> Response:
    """The page."""
    return Response(_PAGE, mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


@reference.get(f"{PAGE_PATH}/{_SCRIPT}")
def script() -> Response:
    """The program of the page."""
    return send_from_directory(_ASSETS, _SCRIPT, max_age=_ONE_DAY_S)
