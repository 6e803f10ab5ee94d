"""`/addresses`: where mail arrives and where it goes."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, RootModel

from core.address_checks import check_target
from core.address_settings import DEFAULT_ADDRESS_SETTINGS, AddressSettings
from core.clock import HOUR_MS, to_rfc3339
from core.formats import TargetFormat
from core.services import addresses as service
from core.services.addresses import MAX_NICKNAME_LENGTH, AddressDraft, AddressRecord
from core.store_settings import StoreSettings
from inbound.store_client import probe_store
from web.api.address_fields import SettingsAnswer, SettingsBody, show_settings
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import AccountPath, AddressId, Text, Timestamp, drop_null_defaults
from web.api.paging import PAGE_HEADERS, ListQuery, json_response, list_response
from web.context import account_id, context
from web.errors import Error

EXAMPLE_TARGET = "https://example.com/incoming"
MAX_TARGET_LENGTH = 2_000
Target = Annotated[
    Text,
    Field(
        max_length=MAX_TARGET_LENGTH,
        description="The URL that mail is POSTed to; `user:password@` in it becomes basic authentication. Or "
        "`mailto:` and a mailbox: the mail is sent on there as mail.",
        json_schema_extra={"format": "uri", "pattern": "^(https?://|mailto:)", "example": EXAMPLE_TARGET},
    ),
]
MAX_OVERLAP_HOURS = 30 * 24
_TARGET_FORMAT = "The form of the POST. A `mailto:` target takes no notice of it."


class AddressPath(AccountPath):
    """One address."""

    address_id: AddressId


class AddressBody(SettingsBody):
    """What you say of an address. The fields that an answer has beside these may be sent back; they are ignored."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    target: Target
    target_format: TargetFormat = Field(description=_TARGET_FORMAT)
    nickname: Text | None = Field(
        default=None,
        max_length=MAX_NICKNAME_LENGTH,
        description="A name to tell addresses apart. Left out of a PUT it stays; null takes it away.",
        json_schema_extra={"example": "support"},
    )
    id: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    address: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    created_at: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    signing_secret: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    previous_signing_secret: Any = Field(default=None, description="Ignored.", json_schema_extra={"readOnly": True})
    previous_signing_secret_expires_at: Any = Field(
        default=None, description="Ignored.", json_schema_extra={"readOnly": True}
    )

    def to_draft(self, before: AddressSettings) -> AddressDraft:
        """For the services. Raises `InvalidField`, also for what `before` and a store's own server have against it."""
        check_target("target", self.target)
        return AddressDraft(self.target, self.target_format, self.nickname, self.to_changes(before, _probe))


class AddressHead(BaseModel):
    """What an address is."""

    id: AddressId
    address: str = Field(
        description="Where its mail arrives; `+anything` before the @ is allowed.",
        json_schema_extra={"example": "aaaa740b4c5c37b1aaaa@pillarbox.test"},
    )
    target: Target
    target_format: TargetFormat = Field(description=_TARGET_FORMAT)
    nickname: str | None = Field(json_schema_extra={"example": "support"})
    signing_secret: str = Field(
        description="The secret of the Standard Webhooks signature that every POST to the target carries.",
        json_schema_extra={"example": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3GgB4sXnJ0I="},
    )
    previous_signing_secret: str | None = Field(
        description="The secret before the last rotation, as long as it signs as well."
    )
    previous_signing_secret_expires_at: Timestamp | None
    created_at: Timestamp


class RotationBody(BaseModel):
    """How to replace a signing secret."""

    model_config = ConfigDict(extra="forbid")

    overlap_hours: int = Field(
        default=24,
        ge=0,
        le=MAX_OVERLAP_HOURS,
        description="For how long the old secret signs as well, so that your receivers can change over.",
    )


class Address(SettingsAnswer, AddressHead):
    """An address."""


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
    draft = body.to_draft(DEFAULT_ADDRESS_SETTINGS)
    made = service.create_address(ctx.database, account_id(), draft, ctx.clock(), ctx.settings.max_message_size)
    return json_response(_answer(made), 201)


@api.get("/addresses/<address_id>", responses={200: Address, 404: Error})
def get_address(path: AddressPath) -> Response:
    """Show an address."""
    return json_response(_answer(service.get_address(context().database, account_id(), path.address_id)))


@api.put(
    "/addresses/<address_id>",
    responses={200: Address, 404: Error, **INVALID_BODY},
    description="`target` and `target_format` are required; all other fields stay as they are when left out. Messages "
    "that still wait for a retry go to the new target, in the new format.",
)
def update_address(path: AddressPath, body: AddressBody) -> Response:
    """Change an address."""
    ctx = context()
    before = service.get_address(ctx.database, account_id(), path.address_id)
    record = service.update_address(
        ctx.database,
        account_id(),
        path.address_id,
        body.to_draft(before.settings),
        ctx.clock(),
        ctx.settings.max_message_size,
        keep_nickname="nickname" not in body.model_fields_set,
    )
    return json_response(_answer(record))


@api.post(
    "/addresses/<address_id>/rotate_secret",
    responses={200: Address, 404: Error, **INVALID_BODY},
    description="While the overlap lasts, every POST carries two signatures, one by each secret, as Standard Webhooks "
    "has it: give the new secret to your receivers in that time.",
)
def rotate_secret(path: AddressPath, body: RotationBody) -> Response:
    """Replace the signing secret of an address."""
    ctx = context()
    overlap_ms = body.overlap_hours * HOUR_MS
    return json_response(
        _answer(service.rotate_secret(ctx.database, account_id(), path.address_id, overlap_ms, ctx.clock()))
    )


@api.delete(
    "/addresses/<address_id>",
    responses={202: Address, 404: Error},
    description="It takes no more mail, and neither do its custom domains. What was accepted is still delivered.",
)
def delete_address(path: AddressPath) -> Response:
    """Delete an address."""
    ctx = context()
    return json_response(_answer(service.delete_address(ctx.database, account_id(), path.address_id, ctx.clock())), 202)


def _probe(store: StoreSettings, field: str) -> None:
    """Try a store out before it is configured; outside any transaction, since it may take seconds."""
    probe_store(context().settings, store, field)


def _answer(record: AddressRecord) -> Address:
    until_ms = record.previous_secret_until_ms or 0
    is_rotating = until_ms > context().clock()
    return Address(
        id=record.address_id,
        address=f"{record.address_id}@{context().settings.domain}",
        target=record.target,
        target_format=record.target_format,
        nickname=record.nickname,
        signing_secret=record.secret,
        previous_signing_secret=record.previous_secret if is_rotating else None,
        previous_signing_secret_expires_at=to_rfc3339(until_ms) if is_rotating else None,
        created_at=to_rfc3339(record.created_ms),
        **show_settings(record.settings),
    )
