"""`/custom_domains`: domains of the customer's own."""

from __future__ import annotations

from typing import Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, RootModel

from core.clock import to_rfc3339
from core.errors import InvalidField
from core.mta_sts import records_for
from core.patterns import MAX_PATTERN_LENGTH
from core.services import custom_domains as service
from core.services.addresses import require_known_address
from core.services.custom_domains import MAX_DOMAIN_LENGTH, DomainDraft, DomainFilter, DomainRecord
from web.api.blueprint import INVALID, INVALID_BODY, make_blueprint
from web.api.fields import (
    AccountPath,
    AddressId,
    DomainId,
    StrictQuery,
    Text,
    Timestamp,
    Url,
    as_optional_parameter,
    drop_null_defaults,
)
from web.api.paging import PAGE_HEADERS, ListQuery, json_response, list_response
from web.context import account_id, context
from web.errors import Error

MX_PREFERENCE = 10
EXAMPLE_REGEX = "allowed[0-9]*@example.com"


class DomainPath(AccountPath):
    """One custom domain."""

    custom_domain_id: DomainId


class AddressQuery(StrictQuery):
    """The address that is meant."""

    address_id: AddressId | None = Field(default=None, json_schema_extra=as_optional_parameter)


class DomainListQuery(ListQuery):
    """Which domains to list."""

    address_id: AddressId | None = Field(
        default=None, description="Only domains of this address.", json_schema_extra=as_optional_parameter
    )
    query: Text | None = Field(
        default=None,
        max_length=MAX_DOMAIN_LENGTH,
        description="Only domains that contain this text.",
        json_schema_extra=as_optional_parameter,
    )


class CustomDomainBody(BaseModel):
    """What you say of a custom domain."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_null_defaults)

    domain: Text = Field(
        max_length=MAX_DOMAIN_LENGTH,
        description="The domain; `*.` before it stands for exactly one more label. Its MX must point here already.",
        json_schema_extra={"example": "example.com"},
    )
    auth_regex: Text | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_PATTERN_LENGTH,
        description="A regular expression (RE2) that the whole recipient must match; null takes any.",
        json_schema_extra={"example": EXAMPLE_REGEX},
    )
    domain_target: Url | None = Field(
        default=None,
        description="A target for this domain's mail in place of the address's.",
        json_schema_extra={"example": "https://example.com/incoming"},
    )
    address_id: AddressId | None = Field(default=None, description="Here or in the query string.")


class DnsRecord(BaseModel):
    """A record to publish."""

    name: str = Field(json_schema_extra={"example": "_mta-sts.example.com"})
    type: Literal["MX", "TXT", "CNAME"]
    value: str = Field(json_schema_extra={"example": "v=STSv1; id=0f343b0931126a20f133d67c2b018a3b;"})


class CustomDomain(BaseModel):
    """A custom domain."""

    id: DomainId
    address_id: AddressId
    domain: str = Field(description="In lower-case ASCII.", json_schema_extra={"example": "example.com"})
    auth_regex: str | None = Field(json_schema_extra={"example": EXAMPLE_REGEX})
    domain_target: str | None
    dns_records: list[DnsRecord] = Field(
        description="What the DNS should say. The MX is required; with the others senders insist on TLS with a valid "
        "certificate (MTA-STS) and report where that fails (TLS-RPT)."
    )
    created_at: Timestamp


class CustomDomainList(RootModel[list[CustomDomain]]):
    """Custom domains, newest first."""

    model_config = ConfigDict(openapi_extra={"headers": PAGE_HEADERS})  # type: ignore[typeddict-unknown-key]


api: APIBlueprint = make_blueprint(
    "custom_domains", __name__, Tag(name="custom_domains", description="Domains of your own whose mail comes here.")
)


@api.get("/custom_domains", responses={200: CustomDomainList, 404: Error, **INVALID})
def list_custom_domains(path: AccountPath, query: DomainListQuery) -> Response:
    """List your custom domains, newest first."""
    database = context().database
    if query.address_id is not None:
        require_known_address(database, account_id(), query.address_id)
    wanted = DomainFilter(query.address_id, query.query or "")
    page = service.list_domains(database, account_id(), wanted, query.to_request())
    return list_response(CustomDomainList([_answer(record) for record in page.entries]), page.next_cursor)


@api.post(
    "/custom_domains",
    responses={201: CustomDomain, 404: Error, **INVALID_BODY},
    description="The address is named by `address_id`, in the query string or in the body. The domain's MX records "
    "must point to this receiver already; if they do not, the error says what was looked for and what was found.",
)
def create_custom_domain(path: AccountPath, query: AddressQuery, body: CustomDomainBody) -> Response:
    """Receive mail for a domain."""
    ctx = context()
    draft = DomainDraft(_named_address(query, body), body.domain, body.auth_regex, body.domain_target)
    made = service.create_domain(ctx.database, account_id(), draft, ctx.settings.domain, ctx.mx_check, ctx.clock())
    return json_response(_answer(made), 201)


@api.get("/custom_domains/<custom_domain_id>", responses={200: CustomDomain, 404: Error})
def get_custom_domain(path: DomainPath) -> Response:
    """Show a custom domain."""
    return json_response(_answer(service.get_domain(context().database, account_id(), path.custom_domain_id)))


@api.delete(
    "/custom_domains/<custom_domain_id>",
    responses={202: CustomDomain, 404: Error, **INVALID},
    description="It takes no more mail; what was accepted is still delivered.",
)
def delete_custom_domain(path: DomainPath, query: AddressQuery) -> Response:
    """Delete a custom domain."""
    ctx = context()
    if query.address_id is not None:
        _require_belongs(path.custom_domain_id, query.address_id)
    record = service.delete_domain(ctx.database, account_id(), path.custom_domain_id, ctx.clock())
    return json_response(_answer(record), 202)


def _named_address(query: AddressQuery, body: CustomDomainBody) -> str:
    if query.address_id is not None and body.address_id not in (None, query.address_id):
        raise InvalidField("address_id", "differs between query string and body; give it once")
    address_id = query.address_id or body.address_id
    if address_id is None:
        raise InvalidField("address_id", "is required, in the query string or in the body")
    return address_id


def _require_belongs(domain_id: str, address_id: str) -> None:
    record = service.get_domain(context().database, account_id(), domain_id)
    if record.address_id != address_id:
        raise InvalidField("address_id", "is not the address of this custom domain; leave it out")


def _answer(record: DomainRecord) -> CustomDomain:
    return CustomDomain(
        id=record.domain_id,
        address_id=record.address_id,
        domain=record.domain,
        auth_regex=record.auth_regex,
        domain_target=record.domain_target,
        dns_records=_dns_records(record.domain),
        created_at=to_rfc3339(record.created_ms),
    )


def _dns_records(domain: str) -> list[DnsRecord]:
    settings = context().settings
    receiver = DnsRecord(name=domain, type="MX", value=f"{MX_PREFERENCE} {settings.mx_hostname}")
    others = records_for(domain, settings)
    return [receiver, *(DnsRecord.model_validate(record, from_attributes=True) for record in others)]
