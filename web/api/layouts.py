"""`/layouts`: HTML frames for messages."""

from __future__ import annotations

import re
from typing import Annotated

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel

from core.clock import to_rfc3339
from core.errors import InvalidField, NotFound
from core.services import layouts as service
from core.services.layouts import MAX_LAYOUTS, MAX_NAME_LENGTH, NAME, LayoutDraft, LayoutRecord
from outbound.composing.layouts import DEFAULT_FOR_ACCOUNT, DEFAULT_FOR_ALL, MAX_LAYOUT_LENGTH, read_layout
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import DOMAIN_ID, AccountPath, Text, Timestamp
from web.api.paging import PAGE_HEADERS, ListQuery, json_response, list_response
from web.context import account_id, context
from web.errors import Error

DEFAULT_SUFFIX = DEFAULT_FOR_ACCOUNT.format("")
EXAMPLE_HTML = "<html><body><h1>{{ title | News }}</h1>{{ content }}</body></html>"


def _check_layout_id(text: str) -> str:
    """An id of another form names nothing, as an unknown one does: 404, not 422. Raises `NotFound`."""
    lowered = text.lower()
    if not re.fullmatch(DOMAIN_ID, lowered):
        raise NotFound("there is no layout with this id")
    return lowered


LayoutId = Annotated[
    str,
    AfterValidator(_check_layout_id),
    Field(
        description="The id of a layout.",
        json_schema_extra={"pattern": f"^{DOMAIN_ID}$", "example": "cccc111122223333"},
    ),
]


class LayoutPath(AccountPath):
    """One layout."""

    layout_id: LayoutId


class LayoutBody(BaseModel):
    """What you say of a layout."""

    model_config = ConfigDict(extra="forbid")

    name: Text = Field(
        max_length=MAX_NAME_LENGTH,
        description=f"What messages call it by. `{DEFAULT_FOR_ALL}` is for all messages that name none; "
        f"`<account>{DEFAULT_SUFFIX}`, with the id of the account or an SMTP username, goes before that.",
        json_schema_extra={"pattern": f"^{NAME}$", "example": "newsletter"},
    )
    html: Text = Field(
        max_length=MAX_LAYOUT_LENGTH,
        description="`{{ content }}` stands once, where the mail goes; `{{ name }}` is a variable, `{{ name | text }}` "
        "one with a default.",
        json_schema_extra={"example": EXAMPLE_HTML},
    )

    def to_draft(self) -> LayoutDraft:
        """For the services. Raises `InvalidField`."""
        needed = [name for name, default in read_layout("html", self.html).variables.items() if default is None]
        if self.name.endswith(DEFAULT_SUFFIX) and needed:
            problem = f"{needed[0]} needs a default, like {{{{ {needed[0]} | text }}}}: mail that names no layout has "
            raise InvalidField("html", f"{problem}no values for its variables")
        return LayoutDraft(self.name, self.html)


class LayoutSummary(BaseModel):
    """A layout as lists show it."""

    id: LayoutId
    name: str = Field(json_schema_extra={"example": "newsletter"})
    variables: dict[str, str | None] = Field(
        description="Its variables with their defaults; null where a message must give a value.",
        json_schema_extra={"example": {"title": "News"}},
    )
    created_at: Timestamp
    updated_at: Timestamp


class Layout(LayoutSummary):
    """A layout."""

    html: str = Field(json_schema_extra={"example": EXAMPLE_HTML})


class LayoutList(RootModel[list[LayoutSummary]]):
    """Layouts, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


api: APIBlueprint = make_blueprint("layouts", __name__, Tag(name="layouts", description="HTML frames for messages."))


@api.get("/layouts", responses={200: LayoutList, **INVALID})
def list_layouts(path: AccountPath, query: ListQuery) -> Response:
    """List your layouts, newest first."""
    page = service.list_layouts(context().database, account_id(), query.to_request())
    return list_response(LayoutList([_summary(record) for record in page.entries]), page.next_cursor)


@api.post(
    "/layouts",
    responses={201: Layout, **INVALID_BODY},
    description=f"It holds for messages that are accepted from now on. An account may have {MAX_LAYOUTS} layouts.",
)
def create_layout(path: AccountPath, body: LayoutBody) -> Response:
    """Create a layout."""
    ctx = context()
    return json_response(_answer(service.create_layout(ctx.database, account_id(), body.to_draft(), ctx.clock())), 201)


@api.get("/layouts/<layout_id>", responses={200: Layout, 404: Error})
def get_layout(path: LayoutPath) -> Response:
    """Show a layout."""
    return json_response(_answer(service.get_layout(context().database, account_id(), path.layout_id)))


@api.put(
    "/layouts/<layout_id>",
    responses={200: Layout, 404: Error, **INVALID_BODY},
    description="Messages that were accepted before keep what they had.",
)
def update_layout(path: LayoutPath, body: LayoutBody) -> Response:
    """Change a layout."""
    ctx = context()
    record = service.update_layout(ctx.database, account_id(), path.layout_id, body.to_draft(), ctx.clock())
    return json_response(_answer(record))


@api.delete("/layouts/<layout_id>", responses={202: Layout, 404: Error})
def delete_layout(path: LayoutPath) -> Response:
    """Delete a layout."""
    return json_response(_answer(service.delete_layout(context().database, account_id(), path.layout_id)), 202)


def _summary(record: LayoutRecord) -> LayoutSummary:
    return LayoutSummary(
        id=record.layout_id,
        name=record.name,
        variables=read_layout("html", record.html).variables,
        created_at=to_rfc3339(record.created_ms),
        updated_at=to_rfc3339(record.updated_ms),
    )


def _answer(record: LayoutRecord) -> Layout:
    return Layout(**_summary(record).model_dump(), html=record.html)
