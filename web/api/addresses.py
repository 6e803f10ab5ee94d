"""`/addresses`: where mail arrives and where it goes."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from core.clock import to_rfc3339
from core.formats import TargetFormat
from core.services import addresses as service
from core.services.addresses import MAX_NICKNAME_LENGTH, AddressDraft, AddressRecord
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import AccountPath, AddressId, Text, Timestamp, Url, drop_null_defaults
from web.api.paging import PAGE_HEADERS, ListQuery, json_response, list_response
from web.context import account_id, context
from web.errors import Error

EXAMPLE_TARGET = "https://example.com/incoming"


class AddressPath(AccountPath):
    """One address."""

    address_id: AddressId


class AddressBody(BaseModel):
    """What you say of an address. The fields that an answer has beside these may be sent back; they are ignored."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    target: Url = Field(
        description="The URL that mail is POSTed to. `user:password@` in it becomes basic authentication.",
        json_schema_extra={"example": EXAMPLE_TARGET},
    )
    target_format: TargetFormat = Field(description="The form of the POST.")
    nickname: Text | None = Field(
        default=None,
        max_length=MAX_NICKNAME_LENGTH,
        description="A name to tell addresses apart. Left out of a PUT it stays; null takes it away.",
        json_schema_extra={"example": "support"},
    )
    attachments: dict[str, Any] | None = Field(
        default=None,
        description="Reserved for an attachment store; only an empty object is taken.",
        json_schema_extra={"maxProperties": 0},
    )
    id: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    address: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    created_at: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    signing_secret: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})

    @field_validator("attachments")
    @classmethod
    def _refuse_a_store(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value:
            raise ValueError("must be empty: attachments are sent inside the POST; leave it out or send {}")
        return value

    def to_draft(self) -> AddressDraft:
        """For the services."""
        return AddressDraft(self.target, self.target_format, self.nickname)


class Address(BaseModel):
    """An address."""

    id: AddressId
    address: str = Field(
        description="Where its mail arrives; `+anything` before the @ is allowed.",
        json_schema_extra={"example": "aaaa740b4c5c37b1aaaa@pillarbox.test"},
    )
    target: str = Field(description="The URL that mail is POSTed to.", json_schema_extra={"example": EXAMPLE_TARGET})
    target_format: TargetFormat = Field(description="The form of the POST.")
    nickname: str | None = Field(json_schema_extra={"example": "support"})
    attachments: dict[str, Any] = Field(description="Always empty.", json_schema_extra={"maxProperties": 0})
    signing_secret: str = Field(
        description="The secret of the Standard Webhooks signature that every POST to the target carries.",
        json_schema_extra={"example": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3GgB4sXnJ0I="},
    )
    created_at: Timestamp


class AddressList(RootModel[list[Address]]):
    """Addresses, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


api: APIBlueprint = make_blueprint(
    "addresses", __name__, Tag(name="addresses", description="Where mail arrives and where it goes.")
)


@api.get("/addresses", responses={200: AddressList, **INVALID})
def list_addresses(path: AccountPath, query: ListQuery) -> Response:
    """List your addresses, newest first."""
    page = service.list_addresses(context().database, account_id(), query.to_request())
    return list_response(AddressList([_answer(record) for record in page.entries]), page.next_cursor)


@api.post("/addresses", responses={201: Address, **INVALID_BODY})
def create_address(path: AccountPath, body: AddressBody) -> Response:
    """Create an address; it takes mail at once."""
    ctx = context()
    made = service.create_address(ctx.database, account_id(), body.to_draft(), ctx.clock())
    return json_response(_answer(made), 201)


@api.get("/addresses/<address_id>", responses={200: Address, 404: Error})
def get_address(path: AddressPath) -> Response:
    """Show an address."""
    return json_response(_answer(service.get_address(context().database, account_id(), path.address_id)))


@api.put(
    "/addresses/<address_id>",
    responses={200: Address, 404: Error, **INVALID_BODY},
    description="`target` and `target_format` are required; `nickname` stays as it is when left out. Messages that "
    "still wait for a retry go to the new target, in the new format.",
)
def update_address(path: AddressPath, body: AddressBody) -> Response:
    """Change an address."""
    ctx = context()
    keep_nickname = "nickname" not in body.model_fields_set
    record = service.update_address(
        ctx.database, account_id(), path.address_id, body.to_draft(), ctx.clock(), keep_nickname=keep_nickname
    )
    return json_response(_answer(record))


@api.delete(
    "/addresses/<address_id>",
    responses={202: Address, 404: Error},
    description="It takes no more mail, and neither do its custom domains. What was accepted is still delivered.",
)
def delete_address(path: AddressPath) -> Response:
    """Delete an address."""
    ctx = context()
    return json_response(_answer(service.delete_address(ctx.database, account_id(), path.address_id, ctx.clock())), 202)


def _answer(record: AddressRecord) -> Address:
    return Address(
        id=record.address_id,
        address=f"{record.address_id}@{context().settings.domain}",
        target=record.target,
        target_format=record.target_format,
        nickname=record.nickname,
        attachments={},
        signing_secret=record.secret,
        created_at=to_rfc3339(record.created_ms),
    )
