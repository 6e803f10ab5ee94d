"""`/credentials`: keys and SMTP logins."""

from __future__ import annotations

import re
from typing import Annotated

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, StrictBool

from core.clock import to_rfc3339
from core.errors import NotFound
from core.services import credential_records as service
from core.services.accounts import CredentialKind
from core.services.credential_records import MAX_NAME_LENGTH, CredentialChange, CredentialDraft, CredentialRecord
from core.services.credentials import Scope
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import DOMAIN_ID, AccountPath, Text, Timestamp, as_optional_parameter, drop_null_defaults
from web.api.paging import PAGE_HEADERS, ListQuery, json_response, list_response
from web.context import account_id, context
from web.errors import Error

USERNAME = "[0-9a-f]{16}"
EXAMPLE_USERNAME = "c1d2e3f405162738"
KIND = "`api`: a key of the API. `smtp`: a login for mail programs, which sends by the API too."
SCOPES = (
    "`send`: send mail. `read`: see what became of it. `manage`: change addresses, domains, webhooks, lists and "
    "credentials (keys of the API only)."
)
BOUND = "The one sending domain it may send from; null for all of the account's."
ACTIVE = "Whether it opens anything now. Sessions that are open notice within a minute."
NAME = "A name to recognise it by."


def _check_username(text: str) -> str:
    """A name of another form is unknown: 404, not 422. Raises `NotFound`."""
    lowered = text.lower()
    if not re.fullmatch(USERNAME, lowered):
        raise NotFound("there is no credential with this id")
    return lowered


Username = Annotated[
    str,
    AfterValidator(_check_username),
    Field(
        description="The id of a credential: its username.",
        json_schema_extra={"pattern": f"^{USERNAME}$", "example": EXAMPLE_USERNAME},
    ),
]
Scopes = Annotated[
    frozenset[Scope],
    Field(min_length=1, description=SCOPES, json_schema_extra={"example": ["send"], "uniqueItems": True}),
]
Name = Annotated[Text, Field(max_length=MAX_NAME_LENGTH, json_schema_extra={"example": "shop"})]


class CredentialPath(AccountPath):
    """One credential."""

    credential_id: Username


class CredentialListQuery(ListQuery):
    """Which credentials to list."""

    kind: CredentialKind | None = Field(
        default=None, description="Only those of this kind.", json_schema_extra=as_optional_parameter
    )


class CredentialBody(BaseModel):
    """What you say of a new credential."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    kind: CredentialKind = Field(description=KIND, json_schema_extra={"example": "smtp"})
    name: Name = Field(default="", description=NAME)
    scopes: Scopes | None = Field(
        default=None, description=f"{SCOPES} Left out or null: all that it can have.", json_schema_extra={}
    )
    sending_domain_id: Text | None = Field(
        default=None, description=f"{BOUND} Such a one may not manage.", json_schema_extra={"pattern": DOMAIN_ID}
    )

    def to_draft(self) -> CredentialDraft:
        """For the services."""
        return CredentialDraft(self.kind, self.name, self.scopes, self.sending_domain_id)


class CredentialChangeBody(BaseModel):
    """What is to be different; what is left out or null stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    name: Name | None = Field(default=None, description=NAME)
    scopes: Scopes | None = Field(default=None, description=SCOPES)
    is_active: StrictBool | None = Field(default=None, description=ACTIVE)

    def to_change(self) -> CredentialChange:
        """For the services."""
        return CredentialChange(self.name, self.scopes, self.is_active)


class Credential(BaseModel):
    """A key or a login."""

    id: Username
    kind: CredentialKind = Field(description=KIND)
    username: str = Field(
        description="What a mail program logs in with, and what may stand in the path where mail is sent. A key of the "
        "API opens the account's own path too.",
        json_schema_extra={"example": EXAMPLE_USERNAME},
    )
    name: str = Field(description=NAME, json_schema_extra={"example": "shop"})
    scopes: list[Scope] = Field(description=SCOPES)
    sending_domain_id: str | None = Field(description=BOUND)
    sending_domain: str | None = Field(description="The name of that domain.")
    is_active: bool = Field(description=ACTIVE)
    last_used_at: Timestamp | None = Field(description="When it was used last, within an hour; null for never.")
    created_at: Timestamp


class NewCredential(Credential):
    """A fresh credential."""

    secret: str = Field(
        description="The key or password. It is shown now and never again.",
        json_schema_extra={"example": "JtE2m0nUFrsX0nNZy3g0wUyTA1C4pWQ1"},
    )


class CredentialList(RootModel[list[Credential]]):
    """Credentials, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


api: APIBlueprint = make_blueprint(
    "credentials", __name__, Tag(name="credentials", description="Keys of the API and logins for mail programs.")
)


@api.get("/credentials", responses={200: CredentialList, **INVALID})
def list_credentials(path: AccountPath, query: CredentialListQuery) -> Response:
    """List your credentials, newest first."""
    page = service.list_credentials(context().database, account_id(), query.to_request(), query.kind)
    return list_response(CredentialList([_answer(record) for record in page.entries]), page.next_cursor)


@api.post("/credentials", responses={201: NewCredential, **INVALID_BODY})
def create_credential(path: AccountPath, body: CredentialBody) -> Response:
    """Make a key or a login; the answer alone shows its secret."""
    ctx = context()
    made, secret = service.create_credential(ctx.database, account_id(), body.to_draft(), ctx.clock())
    return json_response(NewCredential(**_answer(made).model_dump(), secret=secret), 201)


@api.get("/credentials/<credential_id>", responses={200: Credential, 404: Error})
def get_credential(path: CredentialPath) -> Response:
    """Show a credential."""
    found = service.get_credential(context().database, account_id(), path.credential_id)
    return json_response(_answer(found))


@api.patch(
    "/credentials/<credential_id>",
    responses={200: Credential, 404: Error, **INVALID_BODY},
    description="The last key that may manage the account can neither be switched off nor lose that scope.",
)
def change_credential(path: CredentialPath, body: CredentialChangeBody) -> Response:
    """Rename a credential, change its scopes, switch it off or on."""
    changed = service.change_credential(context().database, account_id(), path.credential_id, body.to_change())
    return json_response(_answer(changed))


@api.delete(
    "/credentials/<credential_id>",
    responses={202: Credential, 404: Error, **INVALID},
    description="For good; mail that it has sent is still delivered. The last key that may manage the account stays.",
)
def delete_credential(path: CredentialPath) -> Response:
    """Revoke a credential."""
    record = service.delete_credential(context().database, account_id(), path.credential_id)
    return json_response(_answer(record), 202)


def _answer(record: CredentialRecord) -> Credential:
    used_ms = record.last_used_ms
    return Credential(
        id=record.username,
        kind=record.kind,
        username=record.username,
        name=record.name,
        scopes=sorted(record.scopes),
        sending_domain_id=record.sending_domain_id,
        sending_domain=record.sending_domain,
        is_active=record.is_active,
        last_used_at=None if used_ms is None else to_rfc3339(used_ms),
        created_at=to_rfc3339(record.created_ms),
    )
