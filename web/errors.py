"""Errors as clients see them: JSON with `status` and `error`, whatever went wrong and wherever."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, request
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException

from core.errors import InvalidField, NotFound, NotPossibleNow, PillarboxError, StorageUnavailable
from core.mx_check import DnsUnavailable

RETRY_AFTER_S = 5
"""What a client is told to wait when database or DNS cannot answer."""
MAX_PROBLEMS = 5
MAX_PLACE_LENGTH = 60
log = structlog.get_logger("web")

_CURES = {
    HTTPStatus.BAD_REQUEST: "the request cannot be read; see the API reference for its form",
    HTTPStatus.NOT_FOUND: "there is nothing at this path; the API reference lists what there is",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is too large; the API takes up to 1 MiB",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the body must be JSON, sent with Content-Type: application/json",
    HTTPStatus.INTERNAL_SERVER_ERROR: "an unexpected error on our side; it is in the log, and trying again may help",
}
_STATUS_OF: tuple[tuple[type[PillarboxError], HTTPStatus], ...] = (
    (InvalidField, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NotFound, HTTPStatus.NOT_FOUND),
    (NotPossibleNow, HTTPStatus.CONFLICT),
    (StorageUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (DnsUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)
_REWORDED = {"missing": "is required", "extra_forbidden": "is not a field of this request; leave it out"}
_OPENINGS = (("Value error, ", ""), ("Input should be ", "must be "), ("String should ", "must "))


class Error(BaseModel):
    """Any error."""

    status: int = Field(description="The HTTP status.", ge=400, le=599, json_schema_extra={"example": 422})
    error: str = Field(
        description="What is wrong, where, and what to do about it.",
        json_schema_extra={"example": "target: is required"},
    )


def error_response(status: int, text: str) -> Response:
    """An error in the one form they all have."""
    return Response(Error(status=status, error=text).model_dump_json(), status, mimetype="application/json")


def handle_errors(app: Flask) -> None:
    """Give every error of an application that form."""
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(PillarboxError, _from_core)
    app.register_error_handler(Exception, _from_accident)


def from_validation(error: ValidationError) -> Response:
    """What pydantic found, in words."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    text = "; ".join(_describe(problem) for problem in problems[:MAX_PROBLEMS])
    return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, text)


def _describe(problem: Any) -> str:
    place = ".".join(str(step) for step in problem["loc"])[:MAX_PLACE_LENGTH] or "body"
    text = _REWORDED.get(problem["type"], problem["msg"])
    for opening, replacement in _OPENINGS:
        if text.startswith(opening):
            text = replacement + text.removeprefix(opening)
    return f"{place}: {text}"


def _from_http(error: HTTPException) -> Response:
    """Keep status and headers (Allow, WWW-Authenticate, Location), replace the page."""
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    response = error_response(status, _text_for(error, status))
    for name, value in error.get_response(request.environ).headers:
        if name not in ("Content-Type", "Content-Length"):
            response.headers.add(name, value)
    return response


def _text_for(error: HTTPException, status: int) -> str:
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return f"{request.method} is not possible here; this path takes {allowed}"
    if status == HTTPStatus.UNAUTHORIZED and error.description:
        return error.description
    known = {code.value: text for code, text in _CURES.items()}
    return known.get(status) or HTTPStatus(status).phrase.lower()


def _from_core(error: PillarboxError) -> Response:
    status = next((code for kind, code in _STATUS_OF if isinstance(error, kind)), None)
    if status is None:
        return _from_accident(error)
    response = error_response(status, str(error))
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        log.warning("unavailable", reason=str(error))
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _from_accident(error: Exception) -> Response:
    log.error("unexpected error", method=request.method, path=request.path, exc_info=error)
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, _CURES[HTTPStatus.INTERNAL_SERVER_ERROR])
