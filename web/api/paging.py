"""Lists over HTTP: parameters in, a bare array and a Link header out.

The array is bare because the vendor's clients expect one; so the way to the next page is in the headers (RFC 8288).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from flask import Response, request
from pydantic import BaseModel, Field

from core.errors import InvalidField
from core.services.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_NUMBER, MAX_PAGE_SIZE, PageRequest
from web.api.fields import StrictQuery, Text, as_optional_parameter

MAX_CURSOR_LENGTH = 64
CURSOR_HEADER = "X-Next-Cursor"
PAGE_HEADERS: dict[str, Any] = {
    "Link": {
        "description": 'Where the next page is, relative to this URL: `<…>; rel="next"`. Absent on the last page.',
        "schema": {"type": "string"},
    },
    CURSOR_HEADER: {
        "description": "The `cursor` of the next page. Absent on the last page.",
        "schema": {"type": "string"},
    },
}


def _deprecated(schema: dict[str, Any]) -> None:
    as_optional_parameter(schema)
    schema["deprecated"] = True  # pydantic's own flag would warn at each use of the field


class ListQuery(StrictQuery):
    """Which part of a list is wanted."""

    page: int | None = Field(
        default=None,
        ge=1,
        le=MAX_PAGE_NUMBER,
        description="The number of the page, from 1. Entries move between pages while new ones arrive: use `cursor`.",
        json_schema_extra=_deprecated,
    )
    cursor: Text | None = Field(
        default=None,
        max_length=MAX_CURSOR_LENGTH,
        description="Continue behind the last entry of a page: the value of its `X-Next-Cursor` header.",
        json_schema_extra=as_optional_parameter,
    )
    per_page: int = Field(
        default=DEFAULT_PAGE_SIZE, ge=1, le=MAX_PAGE_SIZE, description="How many entries a page may hold."
    )

    def to_request(self) -> PageRequest:
        """For the services. Raises `InvalidField` when both ways of paging are mixed."""
        if self.page is not None and self.cursor is not None:
            raise InvalidField("page", "cannot be combined with cursor; leave it out")
        offset = ((self.page or 1) - 1) * self.per_page
        return PageRequest(self.per_page, self.cursor, offset)


def list_response(entries: BaseModel, next_cursor: str | None) -> Response:
    """The array of a list, with the way to its next page."""
    response = json_response(entries)
    if next_cursor is not None:
        query = {name: value for name, value in request.args.items() if name not in ("page", "cursor")}
        link = f"{request.path}?{urlencode({**query, 'cursor': next_cursor})}"
        response.headers["Link"] = f'<{link}>; rel="next"'
        response.headers[CURSOR_HEADER] = next_cursor
    return response


def json_response(body: BaseModel, status: int = 200) -> Response:
    """A model as JSON."""
    return Response(body.model_dump_json(by_alias=True), status, mimetype="application/json")
